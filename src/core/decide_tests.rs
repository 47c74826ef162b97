//! Views for the tests beside the code. What is decided in which view, in words: tests/core.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, Initialize, Keyed, LeaderKey, Member, NewestTimeline, Tenure};
use super::database::{ControlData, ControlState, DataDir, Probe, WalReceiver};
use super::guard::Phase;
use super::lsn::Lsn;
use super::settings::Settings;
use super::time::{Boot, Wall};
use super::view::{
    GuardView, Memory, OwnLease, PeerAnswer, Postmaster, Seen, Server, Store, View, Wishes,
};

pub const NOW: Boot = Boot(1_000_000_000_000);
const LEASE: i64 = 7;
const KEY: i64 = 10;
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
        fresh: true,
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

impl View {
    /// Changes what the store holds.
    pub fn edit(&mut self, change: impl FnOnce(&mut Cluster)) {
        let seen = self.store.cluster.as_mut().expect("a view with a cluster");
        change(Arc::make_mut(&mut seen.value));
    }
}
