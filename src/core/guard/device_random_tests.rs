//! Random stalls, answers and refusals around a watchdog device.

use super::device_tests::{budget, watched};
use super::random_tests::Random;
use super::tests::{Run, at, group, ms, proof};
use super::*;
use crate::core::budget::Grade;

/// The device as the kernel has it, and a petter that may be slow.
struct Machine {
    run: Run,
    now: u64,
    /// When the machine stops, unless it is pinged.
    fires: Option<Boot>,
    /// When the petter is done with its command.
    busy: Option<(u64, Effect)>,
    populated: bool,
    writable: bool,
    frozen: bool,
}

impl Machine {
    fn step(&mut self, event: Event) {
        let permit = matches!(event, Event::StartPrimary | Event::Promote);
        self.run.out.clear();
        let answer = self.run.on(self.now, event);
        for effect in std::mem::take(&mut self.run.out) {
            match effect {
                Effect::Freeze => self.frozen = true,
                Effect::Thaw | Effect::Clear => self.frozen = false,
                Effect::Kill => (self.populated, self.writable) = (false, false),
                Effect::DisarmDevice => {
                    assert!(!self.acknowledges() || self.run.guard.sealed, "disarmed under load");
                    (self.fires, self.busy) = (None, None);
                }
                Effect::Ping { .. } | Effect::ArmDevice { .. } => {
                    self.busy = Some((self.now, effect));
                }
                _ => {}
            }
        }
        if answer.is_ok() && permit {
            (self.populated, self.writable) = (true, true);
        } else if answer.is_ok() && event == Event::StartStandby {
            self.populated = true;
        }
    }

    fn acknowledges(&self) -> bool {
        self.populated && self.writable && !self.frozen
    }

    /// The petter gets to run.
    fn pet(&mut self) {
        let Some((_, effect)) = self.busy.take() else { return };
        let reset = |timeout: Duration| at(self.now).plus(timeout * 101 / 100);
        let event = match effect {
            Effect::ArmDevice { timeout } => {
                self.fires = Some(reset(timeout));
                Event::DeviceArmed { at: at(self.now) }
            }
            Effect::Ping { proof, timeout } => {
                let age = self.run.guard.budget().unwrap().proof();
                if proof.is_some_and(|sent| at(self.now).since(sent) > age) {
                    Event::Pinged { at: None }
                } else {
                    self.fires = Some(reset(timeout));
                    Event::Pinged { at: Some(at(self.now)) }
                }
            }
            _ => return,
        };
        self.step(event);
    }
}

/// Whatever is delayed, and for how long: the machine is gone, or has fenced, before anybody else
/// can hold the key. Only the loop and the petter stall here; there is no sentinel.
#[test]
fn grade_a_survives_stalls_of_any_length() {
    let (mut resets, mut permits) = (0, 0);
    for seed in 1..=600 {
        let mut random = Random(seed);
        let mut m = Machine {
            run: watched(),
            now: 0,
            fires: None,
            busy: None,
            populated: false,
            writable: false,
            frozen: false,
        };
        let mut confirmed = 0;
        for _ in 0..200 {
            // Mostly quick, with stalls of all lengths.
            m.now += match random.below(40) {
                0 => random.below(9000),
                1..=3 => random.below(1000),
                n => n,
            };
            if let Some(fires) = m.fires.filter(|fires| at(m.now) >= *fires) {
                resets += 1;
                let until = at(confirmed).plus(ms(9900));
                assert!(!m.acknowledges() || fires <= until, "seed {seed}: {fires:?} > {until:?}");
                break;
            }
            if m.acknowledges() && at(m.now) >= at(confirmed).plus(ms(9900)) {
                panic!("seed {seed}: it runs on at {}, confirmed at {confirmed}", m.now);
            }
            match random.below(10) {
                0 => m.step(Event::Campaign),
                1..=3 => {
                    let sent = m
                        .now
                        .saturating_sub([1, 30, 300, 600, 900, 3000][random.below(6) as usize]);
                    let before = m.run.guard.lease();
                    m.step(proof(1, sent));
                    if m.run.guard.lease() != before {
                        confirmed = sent;
                    }
                }
                4 => {
                    m.step(Event::StartPrimary);
                    permits += u64::from(m.writable);
                }
                5 => m.step(Event::Tick),
                6 => m.step(group(m.populated, m.populated && m.frozen)),
                _ => m.pet(),
            }
        }
    }
    assert!(resets > 50 && permits > 500, "{resets} resets, {permits} permits: too tame");
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
    let grade = [Grade::A, Grade::B][random.below(2) as usize];
    budget([5000, 10_000, 20_000][random.below(3) as usize], grade)
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
