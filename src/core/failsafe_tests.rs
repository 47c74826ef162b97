//! Failsafe mode: who may ask, who may promise, who may campaign, and what a lost key means.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, Handover, Keyed, LeaderKey, NewestTimeline, PauseRecord, SyncState};
use super::decide::decide;
use super::decide_tests::{NOW, TENURE, cluster, leader, view};
use super::decision::{Action, RecordIs};
use super::failsafe::{Bound, PROMISE_MAX, Plea, Refusal, bars, promise, whom_to_ask};
use super::guard::Phase;
use super::lsn::Lsn;
use super::time::Boot;
use super::trust::Doubt;
use super::view::{Seen, View};

const WRITTEN: i64 = 50;
const SECOND: Duration = Duration::from_secs(1);

/// All three are named in `/failsafe` and registered with a URL.
fn listed() -> Cluster {
    let mut cluster = cluster();
    for member in cluster.members.values_mut() {
        member.api_url = format!("http://{}:8008/patroni", member.name);
    }
    let value = cluster.members.values().map(|m| (m.name.clone(), m.api_url.clone())).collect();
    cluster.failsafe = Some(Keyed { value, mod_revision: WRITTEN });
    cluster
}

fn seeing(mut view: View, cluster: Cluster) -> View {
    view.settings.failsafe_mode = true;
    view.store.cluster = Some(Seen { value: Arc::new(cluster), at: view.now });
    view
}

/// Alpha leads and wrote the key itself.
fn safe() -> View {
    let mut view = seeing(leader(), listed());
    view.store.failsafe.settled = Some(WRITTEN);
    view.guard.deadline = Some(NOW.plus(SECOND * 26));
    view
}

/// Beta, in a vacancy that it would race for.
fn racing() -> View {
    let mut view = seeing(view("beta", false), Cluster { leader: None, ..listed() });
    view.memory.vacant_since = Some(NOW);
    view
}

fn edited(view: &View, edit: impl FnOnce(&mut Cluster)) -> View {
    let mut cluster = view.cluster().unwrap().clone();
    edit(&mut cluster);
    seeing(view.clone(), cluster)
}

#[test]
fn the_leader_keeps_the_key_up_to_date() {
    let quiet = safe();
    assert_eq!(decide(&quiet).rule, "leader.steady");
    let members = listed().failsafe.unwrap().value;
    let write = |revision, members| Action::WriteFailsafe { tenure: TENURE, revision, members };
    let wanted = vec![write(WRITTEN, Some(members.clone()))];
    // A new agent writes it again, though it is right: a write of the old one may be under way.
    let mut new = safe();
    new.store.failsafe.settled = None;
    assert_eq!((decide(&new).rule, decide(&new).actions), ("leader.failsafe_key", wanted.clone()));
    // So does this one, if what it wrote last may be under way still, though it is right now.
    let mut late = safe();
    late.memory.failsafe_wrote = Some(WRITTEN);
    assert_eq!(decide(&late).actions, wanted);
    late.memory.failsafe_wrote = Some(WRITTEN - 1);
    assert_eq!(decide(&late).rule, "leader.steady");
    let foreign = edited(&safe(), |c| c.failsafe.as_mut().unwrap().mod_revision += 1);
    assert_eq!(decide(&foreign).actions, [write(WRITTEN + 1, Some(members.clone()))]);
    let absent = edited(&safe(), |c| c.failsafe = None);
    assert_eq!(decide(&absent).actions, [write(0, Some(members))]);
    let gone = edited(&safe(), |c| drop(c.members.remove("gamma")));
    let [Action::WriteFailsafe { members: Some(fewer), .. }] = &decide(&gone).actions[..] else {
        panic!("{:?}", decide(&gone));
    };
    assert!(!fewer.contains_key("gamma") && fewer.len() == 2);
    // Our own member key is not there yet.
    let early = edited(&safe(), |c| drop(c.members.remove("alpha")));
    assert_eq!(decide(&early).rule, "leader.steady");
    let mut off = safe();
    off.settings.failsafe_mode = false;
    assert_eq!(decide(&off).actions, [write(WRITTEN, None)]);
}

type Change = fn(&mut View);

fn restored() -> Doubt {
    Doubt { why: "restored".to_owned(), since: Boot(0), cluster_id: 2 }
}

#[test]
fn promises_are_sought_only_where_they_prove_something() {
    let asked: Vec<String> = whom_to_ask(&safe()).unwrap().into_keys().collect();
    assert_eq!(asked, ["beta", "gamma"]);
    let doubts: [(&str, Change); 10] = [
        ("the mode is off", |v| v.settings.failsafe_mode = false),
        ("another write may be under way", |v| v.memory.failsafe_wrote = Some(WRITTEN)),
        ("our write may be under way", |v| v.store.failsafe.settled = None),
        ("somebody else wrote it", |v| v.store.failsafe.settled = Some(WRITTEN - 1)),
        ("the store is not believed", |v| v.store.doubt = Some(restored())),
        ("frozen", |v| v.guard.phase = Phase::Frozen),
        ("paused", |v| v.guard.phase = Phase::Paused),
        ("burned", |v| v.guard.burned = v.guard.tenure),
        ("nobody promises that long", |v| v.settings.ttl = PROMISE_MAX + SECOND),
        ("a Patroni", |v| *v = edited(v, |c| c.members.get_mut("beta").unwrap().vigil = false)),
    ];
    for (doubt, apply) in doubts {
        let mut view = safe();
        apply(&mut view);
        assert_eq!(whom_to_ask(&view), None, "{doubt}");
    }
    let alone = edited(&safe(), |c| c.failsafe.as_mut().unwrap().value.retain(|n, _| n == "alpha"));
    assert_eq!(whom_to_ask(&alone).map(|others| others.len()), Some(0));
}

#[test]
fn a_member_promises_only_what_it_can_keep() {
    let plea = Plea { name: "alpha".into(), ttl: Some(SECOND * 30) };
    let replica = || seeing(view("beta", false), listed());
    let bound = |seconds| Bound { to: "alpha".into(), until: NOW.plus(SECOND * seconds) };
    assert_eq!(promise(&replica(), &plea, false), Ok(bound(30)));
    assert_eq!(promise(&replica(), &plea, true), Err(Refusal::Campaigns));
    let patroni = Plea { ttl: None, ..plea.clone() };
    assert_eq!(promise(&replica(), &patroni, false), Ok(bound(30)));
    let longer = Plea { ttl: Some(PROMISE_MAX), ..plea.clone() };
    assert_eq!(promise(&replica(), &longer, false), Ok(bound(60)));
    let cases: [(Change, Refusal); 8] = [
        (|v| v.settings.failsafe_mode = false, Refusal::Off),
        (|v| v.guard.phase = Phase::Leading, Refusal::Leads),
        (|v| v.guard.phase = Phase::Paused, Refusal::Leads),
        (|v| v.guard.phase = Phase::Frozen, Refusal::Leads),
        (|v| v.guard.phase = Phase::Candidate, Refusal::Campaigns),
        (|v| v.server.probe = leader().server.probe, Refusal::Leads),
        (
            |v| *v = edited(v, |c| c.leader.as_mut().unwrap().name = "gamma".into()),
            Refusal::Other("gamma".into()),
        ),
        (
            |v| {
                let bound = Bound { to: "gamma".into(), until: v.now.plus(SECOND) };
                v.store.failsafe.bound = Some(bound);
            },
            Refusal::Other("gamma".into()),
        ),
    ];
    for (apply, expected) in cases {
        let mut view = replica();
        apply(&mut view);
        assert_eq!(promise(&view, &plea, false), Err(expected));
    }
    let endless = Plea { ttl: Some(PROMISE_MAX + SECOND), ..plea.clone() };
    assert_eq!(promise(&replica(), &endless, false), Err(Refusal::TooLong));
    // A new promise never ends before an older one.
    let mut bound_longer = replica();
    bound_longer.store.failsafe.bound = Some(bound(60));
    assert_eq!(promise(&bound_longer, &plea, false), Ok(bound(60)));
    // A view from long ago tells nothing of who leads now.
    let mut blind = edited(&replica(), |c| c.leader.as_mut().unwrap().name = "gamma".into());
    blind.now = NOW.plus(SECOND * 31);
    assert!(promise(&blind, &plea, false).is_ok());
}

#[test]
fn who_promised_or_is_not_named_does_not_campaign() {
    let campaigns = |view: &View| decide(view).actions.contains(&Action::Campaign);
    assert!(campaigns(&racing()));
    let why = |view: &View| bars(view).map(|(why, _)| why).unwrap_or_default();

    let mut bound = racing();
    let until = NOW.plus(SECOND * 3);
    bound.store.failsafe.bound = Some(Bound { to: "alpha".into(), until });
    assert!(!campaigns(&bound) && decide(&bound).why.contains("leads without etcd"));
    // Whatever the mode is now: a promise is a promise.
    bound.settings.failsafe_mode = false;
    assert!(!campaigns(&bound));
    (bound.now, bound.peers_asked_at) = (until, Some(until));
    assert!(campaigns(&bound));

    let unnamed = edited(&racing(), |c| drop(c.failsafe.as_mut().unwrap().value.remove("beta")));
    assert!(!campaigns(&unnamed) && why(&unnamed).contains("not named"), "{}", why(&unnamed));
    // What a Patroni left there counts only while the mode is on.
    let mut left = unnamed.clone();
    left.settings.failsafe_mode = false;
    assert!(bars(&left).is_some());
    let mut seen = unnamed.cluster().unwrap().clone();
    seen.members.get_mut("gamma").unwrap().vigil = false;
    left.store.cluster = Some(Seen { value: Arc::new(seen), at: left.now });
    assert_eq!(bars(&left), None);
    left.settings.failsafe_mode = true;
    assert!(bars(&left).is_some());
    let garbage = edited(&racing(), |c| c.failsafe.as_mut().unwrap().value.clear());
    assert!(campaigns(&garbage));

    let mut young = racing();
    young.store.failsafe.started_at = NOW.minus(SECOND);
    assert!(!campaigns(&young) && why(&young).contains("earlier run"));
    young.store.failsafe.started_at = NOW.minus(PROMISE_MAX);
    assert!(campaigns(&young));
    young.store.failsafe.started_at = NOW;
    let alone = edited(&young, |c| c.failsafe.as_mut().unwrap().value.retain(|n, _| n == "beta"));
    assert!(campaigns(&alone));
    assert!(campaigns(&edited(&young, |c| c.failsafe = None)));
}

/// The sealed leader itself gives the key to who promised it not to take it.
#[test]
fn a_hand_over_needs_no_patience() {
    let note = Handover {
        from: "alpha".into(),
        to: "beta".into(),
        lsn: Lsn(100),
        leader_mod_revision: TENURE.mod_revision,
    };
    let mut view = seeing(view("beta", false), listed());
    view = edited(&view, |c| c.handover = Some(Keyed { value: note, mod_revision: 90 }));
    view.store.failsafe.bound = Some(Bound { to: "alpha".into(), until: NOW.plus(SECOND * 20) });
    let decision = decide(&view);
    assert_eq!((decision.rule, decision.actions), ("follow.take_over", vec![Action::Campaign]));
}

#[test]
fn a_key_that_ran_out_under_promises_is_taken_again() {
    let vacant = || edited(&safe(), |c| c.leader = None);
    let mut carried = vacant();
    carried.store.failsafe.promised_at = carried.guard.sent_at;
    let retake = Action::AcquireLeader { sync_revision: None, record: RecordIs::Absent };
    let decision = decide(&carried);
    assert_eq!((decision.rule, decision.actions), ("failsafe.retake", vec![retake]));
    // In a pause of the promises, and in each doubt, an absent key is proof of loss as ever.
    let doubts: [(&str, Change); 5] = [
        ("no promise", |v| v.store.failsafe.promised_at = None),
        ("the lease was confirmed since", |v| {
            v.store.failsafe.promised_at = v.guard.sent_at.map(|s| s.minus(SECOND));
        }),
        ("the deadline is over", |v| v.guard.deadline = Some(v.now)),
        ("the list was changed", |v| {
            *v = edited(v, |c| c.failsafe.as_mut().unwrap().mod_revision += 1);
        }),
        ("another leads", |v| {
            let key = LeaderKey { name: "beta".into(), lease_id: 8, mod_revision: 99 };
            *v = edited(v, |c| c.leader = Some(key));
        }),
    ];
    for (doubt, apply) in doubts {
        let mut view = carried.clone();
        apply(&mut view);
        assert_eq!(decide(&view).rule, "safety.lost", "{doubt}");
    }
}

#[test]
fn without_the_store_promises_keep_the_leader_going() {
    let mut silent = safe();
    silent.now = NOW.plus(SECOND * 15);
    silent.store.failing_since = Some(NOW);
    silent.guard.sent_at = Some(NOW.plus(SECOND * 10));
    silent.store.failsafe.promised_at = silent.guard.sent_at;
    silent.guard.deadline = Some(NOW.plus(SECOND * 36));
    let decision = decide(&silent);
    assert_eq!(decision.rule, "leader.failsafe");
    assert!(decision.why.starts_with("continue to run as a leader because failsafe mode"));
    assert_eq!(decision.renew_until, silent.now.plus(silent.settings.ttl));
}

/// A second after beta asked: what it does then, carrying over what it knew.
fn a_second_later(before: &View, change: impl FnOnce(&mut View)) -> Vec<Action> {
    let mut view = before.clone();
    view.memory = decide(before).memory;
    view.peers_asked_at = Some(before.now);
    view.now = before.now.plus(SECOND);
    change(&mut view);
    decide(&view).actions
}

#[test]
fn positions_count_if_nobody_can_have_led_since_they_were_asked_for() {
    let before = racing();
    assert_eq!(a_second_later(&before, |_| {}), [Action::Campaign]);
    // While a promise holds the leader acknowledges, with others than those that answered.
    let mut bound = before.clone();
    let until = before.now.plus(SECOND);
    bound.store.failsafe.bound = Some(Bound { to: "alpha".into(), until });
    assert_eq!(a_second_later(&bound, |_| {}), [Action::AskPeers]);
    // So did somebody who had the key between two looks.
    let taken = |v: &mut View| {
        let newest = NewestTimeline { number: 3, leader_mod_revision: 70 };
        *v = edited(v, |c| c.newest_timeline = Some(Keyed { value: newest, mod_revision: 70 }));
    };
    assert_eq!(a_second_later(&before, taken), [Action::AskPeers]);
    let paused = |v: &mut View| {
        let value = PauseRecord { leader: "gamma".into(), stopped: true, ..PauseRecord::default() };
        *v = edited(v, |c| c.pause_record = Some(Keyed { value, mod_revision: 72 }));
    };
    assert_eq!(a_second_later(&before, paused), [Action::AskPeers]);
    let patroni = |v: &mut View| {
        let value = SyncState::default();
        *v = edited(v, |c| c.sync = Some(Keyed { value, mod_revision: 71 }));
    };
    assert_eq!(a_second_later(&before, patroni), [Action::AskPeers]);
}
