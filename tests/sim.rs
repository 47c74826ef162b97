//! The simulator: the same seed is the same run, what it plays keeps its promises, and the written
//! scenarios end as they say.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use pgvigil_core::sim::{explore, play, play_scenario};

#[test]
fn the_same_seed_is_the_same_run() {
    let (one, two) = (play(3, true), play(3, true));
    assert_eq!((one.hash, one.events), (two.hash, two.events));
    assert_eq!(one.transcript, two.transcript);
}

/// Each at least 15 simulated minutes and 30 faults.
const SEEDS: u64 = 1000;

#[test]
fn promises_are_kept_under_faults() {
    let failures = Mutex::new(Vec::new());
    let begun = Instant::now();
    let sum = explore(0, SEEDS, |report| {
        let text = format!("{report}\nreplay: pgvigil sim --seed {}", report.seed);
        failures.lock().unwrap().push(text);
    });
    let (taken, processors) = (begun.elapsed(), thread::available_parallelism().unwrap().get());
    let cost_ms = taken.as_millis() * processors as u128 / u128::from(SEEDS);
    println!("{sum}{SEEDS} seeds in {taken:.0?}: a seed costs {cost_ms} ms of a processor");
    let mut failures = failures.into_inner().unwrap();
    failures.extend(super::coverage::complaints(&sum));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Each file in `tests/sim` is a scenario and its log; REWRITE=1 writes the logs anew.
#[test]
fn written_scenarios_end_as_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/sim");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut complaints = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy();
        let text = fs::read_to_string(file).unwrap();
        let played = match play_scenario(&text) {
            Ok(played) => played,
            Err(what) => {
                complaints.push(format!("{name}: {what}"));
                continue;
            }
        };
        complaints.extend(played.failures.iter().map(|what| format!("{name}: {what}")));
        if played.text != text && std::env::var_os("REWRITE").is_some() {
            fs::write(file, &played.text).unwrap();
        } else if played.text != text {
            let differs = text.lines().zip(played.text.lines()).position(|(old, new)| old != new);
            let line = differs.unwrap_or(text.lines().count().min(played.text.lines().count()));
            let now = played.text.lines().nth(line).unwrap_or("the end");
            complaints.push(format!("{name}:{}: now: {now} (REWRITE=1 accepts)", line + 1));
        }
    }
    println!("{} written scenarios", files.len());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
