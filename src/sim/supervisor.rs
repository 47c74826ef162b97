//! What `supervisor` does around `core::guard`: facts in, effects out; and the sentinel.

use std::time::Duration;

use crate::core::budget::{Budget, SENTINEL};
use crate::core::guard::{Effect, Event, GroupState, Guard, Phase, Refused};
use crate::core::time::Boot;
use crate::core::view::{LastExit, OwnLease, Work};

use super::engine::{Act, Time};
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
    pub guard: Guard,
    pub frozen: bool,
    /// Orders that came while it was frozen.
    pub backlog: Vec<Act>,
    /// The postmaster that it started.
    pub postmaster: Option<(i32, Boot)>,
    pub last_exit: Option<LastExit>,
    pub jobs: Vec<Job>,
    pub capsule: Option<OwnLease>,
    pub stop_requested: bool,
    pub configured: bool,
    tick_at: Option<Time>,
}

impl Supervisor {
    fn new() -> Supervisor {
        Supervisor {
            guard: Guard::new(true),
            frozen: false,
            backlog: Vec::new(),
            postmaster: None,
            last_exit: None,
            jobs: Vec::new(),
            capsule: None,
            stop_requested: false,
            configured: false,
            tick_at: None,
        }
    }
}

impl World {
    /// systemd starts the unit.
    pub fn start_supervisor(&mut self, m: usize) {
        let member = &mut self.members[m];
        if member.host != Host::Up || member.supervisor.is_some() || !member.enabled {
            return;
        }
        member.supervisor = Some(Supervisor::new());
        member.page = None;
        if member.server.is_some() {
            let _ = self.decide(m, Event::Found);
        }
        self.start_agent(m);
    }

    /// Kill -9: the agent goes with the socket, PostgreSQL stays.
    pub fn kill_supervisor(&mut self, m: usize) {
        let Some(supervisor) = self.members[m].supervisor.take() else { return };
        if supervisor.jobs.iter().any(|j| j.succeeded.is_none()) {
            self.end_job_midway(m);
        }
        self.kill_agent(m, false);
    }

    pub fn configure(&mut self, m: usize) {
        let settings = self.settings();
        let (ttl, freeze_max) = (settings.ttl, settings.freeze_max);
        let Ok(budget) = Budget::new(ttl, RHO_PPM) else { return };
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
        for effect in effects {
            self.perform(m, effect);
        }
        if before != after {
            self.say(Some(m), || format!("guard {before:?} -> {after:?}"), 1000 + after as u64);
            self.checks.phase(before, after);
        }
        self.schedule_tick(m);
        self.tell_agent(m);
        answer
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
            Effect::Arm { deadline, kill_by } => {
                self.members[m].page = Some((deadline, kill_by));
                self.watch_deadline(m, deadline.plus(SENTINEL));
            }
            Effect::Disarm => self.members[m].page = None,
            // Its budget has no device.
            Effect::ArmDevice { .. } | Effect::Ping { .. } | Effect::DisarmDevice => {}
            Effect::Freeze => self.freeze(m),
            Effect::Thaw | Effect::Clear => {
                self.members[m].freeze_wanted = false;
                self.members[m].frozen = false;
            }
            Effect::Kill => self.kill_group(m),
            Effect::LookAtTasks => {
                let running = self.prng.per_mille(300);
                let _ = self.decide(m, Event::Tasks { running });
            }
        }
    }

    fn freeze(&mut self, m: usize) {
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
        let Some(pid) = self.members[m].server.as_ref().map(|s| s.pid) else { return };
        let delay = self.some_ms(5, 300);
        self.later(delay, move |sim| sim.with(|w| w.server_gone(m, pid, false)));
    }

    /// The supervisor looks at its group.
    pub fn observe(&mut self, m: usize) {
        let member = &self.members[m];
        let populated = member.server.is_some();
        let state = GroupState { populated, frozen: populated && member.frozen };
        let Some(s) = &member.supervisor else { return };
        if s.guard.group() != state {
            let _ = self.decide(m, Event::Group(state));
        }
    }

    /// The supervisor runs again after a stop: what happened meanwhile is seen now.
    pub fn wake_supervisor(&mut self, m: usize) {
        let Some(s) = &mut self.members[m].supervisor else { return };
        s.frozen = false;
        let known = s.postmaster.map(|(pid, _)| pid);
        let backlog = std::mem::take(&mut s.backlog);
        backlog.into_iter().for_each(|act| self.outbox.push((self.now, act)));
        let alive = self.members[m].server.as_ref().filter(|s| !s.orphaned).map(|s| s.pid);
        if let Some(pid) = known.filter(|pid| alive != Some(*pid)) {
            self.note_exit(m, pid, false);
        }
        self.observe(m);
        let _ = self.decide(m, Event::Tick);
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
    fn watch_deadline(&mut self, m: usize, at: Boot) {
        let at = self.true_time(m, at);
        self.later(Duration::from_nanos(at - self.now), move |sim| {
            sim.with(|w| w.sentinel(m));
        });
    }

    pub fn sentinel(&mut self, m: usize) {
        let now = self.local(m);
        let freeze_max = self.settings().freeze_max;
        let member = &mut self.members[m];
        if member.host != Host::Up {
            return;
        }
        let passed = member.page.filter(|(deadline, _)| now >= deadline.plus(SENTINEL));
        let Some((_, kill_by)) = passed.filter(|_| member.server.is_some()) else {
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

    /// What the agent sees of the supervisor's phase.
    pub fn phase(&self, m: usize) -> Phase {
        self.members[m].supervisor.as_ref().map_or(Phase::Idle, |s| s.guard.phase())
    }
}
