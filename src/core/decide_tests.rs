//! Decisions on views built by hand: the smallest view that lets a rule fire, and what it says.

use std::sync::Arc;
use std::time::Duration;

use super::candidates::{self, Candidacy};
use super::cluster::{
    Cluster, FailoverRequest, Initialize, Keyed, LeaderKey, Member, NewestTimeline, PauseRecord,
    Tenure,
};
use super::database::{ControlData, ControlState, DataDir, Probe, WalReceiver};
use super::decide::decide;
use super::decision::{Action, Decision, RecordIs};
use super::guard::Phase;
use super::lsn::Lsn;
use super::settings::{Settings, SyncMode};
use super::time::{Boot, Wall};
use super::view::{
    GuardView, LastExit, Memory, OwnLease, PeerAnswer, Postmaster, Seen, Server, Store, View,
    Wishes,
};

pub const NOW: Boot = Boot(1_000_000_000_000);
const LEASE: i64 = 7;
const KEY: i64 = 10;
const RECORD: i64 = 20;
pub const TENURE: Tenure = Tenure { lease_id: LEASE, mod_revision: KEY };

fn control(state: ControlState) -> DataDir {
    let control = ControlData {
        system_identifier: 1,
        state,
        checkpoint_lsn: Lsn(90),
        redo_lsn: Lsn(90),
        timeline: 1,
        min_recovery_lsn: Lsn(0),
        min_recovery_timeline: 0,
        wal_log_hints: true,
        data_checksums: true,
        wal_segment_bytes: 16 << 20,
        checkpoint_time: 0,
    };
    DataDir::Cluster { version: 15, control }
}

fn member(name: &str, role: &str) -> Member {
    Member {
        name: name.into(),
        state: "running".into(),
        role: role.into(),
        version: super::PATRONI_VERSION.into(),
        timeline: Some(1),
        vigil: true,
        ..Member::default()
    }
}

/// Three members, alpha leads.
pub fn cluster() -> Cluster {
    let members =
        [member("alpha", "primary"), member("beta", "replica"), member("gamma", "replica")];
    Cluster {
        revision: 100,
        initialize: Initialize::Done("1".into()),
        leader: Some(LeaderKey { name: "alpha".into(), lease_id: LEASE, mod_revision: KEY }),
        members: members.into_iter().map(|m| (m.name.clone(), m)).collect(),
        newest_timeline: Some(Keyed {
            value: NewestTimeline { number: 1, leader_mod_revision: KEY },
            mod_revision: 40,
        }),
        ..Cluster::default()
    }
}

fn peer(position: u64) -> PeerAnswer {
    PeerAnswer {
        reachable: true,
        in_recovery: true,
        position: Some(Lsn(position)),
        timeline: Some(1),
        failover_priority: 1,
        vigil: true,
        ..PeerAnswer::default()
    }
}

/// Changes what was read of the store.
pub fn with_cluster(v: &mut View, change: impl FnOnce(&mut Cluster)) {
    let seen = v.store.cluster.as_mut().expect("a cluster");
    let mut cluster = (*seen.value).clone();
    change(&mut cluster);
    seen.value = Arc::new(cluster);
}

/// A member's view of a healthy cluster, all of it fresh.
pub fn view(name: &str, primary: bool) -> View {
    let lease =
        OwnLease { id: if primary { LEASE } else { 8 }, ttl: ttl(), asked: ttl(), renewed_at: NOW };
    let received = (!primary).then_some(Lsn(100));
    let probe = Probe {
        in_recovery: !primary,
        timeline: 1,
        flush_lsn: primary.then_some(Lsn(100)),
        receive_lsn: received,
        replay_lsn: received,
        wal_receiver: (!primary)
            .then(|| WalReceiver { status: "streaming".into(), ..WalReceiver::default() }),
        ..Probe::default()
    };
    let state = if primary { ControlState::InProduction } else { ControlState::InArchiveRecovery };
    View {
        now: NOW,
        wall: Wall(1),
        name: name.into(),
        tags: super::cluster::Tags::default(),
        settings: Settings { ttl: ttl(), ..Settings::default() },
        store: Store {
            cluster: Some(Seen { value: Arc::new(cluster()), at: NOW }),
            lease: Some(lease),
            ..Store::default()
        },
        guard: GuardView {
            phase: if primary { Phase::Leading } else { Phase::Idle },
            tenure: primary.then_some(TENURE),
            sent_at: primary.then_some(NOW),
            fresh: Duration::from_secs(1),
            fenceable: true,
            populated: true,
            ..GuardView::default()
        },
        server: Server {
            data_dir: Some(control(state)),
            standby_signal: !primary,
            postmaster: Some(Postmaster {
                pid: 5,
                started_at: Boot(0),
                permitted: primary,
                stopping_since: None,
            }),
            probe: Some(Seen { value: Arc::new(probe), at: NOW }),
            upstream: Some(String::new()),
            ..Server::default()
        },
        health: Default::default(),
        job: None,
        peers: [("alpha", 100), ("beta", 100), ("gamma", 100)]
            .into_iter()
            .filter(|(other, _)| *other != name)
            .map(|(other, position)| (other.to_owned(), peer(position)))
            .collect(),
        peers_asked_at: Some(NOW),
        wishes: Wishes::default(),
        memory: Memory::default(),
    }
}

fn ttl() -> Duration {
    Duration::from_secs(30)
}

/// Alpha, the leader and primary.
pub fn leader() -> View {
    view("alpha", true)
}

/// Beta, which follows alpha.
pub fn replica() -> View {
    view("beta", false)
}

/// Beta, the leader key gone.
pub fn candidate() -> View {
    let mut view = replica();
    view.guard.phase = Phase::Candidate;
    view.edit(|c| {
        c.leader = None;
        c.members.remove("alpha");
    });
    view.peers.remove("alpha");
    view
}

impl View {
    /// Changes what the store holds.
    pub fn edit(&mut self, change: impl FnOnce(&mut Cluster)) {
        let seen = self.store.cluster.as_mut().expect("a view with a cluster");
        change(Arc::make_mut(&mut seen.value));
    }

    fn record(&mut self, leader: &str, stopped: bool) {
        let value = PauseRecord { leader: leader.into(), since: Some(Wall(1)), stopped };
        self.edit(|c| c.pause_record = Some(Keyed { value, mod_revision: RECORD }));
    }

    fn ask_for(&mut self, candidate: &str) {
        let value = FailoverRequest { candidate: Some(candidate.into()), ..Default::default() };
        self.edit(|c| c.failover = Some(Keyed { value, mod_revision: 30 }));
    }

    fn postgres_ends(&mut self) {
        self.server.postmaster = None;
        self.guard.populated = false;
        let at = NOW;
        self.server.last_exit = Some(LastExit { pid: 5, at, permitted: true, clean: true });
    }
}

/// Alpha, its deadline suspended.
fn paused() -> View {
    let mut view = leader();
    view.settings.paused = true;
    view.guard.phase = Phase::Paused;
    view.record("alpha", false);
    view
}

fn changed(mut view: View, change: impl FnOnce(&mut View)) -> View {
    change(&mut view);
    view
}

#[track_caller]
fn expect(view: &View, rule: &str, actions: &[Action]) -> Decision {
    let decision = decide(view);
    assert_eq!((decision.rule, decision.actions.as_slice()), (rule, actions), "{}", decision.why);
    decision
}

#[test]
fn healthy_members_do_nothing() {
    expect(&leader(), "leader.steady", &[]);
    expect(&replica(), "follow.steady", &[]);
}

#[test]
fn every_rule_has_its_own_name_and_a_meaning() {
    let mut seen = std::collections::BTreeSet::new();
    for rule in super::decide::rules() {
        assert!(seen.insert(rule.id), "{} twice", rule.id);
        assert!(!rule.meaning.is_empty() && rule.id.contains('.'), "{}", rule.id);
    }
}

#[test]
fn a_leader_writes_the_record_before_its_deadline_is_suspended() {
    let mut view = leader();
    view.settings.paused = true;
    let record = PauseRecord { leader: "alpha".into(), since: Some(Wall(1)), stopped: false };
    let write = Action::WritePauseRecord { tenure: TENURE, record };
    expect(&view, "pause.begin", std::slice::from_ref(&write));
    // A record of somebody else, or of a server that ended, covers nothing.
    expect(
        &changed(view.clone(), |v| v.record("beta", false)),
        "pause.begin",
        std::slice::from_ref(&write),
    );
    expect(&changed(view.clone(), |v| v.record("alpha", true)), "pause.begin", &[write]);
    view.record("alpha", false);
    let pause = Action::Pause { tenure: TENURE, revision: RECORD };
    expect(&view, "pause.begin", &[pause]);
    expect(&paused(), "leader.steady", &[]);
}

#[test]
fn nothing_is_suspended_beside_a_patroni_or_under_a_lost_key() {
    let mut view = leader();
    view.settings.paused = true;
    view.edit(|c| c.members.get_mut("beta").expect("beta").vigil = false);
    expect(&view, "leader.steady", &[]);
    let mut view = changed(paused(), |v| v.guard.phase = Phase::Leading);
    view.edit(|c| c.leader = None);
    expect(&view, "safety.lost", &[Action::LeaseLost { tenure: TENURE }]);
}

#[test]
fn the_deadline_runs_again_before_the_record_goes() {
    let resume = [Action::Resume];
    let resumed = changed(paused(), |v| v.settings.paused = false);
    let asked = changed(paused(), |v| v.ask_for("beta"));
    for view in [&resumed, &asked] {
        expect(view, "pause.resume", &resume);
        let view = changed(view.clone(), |v| v.guard.phase = Phase::Leading);
        // Others are kept from the key until the watchdog device counts.
        let arming = changed(view.clone(), |v| v.guard.awaits_device = true);
        assert_ne!(decide(&arming).rule, "pause.remove_record");
        let remove = Action::RemovePauseRecord { tenure: Some(TENURE), revision: RECORD };
        expect(&view, "pause.remove_record", &[remove]);
    }
    expect(&changed(paused(), |v| v.edit(|c| c.pause_record = None)), "pause.resume", &resume);
    let mut restart = changed(paused(), |v| v.wishes.restart = true);
    expect(&restart, "pause.resume", &resume);
    restart.guard.phase = Phase::Leading;
    expect(&restart, "leader.restart", &[Action::Checkpoint, Action::StopFast]);
}

#[test]
fn a_paused_leader_takes_its_key_again_or_yields_to_the_operators_choice() {
    let gone = changed(paused(), |v| v.edit(|c| c.leader = None));
    let record = RecordIs::Ours { revision: RECORD };
    expect(&gone, "pause.retake", &[Action::AcquireLeader { sync_revision: None, record }]);
    let old = changed(gone.clone(), |v| v.now = NOW.plus(ttl() * 2));
    assert_eq!(decide(&old).actions, [], "an old view is no ground to act");
    let forced = changed(gone, |v| v.edit(|c| c.pause_record = None));
    let fenced = decide(&forced);
    assert!(matches!(fenced.actions[..], [Action::Fence { .. }]), "{fenced:?}");
    let beta = LeaderKey { name: "beta".into(), lease_id: 8, mod_revision: 50 };
    let other = changed(paused(), |v| v.edit(|c| c.leader = Some(beta)));
    let fenced = decide(&other);
    assert_eq!(fenced.why, "demoting self because beta holds the leader lock");
    assert!(matches!(fenced.actions[..], [Action::Fence { .. }]), "{fenced:?}");
}

#[test]
fn a_paused_leader_goes_on_without_the_store() {
    let mut view = paused();
    view.now = NOW.plus(ttl() * 10);
    view.store.failing_since = Some(NOW);
    assert_eq!(expect(&view, "pause.disconnected", &[]).why, "DCS is not accessible");
    view.store.cluster = None;
    expect(&view, "pause.disconnected", &[]);
}

#[test]
fn what_stopped_in_a_pause_stays_so() {
    let mut view = changed(paused(), View::postgres_ends);
    let release = [Action::Release { tenure: TENURE }];
    expect(&view, "pause.not_running", &release);
    expect(
        &changed(view.clone(), |v| v.guard.phase = Phase::Leading),
        "pause.not_running",
        &release,
    );
    view.guard = GuardView::default();
    view.edit(|c| c.leader = None);
    assert_eq!(expect(&view, "pause.not_running", &[]).why, "postgres is not running");
    let standby = changed(replica(), |v| {
        v.settings.paused = true;
        v.postgres_ends();
    });
    expect(&standby, "pause.not_running", &[]);
    // What we stopped ourselves is started again: a switchover, pg_rewind, a restart.
    let own = changed(standby.clone(), |v| v.memory.stopped_pid = Some(5));
    assert_ne!(decide(&own).rule, "pause.not_running");
    // So is what an operator asks for, and what was never started by this service.
    let asked = changed(standby.clone(), |v| v.wishes.restart = true);
    assert!(decide(&asked).memory.restarting);
    let fresh = changed(standby, |v| v.server.last_exit = None);
    assert_ne!(decide(&fresh).rule, "pause.not_running");
}

#[test]
fn the_record_decides_who_takes_a_vacant_key() {
    let acquire = |record| vec![Action::AcquireLeader { sync_revision: None, record }];
    let overruled = acquire(RecordIs::Overruled { revision: RECORD });
    let ours = acquire(RecordIs::Ours { revision: RECORD });
    let remove = vec![Action::RemovePauseRecord { tenure: None, revision: RECORD }];
    // Paused now, whose record (ended?), the candidate asked for -> rule and actions.
    type Case<'a> = (bool, Option<(&'a str, bool)>, Option<&'a str>, &'a str, Vec<Action>);
    let cases: [Case; 11] = [
        (false, None, None, "vacant.race", acquire(RecordIs::Absent)),
        (true, None, None, "pause.vacant", vec![]),
        (true, None, Some("beta"), "vacant.race", acquire(RecordIs::Absent)),
        (false, Some(("alpha", false)), None, "pause.vacant", vec![]),
        (true, Some(("alpha", false)), None, "pause.vacant", vec![]),
        (false, Some(("alpha", false)), Some("beta"), "vacant.race", overruled.clone()),
        (false, Some(("alpha", false)), Some("gamma"), "pause.vacant", vec![]),
        (false, Some(("alpha", true)), None, "vacant.race", overruled),
        (true, Some(("alpha", true)), None, "pause.vacant", vec![]),
        (true, Some(("beta", false)), None, "vacant.race", ours),
        (false, Some(("beta", false)), None, "pause.own_record", remove),
    ];
    for (paused, record, asked, rule, actions) in cases {
        let mut view = candidate();
        view.settings.paused = paused;
        record.into_iter().for_each(|(leader, stopped)| view.record(leader, stopped));
        asked.into_iter().for_each(|candidate| view.ask_for(candidate));
        let decision = decide(&view);
        let case = (paused, record, asked);
        assert_eq!((decision.rule, decision.actions), (rule, actions), "{case:?}");
    }
    let blocked = changed(candidate(), |v| v.record("alpha", false));
    let why = "waiting: the cluster was paused when leader alpha was lost, and its PostgreSQL may \
               still accept writes; if alpha is down for certain: \
               pgvigilctl failover --candidate beta --force";
    assert_eq!(decide(&blocked).why, why);
}

#[test]
fn the_key_moves_to_a_lease_of_the_new_length() {
    let short = Duration::from_secs(5);
    let mut view = changed(leader(), |v| v.settings.ttl = short);
    expect(&view, "leader.relet", &[Action::ReletLease { tenure: TENURE, ttl: short }]);
    // Moved, but the answer was lost: that is no proof of loss.
    let next = OwnLease { id: 9, ttl: short, asked: short, renewed_at: NOW };
    view.store.next_lease = Some(next);
    let key = |lease_id| LeaderKey { name: "alpha".into(), lease_id, mod_revision: 50 };
    view.edit(|c| c.leader = Some(key(9)));
    expect(&view, "leader.moved", &[Action::ConfirmOwn]);
    let confirmed = Tenure { lease_id: 9, mod_revision: 50 };
    let done = changed(view.clone(), |v| {
        (v.store.lease, v.store.next_lease) = (Some(next), None);
        v.guard.tenure = Some(confirmed);
    });
    expect(&done, "leader.steady", &[]);
    view.edit(|c| c.leader = Some(key(11)));
    expect(&view, "safety.lost", &[Action::LeaseLost { tenure: TENURE }]);
}

#[test]
fn a_lease_keeps_its_length_while_its_deadline_is_suspended() {
    expect(&changed(paused(), |v| v.settings.ttl = ttl() * 2), "leader.steady", &[]);
    // What the store granted beyond the question is no reason to ask again.
    let granted = changed(leader(), |v| {
        v.store.lease.as_mut().expect("a lease").ttl = ttl() / 2;
    });
    expect(&granted, "leader.steady", &[]);
}

#[test]
fn every_obstacle_of_a_candidate_is_named() {
    let of = |change: &dyn Fn(&mut View)| -> Vec<Candidacy> {
        let mut view = leader();
        view.peers_asked_at = None;
        view.edit(|c| {
            c.status.optime = Some(Lsn(5_000_000));
            for member in c.members.values_mut() {
                member.xlog_location = Some(Lsn(4_999_000));
            }
        });
        change(&mut view);
        candidates::overview(&view)
    };
    let beta = |view: &mut View, change: fn(&mut Member)| {
        view.edit(|c| change(c.members.get_mut("beta").expect("beta")));
    };
    type Change<'a> = &'a dyn Fn(&mut View);
    let cases: [(Change, &[&str]); 8] = [
        (&|_| {}, &[]),
        (
            &|v| beta(v, |m| m.tags.nofailover = true),
            &["it has the tag nofailover, or failover_priority 0"],
        ),
        (&|v| v.settings.synchronous_mode = SyncMode::On, &["it is not a synchronous standby"]),
        (&|v| beta(v, |m| m.xlog_location = None), &["its position is not known"]),
        (
            &|v| beta(v, |m| (m.state, m.xlog_location) = ("stopped".into(), Some(Lsn(1)))),
            &[
                "its PostgreSQL is not running but \"stopped\"",
                "it lacks 4999999 bytes of WAL, and maximum_lag_on_failover is 1048576",
            ],
        ),
        (
            &|v| {
                v.peers_asked_at = Some(NOW);
                v.peers.insert("beta".into(), PeerAnswer::default());
            },
            &["it did not answer"],
        ),
        (
            &|v| {
                v.peers_asked_at = Some(NOW.minus(v.settings.loop_wait * 2));
                v.peers.insert("beta".into(), PeerAnswer::default());
            },
            &[],
        ),
        (&|v| v.name = "gamma".into(), &[]),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let all = of(change);
        let found = all.iter().find(|c| c.name == "beta").expect("beta");
        assert_eq!(found.obstacles, expected, "case {number}");
    }
    let all = of(&|v| v.name = "gamma".into());
    let leads = Candidacy {
        name: "alpha".into(),
        behind_bytes: Some(1000),
        obstacles: vec!["it leads".into()],
    };
    assert_eq!(all.first(), Some(&leads));
}

#[test]
fn another_identifier_in_the_store_costs_no_leader() {
    let other = |c: &mut Cluster| c.initialize = Initialize::Done("2".into());
    let d = expect(&changed(leader(), |v| v.edit(other)), "leader.steady", &[]);
    assert!(d.why.contains("put 1 back"), "{}", d.why);
    expect(&changed(replica(), |v| v.edit(other)), "safety.identity", &[Action::StopFast]);
}

#[test]
fn a_service_that_is_stopped_in_a_pause_leaves_postgresql_alone() {
    let stop = |mut v: View| {
        v.settings.paused = true;
        v.wishes.stop = true;
        v
    };
    expect(&stop(paused()), "stop.leave", &[Action::Leave]);
    expect(&stop(replica()), "stop.leave", &[Action::Leave]);
    // Its deadline runs: no record says that nobody may take its key.
    expect(&stop(leader()), "stop.begin", &[Action::StopFast]);
    let stopping = changed(stop(replica()), |v| {
        v.server.postmaster.as_mut().expect("runs").stopping_since = Some(NOW);
    });
    expect(&stopping, "stop.waiting", &[]);
}

#[test]
fn a_stop_ends_a_frozen_server_at_once() {
    let frozen = changed(view("alpha", true), |v| v.guard.phase = Phase::Frozen);
    expect(&frozen, "safety.frozen", &[]);
    let stopped = changed(frozen, |v| v.wishes.stop = true);
    let reason = "asked to stop while PostgreSQL is frozen".to_owned();
    expect(&stopped, "safety.frozen", &[Action::Fence { reason }]);
}

#[test]
fn after_a_reset_an_operator_may_be_asked_first() {
    let held = changed(view("beta", false), |v| {
        v.server.stay_down = true;
        v.server.postmaster = None;
        v.server.probe = None;
        v.guard.populated = false;
    });
    expect(&held, "stop.after_reset", &[]);
    let released = changed(held.clone(), |v| v.server.stay_down = false);
    assert_ne!(decide(&released).rule, "stop.after_reset");
    let runs = changed(view("beta", false), |v| v.server.stay_down = true);
    assert_ne!(decide(&runs).rule, "stop.after_reset", "what runs goes on");
}
