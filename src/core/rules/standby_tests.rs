//! What the leader of a standby cluster does, and what it never does.

use crate::core::cluster::{FailoverRequest, Initialize, Keyed};
use crate::core::database::DataDir;
use crate::core::decide::decide;
use crate::core::decide_tests::{TENURE, view, with_cluster};
use crate::core::decision::{Action, Upstream};
use crate::core::guard::Phase;
use crate::core::settings::StandbyCluster;
use crate::core::view::View;

fn remote() -> Option<Upstream> {
    Some(Upstream { name: "remote".into(), conn_url: "postgres://far:5432/postgres".into() })
}

fn standby_leader(primary: bool) -> View {
    let mut v = view("alpha", true);
    if !primary {
        let replica = view("beta", false).server;
        v.server = replica;
    }
    let section = StandbyCluster { upstream: remote(), ..StandbyCluster::default() };
    v.settings.standby_cluster = Some(section);
    v
}

#[test]
fn a_primary_stops_and_starts_as_a_standby_of_the_remote_one() {
    let mut v = standby_leader(true);
    let d = decide(&v);
    assert_eq!(d.rule, "standby.demote");
    assert_eq!(d.actions, [Action::Checkpoint, Action::StopFast]);
    v.server.postmaster = None;
    v.guard.populated = true;
    assert_eq!(decide(&v).rule, "leader.leftovers");
    v.guard.populated = false;
    let d = decide(&v);
    assert_eq!(
        (d.rule, d.actions),
        ("standby.start", vec![Action::StartStandby { upstream: remote() }])
    );
}

#[test]
fn a_standby_leader_follows_and_is_never_promoted_before_the_section_goes() {
    let mut v = standby_leader(false);
    let d = decide(&v);
    assert_eq!(
        (d.rule, d.actions),
        ("standby.follow", vec![Action::Follow { upstream: remote() }])
    );
    v.server.upstream = remote().map(|u| u.conn_url);
    assert_eq!(decide(&v).rule, "standby.steady");
    with_cluster(&mut v, |c| c.initialize = Initialize::InProgress { lease_id: 1 });
    assert_eq!(decide(&v).actions, [Action::AdoptInitialize]);
    with_cluster(&mut v, |c| c.initialize = Initialize::Done("1".into()));
    v.settings.standby_cluster = None;
    assert_eq!(decide(&v).rule, "leader.promote");
}

#[test]
fn a_switchover_gives_the_key_up_without_a_stop() {
    let mut v = standby_leader(false);
    v.server.upstream = remote().map(|u| u.conn_url);
    let asked = |candidate: &str| FailoverRequest {
        leader: Some("alpha".into()),
        candidate: Some(candidate.into()),
        scheduled_at: None,
    };
    let request = |v: &mut View, candidate: &str| {
        let value = asked(candidate);
        with_cluster(v, |c| c.failover = Some(Keyed { value, mod_revision: 9 }));
    };
    request(&mut v, "beta");
    let d = decide(&v);
    assert_eq!(
        (d.rule, d.actions),
        ("standby.switchover", vec![Action::Release { tenure: TENURE }])
    );
    request(&mut v, "alpha");
    assert_eq!(decide(&v).actions, [Action::ClearFailover { revision: 9 }]);
}

#[test]
fn an_empty_standby_cluster_copies_the_remote_primary() {
    let mut v = standby_leader(false);
    (v.server.data_dir, v.server.postmaster) = (Some(DataDir::Empty), None);
    (v.server.standby_signal, v.guard.populated) = (false, false);
    (v.guard.phase, v.guard.tenure) = (Phase::Idle, None);
    with_cluster(&mut v, |c| {
        (c.leader, c.initialize) = (None, Initialize::InProgress { lease_id: 1 })
    });
    v.memory.bootstrap_won = true;
    let d = decide(&v);
    let method = "basebackup".to_owned();
    assert_eq!(
        (d.rule, d.actions),
        ("vacant.initdb", vec![Action::CreateReplica { method, from: remote() }])
    );
    assert!(d.memory.cloning.begun);
}
