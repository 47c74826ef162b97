//! What must hold, told by an observer who sees everything. One function for each sentence; each
//! counts how often it had something to judge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::core::budget::{FENCE, SENTINEL};
use crate::core::decide::decide;
use crate::core::decision::Decision;
use crate::core::guard::Phase;
use crate::core::lsn::Lsn;
use crate::core::sync_names;
use crate::core::time::Boot;
use crate::core::view::{LastExit, Memory, View};

use super::engine::Time;
use super::fault::RESTORED;
use super::postgres::Place;
use super::world::{SECOND, World, ms};

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub at: Time,
    pub what: String,
}

/// What must not happen by itself in a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PausedAct {
    Promote,
    Stop,
    Start,
}

#[derive(Debug, Default)]
pub struct Checks {
    pub violations: Vec<Violation>,
    pub exercised: BTreeMap<&'static str, u64>,
    pub rules: BTreeMap<&'static str, u64>,
    /// How often the guards of all members went from one phase to another.
    pub transitions: BTreeMap<(Phase, Phase), u64>,
    pub acknowledged: u64,
    acknowledged_at: Time,
    /// Between two acknowledged commits, of anybody.
    pub longest_pause: Time,
    /// Acknowledged asynchronously and then overtaken by another history: permitted, and counted.
    pub lost: u64,
    pub promotions: u64,
    pub failovers: u64,
    pub fences: u64,
    /// Two could acknowledge, under a documented excuse.
    pub excused: u64,
    pub new_leader: Option<String>,
    leader: Option<(String, i64)>,
    /// Until then this member's overlap is excused, and why.
    excused_until: BTreeMap<usize, (Time, &'static str)>,
    last_primary: Option<usize>,
    /// Who led when the pause began, and when that was.
    pub leader_at_pause: Option<String>,
    pub paused_at: Time,
    /// When the present leader took the key.
    led_since: Time,
    /// When an operator asked for another leader last.
    pub handover_asked: Option<Time>,
    /// The last deadline of a member with backends outside the control group.
    escaped: BTreeMap<usize, Boot>,
    /// Whom operators had take the key past `/sync`, until somebody is promoted: the key names this
    /// member from then on, also when another one had the key in between.
    forced: BTreeSet<String>,
    /// Decisions in a row without a pause.
    hot: BTreeMap<usize, (Time, u32)>,
}

impl Checks {
    pub fn exercise(&mut self, what: &'static str) {
        *self.exercised.entry(what).or_default() += 1;
    }

    pub fn violate(&mut self, at: Time, what: String) {
        if self.violations.len() < 20 {
            self.violations.push(Violation { at, what });
        }
    }

    /// `forced`: an operator named this leader although `/sync` does not.
    pub fn leader_seen(&mut self, leader: Option<(String, i64)>, forced: bool, now: Time) {
        if self.leader == leader {
            return;
        }
        if forced {
            self.forced.extend(leader.as_ref().map(|(name, _)| name.clone()));
        }
        // A leader that moves its key to another lease has it all the time.
        let name = |leader: &Option<(String, i64)>| leader.as_ref().map(|(name, _)| name.clone());
        if name(&leader) != name(&self.leader) {
            self.led_since = now;
        }
        self.new_leader = Some(match &leader {
            Some((name, revision)) => format!("leader key: {name}, revision {revision}"),
            None => "leader key: nobody".to_owned(),
        });
        self.leader = leader;
    }

    pub fn phase(&mut self, before: Phase, after: Phase) {
        // Everything may be fenced; only a confirmed lease makes a leader.
        let legal = !matches!(
            (before, after),
            (Phase::Idle | Phase::Fenced | Phase::Killing | Phase::Sealed, Phase::Leading)
                | (Phase::Killing, Phase::Frozen | Phase::Idle | Phase::Candidate)
        );
        *self.transitions.entry((before, after)).or_default() += 1;
        self.exercise("legal transitions");
        if !legal {
            self.violate(0, format!("no illegal transition: {before:?} -> {after:?}"));
        }
    }

    pub fn acknowledged(&mut self, now: Time) {
        self.acknowledged += 1;
        self.longest_pause = self.longest_pause.max(now - self.acknowledged_at);
        self.acknowledged_at = now;
    }

    pub fn became_primary(&mut self, m: usize) {
        self.promotions += 1;
        if self.last_primary.is_some_and(|p| p != m) {
            self.failovers += 1;
        }
        self.last_primary = Some(m);
    }

    /// With nothing new to see a member comes to rest: no thousand decisions in a second.
    pub fn decided(&mut self, m: usize, now: Time, decision: &Decision) {
        *self.rules.entry(decision.rule).or_default() += 1;
        self.exercise("no flapping");
        let (since, count) = self.hot.entry(m).or_default();
        if now - *since > SECOND {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count == 1000 {
            self.violate(now, format!("no flapping: {} decides without a pause", decision.rule));
        }
    }
}

impl World {
    /// All that is checked after every event.
    pub fn check(&mut self) {
        // It finds who is out of reach of every fence, which is an excuse.
        self.check_deadlines();
        self.check_one_primary();
        self.check_sync_pair();
    }

    /// A client could be told now that its commit is durable.
    pub fn can_acknowledge(&self, m: usize) -> bool {
        let Some(server) = self.members[m].server.as_ref().filter(|s| s.writable()) else {
            return false;
        };
        if !self.server_moves(m) {
            return false;
        }
        let Some(names) = sync_names::parse(&server.sync_names) else { return true };
        let confirms = |s: &&usize| {
            let standby = self.members[**s].server.as_ref();
            let follows = standby.is_some_and(|t| t.streaming && t.upstream == Some(m));
            let named = self.is_named(&names, **s);
            named && follows && self.server_moves(**s) && self.reaches(m, **s)
        };
        server.senders.keys().filter(confirms).count() >= names.count as usize
    }

    /// At most one member can acknowledge a commit at any true time.
    fn check_one_primary(&mut self) {
        let able: Vec<usize> =
            (0..self.members.len()).filter(|m| self.can_acknowledge(*m)).collect();
        if able.is_empty() {
            return;
        }
        self.checks.exercise("one primary");
        if able.len() < 2 {
            return;
        }
        let now = self.now;
        if let Some(excuse) = able.iter().find_map(|m| self.excused(*m)) {
            self.checks.excused += 1;
            return self.checks.exercise(excuse);
        }
        let names: Vec<&str> = able.iter().map(|m| self.members[*m].name.as_str()).collect();
        let what = format!("one primary: {} can acknowledge commits", names.join(" and "));
        self.checks.violate(now, what);
    }

    /// A member is not writable after its own deadline (and what a fence may take), by its clock.
    fn check_deadlines(&mut self) {
        for m in 0..self.members.len() {
            let writable = self.members[m].server.as_ref().is_some_and(|s| s.writable());
            if !writable || !self.server_moves(m) {
                continue;
            }
            self.checks.exercise("deadline");
            if self.members[m].server.as_ref().is_some_and(|s| s.outside()) {
                self.look_at_escaped(m);
                continue;
            }
            // A deadline that was made shorter may lie in the past when it comes into force.
            let armed_at = self.members[m].armed_at;
            let late = match self.members[m].page {
                // Where freezing takes long the kill decides: it leaves time to end before E.
                Some((_, kill_by)) if self.members[m].slow_freeze => {
                    self.local(m) > kill_by.max(armed_at).plus(FENCE)
                }
                Some((deadline, _)) => {
                    self.local(m) > deadline.max(armed_at).plus(SENTINEL + FENCE)
                }
                None => self.phase(m) != Phase::Paused,
            };
            let unseen = self.members[m].late_until > self.now;
            let excused = self.excused(m).is_some() || self.suspended(m) || unseen;
            if late && !excused {
                let name = &self.members[m].name;
                let what = format!(
                    "deadline: {name} is writable without or after its deadline ({:?}, {:?})",
                    self.phase(m),
                    self.members[m].page.map(|(d, _)| self.local(m).since(d)),
                );
                self.checks.violate(self.now, what);
            }
        }
    }

    /// Nothing reaches a backend outside the control group; its deadline is the last one known.
    fn look_at_escaped(&mut self, m: usize) {
        let now = self.local(m);
        let known = self.members[m].page.map(|(deadline, _)| deadline);
        let last = self.checks.escaped.entry(m).or_insert(Boot(0));
        *last = known.unwrap_or(*last).max(*last);
        if now >= *last {
            self.excuse(m, ms(500), "excused: a backend outside the control group");
        }
    }

    /// The pause record of this member stands: nobody takes the key, with or without a supervisor
    /// that has come so far as to know.
    pub fn suspended(&self, m: usize) -> bool {
        let record = self.store.cluster().pause_record.as_ref();
        record.is_some_and(|key| key.value.leader == self.members[m].name && !key.value.stopped)
    }

    /// Whoever /sync lets win has every commit that can be acknowledged: the names in force cover
    /// the key.
    fn check_sync_pair(&mut self) {
        if !self.synchronous() {
            return;
        }
        let Some(sync) = self.store.cluster().sync.as_ref().map(|k| k.value.clone()) else {
            return;
        };
        let Some(leader) = sync.leader.as_deref().and_then(|l| self.find(l)) else { return };
        for m in 0..self.members.len() {
            if !self.can_acknowledge(m) {
                continue;
            }
            self.checks.exercise("sync pair");
            let names = self.members[m].server.as_ref().map(|s| s.sync_names.clone());
            let parsed = names.as_deref().and_then(sync_names::parse);
            let covered =
                sync.standbys.is_empty() || parsed.is_some_and(|names| names.covers(&sync));
            let excused = self.excused(m).is_some();
            if (m != leader || !covered) && !excused {
                let what = format!(
                    "sync pair: {} acknowledges under '{}' while /sync is {sync:?}",
                    self.members[m].name,
                    names.unwrap_or_default()
                );
                self.checks.violate(self.now, what);
            }
        }
    }

    /// A permit is used only while the supervisor holds a fresh confirmation.
    pub fn check_permit(&mut self, m: usize) {
        self.checks.exercise("permit");
        let key = self.store.cluster().leader.clone();
        let lease = self.members[m].supervisor.as_ref().and_then(|s| s.guard.lease());
        let holds =
            key.as_ref().zip(lease).is_some_and(|(k, l)| k.mod_revision == l.tenure.mod_revision);
        // Promises stand in for the key while nobody else holds it.
        let ours = key.is_none_or(|key| key.name == self.members[m].name);
        let promised = self.members[m].agent.as_ref().and_then(|a| a.store.failsafe.promised_at);
        let carried = promised.zip(lease).is_some_and(|(at, lease)| at >= lease.sent_at);
        let holds = holds || (ours && carried);
        if self.phase(m) != Phase::Leading || (!holds && self.excused(m).is_none()) {
            let what = format!("permit: {} starts without the leader key", self.members[m].name);
            self.checks.violate(self.now, what);
        }
    }

    /// No acknowledged synchronous commit is missing from the history of a later leader; nothing
    /// is promoted while paused; the timelines of successive leaders form one growing history.
    pub fn check_promotion(&mut self, m: usize, number: u32, fork: Place) {
        let name = self.members[m].name.clone();
        let synchronous = self.synchronous();
        self.checks.exercise("history");
        let mut lost = Vec::new();
        for (i, commit) in self.commits.iter().enumerate() {
            if !commit.lost && !self.wal.contains(fork, commit.at) {
                lost.push(i);
            }
        }
        for i in &lost {
            self.commits[*i].lost = true;
        }
        // Two could acknowledge after the store began anew, and one of them was overruled.
        let all = lost.len();
        lost.retain(|i| !self.commits[*i].doubtful);
        let forced = std::mem::take(&mut self.checks.forced).contains(&name);
        if forced && !lost.is_empty() {
            self.checks.exercise("excused: an operator forced a failover past /sync");
            lost.clear();
        }
        let count = lost.len();
        self.checks.lost += (all - count) as u64;
        if synchronous {
            self.checks.exercise("nothing lost");
            if count > 0 {
                let first = self.commits[lost[0]].at;
                let what = format!(
                    "nothing lost: {name} was promoted at {} without {count} acknowledged \
                     commits, the first at {}",
                    Lsn(fork.lsn),
                    Lsn(first.lsn)
                );
                self.checks.violate(self.now, what);
            }
        } else {
            self.checks.lost += count as u64;
        }
        let twins = self.wal.branches.iter().filter(|b| b.number == number).count() > 1;
        if twins && !self.restored {
            let what = format!("history: {name} was promoted to timeline {number}, which is taken");
            self.checks.violate(self.now, what);
        }
    }

    /// Nobody follows a history that is not its own: PostgreSQL compares only numbers.
    pub fn check_stream(&mut self, m: usize, u: usize, mine: Place, theirs: Place) {
        if self.restored {
            // The store gives out numbers that it gave out before.
            return self.checks.exercise(RESTORED);
        }
        let what = format!(
            "history: {} at {} streams from {} at {}, whose timeline {} is another one",
            self.members[m].name,
            Lsn(mine.lsn),
            self.members[u].name,
            Lsn(theirs.lsn),
            self.wal.number(theirs.branch),
        );
        self.checks.violate(self.now, what);
    }

    /// While the cluster is paused this member promotes, stops and starts nothing that no operator
    /// asked for; whoever led when the pause began may lead again. `phase`: of its guard before.
    pub fn check_paused(&mut self, m: usize, act: PausedAct, phase: Phase) {
        let store = self.store.cluster();
        let lately = self.checks.handover_asked.is_some_and(|at| self.now - at < 120 * SECOND);
        let requested = lately || store.failover.as_ref().is_some_and(|f| !f.value.is_empty());
        let recorded = store.pause_record.as_ref().map(|k| k.value.leader.as_str());
        let owner = [recorded, self.checks.leader_at_pause.as_deref()]
            .contains(&Some(self.members[m].name.as_str()));
        // A race is not won in a pause of which only its winner has not heard.
        let raced = matches!(act, PausedAct::Promote) && self.settings().paused;
        let agent = self.members[m].agent.as_ref();
        let Some(a) = agent.filter(|a| raced || a.settings.paused) else { return };
        let (wishes, memory) = (&a.wishes, &a.memory);
        let ended = self.members[m].supervisor.as_ref().and_then(|s| s.last_exit);
        let asked = wishes.restart
            || wishes.reinitialize
            || wishes.stop
            || memory.restarting
            || memory.reinitializing
            || memory.copied_at.is_some_and(|at| ended.as_ref().is_none_or(|e| e.at < at))
            || memory.switchover.is_some();
        let since = a.paused_since;
        let (wrong, what) = match act {
            // The race may have been won before: its transaction compares `/config`.
            PausedAct::Promote => {
                let new = self.checks.led_since <= self.checks.paused_at;
                (!owner && !new && memory.switchover.is_none(), "promoted")
            }
            PausedAct::Stop => (!asked, "stopped"),
            // What a fence ended is served again, read-only.
            PausedAct::Start => {
                let fenced = phase == Phase::Fenced;
                let died = |e: &LastExit| e.at >= since && memory.stopped_pid != Some(e.pid);
                (!asked && !fenced && !owner && ended.as_ref().is_some_and(died), "started")
            }
        };
        self.checks.exercise("paused");
        if wrong && !requested {
            let (name, rule) = (&self.members[m].name, a.rule);
            let what = format!("paused: {name} is {what} by {rule}, though nobody asked for it");
            self.checks.violate(self.now, what);
        }
    }

    /// With unchanged observations a member's decisions come to rest within three rounds.
    pub fn check_fixed_point(&mut self, view: &View, first: &Decision) {
        let mut view = view.clone();
        let mut next = |memory: &Memory| {
            view.memory = memory.clone();
            decide(&view)
        };
        let second = next(&first.memory);
        let third = next(&second.memory);
        let fourth = next(&third.memory);
        // What was done changes what is seen; only decisions to do nothing must come to rest.
        if [first, &second, &third, &fourth].iter().any(|d| !d.actions.is_empty()) {
            return;
        }
        self.checks.exercise("fixed point");
        if (third.rule, &third.why) != (fourth.rule, &fourth.why) {
            let rules = [first.rule, second.rule, third.rule, fourth.rule].join(", ");
            self.checks.violate(self.now, format!("fixed point: {} decides {rules}", view.name));
        }
    }

    /// No data directory is removed or rewound unless another member has its commits.
    pub fn check_removal(&mut self, m: usize) {
        let Some(end) = self.members[m].disk.dir().map(|d| d.end) else { return };
        self.checks.exercise("removal");
        let synchronous = self.synchronous();
        let others: Vec<Place> = (0..self.members.len())
            .filter(|o| *o != m)
            .filter_map(|o| self.members[o].disk.dir().map(|d| d.end))
            .collect();
        let alone = self
            .commits
            .iter()
            .filter(|c| !c.lost && !c.doubtful && self.wal.contains(end, c.at))
            .filter(|c| !others.iter().any(|o| self.wal.contains(*o, c.at)))
            .count();
        let name = self.members[m].name.clone();
        if others.is_empty() || (synchronous && alone > 0) {
            let what = format!("removal: {name} removes {alone} commits that nobody else has");
            self.checks.violate(self.now, what);
        }
    }

    /// Excuses an overlap that this member may have for a while.
    pub fn excuse(&mut self, m: usize, length: Duration, why: &'static str) {
        let until = self.now + length.as_nanos() as u64;
        let known = self.checks.excused_until.entry(m).or_insert((until, why));
        if known.0 < until {
            *known = (until, why);
        }
    }

    pub fn excused(&self, m: usize) -> Option<&'static str> {
        let (until, why) = self.checks.excused_until.get(&m)?;
        (self.now <= *until).then_some(*why)
    }
}
