//! Waiting for a condition with a limit: the only synchronisation that scenarios use.

use std::thread;
use std::time::{Duration, Instant};

/// Asks until there is an answer; panics with `what` when the limit has passed.
#[track_caller]
pub fn wait_until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain for {what}");
        thread::sleep(Duration::from_millis(25));
    }
}

/// Lets a fault last.
pub fn let_pass(time: Duration) {
    thread::sleep(time);
}
