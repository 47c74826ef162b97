//! The judges can condemn: every defect of `sim::defect` is found by playing seeds.

use std::sync::Mutex;
use std::thread;

use pgvigil_core::sim::defect::{DEFECTS, Defect};
use pgvigil_core::sim::{Verdict, play_with};

/// A defect must be found within so many seeds.
const SEEDS: u64 = 40;

/// Not found in these seeds, because another layer holds in all of them: the rules ask for permits
/// only when they are due, members race only for a key that they saw vacant, and a leader that was
/// replaced is fenced before it writes. The model finds the late thaw and the count from the answer
/// (`tests/model.rs`); the latter was not found in 200 seeds: few answers are late by more than the
/// second that the budget keeps. Nor is `forgets-promises` found in these: an agent has to begin
/// anew while its promise still counts.
const HELD_BY_OTHERS: &[&str] = &[
    "counts-from-answer",
    "thaws-late",
    "permits-always",
    "takes-any-key",
    "tenure-unchecked",
    "forgets-promises",
];

/// The first seed that does not end well, and what was said.
fn find(defect: Defect) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| match play_with(seed, false, Some(defect)).verdict {
        Verdict::Good => None,
        Verdict::Broken(violations) => Some((seed, violations.first()?.what.clone())),
        Verdict::Stuck(lines) => Some((seed, lines.first()?.clone())),
    })
}

#[test]
fn every_defect_is_found() {
    let sought = DEFECTS.iter().filter(|(_, name, _)| !HELD_BY_OTHERS.contains(name));
    let (next, missed) = (Mutex::new(sought), Mutex::new(Vec::new()));
    let work = || {
        while let Some((defect, name, sentence)) = { next.lock().expect("not poisoned").next() } {
            match find(*defect) {
                Some((seed, what)) => println!("{name}: seed {seed}: {what}"),
                None => missed.lock().expect("not poisoned").push(format!("{name}: {sentence}")),
            }
        }
    };
    thread::scope(|scope| [scope.spawn(work), scope.spawn(work)].map(|t| t.join().expect("ended")));
    let missed = missed.into_inner().expect("not poisoned");
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:#?}");
}
