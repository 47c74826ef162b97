//! The times of the fence, computed from the lease: docs/ARCHITECTURE.md, "The budget".

use std::time::Duration;

/// Every duration counts from the instant at which a renewal was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Budget {
    /// T: the granted lease.
    pub ttl: Duration,
    /// T(1-ρ): before that, by any clock within ρ of ours, nobody else can hold the key.
    pub exclusive: Duration,
    /// T1: the software deadline. The postgres group is frozen then.
    pub t1: Duration,
    /// G: greatest age of a confirmation that permits a promotion, a thaw or a ping.
    pub g: Duration,
    /// K: how often the agent renews.
    pub k: Duration,
}

/// d1: what a fence may take, from its deadline to the last instruction of a backend. Measured:
/// 8 ms to freeze, 0.45 s until 106 killed processes were gone.
pub const FENCE: Duration = Duration::from_millis(500);
/// What the sentinel waits after the deadline before it acts in the supervisor's place.
pub const SENTINEL: Duration = Duration::from_millis(300);
/// d: scheduling allowance between a check of an age and the act that it permits.
pub const ALLOWANCE: Duration = Duration::from_millis(200);

/// The lease is too short, or the clocks too uncertain, for this order to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooTight {
    pub ttl: Duration,
    pub rho_ppm: u32,
}

impl std::fmt::Display for TooTight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ttl {} ms with clocks {} ppm apart leaves no time to fence: raise ttl",
            self.ttl.as_millis(),
            self.rho_ppm
        )
    }
}

impl std::error::Error for TooTight {}

impl Budget {
    /// The budget of a lease of `ttl` without a watchdog device. `rho_ppm` bounds the relative
    /// rate error between our clock and the store's.
    pub fn new(ttl: Duration, rho_ppm: u32) -> Result<Budget, TooTight> {
        let tight = TooTight { ttl, rho_ppm };
        let ms = u64::try_from(ttl.as_millis()).map_err(|_| tight)?;
        let rho = u64::from(rho_ppm);
        let exclusive = ms
            .checked_mul(1_000_000u64.checked_sub(rho).ok_or(tight)?)
            .map(|product| product / 1_000_000)
            .ok_or(tight)?;
        let t1 = exclusive.checked_sub((ms / 10).max(1000)).ok_or(tight)?;
        let budget = Budget {
            ttl,
            exclusive: Duration::from_millis(exclusive),
            t1: Duration::from_millis(t1),
            g: Duration::from_millis((ms * 7 / 100).clamp(400, 2000)),
            k: Duration::from_millis((ms / 10).clamp(200, 3000)),
        };
        // Two renewals must fit before the mild tier acts, or one lost answer would freeze.
        let renewable = budget.k * 2 + budget.g <= budget.t1;
        if budget.holds() && renewable { Ok(budget) } else { Err(tight) }
    }

    /// The inequality: even if the supervisor does nothing, the sentinel has fenced before anybody
    /// else can hold the key.
    pub fn holds(&self) -> bool {
        self.g + ALLOWANCE < self.t1 && self.t1 + SENTINEL + FENCE <= self.exclusive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        // ttl ms, rho ppm -> T(1-ρ), T1, G, K in ms
        for (ttl, rho, expected) in [
            (30_000, 10_000, Some((29_700, 26_700, 2000, 3000))),
            (20_000, 10_000, Some((19_800, 17_800, 1400, 2000))),
            (10_000, 10_000, Some((9900, 8900, 700, 1000))),
            (10_000, 90_000, Some((9100, 8100, 700, 1000))),
            (5000, 10_000, Some((4950, 3950, 400, 500))),
            (3000, 10_000, Some((2970, 1970, 400, 300))),
            (2000, 10_000, Some((1980, 980, 400, 200))),
            (1000, 10_000, None),
            (0, 10_000, None),
            (u64::MAX, 10_000, None),
            (30_000, 1_000_000, None),
            (30_000, 1_000_001, None),
        ] {
            let budget = Budget::new(Duration::from_millis(ttl), rho).ok();
            let ms = |d: Duration| d.as_millis() as u64;
            let got = budget.map(|b| (ms(b.exclusive), ms(b.t1), ms(b.g), ms(b.k)));
            assert_eq!(got, expected, "{ttl} {rho}");
        }
    }

    #[test]
    fn the_inequality_holds_for_every_lease() {
        for ttl in (0..200_000).step_by(37) {
            for rho in [0, 1000, 10_000, 90_000] {
                if let Ok(budget) = Budget::new(Duration::from_millis(ttl), rho) {
                    assert!(budget.holds() && budget.exclusive <= budget.ttl, "{budget:?}");
                }
            }
        }
    }
}
