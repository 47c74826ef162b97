//! Hosts, and the programs that run on them: stalls, power failures, kills, replacements, healing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::guard::{Event, Guard, Phase};
use crate::core::view::LastExit;

use super::fault::Faults;
use super::postgres::Disk;
use super::supervisor::{Record, Supervisor};
use super::world::{Host, SECOND, World, ms};

impl World {
    /// Nothing runs on the host for a while; its clocks do.
    pub fn freeze_host(&mut self, m: usize, length: Duration) {
        if self.members[m].host != Host::Up {
            return;
        }
        self.members[m].host = Host::Frozen;
        self.later(length, move |sim| {
            sim.with(|w| w.thaw_host(m));
            sim.thaw_tasks(m);
        });
    }

    pub fn thaw_host(&mut self, m: usize) {
        if self.members[m].host != Host::Frozen {
            return;
        }
        if !self.survives(m) {
            return;
        }
        self.members[m].host = Host::Up;
        // Until supervisor or sentinel have fenced, backends run. A device that counts leaves them
        // no time in which another member may lead.
        match self.members[m].dog.fires {
            Some(_) => self.members[m].late_until = self.now + SECOND,
            None => self.excuse(m, ms(1000), "excused: a host without a watchdog stood still"),
        }
        let stopped = self.members[m].supervisor.as_ref().is_some_and(|s| s.frozen);
        if !stopped {
            self.later(ms(1), move |sim| sim.with(|w| w.wake_supervisor(m)));
        }
        self.later(ms(2), move |sim| sim.with(|w| w.sentinel(m)));
    }

    /// Power off.
    pub fn crash_host(&mut self, m: usize) {
        let member = &mut self.members[m];
        let half_done = member
            .supervisor
            .as_ref()
            .is_some_and(|s| s.jobs.iter().any(|j| j.succeeded.is_none()));
        member.host = Host::Down;
        member.page = None;
        member.record = None;
        member.note = None;
        member.dog.fires = None;
        member.frozen = false;
        member.freeze_wanted = false;
        let pid = member.server.as_ref().map(|s| s.pid);
        member.supervisor = None;
        if half_done && matches!(member.disk, Disk::Rubbish) {
            self.end_job_midway(m);
        }
        if let Some(pid) = pid {
            self.server_gone(m, pid, false);
        }
        self.kill_agent(m, false);
    }

    pub fn boot(&mut self, m: usize) {
        if self.members[m].host == Host::Down && self.members[m].enabled {
            self.members[m].host = Host::Up;
            self.start_supervisor(m);
        }
    }

    /// The orderly stop is over; the administrator starts it again after a time.
    pub fn goodbye(&mut self, m: usize) {
        self.say(Some(m), || "the member has stopped".to_owned(), 6000);
        self.members[m].supervisor = None;
        self.members[m].page = None;
        self.members[m].record = None;
        self.kill_agent(m, false);
        // An administrator who removes a member looks first whether another one leads.
        let led = self.store.cluster().leader.as_ref().and_then(|k| self.find(&k.name));
        let wanted = std::mem::take(&mut self.members[m].removed);
        if wanted && led.is_some_and(|l| l != m) {
            self.say(Some(m), || "removed: its data directory is emptied".to_owned(), 6002);
            self.members[m].disk = Disk::Empty;
        }
        if self.members[m].stays_down {
            return;
        }
        let delay = self.some_ms(1000, 20_000);
        self.later(delay, move |sim| sim.with(|w| w.start_supervisor(m)));
    }

    /// Stopped in a pause: PostgreSQL goes on, the administrator starts the service again.
    pub fn leave(&mut self, m: usize) {
        self.say(Some(m), || "the supervisor leaves PostgreSQL running".to_owned(), 6004);
        self.kill_supervisor(m, true);
        if !self.members[m].stays_down {
            let delay = self.some_ms(1000, 20_000);
            self.later(delay, move |sim| sim.with(|w| w.start_supervisor(m)));
        }
    }

    /// Kill -9 of the supervisor: the agent goes with the socket, jobs with their record,
    /// PostgreSQL stays. `keeps`: what it wrote down can be read by the next one.
    pub fn kill_supervisor(&mut self, m: usize, keeps: bool) {
        let Some(supervisor) = self.members[m].supervisor.take() else { return };
        if supervisor.jobs.iter().any(|j| j.succeeded.is_none()) {
            self.end_job_midway(m);
        }
        self.members[m].record = keeps.then(|| Record::of(&supervisor));
        self.kill_agent(m, false);
    }

    /// The supervisor re-executes itself: same children, same page; its agent is another one.
    pub fn replace_supervisor(&mut self, m: usize) {
        let frozen = self.members[m].frozen && self.members[m].server.is_some();
        let Some(s) = &mut self.members[m].supervisor else { return };
        if s.frozen {
            return;
        }
        let record = Record::of(s);
        let Ok(guard) = Guard::restore(&record.lines, frozen) else {
            return self.checks.violate(self.now, "record: the guard cannot be read".to_owned());
        };
        s.guard = guard;
        let gone = s.postmaster.is_none();
        self.say(Some(m), || "the supervisor has replaced itself".to_owned(), 6003);
        self.kill_agent(m, true);
        self.resume_guard(m, gone);
        self.take_device_over(m);
    }

    /// systemd starts the unit again after a crash: the record tells what there was.
    pub fn take_up_record(&mut self, m: usize, record: Record) {
        let now = self.local(m);
        let member = &mut self.members[m];
        let frozen = member.frozen && member.server.is_some();
        let Ok(guard) = Guard::restore(&record.lines, frozen) else {
            return self.checks.violate(self.now, "record: the guard cannot be read".to_owned());
        };
        let alive = member.server.as_ref().filter(|s| !s.orphaned).map(|s| s.pid);
        let permitted = guard.permitted();
        member.page = member.page.filter(|_| guard.deadline().is_some());
        let Some(s) = &mut member.supervisor else { return };
        s.guard = guard;
        s.capsule = record.capsule;
        s.jobs = record.jobs;
        // They were killed. One that ended before, unseen, may have succeeded: nothing is told.
        s.jobs.retain(|j| j.succeeded.is_some() || j.id % 2 == 0);
        let running = s.jobs.iter_mut().filter(|j| j.succeeded.is_none());
        running.for_each(|j| j.succeeded = Some(false));
        s.postmaster = record.postmaster.filter(|(pid, _)| alive == Some(*pid));
        if let Some((pid, _)) = record.postmaster.filter(|(pid, _)| alive != Some(*pid)) {
            s.last_exit = Some(LastExit { pid, at: now, permitted, clean: false });
        }
        let gone = s.postmaster.is_none();
        if s.guard.data_job() {
            let _ = self.decide(m, Event::DataJobEnded);
        }
        self.resume_guard(m, gone);
    }

    fn resume_guard(&mut self, m: usize, postmaster_gone: bool) {
        let at_rest = matches!(self.phase(m), Phase::Frozen | Phase::Killing);
        let populated = self.members[m].server.is_some();
        if self.members[m].frozen && populated && !at_rest {
            let _ = self.decide(m, Event::Found);
        } else if postmaster_gone {
            let _ = self.decide(m, Event::PostmasterExited);
        }
        self.observe(m);
        // Decided, but perhaps not done. A kill repeats itself.
        if self.phase(m) == Phase::Frozen {
            self.freeze(m);
        }
        let _ = self.decide(m, Event::Tick);
    }

    /// Everything works again, but for one member that is lost for ever if so drawn.
    pub fn heal(&mut self, lost: Option<usize>) {
        self.say(None, || format!("HEALED, lost: {lost:?}"), 6001);
        self.cut.clear();
        (self.loss, self.slow) = (0, 0);
        self.plan.faults = Faults::default();
        self.healed = true;
        self.store_returns();
        self.configure_cluster(|s| s.paused = false);
        if self.restored {
            // Whom an old /sync names may have nothing: that is for people to decide.
            self.store.forget_sync();
            self.commits.iter_mut().for_each(|commit| commit.doubtful = true);
        }
        for m in 0..self.members.len() {
            let now = self.now;
            self.release_held(m);
            let member = &mut self.members[m];
            member.slow_freeze = false;
            member.ailing = None;
            member.stale_store_until = 0;
            member.stays_down = false;
            member.clock.set_rate(now, 0);
            member.clock.wall_off_us = 0;
            member.dog.broken = false;
            if let Some(s) = &mut member.supervisor {
                s.stall = None;
            }
            if let Some(s) = &mut member.server {
                s.hung = false;
            }
            if let Some(a) = &mut member.agent {
                a.frozen = false;
            }
            self.later(ms(1), move |sim| sim.thaw_tasks(m));
            if lost == Some(m) {
                self.members[m].enabled = false;
                self.crash_host(m);
                continue;
            }
            self.thaw_host(m);
            self.wake_supervisor(m);
            self.boot(m);
            self.start_supervisor(m);
            self.clock_changed(m);
        }
    }

    /// Everybody who waits for an instant of this clock looks again.
    pub fn clock_changed(&mut self, m: usize) {
        let _ = self.decide(m, Event::Tick);
        if let Some((deadline, _)) = self.members[m].page {
            self.watch_deadline(m, deadline.plus(crate::core::budget::SENTINEL));
        }
    }
}

impl Record {
    fn of(s: &Supervisor) -> Record {
        let text = s.guard.save();
        let lines: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Record { lines, capsule: s.capsule, postmaster: s.postmaster, jobs: s.jobs.clone() }
    }
}
