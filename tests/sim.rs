//! The simulator: the same seed is the same run, what it plays keeps its promises, and the written
//! scenarios end as they say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use pgvigil_core::sim::{Verdict, explore, play, play_scenario};

#[test]
fn the_same_seed_is_the_same_run() {
    let (one, two) = (play(3, true), play(3, true));
    assert_eq!((one.hash, one.events), (two.hash, two.events));
    assert_eq!(one.transcript, two.transcript);
}

/// Each at least 15 simulated minutes and 30 faults.
const SEEDS: u64 = 1000;

/// Seeds that do not end well yet, or that the judge is wrong about: what is said of them, and what
/// is known. docs/SAFETY.md tells of them.
const OPEN: &[(u64, &str, &str)] = &[
    (254, "no leader", "the one name in /sync has failover_priority 0"),
    (309, "no leader", "who is near enough to the last leader is not named in /failsafe"),
    (364, "the leader did not stay", "the only member's agent is not started again"),
    (493, "nothing lost", "a store restored in a pause names an older leader in /sync"),
    (517, "no leader", "the one name in /sync has failover_priority 0"),
    (700, "no leader", "the one name in /sync has failover_priority 0"),
    (726, "no leader", "who is near enough to the last leader is not named in /failsafe"),
    (920, "no leader", "who is near enough to the last leader is not named in /failsafe"),
];

/// What is said first of a run that did not end well.
fn said(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Good => "",
        Verdict::Broken(violations) => violations.first().map_or("", |v| &v.what),
        Verdict::Stuck(lines) => lines.first().map_or("", |line| line),
    }
}

#[test]
fn promises_are_kept_under_faults() {
    let failures = Mutex::new(Vec::new());
    let open = Mutex::new(BTreeSet::new());
    let begun = Instant::now();
    let sum = explore(0, SEEDS, |report| {
        let known = OPEN.iter().find(|(seed, ..)| *seed == report.seed);
        if known.is_some_and(|(_, what, _)| said(&report.verdict).starts_with(what)) {
            open.lock().unwrap().insert(report.seed);
            return;
        }
        let text = format!("{report}\nreplay: pgvigil sim --seed {}", report.seed);
        failures.lock().unwrap().push(text);
    });
    let (taken, processors) = (begun.elapsed(), thread::available_parallelism().unwrap().get());
    let cost_ms = taken.as_millis() * processors as u128 / u128::from(SEEDS);
    println!("{sum}{SEEDS} seeds in {taken:.0?}: a seed costs {cost_ms} ms of a processor");
    let mut failures = failures.into_inner().unwrap();
    failures.extend(super::coverage::complaints(&sum));
    let open = open.into_inner().unwrap();
    let mended = OPEN.iter().filter(|(seed, ..)| !open.contains(seed));
    failures.extend(mended.map(|(seed, ..)| format!("seed {seed} does not end as OPEN says")));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Seeds that broke a promise, or did not come to rest, until what they found was mended.
#[test]
fn what_seeds_found_stays_mended() {
    let found: [(u64, &str); 0] = [];
    for (seed, found) in found {
        let report = play(seed, false);
        assert_eq!(report.verdict, Verdict::Good, "{found}: {report}");
    }
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
