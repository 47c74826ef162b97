//! The promises that every run is judged by, in words. `check.rs` has a function for each; what it
//! reports begins with the promise's name, and each counts how often it had something to judge.

/// A promise. The name is stable: it stands in reports and in docs/SAFETY.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invariant {
    pub name: &'static str,
    pub sentence: &'static str,
}

const fn promise(name: &'static str, sentence: &'static str) -> Invariant {
    Invariant { name, sentence }
}

/// All of them: what must never happen first, then what must happen.
pub const INVARIANTS: &[Invariant] = &[
    promise("one primary", "at no instant can two members acknowledge a commit"),
    promise(
        "deadline",
        "no member accepts writes after its own deadline and what a fence may take",
    ),
    promise("reset", "no watchdog resets a host whose supervisor runs and can fence"),
    promise("permit", "PostgreSQL is made writable only by who holds the leader key"),
    promise("nothing lost", "no acknowledged synchronous commit is missing on a later leader"),
    promise(
        "sync pair",
        "commits are acknowledged only by the leader that /sync names, and after every standby \
         that /sync names",
    ),
    promise("history", "no former primary streams from a history that is not its own"),
    promise("removal", "no data directory goes while it holds a commit that nobody else has"),
    promise("paused", "while the cluster is paused nobody is promoted, stopped or started unasked"),
    promise("fixed point", "a view that does not change is decided the same way again"),
    promise(
        "legal transitions",
        "the guard goes only from phases to phases that its table permits",
    ),
    promise("no flapping", "decisions come to rest: no thousand of them in a second"),
    promise("leader", "once faults are mended there is a leader within 240 s"),
    promise("calm", "once faults are mended every member streams within 600 s"),
];

/// Whether what was counted under this name is a promise.
pub fn is_invariant(name: &str) -> bool {
    INVARIANTS.iter().any(|invariant| invariant.name == name)
}
