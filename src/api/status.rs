//! The status document: the body of `/`, `/patroni` and every health check.

use serde_json::{Map, Value, json};

use crate::core::database::{Probe, WalSender};
use crate::core::settings::SyncMode;
use crate::core::time::Boot;

use super::view::View;

/// The answer to somebody who asked at that instant: whether PostgreSQL was asked since, and told
/// all of the log that it has. Only such an answer is a vote.
pub fn answer(view: &View, asked_at: Boot) -> Value {
    let mut document = document(view);
    let fresh = view.snapshot.probe.as_ref().is_some_and(|(_, at)| *at >= asked_at);
    if let Some(Value::Object(vigil)) = document.get_mut("vigil") {
        vigil.insert(
            "fresh".to_owned(),
            json!(fresh && view.probe.is_some_and(Probe::knows_its_end)),
        );
    }
    document
}

/// Patroni's document, keys in Patroni's order; ours (`vigil`) comes last.
pub fn document(view: &View) -> Value {
    let snapshot = view.snapshot;
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    put("state", json!(view.state()));
    match view.probe {
        Some(probe) => server(view, probe, &mut put),
        None => put("role", json!(view.role())),
    }
    if snapshot.settings.paused {
        put("pause", json!(true));
    }
    if view.is_unlocked() {
        put("cluster_unlocked", json!(true));
    }
    if snapshot.failsafe_active {
        put("failsafe_mode_is_active", json!(true));
    }
    put("dcs_last_seen", json!(snapshot.dcs_last_seen));
    if !snapshot.tags.is_empty() {
        put("tags", json!(snapshot.tags));
    }
    if let Some(identifier) = &snapshot.system_identifier {
        put("database_system_identifier", json!(identifier));
    }
    if !snapshot.pending_restart.is_empty() {
        put("pending_restart", json!(true));
        put("pending_restart_reason", pending_reason(view));
    }
    let (version, scope, name) = (&snapshot.version, &snapshot.scope, &snapshot.name);
    put("patroni", json!({"version": version, "scope": scope, "name": name}));
    if let Some(Value::Object(planned)) = &snapshot.scheduled_restart {
        let mut planned = planned.clone();
        planned.shift_remove("postmaster_start_time");
        put("scheduled_restart", Value::Object(planned));
    }
    if snapshot.watchdog_failed {
        put("watchdog_failed", json!(true));
    }
    if !snapshot.vigil.is_null() {
        put("vigil", snapshot.vigil.clone());
    }
    Value::Object(out)
}

/// What only a server that answers can tell.
fn server(view: &View, probe: &Probe, put: &mut impl FnMut(&str, Value)) {
    put("postmaster_start_time", json!(probe.postmaster_start_time));
    put("role", json!(view.role()));
    put("server_version", json!(probe.server_version));
    if probe.in_recovery {
        put(
            "xlog",
            json!({
                "received_location": view.received().0,
                "replayed_location": view.replayed().0,
                "replayed_timestamp": probe.replayed_timestamp,
                "paused": probe.replay_paused,
            }),
        );
    } else {
        put("xlog", json!({"location": probe.flush_lsn.unwrap_or_default().0}));
    }
    if view.is_sync(SyncMode::On) {
        put("sync_standby", json!(true));
    }
    if view.is_sync(SyncMode::Quorum) {
        put("quorum_standby", json!(true));
    }
    put("timeline", json!(probe.timeline));
    if let Some(state) = view.replication_state() {
        put("replication_state", json!(state));
    }
    if !probe.wal_senders.is_empty() {
        put("replication", probe.wal_senders.iter().map(sender).collect());
    }
}

fn sender(row: &WalSender) -> Value {
    json!({
        "usename": row.usename,
        "application_name": row.application_name,
        "client_addr": row.client_addr,
        "state": row.state,
        "sync_state": row.sync_state,
        "sync_priority": row.sync_priority,
    })
}

fn pending_reason(view: &View) -> Value {
    let reasons = view
        .snapshot
        .pending_restart
        .iter()
        .map(|(name, (old, new))| (name.clone(), json!({"old_value": old, "new_value": new})));
    Value::Object(reasons.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::samples::{self, NOW};
    use super::super::{json::python, snapshot::Snapshot};
    use super::*;
    use crate::core::cluster::Cluster;
    use crate::core::lsn::Lsn;

    fn body(snapshot: &Snapshot) -> String {
        python(&document(&View::new(snapshot, NOW)))
    }

    fn standby(position: u64, replayed_timestamp: &str, mode: SyncMode) -> Snapshot {
        let probe = Probe {
            postmaster_start_time: "2026-11-21 10:24:37.764048+00:00".into(),
            timeline: 3,
            receive_lsn: Some(Lsn(position)),
            replay_lsn: Some(Lsn(position)),
            replayed_timestamp: Some(replayed_timestamp.into()),
            ..samples::replica_probe()
        };
        let cluster = Cluster { sync: samples::synchronous(&["ALPHA", "x"]), ..samples::cluster() };
        let mut snapshot = Snapshot {
            name: "alpha".into(),
            probe: Some((Arc::new(probe), NOW)),
            cluster: Some(Arc::new(cluster)),
            tags: [("zone".to_owned(), json!("z0"))].into(),
            ..samples::replica()
        };
        snapshot.settings.synchronous_mode = mode;
        snapshot
    }

    #[test]
    fn an_answer_says_whether_the_server_was_asked_since_the_question() {
        let mut snapshot = samples::replica();
        snapshot.vigil = json!({"protocol": 1});
        let fresh = |snapshot: &Snapshot, asked_at: Boot| {
            answer(&View::new(snapshot, NOW), asked_at)["vigil"]["fresh"].clone()
        };
        let at = snapshot.probe.as_ref().expect("it answered").1;
        assert_eq!(fresh(&snapshot, at), true);
        assert_eq!(fresh(&snapshot, Boot(at.0 + 1)), false);
        // It replays what it had received before it was started.
        let replays = Probe { receive_lsn: None, ..samples::replica_probe() };
        snapshot.probe = Some((Arc::new(replays.clone()), at));
        assert_eq!(fresh(&snapshot, at), false);
        let waits = Probe { replay_waits: true, ..replays };
        snapshot.probe = Some((Arc::new(waits), at));
        assert_eq!(fresh(&snapshot, at), true);
        snapshot.probe = None;
        assert_eq!(fresh(&snapshot, at), false);
    }

    #[test]
    fn bodies_equal_those_of_patroni() {
        let mut sync = standby(67_443_584, "2026-11-21 10:25:26.769401+00:00", SyncMode::On);
        sync.dcs_last_seen = 1_795_256_736;
        let mut quorum = standby(67_443_792, "2026-11-21 10:25:48.528888+00:00", SyncMode::Quorum);
        quorum.dcs_last_seen = 1_795_256_757;
        let mut planned = samples::replica();
        let probe = Probe {
            receive_lsn: Some(Lsn(67_417_912)),
            replay_lsn: Some(Lsn(67_417_912)),
            replayed_timestamp: Some("2026-11-21 10:22:07.260290+00:00".into()),
            ..samples::replica_probe()
        };
        planned.probe = Some((Arc::new(probe), NOW));
        planned.dcs_last_seen = 1_795_256_530;
        planned.scheduled_restart = Some(json!({
            "schedule": "2100-01-01T00:00:00+00:00",
            "postgres_version": "16.0",
            "postmaster_start_time": "2026-11-21 10:20:45.132269+00:00",
        }));
        let cases = [
            (planned, include_str!("../../tests/golden/api/replica_restart.json")),
            (samples::leader(), include_str!("../../tests/golden/api/leader.json")),
            (samples::replica(), include_str!("../../tests/golden/api/replica.json")),
            (samples::standby_leader(), include_str!("../../tests/golden/api/standby_leader.json")),
            (sync, include_str!("../../tests/golden/api/sync_standby.json")),
            (quorum, include_str!("../../tests/golden/api/quorum_standby.json")),
        ];
        for (snapshot, expected) in cases {
            assert_eq!(body(&snapshot), expected.trim());
        }
    }

    #[test]
    fn what_is_rare_stands_where_patroni_puts_it() {
        let mut snapshot = samples::replica();
        snapshot.probe = None;
        snapshot.cluster = None;
        snapshot.settings.paused = true;
        snapshot.failsafe_active = true;
        snapshot.watchdog_failed = true;
        snapshot.tags.clear();
        let pending = ("50".to_owned(), "60".to_owned());
        snapshot.pending_restart.insert("max_connections".into(), pending);
        snapshot.scheduled_restart = Some(json!({
            "schedule": "2100-01-01T00:00:00+00:00", "postmaster_start_time": "x", "role": "replica"
        }));
        snapshot.vigil = json!({"version": "0.1.0", "protocol": 1});
        let expected = concat!(
            r#"{"state": "unknown", "role": "replica", "pause": true, "cluster_unlocked": true, "#,
            r#""failsafe_mode_is_active": true, "dcs_last_seen": 1795256480, "#,
            r#""database_system_identifier": "7710567681084448811", "pending_restart": true, "#,
            r#""pending_restart_reason": {"max_connections": "#,
            r#"{"old_value": "50", "new_value": "60"}}, "#,
            r#""patroni": {"version": "4.1.4", "scope": "demo", "name": "beta"}, "#,
            r#""scheduled_restart": "#,
            r#"{"schedule": "2100-01-01T00:00:00+00:00", "role": "replica"}, "#,
            r#""watchdog_failed": true, "vigil": {"version": "0.1.0", "protocol": 1}}"#,
        );
        assert_eq!(body(&snapshot), expected);
    }
}
