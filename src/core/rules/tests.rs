//! The views of the tests of these rules. What is decided in which view, in words: tests/core.

use std::sync::Arc;
use std::time::Duration;

use crate::core::cluster::{Cluster, Initialize, Keyed, LeaderKey, Member, NewestTimeline, Tenure};
use crate::core::database::{ControlData, ControlState, DataDir, Probe};
use crate::core::guard::Phase;
use crate::core::health::Health;
use crate::core::lsn::Lsn;
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
        fresh: true,
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

    /// No postmaster, nothing left of it.
    pub fn stopped(mut self, state: ControlState) -> View {
        self.server.postmaster = None;
        self.server.probe = None;
        self.guard.populated = false;
        self.server.data_dir = Some(DataDir::Cluster { version: 15, control: control(state) });
        self
    }
}
