//! Random events, and what must hold whatever comes.

use super::tests::{Run, at, budget, group, ms, proof, tenure};
use super::*;

#[test]
fn saved_and_restored_it_is_the_same() {
    let mut random = Random(7);
    for _ in 0..300 {
        let mut run = Run::new();
        for step in 0..random.below(40) {
            let event = random_event(&mut random, step * 100);
            let _ = run.on(step * 100, event);
        }
        let text = run.guard.save() + "guard.unknown 7\nother x\n";
        let lines = text.lines().filter_map(|l| l.split_once(' '));
        let lines = lines.map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let restored = Guard::restore(&lines, run.guard.group.frozen).unwrap();
        let same = Guard {
            // Only when to look next, and what the supervisor finds out anew.
            pings: Default::default(),
            acted_at: Boot(0),
            orphans_since: None,
            ..run.guard
        };
        assert_eq!(restored, same);
    }
    assert!(Guard::restore(&std::collections::BTreeMap::new(), false).is_err());
}

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn random_event(random: &mut Random, now_ms: u64) -> Event {
    let n = 1 + random.below(2) as i64;
    let sent_ms = (now_ms + 50).saturating_sub(random.below(1000).pow(2) / 100);
    match random.below(26) {
        0 => Event::Tasks { running: random.below(2) == 0 },
        1 => Event::PostmasterExited,
        2 => Event::Found,
        3 => Event::DataJobEnded,
        4 => Event::Adopted { standby: random.below(2) == 0 },
        5 => Event::Retune(budget([5000, 10_000, 20_000][random.below(3) as usize])),
        6 | 7 => Event::Campaign,
        8 => Event::Withdraw,
        9..=13 => proof(n, sent_ms),
        14 => Event::LeaseLost(tenure(n)),
        15 => Event::StartStandby,
        16 | 17 => Event::StartPrimary,
        18 => Event::Promote,
        19 => Event::StopSignal,
        20 => Event::Fence,
        21 => Event::Sealed,
        22 => Event::Release(tenure(n)),
        23 => Event::Pause(tenure(n)),
        24 => Event::Resume,
        _ => Event::StartDataJob,
    }
}

/// The kernel's side: what is in the group, by the effects alone.
#[derive(Default)]
struct World {
    populated: bool,
    frozen: bool,
    dying: bool,
    /// May write if it runs, as far as permits and adoptions tell.
    writable: bool,
    told_to_stop: bool,
}

#[test]
fn invariants_hold_in_random_runs() {
    for seed in 1..=400 {
        let mut random = Random(seed);
        let (mut run, mut world) = (Run::new(), World::default());
        let mut now = 0;
        for _ in 0..300 {
            now += [0, 1, 20, 300, 3000][random.below(5) as usize];
            let event = match random.below(3) {
                0 => Event::Tick,
                1 => {
                    if world.dying && random.below(2) == 0 {
                        // The freeze is a property of the group: it stays.
                        world = World { frozen: world.frozen, ..World::default() };
                    }
                    group(world.populated, world.populated && world.frozen)
                }
                _ => random_event(&mut random, now),
            };
            step(&mut run, &mut world, now, event);
        }
    }
}

fn step(run: &mut Run, world: &mut World, now: u64, event: Event) {
    // What cannot happen is not tried: nothing is found where there is something, and nothing of
    // ours is taken for a standby by an agent that reads pg_control.
    let adopted = matches!(event, Event::Found | Event::Adopted { .. });
    let standby = matches!(event, Event::Adopted { standby: true });
    if (adopted && world.dying) || (standby && world.writable) {
        return;
    }
    let before = run.guard.clone();
    run.out.clear();
    let answer = run.on(now, event);
    let guard = &run.guard;
    if adopted {
        world.populated = true;
        world.writable = !standby;
    }
    let mut armed = None;
    for effect in &run.out {
        match effect {
            Effect::Arm { deadline, .. } => armed = Some(*deadline),
            Effect::Disarm => armed = None,
            Effect::Freeze => world.frozen = true,
            Effect::Kill => world.dying = world.populated,
            Effect::Clear => {
                assert!(!world.populated, "an unfreeze of what is there");
                world.frozen = false;
            }
            Effect::Thaw => {
                world.frozen = false;
                if let Event::Confirm(new) = event {
                    assert!(armed.is_some_and(|d| d > at(now)), "thawed before armed");
                    assert!(before.lease.is_none_or(|old| old.tenure == new.tenure));
                    assert!(at(now).since(new.sent_at) <= guard.budget.unwrap().g);
                } else {
                    assert!(standby && !world.writable, "thawed without proof");
                }
            }
            Effect::LookAtTasks => assert!(world.frozen),
            Effect::ArmDevice { .. } | Effect::Ping { .. } | Effect::DisarmDevice => {
                panic!("these budgets have no device")
            }
        }
    }
    if answer.is_ok() {
        match event {
            Event::StartStandby => world.populated = true,
            Event::StartPrimary | Event::Promote => {
                assert_eq!(guard.phase, Phase::Leading);
                assert!(guard.deadline.is_some_and(|d| at(now) < d), "permitted after deadline");
                assert_ne!(guard.lease.map(|l| l.tenure), guard.burned);
                (world.populated, world.writable) = (true, true);
            }
            Event::StopSignal => world.told_to_stop = true,
            Event::Release(tenure) if before.burned != Some(tenure) => {
                let sealed = guard.sealed && world.told_to_stop;
                assert!(!(world.populated && world.writable) || sealed, "burned while it runs");
            }
            _ => {}
        }
    }
    covered(guard, world, now);
    if let Some(deadline) = armed {
        assert_eq!(guard.deadline, Some(deadline), "the sentinel knows another deadline");
    }
}

/// What may write runs before its deadline only.
fn covered(guard: &Guard, world: &World, now: u64) {
    if world.populated && world.writable && !world.dying && !world.frozen {
        let covered = match guard.phase {
            Phase::Leading => guard.deadline.is_some_and(|d| at(now) < d),
            Phase::Paused => true,
            // It was sealed: pg_control says `shut down`.
            Phase::Sealed => guard.sealed,
            _ => false,
        };
        assert!(covered, "writable without cover: {guard:?}");
    }
}

/// A primary, its device and a petter: the store answers late or not at all, the petter comes late,
/// pings are refused, the budget changes. The supervisor itself runs.
struct Watched {
    run: Run,
    random: Random,
    now: u64,
    /// When the device resets the machine.
    fires: Option<u64>,
    /// The petter's command, when it is carried out, and whether that is late.
    command: Option<(Effect, u64, bool)>,
    group: GroupState,
    /// A renewal: sent then, answered then.
    renewal: Option<(u64, u64)>,
    renew_at: u64,
    hour: Hour,
    /// When the petter did not do its work the last time.
    failed_at: u64,
    /// When the device refused a ping the last time.
    refused_at: u64,
    story: Vec<String>,
}

/// How things are for some time.
#[derive(Clone, Copy, Debug)]
struct Hour {
    store_answers: bool,
    /// In ms, at most.
    answer: u64,
    petter: u64,
    /// Of a thousand pings.
    refused: u64,
}

/// A petter that is not later than this is in time: the longest timeout here is 17 s.
const IN_TIME_MS: u64 = 30;
const LONGEST_MS: u64 = 18_000;

impl Watched {
    fn new(seed: u64) -> Watched {
        let mut random = Random(seed);
        let mut run = Run { guard: Guard::new(true), out: vec![] };
        let budget = some_budget(&mut random);
        run.ok(0, Event::Configure { budget, freeze_max: ms(30_000) });
        Watched {
            run,
            random,
            now: LONGEST_MS,
            fires: None,
            command: None,
            group: GroupState::default(),
            renewal: None,
            renew_at: 0,
            hour: Hour { store_answers: true, answer: 50, petter: 1, refused: 0 },
            failed_at: 0,
            refused_at: 0,
            story: vec![format!("seed {seed}")],
        }
    }

    fn decide(&mut self, event: Event) -> bool {
        let answer = self.run.on(self.now, event);
        let guard = &self.run.guard;
        let deadline = guard.deadline.map(|at| at.0 / 1_000_000 - 1_000_000);
        let phase = guard.phase;
        self.story.push(format!("{} {event:?}: {answer:?} {phase:?} {deadline:?}", self.now));
        for effect in std::mem::take(&mut self.run.out) {
            match effect {
                Effect::ArmDevice { .. } | Effect::Ping { .. } | Effect::DisarmDevice => {
                    let takes = self.random.below(self.hour.petter + 1);
                    self.command = Some((effect, self.now + takes, takes > IN_TIME_MS));
                }
                Effect::Freeze => self.group.frozen = self.group.populated,
                Effect::Thaw | Effect::Clear => self.group.frozen = false,
                Effect::Kill => self.group = GroupState::default(),
                Effect::Arm { .. } | Effect::Disarm | Effect::LookAtTasks => {}
            }
        }
        answer.is_ok()
    }

    fn pet(&mut self) {
        let Some((effect, ..)) = self.command.take_if(|(_, at, _)| *at <= self.now) else { return };
        let counts_from_now = |w: &Watched, timeout: Duration| {
            Some(w.now + timeout.as_millis() as u64) // it keeps its time
        };
        match effect {
            Effect::ArmDevice { timeout } => {
                self.fires = counts_from_now(self, timeout);
                self.decide(Event::DeviceArmed { at: at(self.now) });
            }
            Effect::Ping { proof, timeout } => {
                let age = self.run.guard.budget.unwrap().proof();
                let old = proof.is_some_and(|sent_at| at(self.now).since(sent_at) > age);
                let refused = self.random.below(1000) < self.hour.refused;
                let event = match (old, refused) {
                    (true, _) => Event::PingLate,
                    (false, true) => Event::Pinged { at: None },
                    (false, false) => Event::Pinged { at: Some(at(self.now)) },
                };
                match event {
                    Event::Pinged { at: Some(_) } => self.fires = counts_from_now(self, timeout),
                    _ => self.failed_at = self.now,
                }
                if refused && !old {
                    self.refused_at = self.now;
                }
                self.decide(event);
            }
            _ => self.fires = None,
        }
    }

    fn renew(&mut self) {
        let k = self.run.guard.budget.map_or(1000, |b| b.k.as_millis() as u64);
        if let Some((sent, _)) = self.renewal.take_if(|(_, at)| *at <= self.now) {
            let confirmed = self.hour.store_answers && self.decide(proof(1, sent));
            let paced = k.saturating_sub(self.now - sent).max(k / 10);
            self.renew_at = self.now + if confirmed { paced } else { k.min(300) };
        } else if self.renewal.is_none() && self.now >= self.renew_at {
            self.renewal = Some((self.now, self.now + 1 + self.random.below(self.hour.answer)));
        }
    }

    fn act(&mut self) {
        match self.run.guard.phase {
            Phase::Idle | Phase::Fenced => drop(self.decide(Event::Campaign)),
            Phase::Leading if !self.run.guard.group.populated => {
                self.group.populated = self.decide(Event::StartPrimary);
            }
            _ => {}
        }
        if self.run.guard.group != self.group && self.random.below(3) == 0 {
            self.decide(Event::Group(self.group));
        }
        if self.run.guard.wake_at().is_some_and(|due| due <= at(self.now)) {
            self.decide(Event::Tick);
        }
    }

    /// False: the machine was reset.
    fn judge(&mut self) -> bool {
        let late = self.command.is_some_and(|(_, _, late)| late);
        if late {
            self.failed_at = self.now;
        }
        if self.fires.is_none_or(|at| self.now < at) {
            return true;
        }
        let runs = self.group.populated && !self.group.frozen;
        let story = self.story[self.story.len().saturating_sub(40)..].join("\n");
        let broken = self.refused_at + LONGEST_MS > self.now;
        assert!(!runs || late || broken, "a reset before the freeze, {:?}:\n{story}", self.hour);
        let at_fault = self.failed_at + LONGEST_MS > self.now;
        assert!(at_fault, "a reset although every ping was in time, {:?}:\n{story}", self.hour);
        false
    }
}

fn some_budget(random: &mut Random) -> Budget {
    use crate::core::budget::Grade;
    let grade = [Grade::A, Grade::B][random.below(2) as usize];
    super::device_tests::budget([5000, 10_000, 20_000][random.below(3) as usize], grade)
}

/// While the supervisor runs: nothing that runs is reset but by a petter that is late, and nothing
/// at all while the petter does its work.
#[test]
fn the_freeze_comes_before_the_reset() {
    let (mut resets, mut freezes) = (0, 0);
    for seed in 1..=200 {
        let mut world = Watched::new(seed);
        let mut alive = true;
        for _ in 0..40 {
            let random = &mut world.random;
            world.hour = Hour {
                store_answers: random.below(3) > 0,
                answer: [50, 400, 2000, 5000][random.below(4) as usize],
                petter: [1, IN_TIME_MS, 3000][random.below(3) as usize],
                refused: [0, 0, 300][random.below(3) as usize],
            };
            if random.below(3) == 0 {
                let budget = some_budget(random);
                world.decide(Event::Retune(budget));
            }
            let until = world.now + 1000 + world.random.below(20_000);
            while alive && world.now < until {
                world.now += 1;
                world.pet();
                world.renew();
                world.act();
                alive = world.judge();
            }
        }
        resets += u32::from(!alive);
        freezes += world.story.iter().filter(|line| line.contains("Frozen")).count();
    }
    println!("{resets} machines were reset");
    assert!(freezes > 1000, "hardly anything was tried: {freezes}");
}
