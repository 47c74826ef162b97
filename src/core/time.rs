//! The two clocks, as types that cannot be mixed up.

use std::time::Duration;

/// An instant on CLOCK_BOOTTIME, in nanoseconds since boot. The only clock that fencing may use:
/// it counts through suspend and is never set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub u64);

impl Boot {
    /// This instant moved forward; stays at the end of the scale instead of wrapping.
    pub fn plus(self, by: Duration) -> Boot {
        Boot(self.0.saturating_add(nanos(by)))
    }

    /// This instant moved back; stays at zero instead of wrapping.
    pub fn minus(self, by: Duration) -> Boot {
        Boot(self.0.saturating_sub(nanos(by)))
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    pub fn since(self, earlier: Boot) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Wall-clock time in microseconds since 1970 UTC: operators' schedules and records only, never a
/// deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
