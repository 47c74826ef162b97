//! What hangs or fails has an end, and what is well is left alone.

use std::time::Duration;

use super::tests::{at, peer, view};
use crate::core::candidates::{Verdict, verdict};
use crate::core::database::{ControlState, DataDir, WalSender};
use crate::core::decide::decide;
use crate::core::decision::Action;
use crate::core::guard::Phase;
use crate::core::health::{Ailing, Health, Illness, Place, findings, fit};
use crate::core::lsn::Lsn;
use crate::core::view::*;

const LONG: Duration = Duration::from_secs(3600);

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn ailing(illness: Illness, lasting: Duration) -> Option<Ailing> {
    Some(Ailing { place: Place::DataDirectory, illness, lasting })
}

/// The leader, for an hour; b answered a moment ago and has everything.
fn leader(health: Health) -> View {
    let mut v = view(Some("a"), false);
    v.now = at(3_600_000);
    v.memory.led_since = Some(at(0));
    v.guard.sent_at = Some(v.now);
    v.store.lease =
        Some(OwnLease { id: 7, ttl: v.settings.ttl, asked: v.settings.ttl, renewed_at: v.now });
    v.store.cluster.as_mut().expect("known").at = v.now;
    v.peers.insert("b".into(), peer(2, 0x1000));
    v.peers_asked_at = Some(v.now);
    v.health = health;
    v
}

fn hung(unanswered: Duration) -> Health {
    Health { unanswered, ..Health::default() }
}

/// After the kill: nothing is left, the tenure has ended, the key carries our lease.
fn killed(mut v: View, memory: Memory) -> View {
    v.memory = memory;
    v.guard.phase = Phase::Fenced;
    v.guard.tenure = None;
    v.guard.populated = false;
    v.server.postmaster = None;
    v.server.probe = None;
    v.health = Health::default();
    v
}

fn fences(actions: &[Action]) -> bool {
    matches!(actions, [Action::Fence { .. }])
}

#[test]
fn a_server_that_does_not_answer_is_killed_and_the_key_given_up() {
    for health in [hung(seconds(10)), Health { unwritten: seconds(30), ..Health::default() }] {
        let mut v = leader(health);
        v.peers_asked_at = None;
        assert_eq!(decide(&v).actions, [Action::AskPeers], "first of all who could take over");
        v.peers_asked_at = Some(v.now);
        let d = decide(&v);
        assert!(d.rule == "health.hung" && fences(&d.actions), "{} {:?}", d.rule, d.actions);
        let d = decide(&killed(v.clone(), d.memory));
        let tenure = v.guard.tenure.expect("it led");
        assert_eq!((d.rule, d.actions), ("health.yield", vec![Action::Release { tenure }]));
        assert!(!d.memory.yielding);
    }
}

#[test]
fn nothing_happens_too_early_or_where_it_is_forbidden() {
    let early = [
        hung(seconds(9)),
        Health { unwritten: seconds(29), ..Health::default() },
        Health { volume: ailing(Illness::Hung, seconds(29)), ..Health::default() },
    ];
    for health in early {
        assert_eq!(decide(&leader(health)).rule, "leader.steady", "{health:?}");
    }
    let volume = ailing(Illness::Hung, LONG);
    let worst = Health { unanswered: LONG, unwritten: LONG, volume, ..Health::default() };
    let mut v = leader(worst);
    v.settings.health.storage = Duration::ZERO;
    assert_eq!(decide(&v).rule, "leader.steady", "who waits for a volume is no server's fault");
    v = leader(hung(LONG));
    v.settings.health.answer = Duration::ZERO;
    assert_eq!(decide(&v).rule, "leader.steady", "switched off");
    v = leader(hung(LONG));
    v.settings.paused = true;
    assert!(!fences(&decide(&v).actions), "paused");
    v = leader(worst);
    v.guard.phase = Phase::Paused;
    assert!(!fences(&decide(&v).actions), "paused by the record");
}

#[test]
fn without_a_candidate_a_hung_server_is_restarted_a_few_times() {
    let mut v = leader(hung(seconds(10)));
    v.peers.clear();
    assert_eq!(decide(&v).rule, "leader.steady", "more patience: sessions may still work");
    v.health = hung(seconds(30));
    let d = decide(&v);
    assert!(fences(&d.actions) && !d.memory.yielding, "{}", d.why);
    let restarted = decide(&killed(v.clone(), d.memory.clone()));
    assert_eq!(restarted.rule, "leader.reclaim", "the key is kept");
    v.memory = d.memory;
    for _ in 0..2 {
        v.memory = decide(&v).memory;
    }
    assert_eq!(decide(&v).rule, "leader.steady", "three within an hour are enough");
    v.now = v.now.plus(LONG);
    v.peers_asked_at = Some(v.now);
    assert!(fences(&decide(&v).actions), "the next hour");
}

#[test]
fn the_key_is_not_passed_around() {
    let mut v = leader(hung(seconds(10)));
    v.memory.led_since = Some(v.now.minus(seconds(299)));
    assert_eq!(decide(&v).rule, "leader.steady", "it has just come");
    v.memory.led_since = Some(at(0));
    v.memory.gave_up_at = Some(v.now.minus(seconds(299)));
    assert_eq!(decide(&v).rule, "leader.steady", "it was just tried");
    v.memory.gave_up_at = None;
    v.peers.get_mut("b").expect("asked").unfit = true;
    assert_eq!(decide(&v).rule, "leader.steady", "the candidate is no better");
}

#[test]
fn a_hung_volume_is_fenced_and_the_lease_left_to_expire() {
    let mut v = leader(Health { volume: ailing(Illness::Hung, seconds(30)), ..Health::default() });
    let d = decide(&v);
    assert!(d.rule == "health.volume" && fences(&d.actions), "{}", d.why);
    v.memory = d.memory;
    v.guard.phase = Phase::Killing;
    let d = decide(&v);
    assert!(d.rule == "safety.killing" && d.renew_until > v.now, "a kill takes its time");
    v.memory = d.memory;
    v.now = v.now.plus(seconds(5));
    let d = decide(&v);
    assert_eq!(d.renew_until, v.now, "{}", d.why);
    // The disk is back before the lease has run out.
    let d = decide(&killed(v, d.memory));
    assert_eq!(d.rule, "health.yield");
    assert!(d.renew_until > at(0));
}

#[test]
fn a_full_or_read_only_volume_is_left_without_losing_a_commit() {
    for illness in [Illness::Full, Illness::ReadOnly, Illness::Failing(5)] {
        let health = Health { volume: ailing(illness, seconds(30)), ..Health::default() };
        let mut v = leader(health);
        let d = decide(&v);
        assert_eq!((d.rule, &d.actions[..]), ("health.volume", &[Action::StopFast][..]));
        assert_eq!(d.memory.switchover.as_ref().map(|s| &*s.to), Some("b"));
        // The shutdown checkpoint could not be written: it crashed instead.
        v.memory = d.memory;
        v.server.postmaster = None;
        v.server.probe = None;
        v.guard.populated = false;
        let d = decide(&v);
        let tenure = v.guard.tenure.expect("it leads");
        assert_eq!((d.rule, d.actions), ("leader.hand_over", vec![Action::Release { tenure }]));
        assert_eq!(d.memory.switchover, None, "there is no note to wait for");
        v.peers.clear();
        let d = decide(&v);
        assert_eq!(d.actions, [Action::StartPrimary], "nobody else: it is tried here");
    }
}

/// Without a receiver a standby tells the timeline of its last restart point.
#[test]
fn who_streamed_from_us_may_succeed_us_right_after_our_promotion() {
    let full = Health { volume: ailing(Illness::ReadOnly, seconds(3)), ..Health::default() };
    let sender = WalSender {
        application_name: "b".into(),
        state: "streaming".into(),
        ..WalSender::default()
    };
    let streamed = leader(full).with_probe(|p| p.wal_senders = vec![sender]);
    for (alive, expected) in [(streamed, "leader.hand_over"), (leader(full), "leader.start")] {
        let memory = decide(&alive).memory;
        let mut v = alive.stopped(ControlState::InProduction);
        v.memory = memory;
        v.peers.insert("b".into(), peer(1, 0x1000));
        assert_eq!(decide(&v).rule, expected);
    }
}

#[test]
fn starts_that_fail_come_ever_more_seldom() {
    let mut v = leader(Health::default());
    v.peers.clear();
    v.server.postmaster = None;
    v.server.probe = None;
    v.guard.populated = false;
    let mut starts = Vec::new();
    for second in 0..300 {
        v.now = at(3_600_000 + second * 1000);
        v.guard.sent_at = Some(v.now);
        v.peers_asked_at = Some(v.now);
        let d = decide(&v);
        v.memory = d.memory;
        if d.actions.contains(&Action::StartPrimary) {
            starts.push(second);
            // PANIC: No space left on device.
            let at = v.now.plus(Duration::from_millis(500));
            v.server.last_exit = Some(LastExit { pid: 9, at, permitted: true, clean: false });
        }
    }
    assert_eq!(starts, [0, 2, 6, 14, 30, 62, 126, 190, 254]);
}

#[test]
fn a_standby_is_restarted_only_if_its_postmaster_is_silent() {
    let mut v = view(Some("b"), true);
    v.health = hung(seconds(29));
    let usual = decide(&v).rule;
    assert!(usual.starts_with("follow."), "{usual}");
    v.health = hung(seconds(30));
    let d = decide(&v);
    assert!(d.rule == "health.standby" && fences(&d.actions), "{}", d.why);
    for volume in [ailing(Illness::ReadOnly, LONG), ailing(Illness::Hung, LONG)] {
        v.health = Health { volume, ..Health::default() };
        assert_eq!(decide(&v).rule, usual, "a restart helps no volume");
        v.health.unanswered = LONG;
        let hangs = volume.is_some_and(|a| a.illness == Illness::Hung);
        assert_eq!(decide(&v).rule, if hangs { usual } else { "health.standby" });
    }
}

#[test]
fn replay_and_receiver_that_stand_still_are_shown() {
    let mut v = view(Some("b"), true).with_probe(|p| {
        p.receive_lsn = Some(Lsn(0x2000));
    });
    let usual = decide(&v).rule;
    v = v.with_cluster(|c| c.status.optime = Some(Lsn(0x3000)));
    for second in 0..=60 {
        v.now = at(second * 1000);
        let d = decide(&v);
        assert!(d.rule == usual && !fences(&d.actions), "{}", d.why);
        v.memory = d.memory;
    }
    let what: Vec<String> = findings(&v).into_iter().map(|f| f.what).collect();
    assert!(what[0].starts_with("replay stands still at 0/1000"), "{what:?}");
    assert!(what[1].starts_with("nothing is received after 0/2000"), "{what:?}");
    // It has all of it, from before its receiver was started anew.
    let mut there = v.clone().with_probe(|p| p.replay_lsn = Some(Lsn(0x3000)));
    there.memory = decide(&there).memory;
    assert_eq!(findings(&there), []);
    v = v.with_probe(|p| {
        p.receive_lsn = Some(Lsn(0x2001));
        p.replay_paused = true;
    });
    v.memory = decide(&v).memory;
    assert_eq!(findings(&v), [], "it moves, and a pause is no hang");
}

#[test]
fn an_unfit_standby_leaves_the_race_to_others_if_there_are_any() {
    let mut v = view(None, true);
    v.memory.vacant_since = Some(at(0));
    v.peers_asked_at = Some(at(0));
    // b is behind: it would have lost.
    v.peers.insert("b".into(), peer(2, 0x900));
    assert_eq!(verdict(&v), Verdict::Run);
    v.health.volume = ailing(Illness::ReadOnly, seconds(3));
    assert!(!fit(&v.health) && matches!(verdict(&v), Verdict::StayBack(_)));
    v.peers.get_mut("b").expect("there").unfit = true;
    assert_eq!(verdict(&v), Verdict::Run, "nobody is better");
    v.health.volume = None;
    v.peers.insert("b".into(), PeerAnswer { unfit: true, ..peer(2, 0x2000) });
    assert_eq!(verdict(&v), Verdict::Run, "the best position on a sick disk does not count");
}

#[test]
fn a_stop_does_not_wait_for_a_postmaster_that_hears_nothing() {
    let mut v = leader(hung(seconds(30)));
    v.wishes.stop = true;
    v.server.postmaster.as_mut().expect("runs").stopping_since = Some(at(3_500_000));
    let d = decide(&v);
    assert!(d.rule == "stop.waiting" && fences(&d.actions), "{}", d.why);
    let mut v = killed(v, d.memory);
    let control = view(Some("a"), false).stopped(ControlState::InProduction).server.data_dir;
    v.server.data_dir = control.filter(|dir| matches!(dir, DataDir::Cluster { .. }));
    let d = decide(&v);
    assert!(matches!(d.actions[..], [Action::Release { .. }]), "{} {:?}", d.rule, d.actions);
}

#[test]
fn a_required_device_that_fails_is_handed_over_not_suffered() {
    let unwatched = |s| Health { unwatched: seconds(s), ..Health::default() };
    let mut v = leader(unwatched(10));
    // Also one that has led for a moment only: its machine may be reset at any instant.
    v.memory.led_since = Some(v.now);
    let decision = decide(&v);
    assert_eq!(
        (decision.rule, &decision.actions[..]),
        ("health.watchdog", &[Action::StopFast][..])
    );
    assert_eq!(decision.memory.switchover.map(|s| s.to), Some("b".to_owned()));
    assert_eq!(findings(&v).len(), 1);
    // The key came back, and the device fails again: members do not pass it around.
    v.memory.gave_up_at = Some(v.now.minus(seconds(299)));
    assert_eq!(decide(&v).rule, "leader.steady", "it was just tried");
    v.memory.gave_up_at = Some(v.now.minus(seconds(300)));
    assert_eq!(decide(&v).memory.gave_up_at, Some(v.now));
    v.memory.gave_up_at = None;
    // One ping that failed: the next one comes first.
    v.health = unwatched(3);
    assert_ne!(decide(&v).rule, "health.watchdog");
    v.health = unwatched(10);
    v.settings.paused = true;
    assert_ne!(decide(&v).rule, "health.watchdog", "paused");
    v.settings.paused = false;
    // What hangs cannot be switched over in good order.
    v.memory.led_since = Some(at(0));
    v.health.unanswered = LONG;
    assert_eq!(decide(&v).rule, "health.hung");
    // The database stays up where nobody can take over; it is shown.
    v.health = unwatched(10);
    v.peers.clear();
    assert_ne!(decide(&v).rule, "health.watchdog");
    assert_eq!(findings(&v).len(), 1);
}

#[test]
fn a_server_that_refuses_us_is_not_starting() {
    let mut v = leader(Health::default());
    v.server.probe = None;
    v.memory.starting_since = Some(at(0));
    v.server.refused = Some(("no pg_hba.conf entry".to_owned(), at(0)));
    let decision = decide(&v);
    // However long it lasts: it may serve everybody else.
    assert_eq!((decision.rule, decision.actions.len()), ("leader.starting", 0));
    assert!(decision.why.contains("no pg_hba.conf entry"), "{}", decision.why);
    assert!(findings(&v)[0].what.contains("no pg_hba.conf entry"));
    // One that listens elsewhere serves nobody who looks for it here.
    v.server.refused = None;
    v.server.unreached = Some(("it listens on port 5433".to_owned(), at(0)));
    let decision = decide(&v);
    assert!(matches!(decision.actions[..], [Action::StopImmediate]), "{decision:?}");
    assert!(findings(&v)[0].what.contains("port 5433"));
    v.memory.starting_since = None;
    let decision = decide(&v);
    assert_eq!((decision.rule, decision.actions.len()), ("leader.starting", 0));
    assert!(decision.why.contains("not reached: it listens on port 5433"), "{}", decision.why);
    v.server.unreached = None;
    assert_eq!(decide(&v).why, "PostgreSQL is still starting");
}
