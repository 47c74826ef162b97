//! An old leader, a new one that waits for the key, one lease, a supervisor, a sentinel and
//! messages: every order of events up to a horizon, tried one by one, with the very `core::guard`.
//!
//! The old leader's agent is as free as it can be while it is honest: it sends any order at any
//! time, but a confirmation carries the instant at which its renewal was sent and a key that was
//! read after it, `sealed` is said of a server that has shut down, and a key is deleted only when
//! the supervisor granted it. Nothing has to happen: the supervisor may stall before any step,
//! every message may take any time, the server may die. What must happen is what the kernel and the
//! sentinel promise: a group is frozen not later than the deadline, `SENTINEL` and `FENCE`. The new
//! member takes a vacant key and is the primary at the same instant; that its own promotion needs
//! a confirmed key is the guard's, too.
//!
//! Time goes in steps of 2 s, and to every instant at which a deadline passes, a sentinel acts or a
//! lease may end. Renewals are sent and received at whole steps, everything else happens at any
//! instant. The store's clock is as fast as ρ permits: a lease may end `T(1-ρ)` after its renewal
//! has arrived.
//!
//! With a watchdog device nobody else fences: there is no sentinel, and whatever the supervisor has
//! not done yet it may never do. A ping is two steps, the look at the age of its proof and the call
//! into the kernel. What must happen is the reset, as late as the device may be.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use pgvigil_core::core::budget::{Budget, Device, FENCE, Grade, SENTINEL, Wish};
use pgvigil_core::core::cluster::Tenure;
use pgvigil_core::core::guard::{Confirmation, Effect, Event, GroupState, Guard, Phase};
use pgvigil_core::core::time::Boot;

const TTL: Duration = Duration::from_secs(3);
/// With a device, whose timeout is whole seconds: W 2 s, T1 1.4 s.
const WATCHED_TTL: Duration = Duration::from_secs(5);
const RHO_PPM: u32 = 10_000;
const FREEZE_MAX: Duration = Duration::from_millis(1500);
const STEP: Duration = Duration::from_secs(2);
/// How far it looks: two leases of the old leader, and what comes after them.
const HORIZON: Duration = Duration::from_secs(5);
const WATCHED_HORIZON: Duration = Duration::from_secs(8);
/// Fires when it should.
const DEVICE: Device = Device {
    min_s: 1,
    max_s: 60,
    factor_ppm: 1_000_000,
    late: Duration::ZERO,
    early: Duration::ZERO,
};
/// The member that leads at first, and the one that wants to.
const OLD: usize = 0;
const NEW: usize = 1;
const START: Boot = Boot(1_000_000_000_000);

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    /// The deadline counts from the answer of a renewal instead of its sending.
    CountsFromAnswer,
    /// The key is deleted without the supervisor's leave.
    DeletesUnasked,
    /// Nobody acts in the place of a supervisor that stalls.
    NoSentinel,
    /// The deadline leaves no time to fence before the lease ends.
    DeadlineTooLate,
    /// A stall between the decision to thaw and the thaw is not noticed.
    ThawsLate,
    /// A group counts as empty as soon as its server was told to stop.
    EmptyTooEarly,
    /// The device is pinged by a timer, whatever becomes of the lease.
    PingsByTimer,
    /// The device resets later than half of what a lease leaves.
    ResetsTooLate,
}

/// What is played: the sentinel, or a watchdog device instead of it; and what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Play {
    watched: bool,
    defect: Defect,
}

impl PartialEq<Defect> for Play {
    fn eq(&self, defect: &Defect) -> bool {
        self.defect == *defect
    }
}

impl Play {
    fn ttl(self) -> Duration {
        if self.watched { WATCHED_TTL } else { TTL }
    }

    fn horizon(self) -> Duration {
        if self.watched { WATCHED_HORIZON } else { HORIZON }
    }

    /// Somebody acts in the supervisor's place.
    fn sentinel(self) -> bool {
        !self.watched && self.defect != Defect::NoSentinel
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Empty,
    Standby,
    /// On its way to accept writes.
    Starting,
    /// Accepts writes.
    Primary,
    /// Was told to stop; backends finish what they do.
    Stopping,
    /// The shutdown checkpoint is written: nobody writes any more.
    ShutDown,
}

/// A renewal on its way: sent then; received by the store, and the key read after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Renewal {
    None,
    Sent(Boot),
    Confirms(Boot, Tenure),
}

/// What a supervisor has decided and not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Effect(Effect),
    Become(Group),
    /// The call that pings.
    Ping,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Member {
    guard: Guard,
    steps: VecDeque<Step>,
    /// The deadline that the sentinel reads.
    page: Option<Boot>,
    /// When the device resets the machine; `None`: it does not count.
    fires: Option<Boot>,
    /// The machine was reset.
    gone: bool,
    group: Group,
    frozen: bool,
    renewal: Renewal,
    deleting: Option<Tenure>,
}

/// The leader key and the lease that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    owner: usize,
    tenure: Tenure,
    /// It cannot end earlier.
    until: Boot,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: Boot,
    members: [Member; 2],
    key: Option<Key>,
}

fn budget(play: Play, m: usize) -> Budget {
    let plain = Budget::new(play.ttl(), RHO_PPM).expect("a budget");
    let mut budget = plain;
    if play.watched && m == OLD {
        let election = Duration::from_secs(1);
        let wish = Wish { grade: Some(Grade::A), margin_s: None, election, kept: true };
        budget = Budget::watched(play.ttl(), RHO_PPM, &DEVICE, &wish).expect("a budget");
    }
    if play == Defect::DeadlineTooLate {
        budget.t1 = budget.exclusive;
    }
    if let (Some(watch), Defect::ResetsTooLate) = (&mut budget.watch, play.defect) {
        watch.reset *= 2;
    }
    budget
}

fn confirmation(play: Play, tenure: Tenure, sent_at: Boot) -> Event {
    let ttl = play.ttl();
    Event::Confirm(Confirmation { tenure, cluster_id: 1, raft_term: 1, sent_at, ttl, next: None })
}

impl Member {
    fn new(play: Play, m: usize) -> Member {
        let mut member = Member {
            guard: Guard::new(true),
            steps: VecDeque::new(),
            page: None,
            fires: None,
            gone: false,
            group: Group::Empty,
            frozen: false,
            renewal: Renewal::None,
            deleting: None,
        };
        let budget = budget(play, m);
        member.decide(Event::Configure { budget, freeze_max: FREEZE_MAX }, START);
        member
    }

    /// The guard decides; whether it agreed.
    fn decide(&mut self, event: Event, now: Boot) -> bool {
        let mut effects = Vec::new();
        let agreed = self.guard.on(event, now, &mut effects).is_ok();
        self.steps.extend(effects.into_iter().map(Step::Effect));
        agreed
    }

    /// The next of what the supervisor decided is done.
    fn perform(&mut self, now: Boot, play: Play) {
        let passed = self.page.is_some_and(|deadline| now >= deadline);
        match self.steps.pop_front() {
            Some(Step::Effect(Effect::Arm { deadline, .. })) => self.page = Some(deadline),
            Some(Step::Effect(Effect::Disarm)) => self.page = None,
            Some(Step::Effect(Effect::Freeze)) => self.frozen = self.group != Group::Empty,
            // After a stall the clock is looked at once more: see `supervisor::watch`.
            Some(Step::Effect(Effect::Thaw)) if passed && play != Defect::ThawsLate => {}
            Some(Step::Effect(Effect::Thaw | Effect::Clear)) => self.frozen = false,
            Some(Step::Effect(Effect::Kill)) => {
                self.end();
                self.decide(Event::KillSent, now);
            }
            Some(Step::Become(group)) => {
                let fits = match group {
                    Group::Stopping => self.group == Group::Primary,
                    _ => self.group == Group::Empty,
                };
                if fits {
                    self.group = group;
                }
            }
            Some(Step::Effect(effect)) => self.command_device(effect, now),
            Some(Step::Ping) => {
                self.fires = self.reset_after(now);
                self.decide(Event::Pinged { at: Some(now) }, now);
            }
            None => {}
        }
    }

    fn command_device(&mut self, effect: Effect, now: Boot) {
        match effect {
            Effect::ArmDevice { .. } => {
                self.fires = self.reset_after(now);
                self.decide(Event::DeviceArmed { at: now }, now);
            }
            Effect::Ping { proof, .. } => {
                let age = self.guard.budget().expect("configured").proof();
                if proof.is_some_and(|sent_at| now.since(sent_at) > age) {
                    self.decide(Event::Pinged { at: None }, now);
                } else {
                    self.steps.push_front(Step::Ping);
                }
            }
            Effect::DisarmDevice => self.fires = None,
            _ => {}
        }
    }

    fn reset_after(&self, now: Boot) -> Option<Boot> {
        let watch = self.guard.budget().and_then(|budget| budget.watch)?;
        Some(now.plus(watch.reset))
    }

    /// Nothing of what ran there runs any more.
    fn reset(&mut self) {
        self.end();
        (self.fires, self.page, self.gone) = (None, None, true);
        self.steps.clear();
        (self.renewal, self.deleting) = (Renewal::None, None);
    }

    fn settle(&mut self, play: Play) {
        while !self.steps.is_empty() {
            self.perform(START, play);
        }
    }

    fn end(&mut self) {
        (self.group, self.frozen) = (Group::Empty, false);
    }

    fn writes(&self) -> bool {
        matches!(self.group, Group::Primary | Group::Stopping) && !self.frozen
    }

    /// What the supervisor would see of its group.
    fn seen(&self, play: Play) -> GroupState {
        let populated = match self.group {
            Group::Empty => false,
            Group::Stopping => play != Defect::EmptyTooEarly,
            _ => true,
        };
        GroupState { populated, frozen: populated && self.frozen }
    }
}

type Next = Vec<(&'static str, usize, World)>;

impl World {
    /// The old member leads and is the primary; the new one is a standby, armed.
    fn new(play: Play) -> World {
        let tenure = Tenure { lease_id: 1, mod_revision: 1 };
        let mut members = [Member::new(play, OLD), Member::new(play, NEW)];
        let led = [Event::Campaign, confirmation(play, tenure, START), Event::StartPrimary];
        let waiting = [Event::StartStandby, Event::Campaign];
        for event in led {
            members[OLD].settle(play);
            members[OLD].decide(event, START);
        }
        for event in waiting {
            members[NEW].decide(event, START);
        }
        for (member, group) in members.iter_mut().zip([Group::Primary, Group::Standby]) {
            member.settle(play);
            member.group = group;
        }
        assert!(members[OLD].guard.permitted(), "the old leader leads");
        let until = START.plus(budget(play, OLD).exclusive);
        World { now: START, members, key: Some(Key { owner: 0, tenure, until }) }
    }

    /// Whoever accepts writes, nobody else holds the key; and not both accept writes.
    fn broken(&self) -> Option<&'static str> {
        let writes = [0, 1].map(|m| self.members[m].writes());
        if writes == [true, true] {
            return Some("both accept writes");
        }
        match self.key {
            Some(key) if writes[1 - key.owner] => Some("a member accepts writes, the other leads"),
            _ => None,
        }
    }

    /// The next instant at which something new may happen; `None` while something is urgent.
    fn later(&self, play: Play, end: Boot) -> Option<Boot> {
        let steps = self.now.since(START).as_millis() / STEP.as_millis();
        let mut next = START.plus(STEP * (steps as u32 + 1)).min(end);
        let mut consider = |at: Boot| {
            if at > self.now {
                next = next.min(at);
            }
        };
        for member in &self.members {
            if let Some(fires) = member.fires.filter(|_| play != Defect::PingsByTimer) {
                if self.now >= fires {
                    return None;
                }
                consider(fires);
            }
            if let Some(deadline) = member.page {
                consider(deadline);
                consider(deadline.plus(SENTINEL));
                let urgent = deadline.plus(SENTINEL + FENCE);
                let unfenced = member.group != Group::Empty && !member.frozen;
                if unfenced && play.sentinel() {
                    if self.now >= urgent {
                        return None;
                    }
                    consider(urgent);
                }
            }
        }
        self.key.iter().for_each(|key| consider(key.until));
        (next > self.now).then_some(next)
    }

    /// Everything that can happen next.
    fn next(&self, play: Play) -> Next {
        let mut all = Vec::new();
        let end = START.plus(play.horizon());
        if let Some(now) = self.later(play, end) {
            all.push(("time", 0, World { now, ..self.clone() }));
        }
        for m in 0..2 {
            self.of_store(m, play, &mut all);
            if m == NEW || self.members[m].gone {
                continue;
            }
            self.of_kernel(m, play, &mut all);
            if self.members[m].steps.is_empty() {
                self.of_supervisor(m, play, &mut all);
            } else {
                self.push(&mut all, "does", m, |w| {
                    let now = w.now;
                    w.members[m].perform(now, play);
                });
            }
        }
        all
    }

    fn push(&self, all: &mut Next, what: &'static str, m: usize, change: impl FnOnce(&mut World)) {
        let mut next = self.clone();
        change(&mut next);
        if next != *self {
            all.push((what, m, next));
        }
    }

    /// What servers and the sentinel do by themselves.
    fn of_kernel(&self, m: usize, play: Play, all: &mut Next) {
        let member = &self.members[m];
        if member.fires.is_some_and(|at| self.now >= at) && play != Defect::PingsByTimer {
            self.push(all, "is reset", m, |w| w.members[m].reset());
        }
        if member.group == Group::Empty {
            return;
        }
        if m == OLD {
            self.push(all, "server ends", m, |w| w.members[m].end());
        }
        if member.frozen {
            return;
        }
        let passed = member.page.is_some_and(|deadline| self.now >= deadline.plus(SENTINEL));
        let due = passed && play.sentinel();
        if due {
            self.push(all, "sentinel freezes", m, |w| w.members[m].frozen = true);
        }
        let next = match member.group {
            // A server that was permitted before a stall, and is started after it, takes longer to
            // accept writes than the sentinel does to look again (0.1 s).
            Group::Starting if !due => Some(Group::Primary),
            Group::Stopping => Some(Group::ShutDown),
            _ => None,
        };
        if let Some(group) = next {
            self.push(all, "server goes on", m, |w| w.members[m].group = group);
        }
    }

    /// Messages arrive, leases end.
    fn of_store(&self, m: usize, play: Play, all: &mut Next) {
        let member = &self.members[m];
        let exclusive = budget(Play { defect: Defect::None, ..play }, NEW).exclusive;
        let owned = self.key.filter(|key| key.owner == m);
        if m == OLD && owned.is_some_and(|key| self.now >= key.until) {
            self.push(all, "loses its lease", m, |w| w.key = None);
        }
        let whole = self.now.since(START).as_millis().is_multiple_of(STEP.as_millis());
        match member.renewal {
            Renewal::None if m == OLD && whole && owned.is_some() && !member.gone => {
                self.push(all, "sends a renewal", m, |w| {
                    w.members[m].renewal = Renewal::Sent(w.now);
                });
            }
            Renewal::Sent(at) if whole => self.push(all, "is renewed", m, |w| {
                w.members[m].renewal = Renewal::None;
                if let Some(key) = w.key.as_mut().filter(|key| key.owner == m) {
                    key.until = w.now.plus(exclusive);
                    w.members[m].renewal = Renewal::Confirms(at, key.tenure);
                }
            }),
            _ => {}
        }
        if m == NEW && self.key.is_none() {
            self.push(all, "takes the key", m, |w| w.taken(exclusive, play));
        }
        if let Some(tenure) = member.deleting {
            self.push(all, "deletes the key", m, |w| {
                w.members[m].deleting = None;
                w.key = w.key.filter(|key| key.tenure != tenure);
            });
        }
    }

    /// The new member's acquiring transaction arrives. It is as fast as can be, confirms and is
    /// promoted at once, since that is the worst for the old one.
    fn taken(&mut self, exclusive: Duration, play: Play) {
        let now = self.now;
        let tenure = Tenure { lease_id: 2, mod_revision: 2 };
        self.key = Some(Key { owner: NEW, tenure, until: now.plus(exclusive) });
        let member = &mut self.members[NEW];
        let confirmed = member.decide(confirmation(play, tenure, now), now);
        let promoted = member.decide(Event::Promote, now);
        assert!(confirmed && promoted, "a candidate that has the key is permitted");
        while !member.steps.is_empty() {
            member.perform(now, play);
        }
        member.group = Group::Primary;
    }

    /// A supervisor that has nothing to do takes one event: a fact, or an order of its agent.
    fn of_supervisor(&self, m: usize, play: Play, all: &mut Next) {
        let member = &self.members[m];
        let seen = member.seen(play);
        let mut take = |what, event, then| self.take(all, m, what, event, then, play);
        if member.guard.wake_at().is_some_and(|at| at <= self.now) {
            take("ticks", Event::Tick, None);
        }
        if member.guard.group() != seen {
            take("sees its group", Event::Group(seen), None);
        }
        if let Renewal::Confirms(at, tenure) = member.renewal {
            let at = if play == Defect::CountsFromAnswer { self.now } else { at };
            take("confirms", confirmation(play, tenure, at), None);
        }
        take("starts a primary", Event::StartPrimary, Some(Group::Starting));
        if member.group == Group::Primary {
            take("stops it", Event::StopSignal, Some(Group::Stopping));
        }
        if member.group == Group::ShutDown {
            take("says sealed", Event::Sealed, None);
        }
        let Some(tenure) = member.guard.lease().map(|lease| lease.tenure) else { return };
        if self.key.is_none_or(|key| key.tenure != tenure) {
            take("learns of the loss", Event::LeaseLost(tenure), None);
        }
        take("releases", Event::Release(tenure), None);
    }

    fn take(
        &self,
        all: &mut Next,
        m: usize,
        what: &'static str,
        event: Event,
        then: Option<Group>,
        play: Play,
    ) {
        self.push(all, what, m, |w| {
            let now = w.now;
            let member = &mut w.members[m];
            let granted = member.decide(event, now);
            match event {
                Event::Release(tenure) if granted || play == Defect::DeletesUnasked => {
                    member.deleting = Some(tenure);
                }
                Event::Confirm(_) => member.renewal = Renewal::None,
                _ => {}
            }
            member.steps.extend(then.filter(|_| granted).map(Step::Become));
        });
    }

    fn fingerprint(&self) -> u128 {
        let mut mix = Mix(0);
        self.hash(&mut mix);
        mix.0
    }
}

/// 128 bits, so that two of some millions of states do not share one.
struct Mix(u128);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        bytes.chunks(8).for_each(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        });
    }

    fn write_u64(&mut self, word: u64) {
        let mixed =
            (self.0 ^ u128::from(word)).wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645);
        self.0 = mixed ^ mixed >> 61;
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}

struct Explored {
    states: usize,
    steps: usize,
    phases: Vec<(Phase, Phase)>,
    /// What was broken, and how it came to that.
    broken: Option<(&'static str, Vec<String>)>,
}

/// Breadth first, so that what is found is found in the fewest steps.
fn explore(play: Play) -> Explored {
    let first = World::new(play);
    let mut known: HashMap<u128, (u128, &'static str, usize, Boot)> = HashMap::new();
    known.insert(first.fingerprint(), (0, "begins", 0, START));
    let mut queue = VecDeque::from([first]);
    let (mut steps, mut phases) = (0, Vec::new());
    while let Some(world) = queue.pop_front() {
        let from = world.fingerprint();
        for (what, m, next) in world.next(play) {
            steps += 1;
            let change = (world.members[m].guard.phase(), next.members[m].guard.phase());
            if change.0 != change.1 && !phases.contains(&change) {
                phases.push(change);
            }
            let to = next.fingerprint();
            if known.contains_key(&to) {
                continue;
            }
            known.insert(to, (from, what, m, next.now));
            if let Some(rule) = next.broken() {
                let broken = Some((rule, story(&known, to)));
                return Explored { states: known.len(), steps, phases, broken };
            }
            queue.push_back(next);
        }
    }
    phases.sort();
    Explored { states: known.len(), steps, phases, broken: None }
}

fn story(known: &HashMap<u128, (u128, &'static str, usize, Boot)>, last: u128) -> Vec<String> {
    let (mut lines, mut at) = (Vec::new(), last);
    while let Some((from, what, m, now)) = known.get(&at) {
        let who = if *m == OLD { "old" } else { "new" };
        lines.push(format!("{:>6} ms  {who}: {what}", now.since(START).as_millis()));
        at = *from;
    }
    lines.reverse();
    lines
}

fn sound(watched: bool) {
    let play = Play { watched, defect: Defect::None };
    let explored = explore(play);
    println!(
        "model{}: {} states, {} steps, {:?}; guard: {:?}",
        if watched { " with a watchdog" } else { "" },
        explored.states,
        explored.steps,
        play.horizon(),
        explored.phases
    );
    if let Some((what, story)) = explored.broken {
        panic!("{what}:\n{}", story.join("\n"));
    }
    assert!(explored.states > 1000, "hardly anything was tried");
}

#[test]
fn no_order_of_events_makes_two_primaries() {
    sound(false);
}

#[test]
fn nor_does_any_with_a_watchdog_and_nobody_else_to_fence() {
    sound(true);
}

#[test]
fn every_defect_is_found() {
    for (watched, defect) in [
        (false, Defect::CountsFromAnswer),
        (false, Defect::DeletesUnasked),
        (false, Defect::NoSentinel),
        (false, Defect::DeadlineTooLate),
        (false, Defect::ThawsLate),
        (false, Defect::EmptyTooEarly),
        (true, Defect::PingsByTimer),
        (true, Defect::ResetsTooLate),
    ] {
        let explored = explore(Play { watched, defect });
        let Some((what, story)) = explored.broken else { panic!("{defect:?} was not found") };
        println!("{defect:?}: {what}, {} states\n{}", explored.states, story.join("\n"));
    }
}
