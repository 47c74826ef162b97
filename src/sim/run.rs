//! One run: safety under faults, then healing and convergence; and what is told of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::core::guard::Phase;

use super::check::Violation;
use super::defect::Defect;
use super::engine::{Sim, Time};
use super::fault;
use super::invariant::{INVARIANTS, is_invariant};
use super::operator::LONGEST_TTL;
use super::postgres::Disk;
use super::prng::Prng;
use super::supervisor::Supervisor;
use super::world::{Host, Plan, SECOND, World, ms};

/// Simulated time under faults, at least, and faults.
const STORM: Time = 900 * SECOND;
const FAULTS_MIN: u64 = 30;
/// Afterwards a leader must be there within this, and all members must stream.
const LEADER_WITHIN: Time = 240 * SECOND;
const CALM_WITHIN: Time = 600 * SECOND;

/// Far beyond what a run needs: a run that gets there goes round in circles.
const EVENTS_MAX: u64 = 3_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Broken(Vec<Violation>),
    /// It did not come to rest: what each member said last.
    Stuck(Vec<String>),
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        *self == Verdict::Good
    }
}

#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub plan: Plan,
    pub verdict: Verdict,
    pub hash: u64,
    pub simulated: Time,
    pub events: u64,
    pub transcript: Vec<String>,
    pub exercised: BTreeMap<&'static str, u64>,
    pub rules: BTreeMap<&'static str, u64>,
    pub transitions: BTreeMap<(Phase, Phase), u64>,
    /// acknowledged, lost, promotions, failovers, fences, excused
    pub counts: [u64; 6],
}

/// Plays one seed.
pub fn play(seed: u64, transcript: bool) -> Report {
    play_with(seed, transcript, None)
}

/// Plays one seed with something wrong on purpose.
pub fn play_with(seed: u64, transcript: bool, defect: Option<Defect>) -> Report {
    let mut prng = Prng::new(seed);
    let plan = Plan { defect, ..fault::draw(&mut prng) };
    let sim = Sim::new(World::new(plan.clone(), prng, transcript));
    let mut events = 0;
    begin(&sim);
    advance(&sim, 60 * SECOND, &mut events, |_| false);
    strike_again(&sim);
    storm(&sim, &mut events);
    let verdict = match broken(&sim) {
        Some(verdict) => verdict,
        None => converge(&sim, &mut events),
    };
    sim.with(|w| Report {
        seed,
        plan,
        verdict,
        hash: w.hash,
        simulated: w.now,
        events,
        transcript: w.transcript.take().unwrap_or_default(),
        exercised: std::mem::take(&mut w.checks.exercised),
        rules: std::mem::take(&mut w.checks.rules),
        transitions: std::mem::take(&mut w.checks.transitions),
        counts: [
            w.checks.acknowledged,
            w.checks.lost,
            w.checks.promotions,
            w.checks.failovers,
            w.checks.fences,
            w.checks.excused,
        ],
    })
}

/// So long that enough happens.
fn storm(sim: &Sim, events: &mut u64) {
    let violated = |w: &World| !w.checks.violations.is_empty();
    let mut until = STORM;
    while !advance(sim, until, events, violated)
        && sim.with(|w| w.checks.exercised.get("faults").copied() < Some(FAULTS_MIN))
    {
        until += 60 * SECOND;
    }
}

fn begin(sim: &Sim) {
    let members = sim.with(|w| w.members.len());
    for m in 0..members {
        let delay = sim.with(|w| w.some_ms(0, 3000));
        sim.after(delay, move |sim| sim.with(|w| w.start_supervisor(m)));
    }
}

fn strike_again(sim: &Sim) {
    let pause = sim.with(|w| {
        let kinds = w.plan.faults.kinds.clone();
        (!kinds.is_empty()).then(|| {
            let longest = w.plan.faults.pause_ms;
            w.some_ms(100, longest)
        })
    });
    let Some(pause) = pause else { return };
    sim.after(pause, |sim| {
        sim.with(|w| {
            let kinds = w.plan.faults.kinds.clone();
            if !kinds.is_empty() {
                let fault = *w.prng.pick(&kinds);
                w.strike(fault);
            }
        });
        strike_again(sim);
    });
}

/// Lets time pass until then, or until `enough`; checks after every event.
pub fn advance(sim: &Sim, until: Time, events: &mut u64, enough: impl Fn(&World) -> bool) -> bool {
    while sim.step(until) {
        *events += 1;
        if *events == EVENTS_MAX {
            sim.with(|w| w.checks.violate(w.now, "no flapping: too many events".to_owned()));
            return true;
        }
        if sim.with(|w| {
            w.check();
            enough(w)
        }) {
            return true;
        }
    }
    false
}

fn broken(sim: &Sim) -> Option<Verdict> {
    sim.with(|w| {
        let found = std::mem::take(&mut w.checks.violations);
        (!found.is_empty()).then_some(Verdict::Broken(found))
    })
}

/// Heals, and requires a leader and then rest.
fn converge(sim: &Sim, events: &mut u64) -> Verdict {
    let lost = sim.with(|w| {
        let spare = w.members.len() > 2 && !w.synchronous();
        let last = w.members.len() as u64 - 1;
        let lost = (spare && w.prng.per_mille(400)).then(|| w.prng.between(0, last) as usize);
        // Not the one without which no data directory is left that may lead.
        lost.filter(|m| w.others_may_lead(*m) && !w.suspended(*m))
    });
    sim.with(|w| {
        w.heal(lost);
        w.checks.exercise("leader");
    });
    let start = sim.now();
    let violated = |w: &World| !w.checks.violations.is_empty();
    // What was under way ends first: leases run out, and devices that count reset their hosts.
    advance(sim, start + LONGEST_TTL.as_nanos() as Time, events, violated);
    advance(sim, start + LEADER_WITHIN, events, |w| violated(w) || w.has_leader());
    if let Some(verdict) = broken(sim) {
        return verdict;
    }
    if !sim.with(|w| w.has_leader()) {
        return stuck(sim, "no leader");
    }
    sim.with(|w| w.checks.exercise("calm"));
    advance(sim, start + CALM_WITHIN, events, |w| violated(w) || w.is_calm());
    if let Some(verdict) = broken(sim) {
        return verdict;
    }
    if !sim.with(|w| w.is_calm()) {
        return stuck(sim, "not all members stream, or an operator's request has not ended");
    }
    // It stays so.
    let calm_since = sim.now();
    advance(sim, calm_since + 30 * SECOND, events, violated);
    if let Some(verdict) = broken(sim) {
        return verdict;
    }
    if sim.with(|w| w.has_leader()) { Verdict::Good } else { stuck(sim, "the leader did not stay") }
}

fn stuck(sim: &Sim, what: &str) -> Verdict {
    sim.with(|w| {
        let mut lines = vec![format!("{what} {} s after healing", w.now / SECOND)];
        let key = w.leader_name();
        lines.push(format!("leader key: {key:?}, /sync: {:?}", w.store.cluster().sync));
        lines.extend(w.unfinished().map(|what| format!("not ended: {what}")));
        for m in 0..w.members.len() {
            let member = &w.members[m];
            let (rule, why) =
                member.agent.as_ref().map_or(("no agent", ""), |a| (a.rule, a.why.as_str()));
            let server = member.server.as_ref().map(|s| (s.ready, s.recovery, s.streaming, s.stop));
            let end = member.disk.dir().map(|d| (w.wal.number(d.end.branch), d.end, d.state));
            let phase = w.phase(m);
            lines.push(format!(
                "{} {phase:?} {rule}: {why}; server {server:?}, data {end:x?}",
                member.name
            ));
        }
        Verdict::Stuck(lines)
    })
}

impl World {
    fn alive(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|m| self.members[*m].host == Host::Up)
    }

    fn others_may_lead(&self, m: usize) -> bool {
        let usable = |o: usize| self.members[o].disk.dir().filter(|d| !d.half_rewound);
        let end = |o: usize| usable(o).map(|d| d.end.lsn);
        let barred = |o: usize| {
            let tags = &self.members[o].tags;
            let named = self.store.cluster().failsafe.as_ref();
            let named = named.is_none_or(|key| key.value.contains_key(&self.members[o].name));
            tags.nofailover || !named
        };
        let newest =
            end(m).unwrap_or(0).saturating_sub(self.settings().maximum_lag_on_failover_bytes);
        (0..self.members.len())
            .any(|o| o != m && !barred(o) && end(o).is_some_and(|end| end >= newest))
    }

    fn has_leader(&self) -> bool {
        let Some(key) = &self.store.cluster().leader else { return false };
        self.find(&key.name).is_some_and(|m| {
            // A server that goes on while its supervisor is gone may be about to be fenced.
            matches!(self.phase(m), Phase::Leading | Phase::Paused)
                && self.server_moves(m)
                && self.members[m].server.as_ref().is_some_and(|s| s.writable())
        })
    }

    fn streams(&self, m: usize) -> bool {
        let server = self.members[m].server.as_ref();
        server.is_some_and(|s| s.ready && s.recovery && s.streaming)
    }

    /// A restored store gave one number to two histories: that is for people to see, who have one
    /// of them copied anew.
    fn twins(&self, a: usize, b: usize) -> bool {
        let branch = |m: usize| self.members[m].disk.dir().map(|dir| dir.end.branch);
        branch(a).zip(branch(b)).is_some_and(|(a, b)| {
            self.restored && a != b && self.wal.number(a) == self.wal.number(b)
        })
    }

    /// One primary, and everybody else streams from it, directly or not.
    pub fn is_calm(&self) -> bool {
        let leader = self.store.cluster().leader.as_ref().and_then(|k| self.find(&k.name));
        self.has_leader()
            && self.unfinished().is_none()
            && self.alive().all(|m| {
                // Nothing says yet that an unfinished base backup is our own and may be removed.
                let rubbish = matches!(self.members[m].disk, Disk::Rubbish)
                    && !self.members[m].supervisor.as_ref().is_some_and(Supervisor::works);
                Some(m) == leader
                    || rubbish
                    || leader.is_some_and(|l| self.twins(l, m))
                    || self.streams(m)
            })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.plan.settings;
        writeln!(
            f,
            "seed {}: {} members, ttl {} s, synchronous {:?} {}{}, rewind {}, freeze_max {} s, \
              watchdog {:?}, failsafe {}",
            self.seed,
            self.plan.members,
            s.ttl.as_secs(),
            s.synchronous_mode,
            s.synchronous_node_count,
            if s.synchronous_mode_strict { " strict" } else { "" },
            s.use_pg_rewind,
            s.freeze_max.as_secs(),
            self.plan.watchdog,
            s.failsafe_mode,
        )?;
        writeln!(
            f,
            "  faults every {} ms at most: {:?}",
            self.plan.faults.pause_ms, self.plan.faults.kinds
        )?;
        let [acknowledged, lost, promotions, failovers, fences, excused] = self.counts;
        writeln!(
            f,
            "  {} s simulated, {} events, hash {:016x}; {acknowledged} commits acknowledged, \
             {lost} lost (asynchronous), {promotions} starts as primary, {failovers} on another \
             member, {fences} fences, {excused} overlaps excused",
            self.simulated / SECOND,
            self.events,
            self.hash,
        )?;
        match &self.verdict {
            Verdict::Good => write!(f, "  GOOD"),
            Verdict::Broken(violations) => {
                for v in violations {
                    let milli = Duration::from_nanos(v.at).max(ms(0)).as_millis();
                    writeln!(f, "  BROKEN at {milli} ms: {}", v.what)?;
                }
                Ok(())
            }
            Verdict::Stuck(lines) => {
                for line in lines {
                    writeln!(f, "  STUCK {line}")?;
                }
                Ok(())
            }
        }
    }
}

/// Plays many seeds on all processors; tells of those that failed, in no order.
pub fn explore(base: u64, count: u64, failed: impl Fn(&Report) + Sync) -> Sum {
    let next = AtomicU64::new(base);
    let end = base.saturating_add(count);
    let worker = || {
        let mut sum = Sum::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return sum;
            }
            let report = play(seed, false);
            if !report.verdict.is_good() {
                failed(&report);
            }
            sum.add(&report);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(count.max(1) as usize);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let sums = workers.into_iter().map(|w| w.join().expect("invariant: a run does not panic"));
        sums.fold(Sum::default(), Sum::join)
    })
}

/// Many runs together.
#[derive(Debug, Default)]
pub struct Sum {
    pub runs: u64,
    pub failed: u64,
    pub simulated: Time,
    pub events: u64,
    pub exercised: BTreeMap<&'static str, u64>,
    pub rules: BTreeMap<&'static str, u64>,
    pub transitions: BTreeMap<(Phase, Phase), u64>,
    pub counts: [u64; 6],
}

impl Sum {
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.failed += u64::from(!report.verdict.is_good());
        self.simulated += report.simulated;
        self.events += report.events;
        for (name, count) in &report.exercised {
            *self.exercised.entry(name).or_default() += count;
        }
        for (name, count) in &report.rules {
            *self.rules.entry(name).or_default() += count;
        }
        for (change, count) in &report.transitions {
            *self.transitions.entry(*change).or_default() += count;
        }
        for (sum, count) in self.counts.iter_mut().zip(report.counts) {
            *sum += count;
        }
    }

    fn join(mut self, other: Sum) -> Sum {
        self.runs += other.runs;
        self.failed += other.failed;
        self.simulated += other.simulated;
        self.events += other.events;
        for (name, count) in other.exercised {
            *self.exercised.entry(name).or_default() += count;
        }
        for (name, count) in other.rules {
            *self.rules.entry(name).or_default() += count;
        }
        for (change, count) in other.transitions {
            *self.transitions.entry(change).or_default() += count;
        }
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum += count;
        }
        self
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [acknowledged, lost, promotions, failovers, fences, excused] = self.counts;
        writeln!(
            f,
            "{} seeds, {} failed; {} h simulated, {} events; {acknowledged} commits acknowledged, \
             {lost} lost (asynchronous), {promotions} starts as primary, {failovers} on another \
             member, {fences} fences, {excused} overlaps excused",
            self.runs,
            self.failed,
            self.simulated / SECOND / 3600,
            self.events
        )?;
        for invariant in INVARIANTS {
            let count = self.exercised.get(invariant.name).copied().unwrap_or(0);
            writeln!(f, "  judged    {count:>10}  {}: {}", invariant.name, invariant.sentence)?;
        }
        for (name, count) in self.exercised.iter().filter(|(name, _)| !is_invariant(name)) {
            writeln!(f, "  seen      {count:>10}  {name}")?;
        }
        for rule in crate::core::decide::rules() {
            let count = self.rules.get(rule.id).copied().unwrap_or(0);
            writeln!(f, "  rule      {count:>10}  {}", rule.id)?;
        }
        for ((from, to), count) in &self.transitions {
            writeln!(f, "  guard     {count:>10}  {from:?} -> {to:?}")?;
        }
        Ok(())
    }
}
