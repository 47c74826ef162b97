//! The arithmetic of `/sync` against brute force, and the steps of a leader against a server that
//! does what it is told.

use super::super::candidates;
use super::super::cluster::Keyed;
use super::super::decide_tests::{TENURE, view};
use super::super::lsn::Lsn;
use super::super::view::{Memory, PeerAnswer};
use super::*;
use std::sync::Arc;

const ALL: [&str; 4] = ["a", "b", "c", "d"];

fn list(set: u32) -> Vec<String> {
    let members = ALL.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0);
    members.map(|(_, name)| (*name).to_owned()).collect()
}

fn set(names: &[String]) -> u32 {
    names.iter().filter_map(|n| ALL.iter().position(|a| a == n)).fold(0, |set, i| set | 1 << i)
}

fn names(of: u32, count: u32) -> SyncNames {
    SyncNames { kind: Kind::Any, count, names: list(of) }
}

fn key(voters: u32, quorum: u32) -> SyncState {
    SyncState { leader: Some("x".into()), standbys: list(voters), quorum }
}

/// Every set of voters under which one of them can win.
fn winning(key: &SyncState) -> Vec<u32> {
    let voters = set(&key.standbys);
    let all = (0..16u32).filter(|w| w & !voters == 0 && w.count_ones() == key.quorum + 1);
    all.collect()
}

/// No commit under these names can be missing from a winner, told set by set.
fn safe(key: &SyncState, names: &SyncNames) -> bool {
    let of = set(&names.names);
    let waited = (0..16u32).filter(|k| k & !of == 0 && k.count_ones() == names.count);
    let waited: Vec<u32> = waited.collect();
    winning(key).iter().all(|w| waited.iter().all(|k| w & k != 0))
}

#[test]
fn what_covers_is_what_brute_force_finds_safe() {
    for s in 1..16u32 {
        for count in 1..=s.count_ones() {
            for v in 0..16u32 {
                for quorum in 0..v.count_ones().max(1) {
                    let (names, key) = (names(s, count), key(v, quorum));
                    let covers = names.covers(&key);
                    assert!(!covers || safe(&key, &names), "{names:?} {key:?}");
                    // The leader cannot tell more than the sizes: where no voter is outside of
                    // the names the condition is exact.
                    assert!(covers || v & !s != 0 || !safe(&key, &names), "{names:?} {key:?}");
                }
            }
        }
    }
}

#[test]
fn a_tightened_key_lets_nobody_win_who_could_not_before() {
    let mut kept = 0;
    for (s, v, then) in triples() {
        for (count, quorum, later) in numbers(s, v, then) {
            let (now, before) = (names(s, count), key(v, quorum));
            if !now.covers(&before) {
                continue;
            }
            for plain in [false, true] {
                let target = Target {
                    key: key(then, then.count_ones() - later),
                    names: Some(names(then, later)),
                };
                let after = tightened(&before, Some(&now), &target, plain);
                let case = format!("{before:?} {now:?} -> {:?}: {after:?}", target.names);
                assert!(safe(&after, &now) && safe(&after, &names(then, later)), "{case}");
                for w in winning(&after) {
                    let among = (w & set(&before.standbys)).count_ones();
                    assert!(!before.standbys.is_empty() && among > before.quorum, "{case}");
                }
                assert!(!plain || after.quorum == 0, "{case}");
                kept += usize::from(!after.standbys.is_empty());
            }
        }
    }
    assert!(kept > 1000, "most changes leave somebody who can win: {kept}");
}

fn triples() -> impl Iterator<Item = (u32, u32, u32)> {
    (1..16).flat_map(|s| (0..16).flat_map(move |v| (1..16).map(move |t| (s, v, t))))
}

fn numbers(s: u32, v: u32, then: u32) -> Vec<(u32, u32, u32)> {
    let mut all = Vec::new();
    for count in 1..=s.count_ones() {
        for quorum in 0..v.count_ones().max(1) {
            for later in 1..=then.count_ones() {
                all.push((count, quorum, later));
            }
        }
    }
    all
}

/// The primary x and its standbys, at these flush positions; 100 is the primary's.
fn primary(mode: SyncMode, count: u32, standbys: &[(&str, u64)]) -> View {
    let mut v = view("x", true);
    v.settings.synchronous_mode = mode;
    v.settings.synchronous_node_count = count;
    let mut cluster = v.cluster().cloned().unwrap_or_default();
    cluster.members.clear();
    if let Some(leader) = &mut cluster.leader {
        leader.name = "x".into();
    }
    for name in ALL {
        let member = Member { name: name.into(), state: "running".into(), ..Member::default() };
        cluster.members.insert(name.into(), member);
    }
    let at = v.now;
    v.store.cluster = Some(super::super::view::Seen { value: Arc::new(cluster), at });
    streaming(&mut v, standbys);
    v
}

fn streaming(v: &mut View, standbys: &[(&str, u64)]) {
    with_probe(v, |p| {
        p.checkpointer_idle = true;
        p.wal_senders = standbys
            .iter()
            .map(|(name, lsn)| WalSender {
                application_name: (*name).into(),
                state: "streaming".into(),
                sync_state: "sync".into(),
                flush_lsn: Some(Lsn(*lsn)),
                ..WalSender::default()
            })
            .collect();
    });
}

fn with_probe(v: &mut View, change: impl FnOnce(&mut Probe)) {
    let seen = v.server.probe.as_mut().expect("a probe");
    let mut probe = (*seen.value).clone();
    change(&mut probe);
    seen.value = Arc::new(probe);
}

/// Carries the steps out until there is none; what was written, in order.
fn walk(v: &mut View) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..12 {
        let Some(step) = step(v) else { return said };
        remember(&step.action, v.now, &mut v.memory);
        v.now = v.now.plus(Duration::from_secs(2));
        match step.action {
            Action::WriteSync { state, revision, tenure } => {
                assert_eq!(tenure, TENURE);
                said.push(format!("{} q{}", state.standbys.join(","), state.quorum));
                let mut cluster = v.cluster().cloned().unwrap_or_default();
                cluster.sync = Some(Keyed { value: state, mod_revision: revision + 1 });
                let at = v.now;
                v.store.cluster = Some(super::super::view::Seen { value: Arc::new(cluster), at });
            }
            Action::SetSyncNames { names } => {
                said.push(format!("'{names}'"));
                with_probe(v, |p| p.synchronous_standby_names = names);
            }
            other => panic!("{other:?}"),
        }
        if let Some(seen) = &mut v.server.probe {
            seen.at = v.now;
        }
    }
    panic!("no end: {said:?}");
}

#[test]
fn one_standby_is_replaced_through_nobody() {
    let mut v = primary(SyncMode::On, 1, &[("a", 100)]);
    assert_eq!(walk(&mut v), [" q0", "'a'", "a q0"]);
    streaming(&mut v, &[("b", 100)]);
    assert_eq!(walk(&mut v), [" q0", "'b'", "b q0"]);
    streaming(&mut v, &[]);
    assert_eq!(walk(&mut v), [" q0", "''"]);
    v.settings.synchronous_mode_strict = true;
    assert_eq!(walk(&mut v), ["'*'"]);
}

#[test]
fn of_several_standbys_those_that_stay_can_win_all_the_time() {
    let mut v = primary(SyncMode::On, 2, &[("a", 100), ("b", 100), ("c", 90)]);
    assert_eq!(walk(&mut v), [" q0", "'2 (a,b)'", "a,b q0"]);
    streaming(&mut v, &[("a", 100), ("c", 100)]);
    assert_eq!(walk(&mut v), ["a q0", "'2 (a,c)'", "a,c q0"]);
    streaming(&mut v, &[("c", 100)]);
    assert_eq!(walk(&mut v), ["c q0", "'c'"]);
    // d has not flushed what was acknowledged without it.
    streaming(&mut v, &[("c", 100), ("d", 99)]);
    assert_eq!(walk(&mut v), ["'2 (c,d)'"]);
}

#[test]
fn a_quorum_grows_by_its_key_first_and_shrinks_by_its_names_first() {
    let mut v = primary(SyncMode::Quorum, 1, &[("a", 100), ("b", 90)]);
    assert_eq!(walk(&mut v), [" q0", "'ANY 1 (a,b)'", "a,b q1"]);
    streaming(&mut v, &[("a", 100), ("b", 90), ("c", 100)]);
    assert_eq!(walk(&mut v), ["a,b,c q2", "'ANY 1 (a,b,c)'"]);
    streaming(&mut v, &[("a", 100), ("c", 100)]);
    assert_eq!(walk(&mut v), ["'ANY 1 (a,c)'", "a,c q1"]);
    v.settings.synchronous_node_count = 2;
    assert_eq!(walk(&mut v), ["'ANY 2 (a,c)'", "a,c q0"]);
    v.settings.synchronous_node_count = 1;
    assert_eq!(walk(&mut v), ["a,c q1", "'ANY 1 (a,c)'"]);
    v.settings.synchronous_mode = SyncMode::On;
    assert_eq!(walk(&mut v), [" q0", "'a'", "a q0"]);
    v.settings.synchronous_mode = SyncMode::Quorum;
    assert_eq!(walk(&mut v), ["a,c q1", "'ANY 1 (a,c)'"]);
    v.settings.synchronous_mode = SyncMode::Off;
    assert_eq!(walk(&mut v), [" q0", "''"]);
}

#[test]
fn tags_and_lag_choose() {
    let tagged = |change: fn(&mut Member), lag: i64| {
        let mut v = primary(SyncMode::On, 1, &[("a", 100), ("b", 95), ("c", 100)]);
        v.settings.maximum_lag_on_syncnode_bytes = lag;
        let mut cluster = v.cluster().cloned().unwrap_or_default();
        cluster.members.values_mut().for_each(change);
        let sync = SyncState { leader: Some("x".into()), standbys: vec!["b".into()], quorum: 0 };
        cluster.sync = Some(Keyed { value: sync, mod_revision: 1 });
        let at = v.now;
        v.store.cluster = Some(super::super::view::Seen { value: Arc::new(cluster), at });
        let key = v.cluster().and_then(|c| c.sync.clone()).unwrap_or_default().value;
        choose(&v, v.probe().expect("a probe"), &key, None).join(",")
    };
    assert_eq!(tagged(|_| {}, -1), "b", "who is synchronous stays so");
    assert_eq!(tagged(|_| {}, 4), "a", "unless it lags");
    assert_eq!(tagged(|_| {}, 5), "b");
    assert_eq!(tagged(|m| m.tags.nosync = m.name != "c", -1), "c");
    assert_eq!(tagged(|m| m.tags.sync_priority = i64::from(m.name == "c") + 1, -1), "c");
    assert_eq!(tagged(|m| m.tags.sync_priority = 0, -1), "");
    assert_eq!(tagged(|m| m.tags.nofailover = m.name == "b", -1), "a", "b could not take over");
    assert_eq!(tagged(|m| m.tags.nofailover = true, -1), "b", "but better than nobody");
}

#[test]
fn a_voter_wins_only_when_enough_voters_are_not_ahead_of_it() {
    let race = |quorum: u32, peers: &[(&str, u64)]| {
        let mut v = primary(SyncMode::Quorum, 1, &[]);
        v.name = "a".into();
        v.memory = Memory { vacant_since: Some(v.now), ..Memory::default() };
        let mut cluster = v.cluster().cloned().unwrap_or_default();
        cluster.leader = None;
        // The store knows of every promotion.
        cluster.newest_timeline.as_mut().expect("a number").value.number = 2;
        let state = SyncState { quorum, ..key(0b111, 0) };
        cluster.sync = Some(Keyed { value: state, mod_revision: 1 });
        let at = v.now;
        v.store.cluster = Some(super::super::view::Seen { value: Arc::new(cluster), at });
        with_probe(&mut v, |p| {
            (p.in_recovery, p.flush_lsn, p.receive_lsn) = (true, None, Some(Lsn(100)));
        });
        let answer = |lsn| PeerAnswer {
            reachable: true,
            in_recovery: true,
            position: Some(Lsn(lsn)),
            fresh: true,
            // A standby without a stream may tell an older timeline, or a newer one than ours.
            timeline: Some(2),
            failover_priority: 1,
            ..PeerAnswer::default()
        };
        v.peers = peers.iter().map(|(n, lsn)| ((*n).to_owned(), answer(*lsn))).collect();
        candidates::verdict(&v) == candidates::Verdict::Run
    };
    assert!(race(2, &[("b", 100), ("c", 90)]));
    assert!(!race(2, &[("b", 100)]), "c may have what b has not");
    assert!(!race(2, &[("b", 100), ("d", 90)]), "d is no voter");
    assert!(race(1, &[("b", 100)]));
    assert!(!race(1, &[("b", 101)]), "b is ahead");
    assert!(!race(1, &[]));
    assert!(race(0, &[]));
    assert!(race(1, &[("x", 100)]), "the former leader is a voter");
}
