//! How evenly renewals come: what the margins of the budget are spent on.

use std::time::Duration;

use crate::core::time::Boot;

/// Intervals that are remembered.
const KEPT: usize = 256;

/// The last confirmed renewals of one possession of the key.
#[derive(Debug, Default)]
pub struct Jitter {
    last: Option<Boot>,
    /// A ring; `next` is the oldest once it is full.
    intervals: Vec<Duration>,
    next: usize,
}

/// How much later than planned renewals were sent: half of them, 99 of 100, and all at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Jitter {
    /// One was sent then, and confirmed.
    pub fn sent(&mut self, at: Boot) {
        let Some(last) = self.last.replace(at) else { return };
        let interval = at.since(last);
        if self.intervals.len() < KEPT {
            self.intervals.push(interval);
        } else {
            self.intervals[self.next] = interval;
            self.next = (self.next + 1) % KEPT;
        }
    }

    /// The key is not ours any more: what comes next begins anew.
    pub fn interrupted(&mut self) {
        self.last = None;
    }

    /// Against this pause between renewals; `None`: there were no two yet.
    pub fn lateness(&self, cadence: Duration) -> Option<Lateness> {
        let mut sorted = self.intervals.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let at = |percent: usize| sorted[last * percent / 100].saturating_sub(cadence);
        Some(Lateness { p50: at(50), p99: at(99), max: at(100) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn of_the_last_renewals_of_this_tenure() {
        let mut jitter = Jitter::default();
        let mut now = Boot(0);
        assert_eq!(jitter.lateness(ms(100)), None);
        for n in 0..=100 {
            jitter.sent(now);
            now = now.plus(ms(100 + n));
        }
        let expected = Lateness { p50: ms(49), p99: ms(98), max: ms(99) };
        assert_eq!(jitter.lateness(ms(100)), Some(expected));
        jitter.interrupted();
        jitter.sent(now.plus(ms(60_000)));
        assert_eq!(jitter.lateness(ms(100)), Some(expected));
        for n in 0..1000 {
            jitter.sent(now.plus(ms(60_100 + n * 100)));
        }
        let even = Lateness::default();
        assert_eq!(jitter.lateness(ms(100)), Some(even), "the old ones are forgotten");
    }
}
