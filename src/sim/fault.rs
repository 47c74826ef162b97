//! Faults, and operators who do things at bad moments. A seed draws first which exist and how
//! often (a swarm), then when each strikes.

use std::time::Duration;

use crate::core::cluster::Tags;
use crate::core::health::{Illness, Limits};
use crate::core::settings::{Settings, SyncMode};
use crate::core::time::Wall;

use super::operator::LONGEST_TTL;
use super::prng::Prng;
use super::watchdog::Kind;
use super::world::{Plan, STORE, World, ms};

/// `ttl`, `loop_wait` and `retry_timeout` that go together, in seconds.
const TIMES: [(u64, u64, u64); 4] = [(30, 10, 10), (20, 5, 5), (10, 3, 3), (5, 1, 2)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    AgentKill,
    AgentFreeze,
    SupervisorKill,
    SupervisorReplace,
    SupervisorFreeze,
    /// Between two effects of one decision.
    SupervisorStall,
    HostFreeze,
    HostCrash,
    PostmasterKill,
    PostgresHang,
    VolumeFails,
    DeviceBroken,
    StoreCut,
    /// Answers do not arrive.
    StoreCutIn,
    /// Requests do not.
    StoreCutOut,
    PeerCut,
    PeerCutOneWay,
    Isolated,
    StoreDown,
    StoreRestored,
    StoreLeaderChange,
    Loss,
    Slow,
    SlowFreeze,
    /// Of the wall clock.
    ClockStep,
    /// Beyond what the budget counts on.
    ClockDrift,
    Switchover,
    Failover,
    Pause,
    Ttl,
    Restart,
    Reinitialize,
    Stop,
    Remove,
    LeaderKeyDeleted,
}

pub const ALL: [Fault; 35] = [
    Fault::AgentKill,
    Fault::AgentFreeze,
    Fault::SupervisorKill,
    Fault::SupervisorReplace,
    Fault::SupervisorFreeze,
    Fault::SupervisorStall,
    Fault::HostFreeze,
    Fault::HostCrash,
    Fault::PostmasterKill,
    Fault::PostgresHang,
    Fault::VolumeFails,
    Fault::DeviceBroken,
    Fault::StoreCut,
    Fault::StoreCutIn,
    Fault::StoreCutOut,
    Fault::PeerCut,
    Fault::PeerCutOneWay,
    Fault::Isolated,
    Fault::StoreDown,
    Fault::StoreRestored,
    Fault::StoreLeaderChange,
    Fault::Loss,
    Fault::Slow,
    Fault::SlowFreeze,
    Fault::ClockStep,
    Fault::ClockDrift,
    Fault::Switchover,
    Fault::Failover,
    Fault::Pause,
    Fault::Ttl,
    Fault::Restart,
    Fault::Reinitialize,
    Fault::Stop,
    Fault::Remove,
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
    let (ttl, loop_wait, retry) = *prng.pick(&TIMES);
    let rewind = prng.per_mille(750);
    let synchronous_mode =
        *prng.pick(&[SyncMode::Off, SyncMode::Off, SyncMode::On, SyncMode::Quorum]);
    let settings = Settings {
        ttl: Duration::from_secs(ttl),
        loop_wait: Duration::from_secs(loop_wait),
        retry_timeout: Duration::from_secs(retry),
        primary_start_timeout: Duration::from_secs(*prng.pick(&[0, 60, 300])),
        primary_stop_timeout: Duration::from_secs(*prng.pick(&[0, 0, 10])),
        synchronous_mode,
        synchronous_mode_strict: prng.per_mille(300),
        synchronous_node_count: *prng.pick(&[1, 1, 2, 3]),
        maximum_lag_on_syncnode_bytes: *prng.pick(&[-1, -1, 16_384]),
        use_pg_rewind: rewind,
        remove_data_directory_on_rewind_failure: true,
        remove_data_directory_on_diverged_timelines: !rewind || prng.per_mille(300),
        freeze_max: Duration::from_secs(*prng.pick(&[0, 5, 30])),
        failsafe_mode: prng.per_mille(300),
        health: Limits {
            answer: Duration::from_secs(*prng.pick(&[3, 10])),
            storage: Duration::from_secs(*prng.pick(&[3, 30])),
            hand_over_every: Duration::from_secs(*prng.pick(&[20, 300])),
            ..Limits::default()
        },
        ..Settings::default()
    };
    let rare = |fault: &Fault| matches!(fault, Fault::StoreRestored | Fault::ClockDrift);
    let mut kinds: Vec<Fault> = ALL
        .into_iter()
        .filter(|fault| prng.per_mille(if rare(fault) { 100 } else { 400 }))
        .collect();
    if kinds.is_empty() {
        kinds.push(Fault::HostCrash);
    }
    let faults = Faults {
        kinds,
        pause_ms: *prng.pick(&[4000, 15_000, 40_000]),
        slow_stop: *prng.pick(&[0, 0, 200]),
        job_failure: *prng.pick(&[0, 100, 400]),
    };
    let tags = draw_tags(prng, members);
    let watchdog = *prng.pick(&[None, None, Some(Kind::Hardware), Some(Kind::Software)]);
    // Of a copy, so that what a seed draws next is what it was before there was this option.
    let stay_down = watchdog.is_some() && prng.clone().per_mille(200);
    Plan { members, tags, settings, faults, watchdog, stay_down, defect: None }
}

/// Few members have any; the first one has none, so that somebody may lead.
fn draw_tags(prng: &mut Prng, members: usize) -> Vec<Tags> {
    let cascades = members > 2 && prng.per_mille(300);
    let ranks = prng.per_mille(200);
    (0..members)
        .map(|m| {
            let failover_priority = if ranks && m > 0 { prng.between(0, 3) as i64 } else { 1 };
            Tags {
                replicatefrom: (cascades && m > 1).then(|| name_of(m - 1)),
                failover_priority,
                nofailover: failover_priority == 0,
                ..Tags::default()
            }
        })
        .collect()
}

/// Members are called a, b, c, …
pub fn name_of(m: usize) -> String {
    char::from(b'a' + m as u8).to_string()
}

impl World {
    /// Strikes once, at a member drawn now.
    pub fn strike(&mut self, fault: Fault) {
        let last = self.members.len() as u64 - 1;
        let leader = self.leader_name().and_then(|l| self.find(&l));
        let any = self.prng.between(0, last) as usize;
        // The leader is the more interesting victim.
        let m = leader.filter(|_| self.prng.per_mille(500)).unwrap_or(any);
        let length = self.some_ms(500, 45_000);
        self.checks.exercise("faults");
        let seconds = length.as_millis();
        self.say(Some(m), || format!("FAULT {fault:?} ({seconds} ms)"), 5000 + fault as u64);
        self.apply(fault, m, length);
    }

    /// The fault, where, and for how long.
    fn apply(&mut self, fault: Fault, m: usize, length: Duration) {
        match fault {
            Fault::AgentKill => self.kill_agent(m, true),
            Fault::AgentFreeze => self.freeze_agent(m, length),
            Fault::SupervisorKill => {
                let keeps = self.prng.per_mille(800);
                self.kill_supervisor(m, keeps);
                let delay = if self.prng.per_mille(700) { ms(150) } else { length };
                self.later(delay, move |sim| sim.with(|w| w.start_supervisor(m)));
            }
            Fault::SupervisorReplace => self.replace_supervisor(m),
            Fault::SupervisorFreeze => self.freeze_supervisor(m, length),
            Fault::SupervisorStall => {
                let after = self.prng.between(0, 2) as usize;
                if let Some(s) = &mut self.members[m].supervisor {
                    s.stall = Some((after, length));
                }
            }
            Fault::HostFreeze => self.freeze_host(m, length),
            Fault::HostCrash => {
                self.crash_host(m);
                self.later(length, move |sim| sim.with(|w| w.boot(m)));
            }
            Fault::PostmasterKill => {
                let (orphans, escaped) = (self.prng.per_mille(400), self.prng.per_mille(200));
                self.postmaster_dies(m, orphans, escaped);
            }
            Fault::PostgresHang => self.hang_server(m, length),
            Fault::VolumeFails => {
                let illness = *self.prng.pick(&[Illness::Full, Illness::ReadOnly, Illness::Hung]);
                self.fail_volume(m, illness, length);
            }
            Fault::DeviceBroken => {
                self.members[m].dog.broken = true;
                self.later(length * 4, move |sim| {
                    sim.with(|w| w.members[m].dog.broken = false);
                });
            }
            Fault::ClockStep => {
                let step = self.prng.between(0, 7_200_000_000) as i64 - 3_600_000_000;
                self.members[m].clock.wall_off_us = step;
            }
            Fault::ClockDrift => {
                let rate = self.prng.between(15_000, 200_000) as i64;
                let rate = if self.prng.per_mille(500) { rate } else { -rate };
                self.drift(m, rate, length);
            }
            Fault::StoreCut
            | Fault::StoreCutIn
            | Fault::StoreCutOut
            | Fault::PeerCut
            | Fault::PeerCutOneWay
            | Fault::Isolated => self.partition(fault, m, length),
            Fault::StoreDown
            | Fault::StoreRestored
            | Fault::StoreLeaderChange
            | Fault::Loss
            | Fault::Slow
            | Fault::SlowFreeze => self.trouble(fault, m, length),
            Fault::Switchover
            | Fault::Failover
            | Fault::Pause
            | Fault::Ttl
            | Fault::Restart
            | Fault::Reinitialize
            | Fault::Stop
            | Fault::Remove
            | Fault::LeaderKeyDeleted => self.operate(fault, m, length),
        }
    }

    fn partition(&mut self, fault: Fault, m: usize, length: Duration) {
        let other = self.prng.between(0, self.members.len() as u64 - 1) as usize;
        let everybody = (0..self.members.len()).chain([STORE]);
        let directions = match fault {
            Fault::StoreCut => vec![(m, STORE), (STORE, m)],
            Fault::StoreCutIn => vec![(STORE, m)],
            Fault::StoreCutOut => vec![(m, STORE)],
            Fault::PeerCut => vec![(m, other), (other, m)],
            Fault::PeerCutOneWay => vec![(m, other)],
            _ => everybody.flat_map(|o| [(m, o), (o, m)]).collect(),
        };
        self.cut(&directions, length);
    }

    /// What hits the store, or everybody.
    fn trouble(&mut self, fault: Fault, m: usize, length: Duration) {
        match fault {
            Fault::StoreDown => {
                self.store.up = false;
                self.later(length, |sim| sim.with(World::store_returns));
            }
            Fault::StoreRestored => match self.backup.take() {
                None => self.backup = Some(self.store.backup()),
                Some(backup) => {
                    self.store.up = false;
                    let same_id = self.prng.per_mille(500);
                    self.later(length, move |sim| {
                        sim.with(|w| w.restore_store(backup, same_id));
                    });
                }
            },
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
            _ => {
                self.members[m].slow_freeze = true;
                self.later(length, move |sim| sim.with(|w| w.members[m].slow_freeze = false));
            }
        }
    }

    /// Operators at bad moments; what is refused is refused.
    fn operate(&mut self, fault: Fault, m: usize, length: Duration) {
        let leader = self.leader_name();
        let mut others: Vec<String> = self.store.cluster().members.keys().cloned().collect();
        others.retain(|name| Some(name) != leader.as_ref());
        let answer = match fault {
            Fault::Switchover if !others.is_empty() => {
                let named = self.prng.per_mille(600);
                let to = named.then(|| self.prng.pick(&others).clone());
                let later = self.prng.per_mille(200);
                let at = Wall((self.now / 1000) as i64 + length.as_micros() as i64);
                self.ask_switchover(to, later.then_some(at))
            }
            Fault::Failover if !others.is_empty() => {
                let to = self.prng.pick(&others).clone();
                self.ask_failover(to)
            }
            Fault::Pause => {
                self.configure_cluster(|s| s.paused = true);
                self.later(length * 2, |sim| {
                    sim.with(|w| w.configure_cluster(|s| s.paused = false));
                });
                Ok(())
            }
            Fault::Ttl => {
                let times = *self.prng.pick(&TIMES);
                self.set_times(times);
                Ok(())
            }
            Fault::Restart => self.ask_restart(m),
            Fault::Reinitialize => self.ask_reinitialize(m),
            Fault::Stop => self.ask_stop(m),
            Fault::Remove => self.ask_removal(m),
            Fault::LeaderKeyDeleted => {
                self.delete_leader_key();
                Ok(())
            }
            _ => Err("there is nobody else"),
        };
        if let Err(reason) = answer {
            self.say(None, || format!("refused: {reason}"), 5100);
        }
    }

    fn set_times(&mut self, (ttl, loop_wait, retry): (u64, u64, u64)) {
        self.configure_cluster(|s| {
            s.ttl = Duration::from_secs(ttl);
            s.loop_wait = Duration::from_secs(loop_wait);
            s.retry_timeout = Duration::from_secs(retry);
        });
    }

    pub fn freeze_agent(&mut self, m: usize, length: Duration) {
        let Some(a) = self.agent(m) else { return };
        a.frozen = true;
        let generation = a.generation;
        self.later(length, move |sim| {
            sim.with(|w| w.agent(m).map(|a| a.frozen = false));
            sim.thaw_tasks(m);
        });
        // The supervisor replaces an agent that says nothing for so long.
        self.later(ms(10_000), move |sim| {
            sim.with(|w| {
                let same = w.agent(m).is_some_and(|a| a.frozen && a.generation == generation);
                let runs = w.members[m].supervisor.as_ref().is_some_and(|s| !s.frozen);
                if same && runs {
                    w.kill_agent(m, true);
                }
            });
        });
    }

    pub fn freeze_supervisor(&mut self, m: usize, length: Duration) {
        if let Some(s) = &mut self.members[m].supervisor {
            s.frozen = true;
        }
        self.later(length, move |sim| sim.with(|w| w.wake_supervisor(m)));
    }

    pub fn hang_server(&mut self, m: usize, length: Duration) {
        if let Some(s) = &mut self.members[m].server {
            s.hung = true;
        }
        self.later(length, move |sim| {
            sim.with(|w| w.members[m].server.as_mut().map(|s| s.hung = false));
        });
    }

    /// A clock that is worse than the budget counts on: nothing is promised then.
    pub fn drift(&mut self, m: usize, rate_ppm: i64, length: Duration) {
        let now = self.now;
        self.members[m].clock.set_rate(now, rate_ppm);
        let why = "excused: a clock ran faster or slower than rho permits";
        self.excuse(m, length + LONGEST_TTL + ms(2000), why);
        self.clock_changed(m);
        self.later(length, move |sim| {
            sim.with(|w| {
                let now = w.now;
                w.members[m].clock.run_true(now);
                w.clock_changed(m);
            });
        });
    }

    pub fn cut(&mut self, directions: &[(usize, usize)], length: Duration) {
        let directions = directions.to_vec();
        self.cut.extend(directions.iter().filter(|(a, b)| a != b));
        self.later(length, move |sim| {
            sim.with(|w| w.cut.retain(|d| !directions.contains(d)));
        });
    }

    pub fn store_returns(&mut self) {
        if !self.store.up {
            self.store.up = true;
            self.store.change_leader(self.now);
            self.store_changed();
        }
    }

    /// etcd begins anew from a backup. Agents that run believe nothing of it for a time, as they
    /// should; some are begun anew by operators who do not want to wait.
    pub fn restore_store(&mut self, backup: super::store::Backup, same_id: bool) {
        if self.healed {
            return self.store_returns();
        }
        self.say(None, || "the store begins anew from a backup".to_owned(), 5200);
        self.restored = true;
        // Whom the backup's /sync names may lack what was acknowledged since.
        self.commits.iter_mut().for_each(|commit| commit.doubtful = true);
        self.store.up = true;
        self.store.restore(backup, self.now, same_id);
        self.store_changed();
        for m in 0..self.members.len() {
            let delay = self.some_ms(2000, 60_000);
            self.excuse(m, ms(60_000) + LONGEST_TTL * 2, RESTORED);
            if self.prng.per_mille(500) {
                self.later(delay, move |sim| sim.with(|w| w.kill_agent(m, true)));
            }
        }
    }
}

/// Who leads, and whom `/sync` names, is then what it was at some time.
pub const RESTORED: &str = "excused: the store was restored from a backup";
