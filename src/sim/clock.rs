//! The clocks of one host: CLOCK_BOOTTIME, which runs at its own rate and is never set, and the
//! wall clock, which is.

use crate::core::time::Boot;

use super::engine::Time;

#[derive(Clone, Debug)]
pub struct Clock {
    /// True time at which it showed `base`.
    since: Time,
    base: u64,
    /// How much faster than true time it runs, in parts per million.
    rate_ppm: i64,
    /// The same while nothing is wrong with it.
    own_ppm: i64,
    /// How far the wall clock is off, in microseconds.
    pub wall_off_us: i64,
}

impl Clock {
    pub fn new(base: u64, rate_ppm: i64) -> Clock {
        Clock { since: 0, base, rate_ppm, own_ppm: rate_ppm, wall_off_us: 0 }
    }

    pub fn shows(&self, now: Time) -> Boot {
        let passed = now - self.since;
        // A run is far shorter than the two hours after which this product would overflow.
        let drift = (passed / 1000) as i64 * self.rate_ppm / 1000;
        Boot(self.base + passed.saturating_add_signed(drift))
    }

    /// When it will show that, if its rate stays; never earlier.
    pub fn when(&self, now: Time, at: Boot) -> Time {
        let ahead = at.0.saturating_sub(self.shows(now).0);
        let true_ns = u128::from(ahead) * 1_000_000 / (1_000_000 + self.rate_ppm) as u128;
        // The division of the drift above loses up to a microsecond.
        now + true_ns as u64 + 1000
    }

    /// From now on it runs at another rate.
    pub fn set_rate(&mut self, now: Time, rate_ppm: i64) {
        self.base = self.shows(now).0;
        self.since = now;
        self.rate_ppm = rate_ppm;
    }

    /// At its own rate again, however often it was changed.
    pub fn run_true(&mut self, now: Time) {
        self.set_rate(now, self.own_ppm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_never_early() {
        for rate in [-200_000, -4000, 0, 3999, 200_000] {
            let mut clock = Clock::new(77_000_000_000, rate);
            for now in [0, 1, 999, 123_456_789, 900_000_000_017] {
                let at = Boot(clock.shows(now).0 + 8_900_000_000);
                let when = clock.when(now, at);
                assert!(clock.shows(when) >= at, "{rate} {now}");
                assert!(clock.shows(when).0 < at.0 + 3000, "{rate} {now}");
            }
            let before = clock.shows(5_000_000_000);
            clock.set_rate(5_000_000_000, -rate);
            assert_eq!(clock.shows(5_000_000_000), before);
        }
    }
}
