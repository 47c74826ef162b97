//! The watchdog device: when it counts, and which pings it gets.
//!
//! It covers what neither supervisor nor sentinel can: nothing of ours runs any more. A ping says
//! "for the next a·W nobody else may hold the key, or nothing of ours can acknowledge". So there
//! are two kinds, and no other:
//!
//! - *With proof*: one for a confirmation, sent at `s`, while it is younger than
//!   [`Budget::proof`], and only if `s` lies after the return of the ping before it (rule R: the
//!   base of grade A, see [`Grade::A`](crate::core::budget::Grade)).
//! - *Without*, by time: while nothing in the group can acknowledge, because nothing in it was
//!   permitted to, or because it was seen frozen. A permit or a thaw after that needs a renewal
//!   that was sent after the last of these pings returned: then again p <= s, and a stall at any
//!   instruction up to the first ping with proof ends by s + 2·a·W.
//!
//! The pings by time are decided here, in the loop that also decides about permits, never by
//! whoever carries them out: a loop that hangs gets no pings.
//!
//! The freeze comes before the reset: while something may acknowledge, a confirmation that gives no
//! ping moves no deadline, and one whose ping comes too late afterwards moves it back. T1 after the
//! last one that gave a ping, PostgreSQL is frozen and pinged by time, long before the device
//! fires, which was pinged later than that renewal was sent.

use std::time::Duration;

use super::{Confirmation, Effect, Guard, Phase};
use crate::core::budget::Budget;
use crate::core::time::Boot;

/// What the device does, as far as the guard wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// It does not count; or there is none.
    #[default]
    Off,
    /// It was told to, and has not answered.
    Arming,
    /// Without a ping it resets the machine.
    On,
}

/// What was pinged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pings {
    /// When the last one, or the arming, returned.
    pub(super) done: Boot,
    /// The same of the last one without proof.
    pub(super) unproven: Boot,
    /// When the next one without proof is due, if one may be given then.
    pub(super) due: Boot,
    /// The timeout that the device was told; zero: not by us.
    pub(super) timeout: Duration,
    /// Up to here the last one that was given carries a deadline: the device fires later.
    pub(super) until: Boot,
    /// One is under way: whether with proof, and what it will carry.
    pub(super) pending: Option<(bool, Boot)>,
    /// Not frozen yet, but all that is not stands in the kernel, which it does not leave.
    pub(super) still: bool,
    /// A kill has had its one ping.
    pub(super) last_given: bool,
    /// Confirmations that gave none.
    pub(super) withheld: u32,
}

impl Guard {
    pub fn device(&self) -> Device {
        self.device
    }

    /// How many confirmations gave no ping: too old, or sent before the last ping returned.
    pub fn withheld(&self) -> u32 {
        self.pings.withheld
    }

    /// A supervisor starts and finds the device counting, with this timeout if that is known. When
    /// it was pinged nobody knows: that a renewal sent from now on comes later is certain, and a
    /// ping without proof is due as soon as one may be given.
    pub fn device_counts(&mut self, timeout: Option<Duration>, now: Boot) {
        self.device = Device::On;
        let until = self.deadline.unwrap_or(now);
        let pings = Pings { done: now, unproven: now, due: now, until, ..Pings::default() };
        self.pings = Pings { timeout: timeout.unwrap_or_default(), ..pings };
    }

    /// For the budget in force.
    pub(super) fn arm_device(&mut self, out: &mut Vec<Effect>) {
        if let Some(budget) = self.budget {
            self.arm_device_for(budget, out);
        }
    }

    pub(super) fn arm_device_for(&mut self, budget: Budget, out: &mut Vec<Effect>) {
        if let (Some(watch), Device::Off) = (budget.watch, self.device) {
            self.device = Device::Arming;
            self.pings.timeout = watch.set;
            out.push(Effect::ArmDevice { timeout: watch.set });
        }
    }

    pub(super) fn disarm_device(&mut self, out: &mut Vec<Effect>) {
        if self.device != Device::Off {
            self.device = Device::Off;
            self.pings.pending = None;
            out.push(Effect::DisarmDevice);
        }
    }

    pub(super) fn device_armed(&mut self, at: Boot) {
        if self.device == Device::Arming {
            self.device = Device::On;
            // The kernel counts from here, as from a ping.
            let Pings { withheld, timeout, .. } = self.pings;
            let due = at.plus(timeout / 2);
            let pings = Pings { done: at, unproven: at, due, until: due, ..Pings::default() };
            self.pings = Pings { withheld, timeout, ..pings };
        }
    }

    /// The device counts, or the budget asks for none.
    pub(super) fn is_watched(&self, budget: Budget) -> bool {
        budget.watch.is_none() || self.device == Device::On
    }

    /// No ping without proof, and no arming, came after this renewal was sent.
    pub(super) fn is_newest(&self, of: &Confirmation) -> bool {
        let pending = self.pings.pending.is_some_and(|(proven, _)| !proven);
        self.device != Device::On || !(pending || self.pings.unproven > of.sent_at)
    }

    fn proves(&self, of: &Confirmation, budget: Budget, now: Boot) -> bool {
        let follows = self.pings.pending.is_none() && of.sent_at >= self.pings.done;
        follows && now.since(of.sent_at) <= budget.proof()
    }

    /// No device counts, or this confirmation gives it a ping, or it is pinged without.
    pub(super) fn covers(&self, of: &Confirmation, budget: Budget, now: Boot) -> bool {
        let counts = self.device == Device::On && budget.watch.is_some();
        !counts || !self.may_acknowledge() || self.proves(of, budget, now)
    }

    /// The ping of a confirmation that was accepted now.
    pub(super) fn prove(&mut self, now: Boot, out: &mut Vec<Effect>) {
        let (Some(lease), Some(budget)) = (self.lease, self.budget) else { return };
        if budget.watch.is_none() {
            // The budget in force counts on no device any more: the others carry it alone.
            return self.disarm_device(out);
        }
        if self.device == Device::Off {
            // The length of the lease, or an operator, has brought a device into play.
            return self.arm_device(out);
        }
        if self.device == Device::On && self.proves(&lease, budget, now) {
            self.ping(Some(lease.sent_at), now, out);
        } else {
            self.pings.withheld = self.pings.withheld.wrapping_add(1);
        }
    }

    pub(super) fn ping(&mut self, proof: Option<Boot>, now: Boot, out: &mut Vec<Effect>) {
        let Some(timeout) = self.timeout() else { return };
        let until = proof.unwrap_or(now).plus(self.budget.map_or(Duration::ZERO, |b| b.t1));
        self.pings.pending = Some((proof.is_some(), until));
        self.pings.timeout = timeout;
        out.push(Effect::Ping { proof, timeout });
    }

    /// W; of a budget that has no device any more, while it still counts, the last one.
    fn timeout(&self) -> Option<Duration> {
        let last = Some(self.pings.timeout).filter(|timeout| !timeout.is_zero());
        self.budget.and_then(|budget| budget.watch).map(|watch| watch.set).or(last)
    }

    /// When the next ping without proof is due: half a timeout after the last one of any kind, an
    /// eighth after one of them that was refused, so that a device that refuses all of them is not
    /// asked without a pause.
    pub(super) fn ping_due(&self) -> Option<Boot> {
        self.timeout()?;
        let harmless = match self.phase {
            Phase::Candidate | Phase::Leading => !self.may_acknowledge(),
            Phase::Frozen => self.group.frozen || self.pings.still || !self.may_acknowledge(),
            _ => false,
        };
        let may = self.device == Device::On && self.pings.pending.is_none() && harmless;
        may.then_some(self.pings.due)
    }

    pub(super) fn pinged(&mut self, at: Option<Boot>, now: Boot, out: &mut Vec<Effect>) {
        let Some((proven, until)) = self.pings.pending.take() else { return };
        let Some(at) = at else {
            // Whether it still counts nobody knows: a BMC that restarts has forgotten its timer.
            // So this moves no deadline; a primary whose lease is confirmed goes on.
            match proven {
                true => self.pings.withheld = self.pings.withheld.wrapping_add(1),
                false => self.pings.due = now.plus(self.pings.timeout / 8),
            }
            return;
        };
        (self.pings.done, self.pings.until) = (at, until);
        self.pings.due = at.plus(self.pings.timeout / 2);
        if !proven {
            self.pings.unproven = at;
        }
        // Between the look at its age and its return the ping was held up so long that the machine
        // might outlive the lease (grade B only: rule R excludes it in grade A).
        let late = self.lease.zip(self.budget);
        let late = late.is_some_and(|(l, b)| at.plus(b.reset()) > l.sent_at.plus(b.exclusive));
        if proven && late && self.phase == Phase::Leading && self.may_acknowledge() {
            self.kill(now, out);
        }
    }

    /// Its confirmation gave no ping after all: the deadline is that of the last one that did.
    pub(super) fn ping_late(&mut self, out: &mut Vec<Effect>) {
        if self.pings.pending.take().is_some() {
            self.pings.withheld = self.pings.withheld.wrapping_add(1);
            self.deadline = self.deadline.min(Some(self.pings.until));
            self.arm(out);
        }
    }

    /// What has SIGKILL pending executes nothing any more, so this ping is one of a fenced group:
    /// it leaves the processes a whole timeout to go. There is no second one: what cannot be killed
    /// (a hung disk) is left to the device.
    pub(super) fn ping_once_more(&mut self, now: Boot, out: &mut Vec<Effect>) {
        let last = self.phase == Phase::Killing && !self.pings.last_given;
        if last && self.device == Device::On && self.pings.pending.is_none() {
            self.pings.last_given = true;
            self.ping(None, now, out);
        }
    }
}
