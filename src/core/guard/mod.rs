//! The supervisor's state machine: event in, new state and effects out.
//!
//! It keeps one promise: no backend of ours runs writable at an instant when another member may
//! hold the leader key. Every instant is BOOTTIME (it counts through suspend, nobody sets it), and
//! every deadline counts from `s`, when the confirmed renewal was *sent*: the store cannot have
//! received it earlier, so by its own clock the lease lasts at least until `s + T(1-ρ)`, whatever
//! the network, the agent and the scheduler did in between. The agent's liveness is no argument
//! anywhere: an agent that hangs, lies about nothing and sends nothing loses the deadline.

mod device;
#[cfg(test)]
mod device_random_tests;
#[cfg(test)]
mod device_tests;
mod events;
mod orders;
#[cfg(test)]
mod random_tests;
mod saved;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::budget::{Budget, FENCE};
use super::cluster::Tenure;
use super::time::Boot;

pub use device::Device;
use device::Pings;
pub use events::{Confirmation, Effect, Event, GroupState, Phase, Refused};
pub use saved::Corrupt;

/// A freeze that took longer than this is looked into.
const FREEZE_GRACE: Duration = Duration::from_millis(200);
/// How often an unfinished kill is repeated.
const KILL_AGAIN: Duration = Duration::from_secs(1);
/// How long backends may outlive their postmaster: those that wait end by themselves, the others
/// keep the server from starting again.
const ORPHAN_GRACE: Duration = Duration::from_millis(50);
/// In force until the first configuration tells another.
const FREEZE_MAX: Duration = Duration::from_secs(30);

/// See the module's text. The phase says what is permitted; the other fields say why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guard {
    phase: Phase,
    /// The budget in force, and a larger one that waits for the next confirmation.
    budget: Option<Budget>,
    larger: Option<Budget>,
    freeze_max: Duration,
    /// A freeze can be taken back (control groups); else the deadline kills.
    can_freeze: bool,
    /// The last accepted confirmation of the present possession of the key.
    lease: Option<Confirmation>,
    /// Send instant of the last one ever accepted.
    last_sent: Boot,
    deadline: Option<Boot>,
    burned: Option<Tenure>,
    /// Something in the group may be writable.
    permitted: bool,
    stop_sent: bool,
    sealed: bool,
    group: GroupState,
    /// When the freeze was issued.
    frozen_at: Boot,
    /// When the tasks were looked at, or the kill was issued, the last time.
    acted_at: Boot,
    orphans_since: Option<Boot>,
    data_job: bool,
    device: Device,
    pings: Pings,
}

type Answer = Result<(), Refused>;

fn refuse(reason: &'static str) -> Answer {
    Err(Refused(reason))
}

impl Guard {
    pub fn new(can_freeze: bool) -> Guard {
        Guard {
            phase: Phase::Idle,
            budget: None,
            larger: None,
            freeze_max: FREEZE_MAX,
            can_freeze,
            lease: None,
            last_sent: Boot(0),
            deadline: None,
            burned: None,
            permitted: false,
            stop_sent: false,
            sealed: false,
            group: GroupState::default(),
            frozen_at: Boot(0),
            acted_at: Boot(0),
            orphans_since: None,
            data_job: false,
            device: Device::Off,
            pings: Pings::default(),
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn lease(&self) -> Option<Confirmation> {
        self.lease
    }

    pub fn deadline(&self) -> Option<Boot> {
        self.deadline
    }

    pub fn burned(&self) -> Option<Tenure> {
        self.burned
    }

    pub fn budget(&self) -> Option<Budget> {
        self.budget
    }

    /// The shorter one, of the budget in force and one that waits: of which of both the lease is
    /// only its confirmation tells.
    pub fn shortest_ttl(&self) -> Option<Duration> {
        self.budget.iter().chain(&self.larger).map(|budget| budget.ttl).min()
    }

    pub fn freeze_max(&self) -> Duration {
        self.freeze_max
    }

    pub fn group(&self) -> GroupState {
        self.group
    }

    /// Something in the group was permitted to accept writes, or may do so for all we know.
    pub fn permitted(&self) -> bool {
        self.permitted
    }

    /// A job works on the data directory.
    pub fn data_job(&self) -> bool {
        self.data_job
    }

    /// Without control groups nothing can be thawed, so nothing is frozen either.
    pub fn set_can_freeze(&mut self, can_freeze: bool) {
        self.can_freeze = can_freeze;
    }

    /// When the guard wants an [`Event::Tick`] at the latest.
    pub fn wake_at(&self) -> Option<Boot> {
        let by_phase = match self.phase {
            Phase::Leading => self.deadline,
            Phase::Frozen => {
                let end = self.frozen_until();
                let look = self.acted_at.plus(FREEZE_GRACE).min(self.kill_by());
                Some(if self.group.frozen { end } else { end.min(look) })
            }
            Phase::Killing => Some(self.acted_at.plus(KILL_AGAIN)),
            Phase::Idle | Phase::Candidate | Phase::Fenced | Phase::Sealed | Phase::Paused => None,
        };
        let orphans = self.orphans_since.map(|since| since.plus(ORPHAN_GRACE));
        by_phase.into_iter().chain(orphans).chain(self.ping_due()).min()
    }

    /// Takes one event at `now`; effects are appended to `out` whether it is refused or not,
    /// because time alone may have brought some.
    pub fn on(&mut self, event: Event, now: Boot, out: &mut Vec<Effect>) -> Answer {
        // First what time brings: a confirmation that arrives after the deadline finds a frozen
        // group, even if no tick came in between (the supervisor itself may have been stalled).
        self.advance(now, out);
        let answer = self.take(event, now, out);
        self.advance(now, out);
        answer
    }

    fn take(&mut self, event: Event, now: Boot, out: &mut Vec<Effect>) -> Answer {
        match event {
            Event::Tick => {}
            Event::Group(group) => self.observe(group, out),
            Event::Tasks { running } => {
                // A task in R may be executing a commit: it is not fenced and will not be soon.
                if running && self.phase == Phase::Frozen && !self.group.frozen {
                    self.kill(now, out);
                }
                self.pings.still = !running;
            }
            Event::PostmasterExited => {
                self.orphans_since = self.group.populated.then_some(now);
            }
            Event::Found => {
                self.group.populated = true;
                self.permitted = true;
                if !matches!(self.phase, Phase::Frozen | Phase::Killing) {
                    self.distrust(now, out);
                }
            }
            Event::DataJobEnded => self.data_job = false,
            Event::DeviceArmed { at } => self.device_armed(at),
            Event::DeviceFailed => self.device = Device::Off,
            Event::Pinged { at } => self.pinged(at, now, out),
            Event::PingLate => self.ping_late(out),
            Event::KillSent => self.ping_once_more(now, out),
            Event::Adopted { standby } => self.adopt(standby, now, out),
            Event::Configure { budget, freeze_max } => {
                self.freeze_max = freeze_max;
                self.retune(budget, out);
            }
            Event::Retune(budget) => self.retune(budget, out),
            Event::Campaign => return self.campaign(out),
            Event::Withdraw => return self.withdraw(out),
            Event::Confirm(confirmation) => return self.confirm(confirmation, now, out),
            Event::Extend(tenure, sent_at) => return self.extend(tenure, sent_at, now, out),
            Event::LeaseLost(tenure) => self.lease_lost(tenure, now, out),
            Event::StartStandby => return self.start_standby(out),
            Event::StartPrimary => return self.start_primary(now, out),
            Event::Promote => return self.promote(now),
            Event::StopSignal => self.stop_sent = true,
            Event::Fence => self.kill(now, out),
            Event::Sealed => return self.seal(),
            Event::Release(tenure) => return self.release(tenure, now, out),
            Event::Pause(tenure) => return self.pause(tenure, out),
            Event::Resume => self.resume(now, out),
            Event::StartDataJob => {
                self.data_directory_is_free()?;
                self.data_job = true;
            }
            Event::Goodbye => return self.data_directory_is_free(),
            Event::Leave => return self.leave(),
        }
        Ok(())
    }

    /// What time alone brings.
    fn advance(&mut self, now: Boot, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Leading if self.deadline.is_some_and(|deadline| now >= deadline) => {
                self.expire(now, out);
            }
            Phase::Frozen if now >= self.frozen_until() => self.kill(now, out),
            Phase::Frozen if !self.group.frozen => {
                // All in D: fenced already, since the freeze trap stops a task before it returns
                // to user mode. But only up to the instant when another member may lead.
                if now >= self.kill_by() {
                    self.kill(now, out);
                } else if now >= self.acted_at.plus(FREEZE_GRACE) {
                    self.acted_at = now;
                    out.push(Effect::LookAtTasks);
                }
            }
            Phase::Killing if now >= self.acted_at.plus(KILL_AGAIN) => {
                self.acted_at = now;
                out.push(Effect::Kill);
            }
            _ => {}
        }
        // Backends without a postmaster finish their statement and acknowledge it; nothing will
        // ever stop them in good order, and they hold the data directory.
        if self.orphans_since.is_some_and(|since| now >= since.plus(ORPHAN_GRACE)) {
            self.orphans_since = Some(now);
            out.push(Effect::Kill);
        }
        if self.ping_due().is_some_and(|at| now >= at) {
            self.ping(None, now, out);
        }
    }

    /// The deadline passed without a newer confirmation.
    fn expire(&mut self, now: Boot, out: &mut Vec<Effect>) {
        if self.may_acknowledge() {
            self.freeze(now, out);
        } else {
            // A standby, or nothing: there is nothing to fence.
            self.settle(Phase::Idle, out);
            self.spare_standby(out);
        }
    }

    /// The sentinel knows deadlines, not what runs: it may have frozen a group in which nothing
    /// was permitted to accept writes. Nobody else would thaw it.
    pub(super) fn spare_standby(&self, out: &mut Vec<Effect>) {
        let unfenced = matches!(self.phase, Phase::Idle | Phase::Candidate);
        if unfenced && self.group.frozen && self.group.populated && !self.permitted {
            out.push(Effect::Thaw);
        }
    }

    fn may_acknowledge(&self) -> bool {
        self.permitted && self.group.populated
    }

    /// The end of a possession: no deadline, no lease.
    fn settle(&mut self, phase: Phase, out: &mut Vec<Effect>) {
        self.phase = phase;
        self.lease = None;
        self.deadline = None;
        out.push(Effect::Disarm);
        self.disarm_device(out);
    }

    fn arm(&self, out: &mut Vec<Effect>) {
        if let Some(deadline) = self.deadline {
            out.push(Effect::Arm { deadline, kill_by: self.kill_by() });
        }
    }

    /// A freeze that no proof ends by then ends in the kill. What was found without a lease may
    /// have to wait for the end of an earlier one first, which is nobody's failure.
    fn frozen_until(&self) -> Boot {
        let earlier = match (self.lease, self.budget) {
            (None, Some(budget)) => budget.ttl,
            _ => Duration::ZERO,
        };
        self.frozen_at.plus(self.freeze_max).plus(earlier)
    }

    /// E(s) - d1, the last instant at which a kill is in time; but a freeze gets its grace.
    fn kill_by(&self) -> Boot {
        let exclusive_until = match (self.lease, self.budget) {
            (Some(lease), Some(budget)) => lease.sent_at.plus(budget.exclusive).minus(FENCE),
            _ => Boot(0),
        };
        let freeze = if self.phase == Phase::Frozen { Some(self.frozen_at) } else { self.deadline };
        exclusive_until.max(freeze.unwrap_or(Boot(0)).plus(FREEZE_GRACE))
    }

    fn freeze(&mut self, now: Boot, out: &mut Vec<Effect>) {
        if !self.can_freeze || self.freeze_max.is_zero() {
            return self.kill(now, out);
        }
        self.phase = Phase::Frozen;
        self.frozen_at = now;
        self.acted_at = now;
        self.pings.still = false;
        self.past_deadline(now, out);
        out.push(Effect::Freeze);
    }

    /// A fence always stands behind a deadline that has passed, so that the sentinel finishes it
    /// if the supervisor dies now.
    fn past_deadline(&mut self, now: Boot, out: &mut Vec<Effect>) {
        self.deadline = Some(self.deadline.map_or(now, |deadline| deadline.min(now)));
        self.arm(out);
    }

    fn kill(&mut self, now: Boot, out: &mut Vec<Effect>) {
        if !self.group.populated {
            return self.fenced(out);
        }
        self.pings.last_given &= self.phase == Phase::Killing;
        self.phase = Phase::Killing;
        self.acted_at = now;
        self.past_deadline(now, out);
        // Frozen processes die, too; the freeze stops those whose turn to die comes last.
        if self.can_freeze {
            out.push(Effect::Freeze);
        }
        out.push(Effect::Kill);
    }

    fn fenced(&mut self, out: &mut Vec<Effect>) {
        self.settle(Phase::Fenced, out);
        out.push(Effect::Clear);
    }

    fn observe(&mut self, group: GroupState, out: &mut Vec<Effect>) {
        self.group = group;
        if group.populated {
            return self.spare_standby(out);
        }
        self.permitted = false;
        self.stop_sent = false;
        self.sealed = false;
        self.orphans_since = None;
        match self.phase {
            Phase::Frozen | Phase::Killing => self.fenced(out),
            Phase::Sealed => self.settle(Phase::Idle, out),
            Phase::Idle | Phase::Candidate | Phase::Leading | Phase::Fenced | Phase::Paused => {}
        }
    }

    /// A postmaster of which we do not know that it is a standby.
    fn unknown(&mut self, now: Boot, out: &mut Vec<Effect>) {
        self.permitted = true;
        match self.phase {
            // Nobody confirmed a lease for it: it may be writable while another member leads.
            Phase::Idle | Phase::Candidate | Phase::Fenced | Phase::Sealed => {
                self.distrust(now, out);
            }
            // The deadline, or the confirmed pause record, covers it.
            Phase::Leading | Phase::Paused => {}
            Phase::Frozen | Phase::Killing => {}
        }
    }

    /// Frozen until a lease is confirmed anew, whichever.
    fn distrust(&mut self, now: Boot, out: &mut Vec<Effect>) {
        self.lease = None;
        self.deadline = None;
        self.freeze(now, out);
    }

    fn adopt(&mut self, standby: bool, now: Boot, out: &mut Vec<Effect>) {
        self.group.populated = true;
        self.orphans_since = None;
        if !standby {
            return self.unknown(now, out);
        }
        // Without a lease, Frozen means that it was found, not that its deadline passed: what
        // never was permitted by us, and is a standby, may run.
        if self.phase == Phase::Frozen && self.lease.is_none() {
            self.permitted = false;
            self.settle(Phase::Idle, out);
            out.push(Effect::Thaw);
        }
    }
}
