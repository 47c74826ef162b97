//! What `supervisor` does around `core::guard`: facts in, effects out; and the sentinel.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::budget::SENTINEL;
use crate::core::guard::{Confirmation, Effect, Event, GroupState, Guard, Phase, Refused};
use crate::core::time::Boot;
use crate::core::view::{LastExit, Work};

use super::defect::Defect;
use super::engine::{Act, Time};
use super::lease::Held;
use super::postgres::Server;
use super::world::{Host, World, ms};

/// Bound of the relative clock rate error that everybody is told.
pub const RHO_PPM: u32 = 10_000;

#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub id: u64,
    pub work: Work,
    pub succeeded: Option<bool>,
    pub cancelled: bool,
}

pub struct Supervisor {
    /// Of all that ever ran: a petter's work ends with its supervisor.
    pub number: u64,
    pub guard: Guard,
    /// As its last state told the agent.
    pub shown: Guard,
    pub frozen: bool,
    /// Orders that came while it was frozen.
    pub backlog: Vec<Act>,
    /// The postmaster that it started.
    pub postmaster: Option<(i32, Boot)>,
    pub last_exit: Option<LastExit>,
    pub jobs: Vec<Job>,
    pub capsule: Held,
    pub stop_requested: bool,
    pub configured: bool,
    tick_at: Option<Time>,
    /// It will stand still after so many effects, for so long.
    pub stall: Option<(usize, Duration)>,
    /// Effects that were decided before it stood still, and what follows them.
    undone: Vec<Effect>,
    rest: Option<fn(&mut World, usize)>,
}

/// What a supervisor leaves behind in shared memory.
#[derive(Clone)]
pub struct Record {
    pub lines: BTreeMap<String, String>,
    pub capsule: Held,
    pub postmaster: Option<(i32, Boot)>,
    pub jobs: Vec<Job>,
}

impl Supervisor {
    /// A job on the data directory runs.
    pub fn works(&self) -> bool {
        self.jobs.iter().any(|j| j.succeeded.is_none())
    }

    fn new(number: u64) -> Supervisor {
        Supervisor {
            number,
            guard: Guard::new(true),
            shown: Guard::new(true),
            frozen: false,
            backlog: Vec::new(),
            postmaster: None,
            last_exit: None,
            jobs: Vec::new(),
            capsule: Held::default(),
            stop_requested: false,
            configured: false,
            tick_at: None,
            stall: None,
            undone: Vec::new(),
            rest: None,
        }
    }
}

impl World {
    /// systemd starts the unit.
    pub fn start_supervisor(&mut self, m: usize) {
        let member = &mut self.members[m];
        if member.host == Host::Frozen {
            // What would start it stands still, too.
            return self.later(ms(500), move |sim| sim.with(|w| w.start_supervisor(m)));
        }
        if member.host != Host::Up || member.supervisor.is_some() || !member.enabled {
            return;
        }
        member.supervisor = Some(Supervisor::new(self.now));
        member.awake_since = self.now;
        match member.record.take() {
            Some(record) => self.take_up_record(m, record),
            None => {
                member.page = None;
                let found = self.members[m].server.as_ref().is_some_and(|s| !s.outside());
                if found && !self.flawed(Defect::FoundRuns) {
                    let _ = self.decide(m, Event::Found);
                }
            }
        }
        self.take_device_over(m);
        self.start_agent(m);
    }

    pub fn configure(&mut self, m: usize) {
        let member = &self.members[m];
        let (Some(a), Some(s)) = (&member.agent, &member.supervisor) else { return };
        // The lease that a former agent left keeps its length.
        let ttl = s.capsule.ttl().unwrap_or(a.settings.ttl);
        let freeze_max = a.settings.freeze_max;
        let Ok(budget) = self.budget(m, ttl) else { return };
        let _ = self.decide(m, Event::Configure { budget, freeze_max });
        if let Some(s) = &mut self.members[m].supervisor {
            s.configured = true;
        }
    }

    /// Lets the guard decide, and does what it says.
    pub fn decide(&mut self, m: usize, event: Event) -> Result<(), Refused> {
        let now = self.local(m);
        let host_up = self.members[m].host == Host::Up;
        let Some(supervisor) = self.members[m].supervisor.as_mut() else {
            return Err(Refused("no supervisor"));
        };
        if supervisor.frozen || !host_up {
            return Err(Refused("the supervisor stands still"));
        }
        let before = supervisor.guard.phase();
        let mut effects = Vec::new();
        let answer = supervisor.guard.on(event, now, &mut effects);
        let after = supervisor.guard.phase();
        self.perform_all(m, effects);
        if before != after {
            self.say(Some(m), || format!("guard {before:?} -> {after:?}"), 1000 + after as u64);
            self.checks.phase(before, after);
        }
        self.schedule_tick(m);
        self.show(m);
        answer
    }

    /// The state goes to the agent, unless the supervisor stands still before it gets there.
    fn show(&mut self, m: usize) {
        let Some(s) = self.members[m].supervisor.as_mut().filter(|s| !s.frozen) else { return };
        if s.shown != s.guard {
            s.shown.clone_from(&s.guard);
        }
        self.tell_agent(m);
    }

    /// The rest of an order's work: at once, or when the supervisor goes on.
    pub fn and_then(&mut self, m: usize, act: fn(&mut World, usize)) {
        let Some(s) = &mut self.members[m].supervisor else { return };
        match s.frozen {
            true => s.rest = Some(act),
            false => act(self, m),
        }
    }

    /// All effects of a decision, unless the supervisor is made to stand still between two.
    fn perform_all(&mut self, m: usize, effects: Vec<Effect>) {
        let Some(s) = &mut self.members[m].supervisor else { return };
        let stall = s.stall.filter(|_| !effects.is_empty());
        let Some((after, length)) = stall else {
            return effects.into_iter().for_each(|effect| self.perform(m, effect));
        };
        s.stall = None;
        s.frozen = true;
        let now = after.min(effects.len());
        s.undone = effects[now..].to_vec();
        self.say(Some(m), || format!("the supervisor stalls after {now} effects"), 1200);
        effects[..now].iter().for_each(|effect| self.perform(m, *effect));
        self.later(length, move |sim| sim.with(|w| w.wake_supervisor(m)));
    }

    fn schedule_tick(&mut self, m: usize) {
        let now = self.now;
        let Some(supervisor) = &self.members[m].supervisor else { return };
        let Some(at) = supervisor.guard.wake_at() else { return };
        let at = self.true_time(m, at);
        let Some(supervisor) = &mut self.members[m].supervisor else { return };
        if supervisor.tick_at.is_some_and(|known| known > now && known <= at) {
            return;
        }
        supervisor.tick_at = Some(at);
        self.later(Duration::from_nanos(at.saturating_sub(now)), move |sim| {
            sim.with(|w| {
                if let Some(s) = &mut w.members[m].supervisor
                    && s.tick_at == Some(w.now)
                {
                    s.tick_at = None;
                    let _ = w.decide(m, Event::Tick);
                }
            });
        });
    }

    fn perform(&mut self, m: usize, effect: Effect) {
        match effect {
            Effect::Arm { .. } if self.flawed(Defect::NoDeadline) => {}
            Effect::Arm { deadline, kill_by } => {
                self.members[m].page = Some((deadline, kill_by));
                self.members[m].armed_at = self.local(m);
                self.watch_deadline(m, deadline.plus(SENTINEL));
            }
            Effect::Disarm => self.members[m].page = None,
            Effect::ArmDevice { .. } | Effect::Ping { .. } | Effect::DisarmDevice => {
                self.command_device(m, effect);
            }
            Effect::Freeze => self.freeze(m),
            // Decided before its deadline, but the supervisor may have been stopped since.
            Effect::Thaw
                if self.members[m].page.is_some_and(|(at, _)| self.local(m) >= at)
                    && !self.flawed(Defect::ThawsLate) =>
            {
                self.checks.exercise("a thaw that came too late");
            }
            Effect::Thaw | Effect::Clear => {
                self.members[m].freeze_wanted = false;
                self.members[m].frozen = false;
                self.later(ms(1), move |sim| sim.with(|w| w.observe(m)));
            }
            Effect::Kill => {
                self.kill_group(m);
                let _ = self.decide(m, Event::KillSent);
            }
            Effect::LookAtTasks => {
                let running = self.prng.per_mille(300);
                // Else all of them stand in the kernel, which they do not leave.
                self.members[m].frozen |= !running && self.members[m].freeze_wanted;
                let _ = self.decide(m, Event::Tasks { running });
            }
        }
    }

    pub fn freeze(&mut self, m: usize) {
        self.checks.fences += u64::from(self.members[m].server.is_some());
        let member = &mut self.members[m];
        member.freeze_wanted = true;
        let slow = member.slow_freeze;
        let delay = if slow { self.some_ms(100, 700) } else { self.some_ms(1, 8) };
        self.later(delay, move |sim| {
            sim.with(|w| {
                let member = &mut w.members[m];
                if member.freeze_wanted && member.host != Host::Down {
                    member.frozen = true;
                    w.observe(m);
                }
            });
        });
    }

    fn kill_group(&mut self, m: usize) {
        let Some(server) = &self.members[m].server else { return };
        let pid = server.pid;
        if server.outside() {
            // Not in the group: neither freeze nor kill reaches it.
            return self.excuse(m, ms(60_000), "excused: a backend outside the control group");
        }
        let delay = self.some_ms(5, 300);
        self.later(delay, move |sim| sim.with(|w| w.killed(m, pid)));
    }

    /// What waits for its volume dies when that answers.
    fn killed(&mut self, m: usize, pid: i32) {
        let hangs = self.volume_hangs(m);
        match self.members[m].server.as_mut().filter(|s| s.pid == pid && hangs) {
            Some(server) => {
                server.doomed = true;
                self.later(ms(200), move |sim| sim.with(|w| w.killed(m, pid)));
            }
            None => self.server_gone(m, pid, false),
        }
    }

    /// The supervisor looks at its group.
    pub fn observe(&mut self, m: usize) {
        let member = &self.members[m];
        let blind = self.flawed(Defect::EmptyByPostmaster);
        let gone = |s: &Server| s.outside() || (blind && s.orphaned);
        let populated = member.server.as_ref().is_some_and(|s| !gone(s));
        let state = GroupState { populated, frozen: populated && member.frozen };
        let Some(s) = &member.supervisor else { return };
        if s.guard.group() != state {
            let _ = self.decide(m, Event::Group(state));
        }
    }

    /// The supervisor runs again after a stop: what happened meanwhile is seen now.
    pub fn wake_supervisor(&mut self, m: usize) {
        self.members[m].awake_since = self.now;
        let Some(s) = &mut self.members[m].supervisor else { return };
        s.frozen = false;
        let undone = std::mem::take(&mut s.undone);
        let rest = s.rest.take();
        undone.into_iter().for_each(|effect| self.perform(m, effect));
        // The order is carried out to its end before it looks at anything else.
        rest.into_iter().for_each(|act| act(self, m));
        let Some(s) = &mut self.members[m].supervisor else { return };
        let known = s.postmaster.map(|(pid, _)| pid);
        let backlog = std::mem::take(&mut s.backlog);
        backlog.into_iter().for_each(|act| self.outbox.push((self.now, act)));
        let alive = self.members[m].server.as_ref().filter(|s| !s.orphaned).map(|s| s.pid);
        if let Some(pid) = known.filter(|pid| alive != Some(*pid)) {
            self.note_exit(m, pid, false);
        }
        self.observe(m);
        let _ = self.decide(m, Event::Tick);
        self.show(m);
    }

    pub fn note_exit(&mut self, m: usize, pid: i32, clean: bool) {
        let at = self.local(m);
        let host_up = self.members[m].host == Host::Up;
        let Some(s) = &mut self.members[m].supervisor else { return };
        if s.frozen || !host_up || s.postmaster.map(|(of, _)| of) != Some(pid) {
            return;
        }
        let permitted = s.guard.permitted();
        s.postmaster = None;
        s.last_exit = Some(LastExit { pid, at, permitted, clean });
        let _ = self.decide(m, Event::PostmasterExited);
    }

    /// The sentinel wakes at the deadline that it read.
    pub fn watch_deadline(&mut self, m: usize, at: Boot) {
        let at = self.true_time(m, at);
        self.later(Duration::from_nanos(at - self.now), move |sim| {
            sim.with(|w| w.sentinel(m));
        });
    }

    pub fn sentinel(&mut self, m: usize) {
        let now = self.local(m);
        let freeze_max = self.settings().freeze_max;
        let asleep = self.flawed(Defect::SentinelSleeps);
        let member = &mut self.members[m];
        if member.host != Host::Up || asleep {
            return;
        }
        let passed = member.page.filter(|(deadline, _)| now >= deadline.plus(SENTINEL));
        let inside = member.server.as_ref().is_some_and(|s| !s.outside());
        let Some((_, kill_by)) = passed.filter(|_| inside) else {
            member.fencing_since = None;
            return;
        };
        let since = *member.fencing_since.get_or_insert(now);
        let kill_by = kill_by.max(since.plus(ms(200)));
        let overdue = now >= since.plus(freeze_max) || (!member.frozen && now >= kill_by);
        let frozen = member.frozen;
        if overdue {
            self.kill_group(m);
        } else if !frozen {
            self.checks.exercise("sentinel");
            self.say(Some(m), || "the sentinel freezes PostgreSQL".to_owned(), 1100);
            self.freeze(m);
        }
        self.later(ms(100), move |sim| sim.with(|w| w.sentinel(m)));
    }

    /// Where the guard stands.
    pub fn phase(&self, m: usize) -> Phase {
        self.members[m].supervisor.as_ref().map_or(Phase::Idle, |s| s.guard.phase())
    }

    /// The last confirmation that the guard accepted.
    pub fn lease_of(&self, m: usize) -> Option<Confirmation> {
        self.members[m].supervisor.as_ref()?.guard.lease()
    }

    /// What the agent sees of it.
    pub fn shown_phase(&self, m: usize) -> Phase {
        self.members[m].supervisor.as_ref().map_or(Phase::Idle, |s| s.shown.phase())
    }
}
