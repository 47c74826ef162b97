//! The captured cluster as snapshots: alpha leads, beta and gamma follow. The answers that
//! Patroni gave stand in tests/golden/api.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::core::cluster::{Cluster, Keyed, LeaderKey, Member, SyncState};
use crate::core::database::{Probe, WalReceiver, WalSender};
use crate::core::guard::Phase;
use crate::core::lsn::Lsn;
use crate::core::settings::Settings;
use crate::core::time::Boot;

use super::snapshot::Snapshot;

pub const NOW: Boot = Boot(1_000_000_000_000);
pub const POSITION: Lsn = Lsn(67_108_960);

pub const ALPHA: &str = include_str!("../../tests/golden/api/member_alpha.json");
pub const BETA: &str = include_str!("../../tests/golden/api/member_beta.json");
pub const GAMMA: &str = include_str!("../../tests/golden/api/member_gamma.json");

pub fn member(name: &str, raw: &str) -> Member {
    let stored: Value = serde_json::from_str(raw).unwrap();
    let text = |key: &str| stored[key].as_str().unwrap_or_default().to_owned();
    let lsn = |key: &str| stored[key].as_u64().map(Lsn);
    Member {
        name: name.to_owned(),
        conn_url: text("conn_url"),
        api_url: text("api_url"),
        state: text("state"),
        role: text("role"),
        xlog_location: lsn("xlog_location"),
        receive_lsn: lsn("receive_lsn"),
        replay_lsn: lsn("replay_lsn"),
        replication_state: stored["replication_state"].as_str().map(str::to_owned),
        raw: raw.trim().to_owned(),
        ..Member::default()
    }
}

pub fn cluster() -> Cluster {
    let members = [("alpha", ALPHA), ("beta", BETA), ("gamma", GAMMA)];
    let mut cluster = Cluster {
        leader: Some(LeaderKey { name: "alpha".into(), lease_id: 7, mod_revision: 9 }),
        members: members.map(|(name, raw)| (name.to_owned(), member(name, raw))).into(),
        ..Cluster::default()
    };
    cluster.status.optime = Some(POSITION);
    cluster
}

pub fn synchronous(standbys: &[&str]) -> Option<Keyed<SyncState>> {
    let standbys = standbys.iter().map(|s| (*s).to_owned()).collect();
    let value = SyncState { leader: Some("alpha".into()), standbys, quorum: 0 };
    Some(Keyed { value, mod_revision: 1 })
}

fn member_snapshot(name: &str, role: &str, probe: Probe) -> Snapshot {
    Snapshot {
        scope: "demo".into(),
        name: name.into(),
        version: "4.1.4".into(),
        state: "running".into(),
        role: role.into(),
        postmaster_alive: true,
        probe: Some((Arc::new(probe), NOW)),
        probe_fresh: Duration::from_secs(5),
        system_identifier: Some("7710567681084448811".into()),
        cluster: Some(Arc::new(cluster())),
        cluster_at: NOW,
        settings: Settings {
            ttl: Duration::from_secs(20),
            loop_wait: Duration::from_secs(3),
            ..Settings::default()
        },
        failover_priority: 1,
        loop_at: NOW,
        ..Snapshot::default()
    }
}

pub fn leader() -> Snapshot {
    let sender = |name: &str| WalSender {
        usename: "replicator".into(),
        application_name: name.into(),
        client_addr: Some("127.0.0.1".into()),
        state: "streaming".into(),
        sync_state: "async".into(),
        ..WalSender::default()
    };
    let probe = Probe {
        server_version: 150_018,
        postmaster_start_time: "2026-11-21 10:20:36.947647+00:00".into(),
        timeline: 1,
        flush_lsn: Some(POSITION),
        wal_senders: vec![sender("gamma"), sender("beta")],
        ..Probe::default()
    };
    Snapshot {
        phase: Phase::Leading,
        leader_until: Some(NOW.plus(Duration::from_secs(10))),
        dcs_last_seen: 1_795_256_479,
        tags: [("zone".to_owned(), json!("z0"))].into(),
        ..member_snapshot("alpha", "primary", probe)
    }
}

pub fn replica_probe() -> Probe {
    Probe {
        server_version: 150_018,
        postmaster_start_time: "2026-11-21 10:20:45.132269+00:00".into(),
        in_recovery: true,
        timeline: 1,
        receive_lsn: Some(POSITION),
        replay_lsn: Some(POSITION),
        wal_receiver: Some(WalReceiver { status: "streaming".into(), ..WalReceiver::default() }),
        ..Probe::default()
    }
}

pub fn replica() -> Snapshot {
    Snapshot {
        dcs_last_seen: 1_795_256_480,
        tags: [("clonefrom".to_owned(), json!(true)), ("zone".to_owned(), json!("z1"))].into(),
        ..member_snapshot("beta", "replica", replica_probe())
    }
}

pub fn standby_leader() -> Snapshot {
    let probe = Probe {
        postmaster_start_time: "2026-11-21 10:26:58.601199+00:00".into(),
        timeline: 3,
        receive_lsn: Some(Lsn(67_108_864)),
        replay_lsn: Some(Lsn(67_444_072)),
        wal_receiver: None,
        ..replica_probe()
    };
    Snapshot {
        phase: Phase::Leading,
        leader_until: Some(NOW.plus(Duration::from_secs(10))),
        standby_cluster: true,
        dcs_last_seen: 1_795_256_821,
        tags: [("zone".to_owned(), json!("z2"))].into(),
        ..member_snapshot("gamma", "standby_leader", probe)
    }
}
