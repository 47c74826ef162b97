//! The simulator: the same seed is the same run, and what it plays keeps its promises.

use pgvigil::sim::{Verdict, play};

#[test]
fn the_same_seed_is_the_same_run() {
    let (one, two) = (play(3, true), play(3, true));
    assert_eq!((one.hash, one.events), (two.hash, two.events));
    assert_eq!(one.transcript, two.transcript);
}

/// As many as take half a minute in a build that is not optimized; `pgvigil sim --seeds COUNT`
/// plays more.
const SEEDS: u64 = 100;

#[test]
fn promises_are_kept_under_faults() {
    let mut failures = Vec::new();
    for seed in 0..SEEDS {
        let report = play(seed, false);
        if !report.verdict.is_good() {
            failures.push(format!("{report}\nreplay: pgvigil sim --seed {seed}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Seeds that broke a promise, or did not come to rest, until what they found was mended.
#[test]
fn what_seeds_found_stays_mended() {
    for (seed, found) in [
        (31, "who had bootstrapped the cluster made another one when its data was gone"),
        (35, "a standby whose rewind had failed was not copied, though that was permitted"),
        (340, "a standby that the sentinel had frozen was never thawed"),
        (358, "a new agent started a primary before it had read /sync"),
        (373, "a former primary that was copied anew was removed again, for ever"),
    ] {
        let report = play(seed, false);
        assert_eq!(report.verdict, Verdict::Good, "{found}: {report}");
    }
}
