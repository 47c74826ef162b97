//! Views in which a rule once did harm, and what is decided there now.

use std::sync::Arc;
use std::time::Duration;

use crate::core::cloning::Cloning;
use crate::core::cluster::{
    Cluster, FailoverRequest, Initialize, Keyed, LeaderKey, Member, NewestTimeline, SyncState,
    Tenure,
};
use crate::core::database::{ControlData, ControlState, DataDir, Probe, WalSender};
use crate::core::decide::decide;
use crate::core::decision::{Action, Decision};
use crate::core::guard::Phase;
use crate::core::health::Health;
use crate::core::lsn::Lsn;
use crate::core::settings::{ReplicaMethod, SyncMode};
use crate::core::time::{Boot, Wall};
use crate::core::view::*;

const TENURE: Tenure = Tenure { lease_id: 7, mod_revision: 70 };

pub fn at(ms: u64) -> Boot {
    Boot(1_000_000_000_000 + ms * 1_000_000)
}

fn member(name: &str, role: &str) -> (String, Member) {
    let member = Member {
        name: name.into(),
        conn_url: format!("postgres://{name}:5432/postgres"),
        state: "running".into(),
        role: role.into(),
        timeline: Some(2),
        vigil: true,
        ..Member::default()
    };
    (name.into(), member)
}

fn control(state: ControlState) -> ControlData {
    ControlData {
        system_identifier: 1,
        state,
        checkpoint_lsn: Lsn(0x100),
        redo_lsn: Lsn(0x100),
        timeline: 2,
        min_recovery_lsn: Lsn(0),
        min_recovery_timeline: 0,
        wal_log_hints: true,
        data_checksums: true,
        wal_segment_bytes: 16 << 20,
        checkpoint_time: 0,
    }
}

pub fn peer(timeline: u32, position: u64) -> PeerAnswer {
    PeerAnswer {
        reachable: true,
        in_recovery: true,
        position: Some(Lsn(position)),
        timeline: Some(timeline),
        failover_priority: 1,
        vigil: true,
        ..PeerAnswer::default()
    }
}

/// `a` of the members a, b, c; PostgreSQL runs and answered just now.
pub fn view(leader: Option<&str>, in_recovery: bool) -> View {
    let leads = leader == Some("a");
    let leader = leader.map(|name| LeaderKey {
        name: name.into(),
        lease_id: if leads { TENURE.lease_id } else { 8 },
        mod_revision: TENURE.mod_revision,
    });
    let cluster = Cluster {
        revision: 100,
        initialize: Initialize::Done("1".into()),
        members: ["a", "b", "c"]
            .map(|n| {
                let primary = leader.as_ref().is_some_and(|l| l.name == n);
                member(n, if primary { "primary" } else { "replica" })
            })
            .into(),
        leader,
        newest_timeline: Some(Keyed {
            value: NewestTimeline { number: 2, leader_mod_revision: 1 },
            mod_revision: 60,
        }),
        ..Cluster::default()
    };
    let probe = Probe {
        in_recovery,
        timeline: 2,
        flush_lsn: (!in_recovery).then_some(Lsn(0x1000)),
        replay_lsn: in_recovery.then_some(Lsn(0x1000)),
        ..Probe::default()
    };
    let state =
        if in_recovery { ControlState::InArchiveRecovery } else { ControlState::InProduction };
    View {
        now: at(0),
        wall: Wall(0),
        name: "a".into(),
        tags: Default::default(),
        settings: Default::default(),
        store: Store {
            cluster: Some(Seen { value: Arc::new(cluster), at: at(0) }),
            ..Store::default()
        },
        guard: GuardView {
            phase: if leads { Phase::Leading } else { Phase::Idle },
            tenure: leads.then_some(TENURE),
            sent_at: leads.then_some(at(0)),
            deadline: leads.then_some(at(26_000)),
            fresh: Duration::from_secs(2),
            fenceable: true,
            populated: true,
            ..GuardView::default()
        },
        server: Server {
            data_dir: Some(DataDir::Cluster { version: 15, control: control(state) }),
            standby_signal: in_recovery,
            postmaster: Some(Postmaster {
                pid: 9,
                started_at: at(0),
                permitted: leads,
                stopping_since: None,
            }),
            probe: Some(Seen { value: Arc::new(probe), at: at(0) }),
            upstream: Some("postgres://b:5432/postgres".into()),
            ..Server::default()
        },
        health: Health::default(),
        job: None,
        peers: Default::default(),
        peers_asked_at: None,
        wishes: Wishes::default(),
        memory: Memory::default(),
    }
}

impl View {
    pub fn with_cluster(mut self, change: impl FnOnce(&mut Cluster)) -> View {
        let seen = self.store.cluster.as_mut().expect("known");
        change(Arc::make_mut(&mut seen.value));
        self
    }

    pub fn with_probe(mut self, change: impl FnOnce(&mut Probe)) -> View {
        change(Arc::make_mut(&mut self.server.probe.as_mut().expect("answered").value));
        self
    }

    /// Shut down a moment ago; the candidate answered since, and has the WAL up to here.
    fn shut_down_and_asked(mut self, position: u64) -> View {
        self.memory.shut_down_since = Some(self.now);
        self.peers_asked_at = Some(self.now);
        self.peers.insert("b".into(), peer(1, position));
        self
    }

    /// No postmaster, nothing left of it.
    pub fn stopped(mut self, state: ControlState) -> View {
        self.server.postmaster = None;
        self.server.probe = None;
        self.guard.populated = false;
        self.server.data_dir = Some(DataDir::Cluster { version: 15, control: control(state) });
        self
    }
}

fn position_of(decision: &Decision, wanted: fn(&Action) -> bool) -> Option<usize> {
    decision.actions.iter().position(wanted)
}

#[test]
fn a_tenure_is_burned_before_the_note_names_a_successor() {
    let mut v = view(Some("a"), false);
    v.memory.switchover = Some(Switchover { to: "b".into(), since: at(0) });
    v = v.stopped(ControlState::ShutDown).shut_down_and_asked(u64::MAX);
    let d = decide(&v);
    let burn = position_of(&d, |a| matches!(a, Action::Release { .. }));
    let note = position_of(&d, |a| matches!(a, Action::WriteHandover { .. }));
    assert!(burn.is_some() && burn < note, "{:?}", d.actions);
}

#[test]
fn a_switchover_is_abandoned_when_the_candidate_lacks_the_last_wal() {
    let mut v = view(Some("a"), false);
    v.memory.switchover = Some(Switchover { to: "b".into(), since: at(0) });
    v = v.stopped(ControlState::ShutDown).shut_down_and_asked(0);
    assert_eq!(decide(&v).actions, [], "an answer has just come: ask again in a moment");
    v.peers_asked_at = None;
    assert_eq!(decide(&v).actions, [Action::AskPeers]);
    v.now = v.now.plus(Duration::from_secs(2));
    let d = decide(&v);
    assert_eq!((d.rule, d.memory.switchover), ("stop.sealed", None), "{}", d.why);
    assert!(d.actions.is_empty(), "no release: {:?}", d.actions);
    // A stop for good goes on: whoever has most of it may lead.
    v.wishes.stop = true;
    let d = decide(&v);
    assert!(position_of(&d, |a| matches!(a, Action::Release { .. })).is_some(), "{:?}", d.actions);
}

#[test]
fn a_job_of_an_earlier_agent_is_not_dealt_with_again() {
    for (work, succeeded) in
        [(Work::Initdb, true), (Work::Initdb, false), (Work::BaseBackup, false)]
    {
        let mut v = view(Some("a"), false);
        v.job = Some(DataJob { id: 5, work, succeeded: Some(succeeded) });
        let d = decide(&v);
        assert_eq!((d.rule, d.actions.len(), d.memory.job_done), ("work.ended", 0, 5), "{work:?}");
    }
    // Nor while the primary is down for a moment.
    let mut v = view(Some("a"), false).stopped(ControlState::InProduction);
    v.job = Some(DataJob { id: 5, work: Work::Initdb, succeeded: Some(false) });
    assert_eq!(decide(&v).actions, []);
    // But a bootstrap that is under way goes on.
    let mut v = view(None, false)
        .stopped(ControlState::ShutDown)
        .with_cluster(|c| c.initialize = Initialize::InProgress { lease_id: 1 });
    v.job = Some(DataJob { id: 5, work: Work::Initdb, succeeded: Some(true) });
    assert_eq!(decide(&v).actions, [Action::PrepareBootstrap]);
}

#[test]
fn a_standby_that_died_before_its_promotion_does_not_go_on_on_the_old_timeline() {
    let started = |d: &Decision| d.actions.first().cloned();
    for state in [ControlState::InArchiveRecovery, ControlState::ShutDownInRecovery] {
        let v = view(Some("a"), true).stopped(state);
        assert_eq!(started(&decide(&v)), Some(Action::StartStandby { upstream: None }));
    }
    let v = view(Some("a"), false).stopped(ControlState::InProduction);
    assert_eq!(started(&decide(&v)), Some(Action::StartPrimary));
}

#[test]
fn a_peer_that_hangs_does_not_have_the_others_asked_for_ever() {
    // Its 2 s are over when the answers come.
    let mut v = view(None, true);
    v.peers = [("b".to_owned(), peer(2, 0x1000)), ("c".to_owned(), PeerAnswer::default())].into();
    v.memory.vacant_since = Some(at(0));
    v.peers_asked_at = Some(at(0));
    v.now = at(2100);
    let d = decide(&v);
    assert_eq!((d.rule, d.actions.as_slice()), ("vacant.race", &[Action::Campaign][..]));
    let request = FailoverRequest { leader: Some("a".into()), ..FailoverRequest::default() };
    let mut v = view(Some("a"), false)
        .with_cluster(|c| c.failover = Some(Keyed { value: request, mod_revision: 9 }));
    v.peers = [("b".to_owned(), peer(2, 0x1000)), ("c".to_owned(), PeerAnswer::default())].into();
    v.peers_asked_at = Some(at(0));
    v.now = at(2100);
    assert_eq!(decide(&v).memory.switchover.map(|s| s.to), Some("b".into()));
}

#[test]
fn a_diverged_former_primary_is_no_successor() {
    let request = FailoverRequest { leader: Some("a".into()), ..FailoverRequest::default() };
    let mut v = view(Some("a"), false)
        .with_cluster(|c| c.failover = Some(Keyed { value: request, mod_revision: 9 }));
    v.peers = [("b".to_owned(), peer(2, 0x1000)), ("c".to_owned(), peer(1, 0x9000))].into();
    v.peers_asked_at = Some(at(0));
    assert_eq!(decide(&v).memory.switchover.map(|s| s.to), Some("b".into()));
}

#[test]
fn the_source_is_set_before_histories_are_compared() {
    // The history may be unreadable for ever; the new leader must be followed for all that.
    let mut v = view(Some("c"), true).with_probe(|p| p.timeline = 1);
    v.memory.not_streaming_since = Some(at(0));
    v.now = at(60_000);
    assert_eq!(decide(&v).rule, "follow.retarget");
}

#[test]
fn data_is_not_removed_for_a_leader_that_may_be_gone() {
    let reinit = |mut v: View| {
        v.memory.reinitializing = true;
        decide(&v).rule
    };
    assert_eq!(reinit(view(Some("b"), true)), "follow.reinitialize");
    let stopped = |c: &mut Cluster| {
        c.members.get_mut("b").expect("there").state = "stopped".into();
    };
    assert_ne!(reinit(view(Some("b"), true).with_cluster(stopped)), "follow.reinitialize");
    let mut old = view(Some("b"), true);
    old.now = at(31_000);
    assert_ne!(reinit(old), "follow.reinitialize");
}

#[test]
fn a_server_that_does_not_stay_up_is_started_with_pauses_and_then_given_up() {
    let mut v = view(Some("a"), false).stopped(ControlState::InProduction);
    v.memory.restarting = true;
    v.memory.started = Some(at(0));
    v.now = at(100);
    let exit = LastExit { pid: 9, at: at(90), permitted: true, clean: false };
    v.server.last_exit = Some(exit);
    let d = decide(&v);
    assert_eq!((d.rule, d.actions.len()), ("leader.start", 0), "{}", d.why);
    v.now = at(2000);
    v.guard.sent_at = Some(at(2000));
    let d = decide(&v);
    assert_eq!((d.actions.as_slice(), d.memory.crashes.len()), (&[Action::StartPrimary][..], 1));
    v.memory.crashes = vec![at(0); 3];
    assert_eq!(decide(&v).rule, "leader.hand_over");
    // The stop that a restart means is followed by a start at once.
    v.memory.crashes = vec![];
    v.server.last_exit = Some(LastExit { clean: true, ..exit });
    v.now = at(100);
    v.guard.sent_at = Some(at(100));
    assert_eq!(decide(&v).actions, [Action::StartPrimary]);
}

#[test]
fn a_promotion_that_did_not_begin_is_asked_for_again() {
    let mut v = view(Some("a"), true);
    v.memory.promotion_asked = Some(at(0));
    v.now = at(9_000);
    v.guard.sent_at = Some(at(9_000));
    assert_eq!(decide(&v).actions, []);
    v.now = at(10_000);
    assert_eq!(decide(&v).actions, [Action::Promote { taken: vec![] }]);
}

/// The primary a with b as its synchronous standby, all in order.
fn synchronous(key: &[&str], names: &str) -> View {
    let state = SyncState {
        leader: Some("a".into()),
        standbys: key.iter().map(|s| (*s).to_owned()).collect(),
        quorum: 0,
    };
    let sender = WalSender {
        application_name: "b".into(),
        state: "streaming".into(),
        sync_state: "sync".into(),
        flush_lsn: Some(Lsn(0x1000)),
        ..WalSender::default()
    };
    let mut v = view(Some("a"), false)
        .with_cluster(|c| c.sync = Some(Keyed { value: state, mod_revision: 5 }))
        .with_probe(|p| {
            p.wal_senders = vec![sender];
            p.synchronous_standby_names = names.into();
        });
    v.settings.synchronous_mode = SyncMode::On;
    v.memory.sync_wrote = Some(4);
    v.memory.sync_names = Some(names.into());
    v
}

#[test]
fn the_key_shrinks_when_the_names_are_not_what_it_says() {
    let d = decide(&synchronous(&["b"], ""));
    let [Action::WriteSync { state, .. }] = d.actions.as_slice() else { panic!("{d:?}") };
    assert_eq!(state.standbys, Vec::<String>::new());
    assert_eq!(decide(&synchronous(&["b"], "b")).rule, "leader.steady");
}

#[test]
fn an_answer_older_than_the_last_write_does_not_grow_the_key() {
    let mut v = synchronous(&[], "b");
    v.memory.sync_names = Some(String::new());
    v.memory.sync_names_set = Some(at(0));
    assert_eq!(decide(&v).actions, [Action::SetSyncNames { names: "b".into() }]);
}

#[test]
fn a_request_chooses_nobody_before_its_time_and_nobody_waits_for_its_candidate_for_ever() {
    let asked = |candidate: &str, scheduled_at| FailoverRequest {
        leader: Some("x".into()),
        candidate: Some(candidate.into()),
        scheduled_at,
    };
    let run = |request: FailoverRequest, now: u64| {
        let mut v = view(None, true).with_cluster(|c| {
            c.failover = Some(Keyed { value: request, mod_revision: 9 });
            c.status.optime = Some(Lsn(0x1000));
        });
        v.peers = [("b".to_owned(), peer(2, 0x800)), ("c".to_owned(), peer(2, 0x1800))].into();
        v.memory.vacant_since = Some(at(0));
        v.now = at(now);
        v.peers_asked_at = Some(v.now);
        !decide(&v).actions.is_empty()
    };
    // c is ahead of us.
    assert!(!run(asked("a", Some(Wall(1))), 0), "scheduled for later");
    assert!(run(asked("a", None), 0));
    assert!(!run(asked("b", None), 0), "b was chosen");
    let mut v = view(None, true).with_cluster(|c| {
        c.failover = Some(Keyed { value: asked("b", None), mod_revision: 9 });
    });
    v.peers = [("b".to_owned(), peer(2, 0x800)), ("c".to_owned(), peer(2, 0x800))].into();
    v.memory.vacant_since = Some(at(0));
    v.now = at(11_000);
    v.peers_asked_at = Some(v.now);
    assert_eq!(decide(&v).actions, [Action::Campaign], "b had its time");
}

#[test]
fn data_goes_only_when_a_leader_is_ready_and_the_method_does_not_start_from_it() {
    let mut v = view(Some("b"), true).stopped(ControlState::ShutDownInRecovery);
    v.memory.reinitializing = true;
    v.memory.cloning = Cloning::wanted(false);
    let removes =
        |v: &View| decide(v).actions.iter().any(|a| matches!(a, Action::RemoveData { .. }));
    assert!(!removes(&v), "nobody was asked");
    v.peers_asked_at = Some(v.now);
    assert!(!removes(&v), "the leader did not answer");
    v.peers = [("b".to_owned(), PeerAnswer { in_recovery: false, ..peer(2, 0x1000) })].into();
    assert!(removes(&v));
    let absent = view(None, true).stopped(ControlState::ShutDownInRecovery);
    assert!(!removes(&View { memory: v.memory.clone(), ..absent }));
    let starting = v.clone().with_cluster(|c| c.members.get_mut("b").expect("b").state.clear());
    assert!(!removes(&starting));
    let name = "restore".to_owned();
    v.settings.replica_methods =
        vec![ReplicaMethod { name: name.clone(), no_leader: false, keep_data: true }];
    let d = decide(&v);
    assert!(!removes(&v) && d.rule == "follow.clone", "{d:?}");
    assert!(matches!(&d.actions[..], [Action::CreateReplica { method, .. }] if *method == name));
}

#[test]
fn a_failed_copy_of_an_earlier_agent_costs_no_cluster() {
    let mut v = view(Some("b"), true).stopped(ControlState::ShutDownInRecovery);
    v.job = Some(DataJob { id: 5, work: Work::BaseBackup, succeeded: Some(false) });
    let d = decide(&v);
    assert!(d.rule == "work.ended" && !d.memory.cloning.begun, "{d:?}");
    v.server.data_dir = Some(DataDir::Unusable { reason: "half a copy".into() });
    assert!(decide(&v).memory.cloning.begun);
}

#[test]
fn a_failed_bootstrap_gives_the_keys_up_before_its_data_is_set_aside() {
    let mut v = view(Some("a"), false);
    v.server.bootstrapping = true;
    v.memory.bootstrap_failed = true;
    let last = |v: &View| decide(v).actions.last().cloned();
    assert_eq!(last(&v), Some(Action::StopFast));
    v = v.stopped(ControlState::ShutDown);
    assert_eq!(last(&v), Some(Action::Release { tenure: TENURE }));
    v.guard.burned = Some(TENURE);
    assert_eq!(last(&v), Some(Action::DeleteLeader { tenure: TENURE }));
    v = v.with_cluster(|c| c.leader = None);
    assert_eq!(last(&v), Some(Action::AbortBootstrap));
}

#[test]
fn nothing_is_made_writable_before_the_store_was_read() {
    for standby in [false, true] {
        let mut v = view(Some("a"), standby);
        if !standby {
            v = v.stopped(ControlState::ShutDown);
        }
        assert!(!decide(&v).actions.is_empty());
        v.store.cluster = None;
        assert_eq!(decide(&v).actions, []);
    }
}

#[test]
fn the_copy_of_a_former_primary_is_started() {
    let mut v = view(Some("b"), false).stopped(ControlState::InProduction);
    let exit = LastExit { pid: 9, at: at(0), permitted: true, clean: false };
    (v.now, v.server.last_exit) = (at(5000), Some(exit));
    v.memory.cloning = Cloning::wanted(false);
    v.job = Some(DataJob { id: 1, work: Work::BaseBackup, succeeded: Some(true) });
    v.memory = decide(&v).memory;
    let d = decide(&v);
    assert!(matches!(d.actions[..], [Action::StartStandby { .. }]), "{}: {}", d.rule, d.why);
    // One that was a primary after the copy may have a timeline of its own.
    v.server.last_exit = Some(LastExit { at: at(6000), ..exit });
    assert!(!matches!(decide(&v).actions[..], [Action::StartStandby { .. }]));
}

#[test]
fn a_standby_whose_rewind_failed_is_stopped_where_its_data_may_be_removed() {
    let mut v = view(Some("b"), true).with_probe(|p| p.timeline = 3);
    v.memory.not_streaming_since = Some(at(0));
    v.now = at(5000);
    v.memory.woken_for = v.cluster().map_or(0, |c| c.members["b"].mod_revision);
    v.server.leader_history = Some((2, Default::default()));
    (v.settings.use_pg_rewind, v.memory.rewind_failed) = (true, true);
    assert_eq!(decide(&v).rule, "follow.steady");
    v.settings.remove_data_directory_on_rewind_failure = true;
    let d = decide(&v);
    assert_eq!((d.rule, d.actions), ("follow.diverged", vec![Action::StopFast]));
}

#[test]
fn the_right_to_bootstrap_ends_with_the_bootstrap() {
    let mut v = view(None, true).stopped(ControlState::ShutDown);
    (v.server.data_dir, v.server.standby_signal) = (Some(DataDir::Empty), false);
    v.memory.bootstrap_won = true;
    let d = decide(&v);
    assert!(!d.actions.contains(&Action::Initdb) && !d.memory.bootstrap_won, "{}", d.why);
    v = v.with_cluster(|c| c.initialize = Initialize::InProgress { lease_id: 1 });
    assert_eq!(decide(&v).actions, [Action::Initdb]);
}
