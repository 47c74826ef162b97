use super::random_tests::restored;
use super::tests::{Run, at, group, ms, proof, tenure};
use super::*;
use crate::core::budget::{Device as Timing, Grade, Wish};

const SOFTDOG: Timing = Timing {
    min_s: 1,
    max_s: 65_535,
    factor_ppm: 1_010_000,
    late: Duration::ZERO,
    early: Duration::ZERO,
};

/// ttl 10 s: W 4 s and T1 3.4 s in grade A, 8 s and 6.9 s in grade B; G 0.7 s.
pub(super) fn budget(ttl_ms: u64, grade: Grade) -> Budget {
    let election = ms(1000);
    let wish = Wish { grade: Some(grade), margin_s: None, election, kept: true };
    Budget::watched(ms(ttl_ms), 10_000, &SOFTDOG, &wish).unwrap()
}

pub(super) fn watched() -> Run {
    let mut run = Run { guard: Guard::new(true), out: vec![] };
    let budget = budget(10_000, Grade::A);
    run.ok(0, Event::Configure { budget, freeze_max: ms(30_000) });
    run
}

/// A primary under tenure 1: armed at 0, confirmed and pinged at 10.
fn primary() -> Run {
    let mut run = watched();
    run.ok(0, Event::Campaign);
    run.is(Phase::Candidate, "W");
    run.ok(0, Event::DeviceArmed { at: at(0) });
    run.ok(10, proof(1, 5));
    run.is(Phase::Leading, "AP");
    run.ok(10, pinged(10));
    run.ok(10, Event::StartPrimary);
    run.ok(20, group(true, false));
    run.out.clear();
    run
}

fn pinged(ms: u64) -> Event {
    Event::Pinged { at: Some(at(ms)) }
}

#[test]
fn nothing_is_permitted_before_the_device_was_armed() {
    let mut run = watched();
    run.ok(0, Event::Campaign);
    run.refused(10, proof(1, 5));
    run.ok(20, Event::DeviceArmed { at: at(20) });
    run.refused(30, proof(1, 15)); // sent before it was armed
    run.ok(30, proof(1, 25));
    run.is(Phase::Leading, "WAP");
    run.ok(30, Event::StartPrimary);
    run.ok(31, group(true, false));
    run.ok(40, Event::StopSignal);
    run.ok(50, group(false, false));
    run.ok(50, Event::Release(tenure(1)));
    run.is(Phase::Idle, "CDw");
    // A device that cannot be armed.
    run.ok(60, Event::Campaign);
    run.ok(60, Event::DeviceFailed);
    run.refused(70, proof(2, 65));
    run.ok(70, Event::Campaign);
    run.is(Phase::Candidate, "WW");
}

/// The shorter lease, configured first, left no room for the device.
#[test]
fn a_device_that_only_the_larger_budget_has_is_armed_for_it() {
    let mut run = Run { guard: Guard::new(true), out: vec![] };
    let plain = Budget::new(ms(5000), 10_000).unwrap();
    run.ok(0, Event::Configure { budget: plain, freeze_max: ms(30_000) });
    run.ok(0, Event::Campaign);
    let budget = budget(10_000, Grade::A);
    run.ok(1, Event::Retune(budget));
    run.is(Phase::Candidate, "");
    run.refused(10, proof(1, 5)); // of a lease that is long enough
    run.is(Phase::Candidate, "W");
    run.ok(20, Event::DeviceArmed { at: at(20) });
    run.ok(30, proof(1, 25));
    run.is(Phase::Leading, "AP");
    assert_eq!(run.guard.budget(), Some(budget));
}

#[test]
fn a_ping_is_one_confirmation_that_was_sent_after_the_last_ping() {
    let mut run = primary();
    run.ok(1000, proof(1, 900));
    run.is(Phase::Leading, "AP");
    run.ok(1100, proof(1, 1000)); // the ping before it has not returned
    run.ok(1200, pinged(1150));
    run.ok(1200, proof(1, 1140)); // sent before it returned
    run.is(Phase::Leading, "AA");
    assert_eq!((run.guard.withheld(), run.guard.deadline()), (2, Some(at(4300))));
    // From a store that is slow.
    run.ok(4200, proof(1, 1250));
    run.is(Phase::Leading, "AP");
    run.ok(4210, Event::PingLate);
    assert_eq!(run.guard.withheld(), 3, "the petter found it too old");
    // By time alone a primary gets none.
    run.ok(4290, Event::Tick);
    run.is(Phase::Leading, "A");
}

/// E 9.9 s, of which the reset takes 8.08 s and d 0.2 s. The freeze comes before the device fires.
#[test]
fn a_confirmation_too_old_for_a_ping_moves_no_deadline() {
    let mut run = primary();
    run.ok(100, Event::Retune(budget(10_000, Grade::B)));
    run.ok(200, proof(1, 100));
    run.ok(200, pinged(210));
    run.ok(2000, proof(1, 380));
    run.ok(2010, pinged(2005));
    let deadline = run.guard.deadline();
    run.out.clear();
    run.ok(4000, proof(1, 2379));
    run.is(Phase::Leading, "A");
    assert_eq!((run.guard.deadline(), run.guard.withheld()), (deadline, 1));
    run.ok(7240, Event::Tick);
    run.ok(7240, group(true, true));
    run.is(Phase::Frozen, "AFp");
}

#[test]
fn a_device_that_refuses_is_asked_again_after_a_pause() {
    let mut run = primary();
    run.ok(3405, Event::Tick);
    run.ok(3500, group(true, true));
    run.is(Phase::Frozen, "AFp");
    run.ok(3510, Event::Pinged { at: None });
    run.is(Phase::Frozen, "");
    assert_eq!(run.guard.wake_at(), Some(at(4010)), "an eighth of its timeout");
    run.ok(4009, Event::Tick);
    run.is(Phase::Frozen, "");
    run.ok(4010, Event::Tick);
    run.is(Phase::Frozen, "p");
    run.ok(4020, pinged(4015));
    assert_eq!(run.guard.wake_at(), Some(at(6015)), "half of it after one that went through");
}

#[test]
fn a_frozen_group_is_pinged_by_time_and_thawed_only_by_a_renewal_that_was_sent_later() {
    let mut run = primary();
    run.ok(3405, Event::Tick);
    run.is(Phase::Frozen, "AF");
    run.ok(3500, Event::Tick); // not seen to stand still
    run.is(Phase::Frozen, "");
    run.ok(3500, group(true, true));
    run.is(Phase::Frozen, "p");
    run.refused(3510, proof(1, 3505)); // its return is not known
    run.ok(3520, pinged(3515));
    run.refused(3520, proof(1, 3510));
    assert_eq!(run.guard.wake_at(), Some(at(5515)), "half a timeout later");
    run.ok(5515, Event::Tick);
    run.is(Phase::Frozen, "p");
    run.ok(5520, pinged(5520));
    run.ok(5600, proof(1, 5550));
    run.is(Phase::Leading, "APT");
}

#[test]
fn processes_that_stand_in_the_kernel_are_as_good_as_frozen_until_the_last_instant() {
    let mut run = primary();
    run.ok(3405, Event::Tick);
    run.ok(3605, Event::Tick);
    run.is(Phase::Frozen, "AFL");
    run.ok(3606, Event::Tasks { running: false });
    run.is(Phase::Frozen, "p");
    run.ok(3610, pinged(3610));
    // E - d1: 5 + 9900 - 500.
    run.ok(9405, Event::Tick);
    run.is(Phase::Killing, "AFK");
    run.ok(9406, Event::KillSent);
    run.is(Phase::Killing, "p");
    run.ok(9407, pinged(9407));
    // What a kill does not remove is left to the device.
    run.ok(10_500, Event::Tick);
    run.ok(10_500, Event::KillSent);
    run.ok(15_000, Event::Tick);
    run.is(Phase::Killing, "KK");
    run.ok(15_001, group(false, false));
    run.is(Phase::Fenced, "DwC");
}

#[test]
fn what_was_not_permitted_is_pinged_by_time() {
    let mut run = watched();
    run.ok(0, Event::StartStandby);
    run.ok(0, group(true, false));
    run.ok(0, Event::Campaign);
    run.ok(0, Event::DeviceArmed { at: at(0) });
    run.out.clear();
    run.ok(2000, Event::Tick);
    run.is(Phase::Candidate, "p");
    run.ok(2001, pinged(2001));
    run.ok(2010, proof(1, 2005));
    run.ok(2010, pinged(2010));
    run.is(Phase::Leading, "AP");
    run.ok(4010, Event::Tick);
    run.is(Phase::Leading, "p");
    run.ok(4012, pinged(4011));
    // A promotion, too, needs a renewal that was sent after that.
    run.refused(4020, Event::Promote);
    run.ok(4030, proof(1, 4020));
    run.ok(4030, Event::Promote);
    run.is(Phase::Leading, "AP");
    let mut lost = watched();
    lost.ok(0, Event::Campaign);
    lost.ok(1, Event::Withdraw);
    lost.is(Phase::Idle, "WDw");
    lost.ok(2, Event::DeviceArmed { at: at(1) });
    assert_eq!(lost.guard.device(), Device::Off, "the answer was overtaken");
}

#[test]
fn a_pause_disarms_and_the_end_of_it_arms() {
    let mut run = primary();
    run.ok(100, Event::Pause(tenure(1)));
    run.is(Phase::Paused, "Dw");
    run.ok(200, proof(1, 150));
    run.is(Phase::Paused, "");
    run.ok(210, Event::Resume);
    run.is(Phase::Leading, "WA");
    run.ok(220, Event::DeviceArmed { at: at(215) });
    run.ok(300, proof(1, 250));
    run.is(Phase::Leading, "AP");
}

/// Grade B allows for one stall. The second one, between the look at the age and the ping's return,
/// is seen when it returns.
#[test]
fn a_ping_that_was_held_up_beyond_the_lease_fences_at_once() {
    let mut run = primary();
    let b = budget(10_000, Grade::B);
    run.ok(100, Event::Retune(b));
    run.ok(200, proof(1, 100));
    run.ok(200, pinged(210));
    run.ok(1000, proof(1, 400));
    run.out.clear();
    // 400 + 9900 - 8080 = 2220.
    run.ok(2220, pinged(2220));
    run.is(Phase::Leading, "");
    run.ok(2300, proof(1, 2250));
    run.ok(4200, pinged(4100));
    run.is(Phase::Killing, "APAFK");
}

#[test]
fn a_shorter_lease_brings_its_timeout_with_the_next_ping() {
    let mut run = primary();
    run.ok(100, Event::Retune(budget(5000, Grade::A)));
    run.out.clear();
    run.ok(200, proof(1, 150));
    let timeout = |out: &[Effect]| match out.last() {
        Some(Effect::Ping { timeout, .. }) => timeout.as_secs(),
        _ => 0,
    };
    assert_eq!(timeout(&run.out), 2);
    run.ok(210, pinged(205));
    // Longer: not before a lease of that length is confirmed.
    let longer = budget(30_000, Grade::A);
    run.ok(300, Event::Retune(longer));
    run.ok(400, proof(1, 350));
    assert_eq!(timeout(&run.out), 2, "proof(1) is of a lease of 20 s");
    // An operator switches the device off.
    run.ok(410, pinged(405));
    let without = Budget::new(ms(5000), 10_000).unwrap();
    run.ok(420, Event::Retune(without));
    run.out.clear();
    run.ok(500, proof(1, 450));
    run.is(Phase::Leading, "Aw");
    run.ok(600, Event::Retune(budget(5000, Grade::A)));
    run.ok(700, proof(1, 650));
    run.is(Phase::Leading, "AAW");
}

/// The petter was held up until its proof was too old (grade B).
#[test]
fn a_ping_that_came_too_late_carries_no_deadline() {
    let mut run = primary();
    run.ok(1000, proof(1, 900));
    run.ok(1010, pinged(1005));
    run.ok(2500, proof(1, 2300));
    run.ok(3600, Event::PingLate);
    assert_eq!(run.guard.deadline(), Some(at(900 + 3400)), "the device fires at 5 s, not later");
    run.out.clear();
    run.ok(4300, Event::Tick);
    run.ok(4300, group(true, true));
    run.is(Phase::Frozen, "AFp");
    // One that comes in time moves it again, from its own renewal.
    let mut run = primary();
    run.ok(1000, proof(1, 900));
    run.ok(1010, Event::PingLate);
    assert_eq!(run.guard.deadline(), Some(at(5 + 3400)));
    run.ok(2000, proof(1, 1900));
    run.ok(2010, pinged(2005));
    assert_eq!(run.guard.deadline(), Some(at(1900 + 3400)));
    // A device that refuses a ping may have forgotten its timer: no reason to stand still.
    run.ok(3000, proof(1, 2900));
    run.ok(3010, Event::Pinged { at: None });
    assert_eq!(run.guard.deadline(), Some(at(2900 + 3400)));
}

/// It gives no ping: PostgreSQL is frozen T1 after the one that gave the last, whatever the budget.
#[test]
fn a_shorter_budget_takes_no_deadline_from_a_confirmation_that_gave_no_ping() {
    let mut run = primary();
    run.ok(1000, proof(1, 900));
    run.ok(2800, proof(1, 2700)); // the ping before it has not returned
    run.ok(2810, Event::Retune(budget(5000, Grade::A)));
    assert_eq!(run.guard.deadline(), Some(at(2700 + 1400)));
    run.ok(2820, pinged(2820));
    let mut run = primary();
    run.ok(1000, proof(1, 900));
    run.ok(4200, proof(1, 4100));
    run.ok(4210, Event::Retune(budget(5000, Grade::A)));
    assert_eq!(run.guard.deadline(), Some(at(900 + 3400)), "5.5 s, when the device has fired");
}

/// The device shortens T1, so that the budget of a shorter lease without it is the larger one, and
/// waits. What takes its place must fit that lease, or none would ever be confirmed.
#[test]
fn a_device_that_fails_while_a_shorter_lease_waits_for_its_confirmation() {
    let mut run = Run { guard: Guard::new(true), out: vec![] };
    let plain = |ttl_ms| Budget::new(ms(ttl_ms), 10_000).unwrap();
    let freeze_max = ms(30_000);
    run.ok(0, Event::Configure { budget: budget(30_000, Grade::A), freeze_max });
    run.ok(0, Event::Campaign);
    run.ok(1, Event::Retune(plain(20_000)));
    assert_eq!(run.guard.budget().map(|b| b.ttl), Some(ms(30_000)));
    run.ok(2, Event::DeviceFailed);
    let ttl = run.guard.shortest_ttl().unwrap();
    run.ok(2, Event::Retune(plain(ttl.as_millis() as u64)));
    run.ok(10, proof(1, 5)); // of a lease of 20 s
    assert_eq!(run.guard.budget(), Some(plain(20_000)));
}

#[test]
fn a_supervisor_that_starts_again_counts_from_then() {
    let mut run = primary();
    run.guard = restored(&run.guard.save(), false);
    assert_eq!((run.guard.device(), run.guard.budget()), (Device::On, primary().guard.budget()));
    run.guard.device_counts(None, at(1000));
    run.ok(1010, proof(1, 990));
    run.is(Phase::Leading, "A");
    run.ok(1100, proof(1, 1050));
    run.is(Phase::Leading, "AP");
}

/// When the device was pinged last nobody knows: what stands still is pinged at once.
#[test]
fn a_supervisor_that_starts_again_near_the_deadline_lets_no_device_fire() {
    let mut run = primary();
    run.guard.device_counts(None, at(3400));
    run.ok(3405, Event::Tick);
    run.is(Phase::Frozen, "AF");
    run.ok(3410, group(true, true));
    run.is(Phase::Frozen, "p");
    // One without a record, and with an agent that does not say what is in force.
    let mut found = Run { guard: Guard::new(true), out: vec![] };
    found.ok(0, Event::Found);
    found.guard.device_counts(Some(ms(4000)), at(0));
    found.out.clear();
    found.ok(10, group(true, true));
    assert_eq!(found.out, [Effect::Ping { proof: None, timeout: ms(4000) }]);
}

/// The supervisor stood still before it gave its last ping, and was killed (seed 50741).
#[test]
fn a_supervisor_that_starts_again_counts_on_no_ping_that_was_under_way() {
    let mut run = primary();
    run.ok(1000, proof(1, 900));
    let guard = restored(&run.guard.save(), false);
    assert_eq!((guard.deadline(), run.guard.deadline()), (Some(at(3405)), Some(at(4300))));
    // Nor does the ping that it gives itself, until that has returned.
    run.guard = guard;
    run.ok(2000, proof(1, 1900));
    run.ok(2010, Event::PingLate);
    assert_eq!(run.guard.deadline(), Some(at(3405)));
}
