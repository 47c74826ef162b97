use super::random_tests::restored;
use super::*;

const BUDGET_MS: u64 = 10_000;
const NS: u64 = 1_000_000;

pub(super) fn at(ms: u64) -> Boot {
    Boot((1_000_000 + ms) * NS)
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn budget(ttl_ms: u64) -> Budget {
    Budget::new(ms(ttl_ms), 10_000).unwrap()
}

pub(super) fn tenure(n: i64) -> Tenure {
    Tenure { lease_id: 100 + n, mod_revision: n }
}

pub(super) fn proof(n: i64, sent_ms: u64) -> Event {
    let sent_at = at(sent_ms);
    Event::Confirm(Confirmation { sent_at, ..confirmation(n) })
}

pub(super) fn confirmation(n: i64) -> Confirmation {
    let (tenure, sent_at, ttl) = (tenure(n), at(0), ms(20_000));
    Confirmation { tenure, cluster_id: 1, raft_term: 2, sent_at, ttl, next: None }
}

pub(super) fn group(populated: bool, frozen: bool) -> Event {
    Event::Group(GroupState { populated, frozen })
}

/// A guard and its transcript.
pub(super) struct Run {
    pub(super) guard: Guard,
    pub(super) out: Vec<Effect>,
}

impl Run {
    pub(super) fn new() -> Run {
        let mut run = Run { guard: Guard::new(true), out: vec![] };
        run.ok(0, Event::Configure { budget: budget(BUDGET_MS), freeze_max: ms(30_000) });
        run
    }

    /// A primary under tenure 1, confirmed at 0.
    fn primary() -> Run {
        let mut run = Run::new();
        run.ok(0, Event::Campaign);
        run.ok(0, proof(1, 0));
        run.ok(10, Event::StartPrimary);
        run.ok(20, group(true, false));
        run.out.clear();
        run
    }

    pub(super) fn on(&mut self, now_ms: u64, event: Event) -> Answer {
        self.guard.on(event, at(now_ms), &mut self.out)
    }

    #[track_caller]
    pub(super) fn ok(&mut self, now_ms: u64, event: Event) {
        assert_eq!(self.on(now_ms, event), Ok(()), "{event:?} at {now_ms}");
    }

    #[track_caller]
    pub(super) fn refused(&mut self, now_ms: u64, event: Event) {
        assert!(self.on(now_ms, event).is_err(), "{event:?} at {now_ms}");
    }

    /// The phase, and the effects since the last look: a letter each.
    #[track_caller]
    pub(super) fn is(&mut self, phase: Phase, effects: &str) {
        let letters: String = self.out.drain(..).map(letter).collect();
        assert_eq!((self.guard.phase, letters.as_str()), (phase, effects));
    }
}

pub(super) fn letter(effect: Effect) -> char {
    match effect {
        Effect::Arm { .. } => 'A',
        Effect::Disarm => 'D',
        Effect::Freeze => 'F',
        Effect::Thaw => 'T',
        Effect::Kill => 'K',
        Effect::Clear => 'C',
        Effect::LookAtTasks => 'L',
        Effect::ArmDevice { .. } => 'W',
        Effect::Ping { proof: Some(_), .. } => 'P',
        Effect::Ping { proof: None, .. } => 'p',
        Effect::DisarmDevice => 'w',
    }
}

#[test]
fn a_primary_is_frozen_at_its_deadline_and_thawed_by_fresh_proof() {
    let mut run = Run::primary();
    assert_eq!(run.guard.deadline(), Some(at(8900)));
    assert_eq!(run.guard.wake_at(), Some(at(8900)));
    run.ok(8899, Event::Tick);
    run.is(Phase::Leading, "");
    run.ok(8900, Event::Tick);
    run.is(Phase::Frozen, "AF");
    run.ok(8905, group(true, true));
    run.refused(9000, Event::Campaign);
    run.refused(9000, Event::Promote);
    run.refused(9000, proof(2, 9000));
    run.refused(9701, proof(1, 9000)); // older than G
    run.is(Phase::Frozen, "");
    run.ok(9700, proof(1, 9000));
    run.is(Phase::Leading, "AT");
    assert_eq!(run.guard.deadline(), Some(at(17_900)));
}

/// The sentinel looked at the deadline before the thaw and froze after it.
#[test]
fn a_leader_that_was_frozen_by_somebody_else_is_thawed_by_the_next_proof() {
    let mut run = Run::primary();
    run.ok(100, group(true, true));
    run.ok(200, proof(1, 150));
    run.is(Phase::Leading, "AT");
}

#[test]
fn a_late_confirmation_finds_the_group_frozen_even_without_a_tick() {
    let mut run = Run::primary();
    run.ok(9000, proof(1, 8950));
    run.is(Phase::Leading, "AFAT");
    let mut run = Run::primary();
    run.refused(10_000, proof(1, 8000));
    run.is(Phase::Frozen, "AF");
}

#[test]
fn without_proof_the_frozen_are_killed() {
    for (event, when) in
        [(Event::LeaseLost(tenure(1)), 9000), (Event::Tick, 38_900), (Event::Fence, 9000)]
    {
        let mut run = Run::primary();
        run.ok(8900, Event::Tick);
        run.ok(8901, group(true, true));
        run.ok(when, event);
        run.is(Phase::Killing, "AFAFK");
        run.refused(when, proof(1, when));
        run.ok(when + 500, Event::Tick);
        run.is(Phase::Killing, "");
        run.ok(when + 1000, Event::Tick);
        run.is(Phase::Killing, "K");
        run.ok(when + 1001, group(false, true));
        run.is(Phase::Fenced, "DC");
        run.refused(when + 1002, Event::StartPrimary);
        run.ok(when + 1002, Event::StartStandby);
        run.is(Phase::Idle, "C");
        assert!(!run.guard.permitted());
    }
}

#[test]
fn a_freeze_that_does_not_come_is_looked_into() {
    let mut run = Run::primary();
    run.ok(8900, Event::Tick);
    run.ok(9099, Event::Tick);
    run.is(Phase::Frozen, "AF");
    run.ok(9100, Event::Tick);
    run.is(Phase::Frozen, "L");
    run.ok(9100, Event::Tasks { running: false });
    run.ok(9301, Event::Tick);
    run.is(Phase::Frozen, "L");
    // E(s) - d1 = 9900 - 500.
    assert_eq!(run.guard.wake_at(), Some(at(9400)));
    run.ok(9400, Event::Tick);
    run.is(Phase::Killing, "AFK");

    let mut run = Run::primary();
    run.ok(8900, Event::Tick);
    run.ok(9100, Event::Tasks { running: true });
    run.is(Phase::Killing, "AFLAFK");
}

#[test]
fn the_deadline_kills_where_nothing_can_be_thawed() {
    let mut run = Run::primary();
    run.guard.set_can_freeze(false);
    run.ok(8900, Event::Tick);
    run.is(Phase::Killing, "AK");
    let mut run = Run::primary();
    run.ok(100, Event::Configure { budget: budget(BUDGET_MS), freeze_max: Duration::ZERO });
    run.out.clear();
    run.ok(8900, Event::Tick);
    run.is(Phase::Killing, "AFK");
}

#[test]
fn a_lost_lease_kills_a_primary_and_leaves_a_standby_alone() {
    let mut run = Run::primary();
    run.ok(100, Event::LeaseLost(tenure(2)));
    run.is(Phase::Leading, "");
    run.ok(100, Event::LeaseLost(tenure(1)));
    run.is(Phase::Killing, "AFK");

    let standby_leader = |event, when| {
        let mut run = Run::new();
        run.ok(0, Event::StartStandby);
        run.ok(1, group(true, false));
        run.ok(1, Event::Campaign);
        run.ok(2, proof(1, 1));
        run.out.clear();
        run.ok(when, event);
        run.is(Phase::Idle, "D");
    };
    standby_leader(Event::LeaseLost(tenure(1)), 3);
    standby_leader(Event::Tick, 9000);
    standby_leader(Event::Release(tenure(1)), 3);
    standby_leader(Event::Withdraw, 3);
}

#[test]
fn a_standby_that_the_sentinel_froze_is_thawed() {
    let mut run = Run::new();
    run.ok(0, Event::StartStandby);
    run.ok(1, Event::Campaign);
    run.ok(2, proof(1, 1));
    run.out.clear();
    // This supervisor stood still beyond the deadline.
    run.ok(9000, group(true, true));
    run.is(Phase::Idle, "DT");
    let mut run = Run::primary();
    run.ok(9000, group(true, true));
    run.is(Phase::Frozen, "AF");
}

#[test]
fn permits_need_a_fresh_lease() {
    let mut run = Run::new();
    run.refused(0, Event::StartPrimary);
    run.refused(0, proof(1, 0)); // not armed
    run.ok(0, Event::Campaign);
    run.refused(0, Event::StartPrimary);
    run.refused(5, proof(1, 6)); // from the future
    run.ok(5, proof(1, 5));
    run.refused(5, proof(1, 4)); // older than the last
    run.refused(706, Event::StartPrimary); // older than G
    run.ok(707, proof(1, 7));
    run.ok(707, Event::StartPrimary);
    run.refused(708, Event::Withdraw);
    run.refused(708, Event::StartStandby);
    run.refused(708, Event::StartDataJob);

    let mut run = Run::new();
    run.ok(0, Event::StartStandby);
    run.refused(0, Event::Promote);
    run.ok(0, Event::Campaign);
    run.ok(0, proof(1, 0));
    run.refused(701, Event::Promote);
    run.ok(700, Event::Promote);
    assert!(run.guard.permitted());
}

#[test]
fn another_store_is_not_believed() {
    let mut run = Run::primary();
    let good = Confirmation { sent_at: at(100), ..confirmation(1) };
    run.refused(100, Event::Confirm(Confirmation { cluster_id: 9, ..good }));
    run.refused(100, Event::Confirm(Confirmation { raft_term: 1, ..good }));
    run.ok(100, Event::Confirm(Confirmation { raft_term: 3, ..good }));
}

/// Nothing else would ever end the tenure of the old one.
#[test]
fn but_it_may_carry_a_pause_on() {
    let mut run = Run::primary();
    run.ok(100, Event::Pause(tenure(1)));
    let sent_at = at(100_000);
    let other = Confirmation { cluster_id: 9, raft_term: 1, sent_at, ..confirmation(2) };
    run.ok(100_000, Event::Confirm(other));
    run.is(Phase::Paused, "D");
    run.ok(100_100, Event::Resume);
    run.is(Phase::Leading, "A");
    run.refused(100_200, proof(1, 100_200)); // of the old one
}

/// The key moves to another lease, and nobody knows whether it has when the deadline passes.
#[test]
fn what_is_frozen_believes_the_lease_to_which_the_key_was_moving() {
    let mut run = Run::primary();
    let next = Some(tenure(2).lease_id);
    run.ok(100, Event::Confirm(Confirmation { sent_at: at(100), next, ..confirmation(1) }));
    run.ok(9000, Event::Tick);
    run.is(Phase::Frozen, "AAF");
    run.ok(9010, group(true, true));
    // A lease that nobody named, and one whose renewal is too old to thaw on.
    run.refused(9100, proof(3, 9100));
    run.refused(9900, proof(2, 9100));
    run.guard = restored(&run.guard.save(), true);
    run.ok(10_000, proof(2, 9900));
    run.is(Phase::Leading, "AT");
    assert_eq!(run.guard.deadline(), Some(at(9900 + 8900)));
    // The move is over: the old lease carries nothing any more.
    run.ok(19_000, Event::Tick);
    run.is(Phase::Frozen, "AF");
    run.refused(19_100, proof(1, 19_100));
}

/// An agent that starts anew configures the ttl of /config, but renews the lease that it has.
#[test]
fn a_budget_never_counts_on_more_than_was_granted() {
    let mut run = Run::primary();
    run.ok(100, Event::Retune(budget(20_000)));
    let short = Confirmation { sent_at: at(200), ttl: ms(10_000), ..confirmation(1) };
    run.ok(200, Event::Confirm(short));
    assert_eq!(run.guard.deadline(), Some(at(200 + 8900)), "the larger budget waits");
    run.ok(300, Event::Confirm(Confirmation { sent_at: at(300), ttl: ms(20_000), ..short }));
    assert_eq!(run.guard.deadline(), Some(at(300 + 17_800)));
    run.refused(400, Event::Confirm(Confirmation { sent_at: at(400), ..short }));
    assert_eq!(run.guard.deadline(), Some(at(300 + 17_800)));
    run.ok(500, Event::Retune(budget(10_000)));
    run.ok(500, Event::Confirm(Confirmation { sent_at: at(500), ..short }));
    assert_eq!(run.guard.deadline(), Some(at(500 + 8900)));
}

#[test]
fn a_lease_shrinks_at_once_and_grows_with_the_next_confirmation() {
    let mut run = Run::primary();
    run.ok(100, Event::Retune(budget(20_000)));
    assert_eq!(run.guard.deadline(), Some(at(8900)));
    run.ok(200, proof(1, 200));
    assert_eq!(run.guard.deadline(), Some(at(200 + 17_800)));
    run.ok(300, Event::Retune(budget(10_000)));
    assert_eq!(run.guard.deadline(), Some(at(200 + 8900)));
    run.out.clear();
    run.ok(5200, Event::Retune(budget(5000)));
    run.is(Phase::Frozen, "AAF");
}

#[test]
fn a_key_is_released_only_when_nothing_can_acknowledge() {
    let mut run = Run::primary();
    run.refused(100, Event::Release(tenure(1)));
    run.refused(100, Event::Sealed); // nobody told it to stop
    run.ok(100, Event::StopSignal);
    run.refused(100, Event::Release(tenure(1)));
    run.ok(200, Event::Sealed);
    run.refused(200, Event::Release(tenure(2)));
    run.ok(200, Event::Release(tenure(1)));
    run.is(Phase::Sealed, "D");
    run.ok(200, Event::Release(tenure(1)));
    run.refused(201, proof(1, 201));
    run.refused(201, Event::Campaign);
    run.ok(300, group(false, false));
    run.is(Phase::Idle, "D");
    run.ok(300, Event::Campaign);
    run.refused(301, proof(1, 301)); // burned for ever
    run.ok(301, proof(2, 301));

    let mut run = Run::primary();
    run.ok(100, group(false, false));
    run.ok(100, Event::Release(tenure(1)));
    run.is(Phase::Idle, "D");

    let mut run = Run::primary();
    run.ok(8800, Event::StopSignal);
    run.ok(8900, Event::Sealed);
    run.ok(8901, Event::Release(tenure(1)));
    run.is(Phase::Killing, "AFAFK");
}

#[test]
fn pause_suspends_the_deadline_of_its_tenure_only() {
    let mut run = Run::primary();
    run.refused(100, Event::Pause(tenure(2)));
    run.ok(100, Event::Pause(tenure(1)));
    run.is(Phase::Paused, "D");
    run.ok(100_000, Event::Tick);
    run.ok(100_000, Event::LeaseLost(tenure(1)));
    run.ok(100_000, proof(2, 100_000)); // taken again under the record
    run.is(Phase::Paused, "");
    run.ok(100_100, Event::Resume);
    run.is(Phase::Leading, "A");

    let mut run = Run::primary();
    run.ok(100, Event::Pause(tenure(1)));
    run.ok(5000, Event::Resume); // within T1, but older than G
    run.is(Phase::Frozen, "DAF");
    run.ok(5100, proof(1, 5050));
    run.is(Phase::Leading, "AT");
}

#[test]
fn what_was_found_is_frozen_until_it_is_known() {
    let mut run = Run::new();
    run.ok(0, Event::Found);
    run.is(Phase::Frozen, "AF");
    run.ok(1, group(true, true));
    run.ok(2, Event::Adopted { standby: true });
    run.is(Phase::Idle, "DT");

    let mut run = Run::new();
    run.ok(0, Event::Adopted { standby: false });
    run.is(Phase::Frozen, "AF");
    run.ok(1, group(true, true));
    run.ok(1, Event::Campaign);
    run.ok(3, proof(5, 2));
    run.is(Phase::Leading, "AT");

    let mut run = Run::new();
    run.ok(0, Event::Found);
    run.ok(5, group(true, true));
    // freeze_max, and the earlier lease for whose end it may have to wait.
    run.ok(30_000 + BUDGET_MS - 1, Event::Tick);
    run.is(Phase::Frozen, "AF");
    run.ok(30_000 + BUDGET_MS, Event::Tick);
    run.is(Phase::Killing, "AFK");

    // A primary of ours behind its deadline does not pass for a standby.
    let mut run = Run::primary();
    run.ok(8900, Event::Tick);
    run.ok(8901, Event::Adopted { standby: true });
    run.is(Phase::Frozen, "AF");

    // Promoted by hand.
    let mut run = Run::new();
    run.ok(0, Event::StartStandby);
    run.ok(5, Event::Adopted { standby: false });
    run.is(Phase::Frozen, "CAF");
}

#[test]
fn backends_without_a_postmaster_are_killed() {
    let mut run = Run::primary();
    run.ok(100, Event::PostmasterExited);
    assert_eq!(run.guard.wake_at(), Some(at(150)));
    run.refused(120, Event::StartPrimary);
    run.ok(150, Event::Tick);
    run.is(Phase::Leading, "K");
    run.ok(180, group(false, false));
    run.ok(180, proof(1, 180));
    run.ok(180, Event::StartPrimary);
    run.is(Phase::Leading, "AC");
}

#[test]
fn the_data_directory_has_one_user() {
    let mut run = Run::new();
    run.ok(0, Event::StartDataJob);
    run.refused(0, Event::StartDataJob);
    run.refused(0, Event::StartStandby);
    run.refused(0, Event::Goodbye);
    run.ok(0, Event::DataJobEnded);
    run.ok(0, Event::StartStandby);
    run.refused(0, Event::StartDataJob);
    run.refused(0, Event::Goodbye);
    run.ok(0, group(false, false));
    run.ok(0, Event::Goodbye);
}

#[test]
fn only_a_standby_or_a_paused_leader_goes_on_alone() {
    let mut run = Run::primary();
    run.refused(100, Event::Leave);
    run.ok(100, Event::Pause(tenure(1)));
    run.ok(100, Event::Leave);

    let mut run = Run::new();
    run.ok(0, Event::StartStandby);
    run.ok(5, group(true, false));
    run.ok(5, Event::Leave);
    run.ok(10, Event::Campaign);
    run.refused(10, Event::Leave);
}

/// Promises extend a deadline that runs, and nothing else.
#[test]
fn promises_extend_only_a_running_deadline() {
    let promise = |n, sent_ms| Event::Extend(tenure(n), at(sent_ms));
    let mut run = Run::primary();
    run.refused(3000, promise(2, 2000));
    run.refused(3000, promise(1, 4000));
    run.ok(3000, promise(1, 2000));
    run.is(Phase::Leading, "A");
    assert_eq!(run.guard.deadline(), Some(at(2000).plus(budget(BUDGET_MS).t1)));
    assert_eq!(run.guard.lease().map(|l| (l.sent_at, l.ttl)), Some((at(2000), ms(BUDGET_MS))));
    run.refused(3000, promise(1, 1000));
    // Again and again, far beyond the lease itself.
    for second in 1..60 {
        run.ok(3000 + second * 1000, promise(1, 2500 + second * 1000));
    }
    run.is(Phase::Leading, &"A".repeat(59));
    // The store answers: the key ran out and was taken again, another tenure of ours.
    run.ok(63_000, proof(5, 62_900));
    run.is(Phase::Leading, "A");
    run.refused(63_100, promise(1, 63_050));

    let mut late = Run::primary();
    let deadline_ms = 8900;
    late.refused(deadline_ms, promise(1, deadline_ms - 100));
    late.is(Phase::Frozen, "AF");
    late.ok(deadline_ms + 20, group(true, true));
    late.refused(deadline_ms + 30, promise(1, deadline_ms + 25));
    // Only the store's word thaws.
    late.out.clear();
    late.ok(deadline_ms + 50, proof(1, deadline_ms + 40));
    late.is(Phase::Leading, "AT");
    let mut candidate = Run::new();
    candidate.refused(0, promise(1, 0));
}
