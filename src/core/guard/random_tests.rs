//! Random events, and what must hold whatever comes.

use super::tests::{Run, at, budget, group, proof, tenure};
use super::*;

pub(super) fn restored(text: &str, frozen: bool) -> Guard {
    let lines = text.lines().filter_map(|l| l.split_once(' '));
    let lines = lines.map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Guard::restore(&lines, frozen).unwrap()
}

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
        let restored = restored(&text, run.guard.group.frozen);
        let same = Guard {
            // Only when to look next, and what the supervisor finds out anew.
            pings: Pings { until: run.guard.deadline.unwrap_or_default(), ..Pings::default() },
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
