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
    /// G: greatest age of a confirmation that permits a promotion or a thaw.
    pub g: Duration,
    /// K: how often the agent renews.
    pub k: Duration,
    /// The watchdog device's part; `None`: there is none, or it is not used.
    pub watch: Option<Timeout>,
}

/// A watchdog device's timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeout {
    /// W: what is programmed, whole seconds.
    pub set: Duration,
    /// a·W and what the device adds: the machine stands still at the latest so long after a ping.
    pub reset: Duration,
}

/// How a watchdog device keeps time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Timeouts that it takes, in seconds.
    pub min_s: u32,
    pub max_s: u32,
    /// a: real time to the reset over the programmed one, at the worst, parts per million.
    pub factor_ppm: u32,
    /// What is to be added to that, whatever the timeout.
    pub late: Duration,
    /// How much earlier than programmed it may fire.
    pub early: Duration,
}

impl Device {
    fn timeout(&self, seconds: u32) -> Timeout {
        let reset = u64::from(seconds) * u64::from(self.factor_ppm) / 1000;
        let reset = Duration::from_millis(reset) + self.late;
        Timeout { set: Duration::from_secs(seconds.into()), reset }
    }
}

/// How much stalling the device's timeout must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// Any stalls, of any length, at any instruction: 2·a·W <= T(1-ρ). Proof: each ping follows a
    /// confirmation that was *sent* at s after the ping before it had returned, so p(k) <= p(k-1) +
    /// a·W (else the machine was reset) <= s(k) + a·W, and the reset comes by s(k) + 2·a·W.
    A,
    /// One stall anywhere: G + d + a·W <= T(1-ρ).
    B,
}

/// What is asked of a device's timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// `None`: A, unless its T1 were shorter than the store needs to elect a leader.
    pub grade: Option<Grade>,
    /// Patroni's `safety_margin`, if it is written: W = ttl - margin; -1: half of ttl.
    pub margin_s: Option<i64>,
    /// The store's election timeout. A change of its leader takes about 2E + 0.5 s.
    pub election: Duration,
    /// Somebody else holds a duplicate of the device's descriptor. Else the end of the supervisor
    /// is one more ping (the kernel pings at the last close), up to T1 after the renewal.
    pub kept: bool,
}

/// The store's election timeout unless it is configured: etcd's default.
pub const ELECTION: Duration = Duration::from_secs(1);

/// d1: what a fence may take, from its deadline to the last instruction of a backend. Measured:
/// 8 ms to freeze, 0.45 s until 106 killed processes were gone.
pub const FENCE: Duration = Duration::from_millis(500);
/// What the sentinel waits after the deadline before it acts in the supervisor's place.
pub const SENTINEL: Duration = Duration::from_millis(300);
/// d: scheduling allowance between a check of an age and the act that it permits.
pub const ALLOWANCE: Duration = Duration::from_millis(200);

/// The shortest pause between renewals that is worth it.
const K_MIN_MS: u64 = 200;

/// What follows a renewal that took so long. Renewals are counted from one to the next: what a slow
/// store has taken is not waited for again. But the ping that its answer gave returns before the
/// next one is sent (rule R of `core::guard`).
pub fn pause(cadence: Duration, taken: Duration) -> Duration {
    cadence.saturating_sub(taken).max(cadence / 10)
}

/// The lease is too short, or the clocks too uncertain, for this order to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooTight {
    pub ttl: Duration,
    pub rho_ppm: u32,
    /// The device's timeout that comes nearest.
    pub watch: Option<Timeout>,
}

impl std::fmt::Display for TooTight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ttl, rho) = (self.ttl.as_millis(), self.rho_ppm);
        match self.watch {
            None => write!(
                f,
                "ttl {ttl} ms with clocks {rho} ppm apart leaves no time to fence: raise ttl"
            ),
            Some(watch) => write!(
                f,
                "ttl {ttl} ms with clocks {rho} ppm apart leaves no time for a watchdog with a \
                 timeout of {} s, which resets up to {} ms after a ping: raise ttl, or change \
                 watchdog.safety_margin if it is set",
                watch.set.as_secs(),
                watch.reset.as_millis()
            ),
        }
    }
}

impl std::error::Error for TooTight {}

fn from_ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Budget {
    /// The budget of a lease of `ttl` without a watchdog device. `rho_ppm` bounds the relative
    /// rate error between our clock and the store's.
    pub fn new(ttl: Duration, rho_ppm: u32) -> Result<Budget, TooTight> {
        let tight = TooTight { ttl, rho_ppm, watch: None };
        let ms = u64::try_from(ttl.as_millis()).map_err(|_| tight)?;
        let rho = u64::from(rho_ppm);
        let exclusive = ms
            .checked_mul(1_000_000u64.checked_sub(rho).ok_or(tight)?)
            .map(|product| product / 1_000_000)
            .ok_or(tight)?;
        let t1 = exclusive.checked_sub((ms / 10).max(1000)).ok_or(tight)?;
        let budget = Budget {
            ttl,
            exclusive: from_ms(exclusive),
            t1: from_ms(t1),
            g: from_ms((ms * 7 / 100).clamp(400, 2000)),
            k: from_ms((ms / 10).clamp(K_MIN_MS, 3000)),
            watch: None,
        };
        if budget.holds() && budget.renewable() { Ok(budget) } else { Err(tight) }
    }

    /// The budget with a device, whose timeout is the longest one that the grade permits.
    pub fn watched(
        ttl: Duration,
        rho_ppm: u32,
        device: &Device,
        wish: &Wish,
    ) -> Result<Budget, TooTight> {
        let base = Budget::new(ttl, rho_ppm)?;
        if let Some(margin) = wish.margin_s {
            let ttl_s = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
            let seconds = if margin == -1 { ttl_s / 2 } else { ttl_s - margin };
            let tight = base.tight(rho_ppm, device, seconds);
            let seconds = u32::try_from(seconds).map_err(|_| tight)?;
            return base.with(device, seconds, Grade::B, wish.kept).ok_or(tight);
        }
        let best = |grade| {
            let longest = u32::try_from(base.exclusive.as_secs()).unwrap_or(u32::MAX);
            (device.min_s..=device.max_s.min(longest))
                .rev()
                .find_map(|seconds| base.with(device, seconds, grade, wish.kept))
        };
        let tight = base.tight(rho_ppm, device, device.min_s.into());
        let bridges = |b: &Budget| b.t1 >= wish.election * 2 + from_ms(500);
        match wish.grade {
            Some(grade) => best(grade),
            None => best(Grade::A).filter(bridges).or_else(|| best(Grade::B)),
        }
        .ok_or(tight)
    }

    fn tight(&self, rho_ppm: u32, device: &Device, seconds: i64) -> TooTight {
        let seconds = u32::try_from(seconds.max(0)).unwrap_or(u32::MAX);
        TooTight { ttl: self.ttl, rho_ppm, watch: Some(device.timeout(seconds)) }
    }

    /// This budget with this timeout, if everything holds then.
    fn with(&self, device: &Device, seconds: u32, grade: Grade, kept: bool) -> Option<Budget> {
        if !(device.min_s..=device.max_s).contains(&seconds) {
            return None;
        }
        let watch = device.timeout(seconds);
        // The mild tier first: freeze before the device can fire, with time for the sentinel, too.
        let fires = watch.set.checked_sub(device.early)?;
        let t1 = fires.checked_sub(from_ms(600).max(watch.set / 7))?.min(self.t1);
        let spare_ms = u64::try_from(t1.checked_sub(self.g)?.as_millis()).unwrap_or(u64::MAX) / 2;
        let k = self.k.min(from_ms(spare_ms));
        let budget = Budget { t1, k, watch: Some(watch), ..*self };
        let graded = grade == Grade::B || watch.reset * 2 <= self.exclusive;
        let closed = kept || t1 + watch.reset <= self.exclusive;
        let fits = k >= from_ms(K_MIN_MS) && t1 + SENTINEL < fires;
        (graded && closed && fits && budget.holds() && budget.renewable()).then_some(budget)
    }

    /// Two renewals must fit before the mild tier acts, or one lost answer would freeze.
    fn renewable(&self) -> bool {
        self.k * 2 + self.g <= self.t1
    }

    /// The inequalities: even if the supervisor does nothing, the sentinel has fenced before
    /// anybody else can hold the key; and if nothing at all runs any more, the device has.
    pub fn holds(&self) -> bool {
        self.g + ALLOWANCE < self.t1
            && self.t1 + SENTINEL + FENCE <= self.exclusive
            && self.watch.is_none_or(|w| self.g + ALLOWANCE + w.reset <= self.exclusive)
    }

    /// Greatest age of a confirmation that gives a ping: its deadline has not passed, and the
    /// machine stands still before E if the ping comes d after the look at that age. Never less
    /// than G, and in grade A that is T1: a store that takes seconds to answer costs no reset.
    pub fn proof(&self) -> Duration {
        self.exclusive.saturating_sub(self.reset() + ALLOWANCE).min(self.t1)
    }

    /// The machine stands still at the latest so long after a ping; zero without a device.
    pub fn reset(&self) -> Duration {
        self.watch.map_or(Duration::ZERO, |watch| watch.reset)
    }

    /// Which grade the device's timeout reaches.
    pub fn grade(&self) -> Option<Grade> {
        self.watch.map(|w| if w.reset * 2 <= self.exclusive { Grade::A } else { Grade::B })
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

    const SOFTDOG: Device = Device {
        min_s: 1,
        max_s: 65_535,
        factor_ppm: 1_010_000,
        late: Duration::ZERO,
        early: Duration::ZERO,
    };
    const A: Option<Grade> = Some(Grade::A);
    const B: Option<Grade> = Some(Grade::B);

    fn wish(grade: Option<Grade>) -> Wish {
        Wish { grade, margin_s: None, election: ELECTION, kept: true }
    }

    fn watched(ttl_s: u64, device: &Device, wish: Wish) -> Option<(u64, u64, Grade)> {
        let budget = Budget::watched(Duration::from_secs(ttl_s), 10_000, device, &wish).ok()?;
        Some((budget.watch?.set.as_secs(), budget.t1.as_millis() as u64, budget.grade()?))
    }

    /// The profiles: ttl, grade asked for -> W in s, T1 in ms, grade reached. T1 lies within 0.4 s
    /// of the hand-made profiles that the formula replaced.
    #[test]
    fn profiles_of_softdog() {
        for (ttl, grade, expected) in [
            (30, None, Some((14, 12_000, Grade::A))),
            (10, None, Some((4, 3400, Grade::A))),
            (10, B, Some((8, 6858, Grade::B))),
            (5, A, Some((2, 1400, Grade::A))),
            // A's T1 would not bridge an election of the store.
            (5, None, Some((4, 3400, Grade::B))),
            (3, None, Some((2, 1400, Grade::B))),
            (3, A, None),
            (2, None, None),
        ] {
            let got = watched(ttl, &SOFTDOG, wish(grade));
            let got = got.map(|(w, t1, grade)| (w, t1.next_multiple_of(2), grade));
            assert_eq!(got, expected, "{ttl} {grade:?}");
        }
        // A store with a short election timeout keeps grade A.
        let quick = Wish { election: from_ms(400), ..wish(None) };
        assert_eq!(watched(5, &SOFTDOG, quick), Some((2, 1400, Grade::A)));
    }

    /// Devices that fire early, late, or at twice their time: the shortest lease of grade B.
    #[test]
    fn what_devices_permit() {
        let device = |min_s, factor_ppm, late_ms, early_ms| Device {
            min_s,
            max_s: 614,
            factor_ppm,
            late: from_ms(late_ms),
            early: from_ms(early_ms),
        };
        for (device, ttl_b, ttl_a) in [
            (SOFTDOG, 3, 5),
            (device(1, 1_000_000, 0, 128), 3, 5),
            (device(1, 1_000_000, 0, 1000), 4, 7),
            (device(3, 2_000_000, 0, 600), 7, 13),
            (device(3, 1_000_000, 1000, 0), 5, 9),
        ] {
            let shortest = |grade| (1..60).find(|t| watched(*t, &device, wish(grade)).is_some());
            assert_eq!((shortest(B), shortest(A)), (Some(ttl_b), Some(ttl_a)), "{device:?}");
        }
    }

    #[test]
    fn a_written_margin_is_honoured_where_the_inequality_holds() {
        let margin = |m| Wish { margin_s: Some(m), ..wish(None) };
        assert_eq!(watched(30, &SOFTDOG, margin(5)), Some((25, 21_428, Grade::B)));
        assert_eq!(watched(30, &SOFTDOG, margin(-1)), Some((15, 12_857, Grade::B)));
        assert_eq!(watched(30, &SOFTDOG, margin(3)), Some((27, 23_142, Grade::B)));
        assert_eq!(watched(30, &SOFTDOG, margin(2)), None);
        assert_eq!(watched(30, &SOFTDOG, margin(31)), None);
        let lone = Wish { kept: false, ..margin(5) };
        assert_eq!(watched(30, &SOFTDOG, lone), None, "the close of the descriptor pings");
        let error = Budget::watched(Duration::from_secs(30), 10_000, &SOFTDOG, &margin(2));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("28 s") && text.contains("28280 ms"), "{text}");
    }

    #[test]
    fn a_pause_counts_from_the_renewal_and_leaves_the_ping_its_time() {
        let of = |taken| pause(from_ms(3000), from_ms(taken)).as_millis();
        assert_eq!([0, 500, 2700, 2900, 9000].map(of), [3000, 2500, 300, 300, 300]);
    }

    #[test]
    fn every_budget_with_a_device_holds() {
        for ttl in 1..200 {
            for grade in [None, A, B] {
                for kept in [true, false] {
                    let asked = Wish { kept, ..wish(grade) };
                    let ttl = Duration::from_secs(ttl);
                    let Ok(b) = Budget::watched(ttl, 10_000, &SOFTDOG, &asked) else { continue };
                    let watch = b.watch.unwrap();
                    assert!(b.holds() && b.t1 + SENTINEL < watch.set, "{b:?}");
                    assert!(kept || b.t1 + watch.reset <= b.exclusive, "{b:?}");
                    assert!(grade != A || watch.reset * 2 <= b.exclusive, "{b:?}");
                }
            }
        }
    }
}
