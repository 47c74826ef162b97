//! Everything that exists in a run: the store, the members, the network between them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::core::cluster::Tags;
use crate::core::health::Illness;
use crate::core::settings::{Settings, SyncMode};
use crate::core::time::{Boot, Wall};

use super::agent::Agent;
use super::check::Checks;
use super::clock::Clock;
use super::engine::{Act, Sim, Slot, Time};
use super::postgres::{Commit, Disk, Server, Wal};
use super::prng::Prng;
use super::promise::Note;
use super::store::{Answer, Backup, Request, Store};
use super::supervisor::{Record, Supervisor};
use super::watchdog::{Dog, Kind};

/// The store's place in the network.
pub const STORE: usize = usize::MAX;

/// What a seed draws before the run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub members: usize,
    pub tags: Vec<Tags>,
    pub settings: Settings,
    pub faults: super::fault::Faults,
    /// The watchdog device of every host.
    pub watchdog: Option<Kind>,
    /// A member that was reset as the primary stays down until an operator has looked.
    pub stay_down: bool,
    /// What is wrong on purpose.
    pub defect: Option<super::defect::Defect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Up,
    /// Nothing runs, the clocks do: a stalled hypervisor, a suspend.
    Frozen,
    Down,
}

pub struct Member {
    pub name: String,
    pub tags: Tags,
    pub clock: Clock,
    pub dog: Dog,
    /// The dynamic configuration as it was last seen, on disk.
    pub cached: Settings,
    pub host: Host,
    pub disk: Disk,
    pub supervisor: Option<Supervisor>,
    /// What the last supervisor wrote down, in memory that a reboot empties.
    pub record: Option<Record>,
    /// What the agents leave to each other there.
    pub note: Option<Note>,
    /// What the sentinel reads: deadline and kill-by.
    pub page: Option<(Boot, Boot)>,
    /// When it was written.
    pub armed_at: Boot,
    pub fencing_since: Option<Boot>,
    /// The postgres group stands still; or was told to.
    pub frozen: bool,
    pub freeze_wanted: bool,
    pub server: Option<Server>,
    pub agent: Option<Agent>,
    pub pids: i32,
    pub generations: u32,
    /// A stopped leader of the store answers this member's renewals from memory until then.
    pub stale_store_until: Time,
    /// Its requests to the store, and the answers, are that much longer on their way.
    pub requests_late: Duration,
    pub answers_late: Duration,
    /// It was reset as the primary, and nobody has looked yet.
    pub held: bool,
    /// It is wanted that this member runs.
    pub enabled: bool,
    /// After its next stop it is not started again before the end of the faults.
    pub stays_down: bool,
    /// ... and its data directory is emptied.
    pub removed: bool,
    /// Its walreceiver gets something.
    pub receives: bool,
    /// Freezes take long on this host, just now.
    pub slow_freeze: bool,
    /// Its host stood still: until then its deadline may have passed unseen.
    pub late_until: Time,
    /// What its volume does not do.
    pub ailing: Option<Illness>,
    /// Since when its supervisor runs without having stood still.
    pub awake_since: Time,
}

pub struct World {
    pub now: Time,
    pub outbox: Vec<(Time, Act)>,
    pub prng: Prng,
    pub plan: Plan,
    /// All that ever stood in `/config`, by its number.
    pub configs: Vec<Settings>,
    pub store: Store,
    pub backup: Option<Backup>,
    /// The store began anew from a backup.
    pub restored: bool,
    /// The faults are over.
    pub healed: bool,
    pub expiry_at: Option<Time>,
    pub wal: Wal,
    pub commits: Vec<Commit>,
    pub members: Vec<Member>,
    /// Directions in which nothing gets through.
    pub cut: BTreeSet<(usize, usize)>,
    /// Answers lost and requests lost, per mille.
    pub loss: u64,
    pub slow: u64,
    /// How the store that is down answers; drawn for each request if not said.
    pub refuses: Option<bool>,
    pub transcript: Option<Vec<String>>,
    pub hash: u64,
    pub checks: Checks,
}

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub const SECOND: Time = 1_000_000_000;

impl World {
    pub fn new(plan: Plan, mut prng: Prng, transcript: bool) -> World {
        let rate = |prng: &mut Prng| prng.between(0, 8000) as i64 - 4000;
        let store = Store::new(rate(&mut prng));
        let members = (0..plan.members)
            .map(|i| Member {
                name: super::fault::name_of(i),
                tags: plan.tags.get(i).cloned().unwrap_or_default(),
                clock: Clock::new(prng.between(100, 1_000_000) * SECOND, rate(&mut prng)),
                dog: Dog { kind: plan.watchdog, ..Dog::default() },
                cached: plan.settings.clone(),
                host: Host::Up,
                disk: Disk::Empty,
                supervisor: None,
                record: None,
                note: None,
                page: None,
                armed_at: Boot(0),
                fencing_since: None,
                frozen: false,
                freeze_wanted: false,
                server: None,
                agent: None,
                pids: 100,
                generations: 0,
                stale_store_until: 0,
                requests_late: Duration::ZERO,
                answers_late: Duration::ZERO,
                held: false,
                enabled: true,
                stays_down: false,
                removed: false,
                receives: true,
                slow_freeze: false,
                late_until: 0,
                ailing: None,
                awake_since: 0,
            })
            .collect();
        World {
            now: 0,
            outbox: Vec::new(),
            prng,
            configs: vec![plan.settings.clone()],
            plan,
            store,
            backup: None,
            restored: false,
            healed: false,
            expiry_at: None,
            wal: Wal::default(),
            commits: Vec::new(),
            members,
            cut: BTreeSet::new(),
            loss: 0,
            slow: 0,
            refuses: None,
            transcript: transcript.then(Vec::new),
            hash: 0xCBF2_9CE4_8422_2325,
            checks: Checks::default(),
        }
    }

    /// What operators want, as the store has it.
    pub fn settings(&self) -> &Settings {
        let number = self.store.config().map_or(0, |(number, _)| number);
        &self.configs[number]
    }

    /// Of the whole run.
    pub fn synchronous(&self) -> bool {
        self.plan.settings.synchronous_mode != SyncMode::Off
    }

    pub fn say(&mut self, who: Option<usize>, what: impl FnOnce() -> String, code: u64) {
        // FNV-1a over time and code: the same for every run of a seed.
        for part in [self.now, who.map_or(99, |m| m as u64), code] {
            self.hash = (self.hash ^ part).wrapping_mul(0x0100_0000_01B3);
        }
        let name = who.map_or("-", |m| self.members[m].name.as_str()).to_owned();
        let now = self.now;
        if let Some(lines) = &mut self.transcript {
            let (s, milli) = (now / SECOND, now % SECOND / 1_000_000);
            lines.push(format!("{s:>4}.{milli:03} {name} {}", what()));
        }
    }

    pub fn later(&mut self, delay: Duration, act: impl FnOnce(&Sim) + 'static) {
        self.outbox.push((self.now + delay.as_nanos() as u64, Box::new(act)));
    }

    pub fn ring(&mut self, bell: &Slot<()>, delay: Duration) {
        let bell = bell.clone();
        self.later(delay, move |sim| bell.put(sim, ()));
    }

    /// A length of time in milliseconds.
    pub fn some_ms(&mut self, low: u64, high: u64) -> Duration {
        ms(self.prng.between(low, high))
    }

    pub fn local(&self, m: usize) -> Boot {
        self.members[m].clock.shows(self.now)
    }

    /// When this member's clock will show that.
    pub fn true_time(&self, m: usize, at: Boot) -> Time {
        self.members[m].clock.when(self.now, at)
    }

    pub fn wall(&self, m: usize) -> Wall {
        Wall((self.now / 1000) as i64 + self.members[m].clock.wall_off_us)
    }

    pub fn agent(&mut self, m: usize) -> Option<&mut Agent> {
        self.members[m].agent.as_mut()
    }

    pub fn agent_frozen(&self, m: usize) -> bool {
        let member = &self.members[m];
        member.host != Host::Up || member.agent.as_ref().is_some_and(|a| a.frozen)
    }

    pub fn reaches(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|m| m.name == name)
    }

    /// How long a message is on its way.
    pub fn delay(&mut self) -> Duration {
        if self.prng.per_mille(self.slow) {
            self.some_ms(50, 4000)
        } else {
            Duration::from_micros(self.prng.between(200, 4000))
        }
    }

    /// Sends a request to the store; the answer, if any, goes to the slot. `Err`: refused.
    pub fn request(&mut self, m: usize, request: Request, slot: Slot<Result<Answer, ()>>) {
        if !self.reaches(m, STORE) || self.prng.per_mille(self.loss) {
            return;
        }
        if !self.store.up {
            let refuses = self.refuses.unwrap_or_else(|| self.prng.per_mille(500));
            if refuses {
                self.later(ms(1), move |sim| slot.put(sim, Err(())));
            }
            return;
        }
        let delay = self.delay() + self.members[m].requests_late;
        self.later(delay, move |sim| sim.with(|w| w.arrive(m, request, slot)));
    }

    fn arrive(&mut self, m: usize, request: Request, slot: Slot<Result<Answer, ()>>) {
        if !self.store.up {
            return;
        }
        let stale = self.members[m].stale_store_until > self.now;
        let answer = match request {
            Request::KeepAlive(_) if stale => {
                let c = self.store.cluster();
                let (term, cluster_id) = (c.raft_term - 1, c.cluster_id);
                Answer::Renewed { alive: true, term, cluster_id }
            }
            request => self.store.handle(request, self.now),
        };
        self.store_changed();
        if self.reaches(STORE, m) && !self.prng.per_mille(self.loss) {
            let delay = self.delay() + self.members[m].answers_late;
            self.later(delay, move |sim| slot.put(sim, Ok(answer)));
        }
    }

    /// Tells watchers, and looks after leases.
    pub fn store_changed(&mut self) {
        if let Some(at) = self.store.next_expiry()
            && self.expiry_at.is_none_or(|known| at < known || known <= self.now)
        {
            self.expiry_at = Some(at);
            // The store looks at its leases twice a second.
            let late = self.some_ms(0, 500);
            let delay = Duration::from_nanos(at.saturating_sub(self.now)) + late;
            self.later(delay, |sim| {
                sim.with(|w| {
                    w.expiry_at = None;
                    if w.store.up {
                        w.store.expire(w.now);
                        w.store_changed();
                    }
                });
            });
        }
        if !std::mem::take(&mut self.store.changed) {
            return;
        }
        let leader = self.store.cluster().leader.as_ref();
        let code = leader.map_or(0, |l| l.mod_revision as u64);
        let leader = leader.map(|l| (l.name.clone(), l.mod_revision));
        let forced = leader.as_ref().is_some_and(|(name, _)| self.forced_past_sync(name));
        self.checks.leader_seen(leader, forced, self.now);
        if let Some(text) = self.checks.new_leader.take() {
            self.say(None, || text, code);
        }
        for m in 0..self.members.len() {
            if let Some(agent) = &self.members[m].agent
                && self.reaches(STORE, m)
            {
                let bell = agent.reader.clone();
                let delay = self.delay();
                self.ring(&bell, delay);
            }
        }
    }
}
