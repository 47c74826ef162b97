//! The watchdog device and the thread that pings it: `supervisor::device` and `watchdog`. It resets
//! its host, whatever runs or stands still there.

use std::collections::VecDeque;
use std::time::Duration;

use crate::core::budget::{Budget, Device, ELECTION, TooTight, Wish};
use crate::core::guard::{Device as Counts, Effect, Event, Phase};
use crate::core::time::Boot;

use super::engine::Time;
use super::supervisor::RHO_PPM;
use super::world::{Host, World, ms};

/// One that fires between 50 ms before its timeout and 1 % and 0.1 s after it.
pub const DEVICE: Device =
    Device { min_s: 1, max_s: 600, factor_ppm: 1_010_000, late: ms(100), early: ms(50) };

/// So long a supervisor that finds a device counting needs, to freeze and to give it a ping.
const AWAKE: Time = 100_000_000;

/// When somebody has looked at a machine that was reset.
const LOOKED_WITHIN: Duration = Duration::from_secs(90);

/// What a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A timer of its own: it fires while the host stands still.
    Hardware,
    /// A timer of the kernel: it does not, but as soon as the host goes on.
    Software,
}

#[derive(Clone, Debug, Default)]
pub struct Dog {
    pub kind: Option<Kind>,
    /// Every attempt to arm it fails.
    pub broken: bool,
    /// When it resets the host; `None`: it does not count.
    pub fires: Option<Time>,
    /// What is programmed while it counts.
    pub timeout: Duration,
    /// What the petter has to do, and for which supervisor.
    pub queue: VecDeque<(u64, Effect)>,
}

impl World {
    /// The budget of a lease of this length; with the device, where there is one that fits.
    pub fn budget(&self, m: usize, ttl: Duration) -> Result<Budget, TooTight> {
        let plain = Budget::new(ttl, RHO_PPM);
        let dog = &self.members[m].dog;
        if dog.kind.is_none() || dog.broken {
            return plain;
        }
        let wish = Wish { grade: None, margin_s: None, election: ELECTION, kept: true };
        Budget::watched(ttl, RHO_PPM, &DEVICE, &wish).or(plain)
    }

    /// One of the guard's effects on the device, carried out by the petter in a moment, in their
    /// order. It stands still when its supervisor does.
    pub fn command_device(&mut self, m: usize, effect: Effect) {
        let delay = Duration::from_micros(self.prng.between(50, 900));
        let number = self.members[m].supervisor.as_ref().map_or(0, |s| s.number);
        self.members[m].dog.queue.push_back((number, effect));
        self.later(delay, move |sim| sim.with(|w| w.pet(m)));
    }

    fn pet(&mut self, m: usize) {
        let member = &mut self.members[m];
        let stopped = member.supervisor.as_ref().is_some_and(|s| s.frozen);
        if stopped || member.host == Host::Frozen {
            return self.later(ms(5), move |sim| sim.with(|w| w.pet(m)));
        }
        let Some((number, effect)) = member.dog.queue.pop_front() else { return };
        if member.supervisor.as_ref().is_none_or(|s| s.number != number) {
            return;
        }
        let now = self.local(m);
        match effect {
            Effect::ArmDevice { timeout } => {
                if self.members[m].dog.broken {
                    return self.device_failed(m);
                }
                self.wind(m, timeout);
                let _ = self.decide(m, Event::DeviceArmed { at: now });
            }
            Effect::Ping { proof, timeout } => {
                let budget = self.members[m].supervisor.as_ref().and_then(|s| s.guard.budget());
                let age = budget.map_or(Duration::ZERO, |b| b.proof());
                let old = proof.is_some_and(|sent_at| now.since(sent_at) > age);
                // A ping does not start what does not count.
                let given = !old && self.members[m].dog.fires.is_some();
                if given {
                    self.check_ping(m, proof);
                    self.wind(m, timeout);
                }
                let answer = Event::Pinged { at: given.then_some(now) };
                let _ = self.decide(m, if old { Event::PingLate } else { answer });
            }
            _ => {
                self.check_disarm(m);
                self.members[m].dog.fires = None;
                self.members[m].dog.timeout = Duration::ZERO;
            }
        }
    }

    fn device_failed(&mut self, m: usize) {
        let _ = self.decide(m, Event::DeviceFailed);
        // Without it, as `watchdog.mode: automatic` says.
        let ttl = self.members[m].supervisor.as_ref().and_then(|s| s.guard.shortest_ttl());
        if let Some(Ok(budget)) = ttl.map(|ttl| self.budget(m, ttl)) {
            let _ = self.decide(m, Event::Retune(budget));
        }
    }

    /// It counts from now.
    fn wind(&mut self, m: usize, timeout: Duration) {
        let spare = timeout / 100 + DEVICE.late;
        let late = self.some_ms(0, (spare + DEVICE.early).as_millis() as u64);
        let after = (timeout + late).saturating_sub(DEVICE.early);
        let fires = self.now + after.as_nanos() as Time;
        self.members[m].dog.fires = Some(fires);
        self.members[m].dog.timeout = timeout;
        self.later(after, move |sim| sim.with(|w| w.fire(m, fires)));
    }

    fn fire(&mut self, m: usize, at: Time) {
        let member = &self.members[m];
        let counts = member.dog.fires == Some(at) && member.host != Host::Down;
        let stands_still = member.dog.kind == Some(Kind::Software) && member.host == Host::Frozen;
        if counts && !stands_still {
            self.reset(m);
        }
    }

    /// A host that goes on after it stood still; false: its timer is over.
    pub fn survives(&mut self, m: usize) -> bool {
        let over = self.members[m].dog.fires.is_some_and(|at| at <= self.now);
        if over {
            self.reset(m);
        }
        !over
    }

    fn reset(&mut self, m: usize) {
        self.check_reset(m);
        self.say(Some(m), || "the watchdog resets the host".to_owned(), 7000);
        let led = self.members[m].server.as_ref().is_some_and(|s| s.writable());
        self.crash_host(m);
        if led && self.plan.stay_down {
            self.members[m].held = true;
            self.later(LOOKED_WITHIN, move |sim| sim.with(|w| w.release_held(m)));
        }
        let delay = self.some_ms(10_000, 60_000);
        self.later(delay, move |sim| sim.with(|w| w.boot(m)));
    }

    /// `pgvigil watchdog release`.
    pub fn release_held(&mut self, m: usize) {
        if std::mem::take(&mut self.members[m].held) {
            self.say(Some(m), || "an operator has looked after the reset".to_owned(), 7001);
        }
    }

    /// A supervisor starts beside a device that counts, or finds that none does.
    pub fn take_device_over(&mut self, m: usize) {
        let counts = self.members[m].dog.fires.is_some();
        let timeout = self.members[m].dog.timeout;
        let now = self.local(m);
        let Some(s) = &mut self.members[m].supervisor else { return };
        let expected = s.guard.device() != Counts::Off;
        let unknown = matches!(s.guard.phase(), Phase::Frozen | Phase::Killing);
        match counts {
            true if expected || unknown => s.guard.device_counts(Some(timeout), now),
            true => self.command_device(m, Effect::DisarmDevice),
            false if expected => {
                let _ = self.decide(m, Event::DeviceFailed);
            }
            false => {}
        }
    }

    /// No ping with proof after the fence, none without while something may write.
    fn check_ping(&mut self, m: usize, proof: Option<Boot>) {
        self.checks.exercise("ping");
        let writes = self.members[m].server.as_ref().is_some_and(|s| s.writable() && !s.outside());
        let member = &self.members[m];
        // One that was under way when a fence was decided is no harm: what waits in the queue of a
        // petter that goes on after a stop is carried out within this.
        let under_way = |deadline: Boot| deadline.plus(ms(6));
        let fenced = member.page.is_some_and(|(at, _)| self.local(m) > under_way(at));
        let wrong = match proof {
            Some(_) => fenced && writes && self.server_moves(m),
            None => writes && self.server_moves(m) && self.phase(m) != Phase::Killing,
        };
        if wrong && self.excused(m).is_none() {
            let what = format!("ping: {} is pinged although its lease is over", member.name);
            self.checks.violate(self.now, what);
        }
    }

    /// Not while a supervisor runs that could freeze what may write, and give it a ping then. What
    /// neither stands still nor dies is left to the device.
    fn check_reset(&mut self, m: usize) {
        self.checks.exercise("reset");
        let member = &self.members[m];
        let up = member.host == Host::Up;
        let runs = member.supervisor.as_ref().is_some_and(|s| !s.frozen && up);
        let stuck = self.volume_hangs(m)
            || member.slow_freeze
            || member.server.as_ref().is_some_and(|s| s.doomed || s.outside());
        let awake = runs && self.now - member.awake_since > AWAKE;
        if awake && !stuck && self.excused(m).is_none() {
            let what = format!(
                "reset: {} is reset although its supervisor runs, {:?}",
                member.name,
                self.phase(m)
            );
            self.checks.violate(self.now, what);
        }
    }

    /// Never disarmed while a backend may still write, but under the record of a pause.
    fn check_disarm(&mut self, m: usize) {
        self.checks.exercise("disarm");
        let writes = self.members[m].server.as_ref().is_some_and(|s| s.writable() && !s.outside());
        let allowed = self.suspended(m) || matches!(self.phase(m), Phase::Leading);
        if writes && self.server_moves(m) && !allowed && self.excused(m).is_none() {
            let name = &self.members[m].name;
            let what = format!("disarm: the watchdog of {name} is stopped while it may write");
            self.checks.violate(self.now, what);
        }
    }
}
