//! Faults, and operators who do things at bad moments. A seed draws first which exist and how
//! often (a swarm), then when each strikes.

use std::time::Duration;

use crate::core::cluster::FailoverRequest;
use crate::core::settings::{Settings, SyncMode};

use super::postgres::Disk;
use super::prng::Prng;
use super::store::{Compare, Request, Write};
use super::world::{Host, Plan, STORE, World, ms};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    AgentKill,
    AgentFreeze,
    SupervisorKill,
    SupervisorFreeze,
    HostFreeze,
    HostCrash,
    PostmasterKill,
    PostgresHang,
    StoreCut,
    StoreCutOneWay,
    PeerCut,
    Isolated,
    StoreDown,
    StoreLeaderChange,
    Loss,
    Slow,
    SlowFreeze,
    Switchover,
    Restart,
    Reinitialize,
    Stop,
    LeaderKeyDeleted,
}

pub const ALL: [Fault; 22] = [
    Fault::AgentKill,
    Fault::AgentFreeze,
    Fault::SupervisorKill,
    Fault::SupervisorFreeze,
    Fault::HostFreeze,
    Fault::HostCrash,
    Fault::PostmasterKill,
    Fault::PostgresHang,
    Fault::StoreCut,
    Fault::StoreCutOneWay,
    Fault::PeerCut,
    Fault::Isolated,
    Fault::StoreDown,
    Fault::StoreLeaderChange,
    Fault::Loss,
    Fault::Slow,
    Fault::SlowFreeze,
    Fault::Switchover,
    Fault::Restart,
    Fault::Reinitialize,
    Fault::Stop,
    Fault::LeaderKeyDeleted,
];

#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub kinds: Vec<Fault>,
    /// Greatest pause between two, in milliseconds.
    pub pause_ms: u64,
    pub slow_stop: u64,
    pub job_failure: u64,
}

/// What a seed is made of.
pub fn draw(prng: &mut Prng) -> Plan {
    let members = *prng.pick(&[1, 2, 2, 3, 3, 3, 3, 4, 5, 7]);
    let (ttl, loop_wait, retry) = *prng.pick(&[(30, 10, 10), (20, 5, 5), (10, 3, 3), (5, 1, 2)]);
    let rewind = prng.per_mille(750);
    let synchronous_mode = *prng.pick(&[SyncMode::Off, SyncMode::Off, SyncMode::On]);
    let settings = Settings {
        ttl: Duration::from_secs(ttl),
        loop_wait: Duration::from_secs(loop_wait),
        retry_timeout: Duration::from_secs(retry),
        primary_start_timeout: Duration::from_secs(*prng.pick(&[0, 60, 300])),
        primary_stop_timeout: Duration::from_secs(*prng.pick(&[0, 0, 10])),
        synchronous_mode,
        synchronous_mode_strict: prng.per_mille(300),
        use_pg_rewind: rewind,
        remove_data_directory_on_rewind_failure: true,
        remove_data_directory_on_diverged_timelines: !rewind || prng.per_mille(300),
        freeze_max: Duration::from_secs(*prng.pick(&[0, 5, 30])),
        ..Settings::default()
    };
    let kinds: Vec<Fault> = ALL.into_iter().filter(|_| prng.per_mille(450)).collect();
    let faults = Faults {
        kinds,
        pause_ms: *prng.pick(&[4000, 15_000, 40_000]),
        slow_stop: *prng.pick(&[0, 0, 200]),
        job_failure: *prng.pick(&[0, 100, 400]),
    };
    Plan { members, settings, faults }
}

impl World {
    /// Strikes once, at a member drawn now.
    pub fn strike(&mut self, fault: Fault) {
        let last = self.members.len() as u64 - 1;
        let leader = self.store.cluster().leader.as_ref().and_then(|l| self.find(&l.name));
        let any = self.prng.between(0, last) as usize;
        // The leader is the more interesting victim.
        let m = leader.filter(|_| self.prng.per_mille(500)).unwrap_or(any);
        let length = self.some_ms(500, 45_000);
        self.apply(fault, m, length);
    }

    /// The fault, where, and for how long.
    pub fn apply(&mut self, fault: Fault, m: usize, length: Duration) {
        self.checks.exercise("faults");
        let seconds = length.as_millis();
        self.say(Some(m), || format!("FAULT {fault:?} ({seconds} ms)"), 5000 + fault as u64);
        match fault {
            Fault::AgentKill => self.kill_agent(m, true),
            Fault::AgentFreeze => {
                if let Some(a) = self.agent(m) {
                    a.frozen = true;
                }
                self.later(length, move |sim| {
                    sim.with(|w| w.agent(m).map(|a| a.frozen = false));
                    sim.thaw_tasks(m);
                });
            }
            Fault::SupervisorKill => {
                self.kill_supervisor(m);
                let delay = if self.prng.per_mille(700) { ms(150) } else { length };
                self.later(delay, move |sim| sim.with(|w| w.start_supervisor(m)));
            }
            Fault::SupervisorFreeze => {
                if let Some(s) = &mut self.members[m].supervisor {
                    s.frozen = true;
                }
                self.later(length, move |sim| sim.with(|w| w.wake_supervisor(m)));
            }
            Fault::HostFreeze => self.freeze_host(m, length),
            Fault::HostCrash => {
                self.crash_host(m);
                self.later(length, move |sim| sim.with(|w| w.boot(m)));
            }
            Fault::PostmasterKill => {
                let orphans = self.prng.per_mille(400);
                self.postmaster_dies(m, orphans);
            }
            Fault::PostgresHang => {
                if let Some(s) = &mut self.members[m].server {
                    s.hung = true;
                }
                self.later(length, move |sim| {
                    sim.with(|w| w.members[m].server.as_mut().map(|s| s.hung = false));
                });
            }
            Fault::StoreCut => self.cut(&[(m, STORE), (STORE, m)], length),
            Fault::StoreCutOneWay => self.cut(&[(STORE, m)], length),
            Fault::PeerCut => {
                let other = self.prng.between(0, self.members.len() as u64 - 1) as usize;
                self.cut(&[(m, other), (other, m)], length);
            }
            Fault::Isolated => {
                let all: Vec<(usize, usize)> =
                    (0..self.members.len()).chain([STORE]).flat_map(|o| [(m, o), (o, m)]).collect();
                self.cut(&all, length);
            }
            _ => self.apply_to_all(fault, m, length),
        }
    }

    fn apply_to_all(&mut self, fault: Fault, m: usize, length: Duration) {
        match fault {
            Fault::StoreDown => {
                self.store.up = false;
                self.later(length, |sim| {
                    sim.with(|w| {
                        w.store.up = true;
                        w.store.change_leader(w.now);
                        w.store_changed();
                    });
                });
            }
            Fault::StoreLeaderChange => {
                self.store.change_leader(self.now);
                if self.prng.per_mille(500) {
                    self.members[m].stale_store_until = self.now + length.as_nanos() as u64;
                }
            }
            Fault::Loss => {
                self.loss = self.prng.between(20, 400);
                self.later(length, |sim| sim.with(|w| w.loss = 0));
            }
            Fault::Slow => {
                self.slow = self.prng.between(20, 400);
                self.later(length, |sim| sim.with(|w| w.slow = 0));
            }
            Fault::SlowFreeze => {
                self.members[m].slow_freeze = true;
                self.later(length, move |sim| sim.with(|w| w.members[m].slow_freeze = false));
            }
            Fault::Switchover => self.ask_switchover(),
            Fault::Restart => {
                if let Some(a) = self.agent(m) {
                    a.wishes.restart = true;
                }
            }
            Fault::Reinitialize => {
                // The REST API refuses it on the leader.
                let leads = self.store.cluster().leader.as_ref().map(|l| l.name.clone());
                if leads.as_ref() != Some(&self.members[m].name)
                    && let Some(a) = self.agent(m)
                {
                    a.wishes.reinitialize = true;
                }
            }
            Fault::Stop => {
                if let Some(s) = &mut self.members[m].supervisor {
                    s.stop_requested = true;
                }
                self.tell_agent(m);
            }
            _ => {
                // The leader learns of it when it confirms next, at the latest at its deadline.
                let length = self.plan.settings.ttl + ms(1000);
                for o in 0..self.members.len() {
                    self.excuse(o, length, "excused: an operator deleted the leader key");
                }
                self.store.delete_leader_key();
                self.store_changed();
            }
        }
        if matches!(fault, Fault::Restart | Fault::Reinitialize) {
            self.tell_agent(m);
        }
    }

    fn ask_switchover(&mut self) {
        let c = self.store.cluster();
        let Some(leader) = c.leader.as_ref().map(|l| l.name.clone()) else { return };
        let revision = c.failover.as_ref().map_or(0, |f| f.mod_revision);
        let others: Vec<String> = c.members.keys().filter(|n| **n != leader).cloned().collect();
        if others.is_empty() {
            return;
        }
        let named = self.prng.per_mille(600);
        let candidate = named.then(|| self.prng.pick(&others).clone());
        let request = FailoverRequest { leader: Some(leader), candidate, scheduled_at: None };
        let compares = vec![Compare::FailoverRevision(revision)];
        let writes = vec![Write::Failover(request)];
        self.store.handle(Request::Transaction { compares, writes }, self.now);
        self.store_changed();
    }

    fn cut(&mut self, directions: &[(usize, usize)], length: Duration) {
        let directions = directions.to_vec();
        self.cut.extend(directions.iter().filter(|(a, b)| a != b));
        self.later(length, move |sim| {
            sim.with(|w| w.cut.retain(|d| !directions.contains(d)));
        });
    }

    fn freeze_host(&mut self, m: usize, length: Duration) {
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
        self.members[m].host = Host::Up;
        // No watchdog here: until supervisor or sentinel have fenced, backends run.
        self.excuse(m, ms(1000), "excused: a host without a watchdog stood still");
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
        self.kill_agent(m, false);
        let delay = self.some_ms(1000, 20_000);
        self.later(delay, move |sim| sim.with(|w| w.start_supervisor(m)));
    }

    /// Everything works again, but for one member that is lost for ever if so drawn.
    pub fn heal(&mut self, lost: Option<usize>) {
        self.say(None, || format!("HEALED, lost: {lost:?}"), 6001);
        self.cut.clear();
        (self.loss, self.slow) = (0, 0);
        self.plan.faults = Faults::default();
        if !self.store.up {
            self.store.up = true;
            self.store.change_leader(self.now);
            self.store_changed();
        }
        for m in 0..self.members.len() {
            let member = &mut self.members[m];
            member.slow_freeze = false;
            member.stale_store_until = 0;
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
        }
    }
}
