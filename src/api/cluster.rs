//! The body of `/cluster`: what the store says of everybody.

use serde_json::{Map, Value, json};

use crate::core::cluster::{Cluster, Member};
use crate::core::lsn::Lsn;
use crate::core::settings::SyncMode;

use super::schedule;
use super::view::is_sync_standby;

/// What of the dynamic configuration decides how members are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    pub synchronous: SyncMode,
    pub standby_cluster: bool,
    pub paused: bool,
}

/// Patroni's document: members by name, then what is planned, then the scope.
pub fn document(cluster: &Cluster, mode: Mode, scope: &str) -> Value {
    let mut out = Map::new();
    let members = cluster.members.values().map(|m| member(m, cluster, mode));
    out.insert("members".to_owned(), members.collect());
    if mode.paused {
        out.insert("pause".to_owned(), json!(true));
    }
    let request = cluster.failover.as_ref().map(|f| &f.value);
    if let Some((request, at)) = request.and_then(|r| Some((r, r.scheduled_at?))) {
        let mut planned = Map::new();
        planned.insert("at".to_owned(), json!(schedule::iso(at)));
        if let Some(from) = &request.leader {
            planned.insert("from".to_owned(), json!(from));
        }
        if let Some(to) = &request.candidate {
            planned.insert("to".to_owned(), json!(to));
        }
        out.insert("scheduled_switchover".to_owned(), Value::Object(planned));
    }
    out.insert("scope".to_owned(), json!(scope));
    Value::Object(out)
}

fn member(member: &Member, cluster: &Cluster, mode: Mode) -> Value {
    let leader = cluster.leader.as_ref().is_some_and(|l| l.name == member.name);
    let role = role(member, cluster, mode, leader);
    let replication = member.replication_state.as_ref().filter(|_| role != "leader");
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(member.name));
    out.insert("role".to_owned(), json!(role));
    out.insert("state".to_owned(), json!(replication.unwrap_or(&member.state)));
    out.insert("api_url".to_owned(), json!(member.api_url));
    if let Some((host, port)) = address(&member.conn_url) {
        out.insert("host".to_owned(), json!(host));
        if let Some(port) = port {
            out.insert("port".to_owned(), json!(port));
        }
    }
    let stored = serde_json::from_str::<Value>(&member.raw).unwrap_or_default();
    for key in
        ["timeline", "pending_restart", "pending_restart_reason", "scheduled_restart", "tags"]
    {
        if let Some(value) = stored.get(key) {
            out.insert(key.to_owned(), value.clone());
        }
    }
    if !leader {
        let end = cluster.status.optime.unwrap_or_default();
        positions(&mut out, "receive_", member.receive_lsn, end);
        positions(&mut out, "replay_", member.replay_lsn, end);
        positions(&mut out, "", member.xlog_location, end);
    }
    Value::Object(out)
}

/// Patroni's role word of the `/cluster` document and of `patronictl list`.
pub fn role(member: &Member, cluster: &Cluster, mode: Mode, leader: bool) -> &'static str {
    if leader {
        return if mode.standby_cluster { "standby_leader" } else { "leader" };
    }
    match mode.synchronous {
        SyncMode::On if is_sync_standby(cluster, &member.name) => "sync_standby",
        SyncMode::Quorum if is_sync_standby(cluster, &member.name) => "quorum_standby",
        SyncMode::Off | SyncMode::On | SyncMode::Quorum => "replica",
    }
}

/// `<prefix>lag` and `<prefix>lsn`; Patroni swaps the two when the position is unknown.
fn positions(out: &mut Map<String, Value>, prefix: &str, lsn: Option<Lsn>, end: Lsn) {
    let (lag_key, lsn_key) = (format!("{prefix}lag"), format!("{prefix}lsn"));
    match lsn.filter(|l| l.0 != 0) {
        None => {
            out.insert(lsn_key, json!("unknown"));
            out.insert(lag_key, json!("unknown"));
        }
        Some(lsn) => {
            out.insert(lag_key, json!(end.bytes_after(lsn)));
            out.insert(lsn_key, json!(lsn.to_string()));
        }
    }
}

/// Host and port of a `postgres://` or `http://` URL.
pub fn address(url: &str) -> Option<(&str, Option<u16>)> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    (!host.is_empty()).then_some((host, port.and_then(|p| p.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::super::json::python;
    use super::super::samples::{self, member, synchronous};
    use super::*;
    use crate::core::cluster::{FailoverRequest, Keyed};
    use crate::core::time::Wall;

    fn body(cluster: &Cluster, mode: Mode) -> String {
        python(&document(cluster, mode, "demo"))
    }

    /// All members of the sample at another position and timeline.
    fn moved(optime: u64, timeline: u32, leader: &str) -> Cluster {
        let mut cluster = samples::cluster();
        for (name, raw) in
            [("alpha", samples::ALPHA), ("beta", samples::BETA), ("gamma", samples::GAMMA)]
        {
            let mut raw: Value = serde_json::from_str(raw).unwrap();
            raw["timeline"] = json!(timeline);
            for key in ["xlog_location", "receive_lsn", "replay_lsn"] {
                raw[key] = json!(optime);
            }
            raw["replication_state"] = json!("streaming");
            cluster.members.insert(name.to_owned(), member(name, &raw.to_string()));
        }
        cluster.status.optime = Some(Lsn(optime));
        cluster.leader.as_mut().unwrap().name = leader.to_owned();
        cluster
    }

    #[test]
    fn bodies_equal_those_of_patroni() {
        let plain = include_str!("../../tests/golden/api/cluster.json");
        assert_eq!(body(&samples::cluster(), Mode::default()), plain.trim());

        let mut planned = moved(67_417_912, 1, "alpha");
        let request = FailoverRequest {
            leader: Some("alpha".into()),
            candidate: Some("beta".into()),
            scheduled_at: Some(Wall(4_102_444_800_000_000)),
        };
        planned.failover = Some(Keyed { value: request, mod_revision: 42 });
        let expected = include_str!("../../tests/golden/api/cluster_switchover.json");
        assert_eq!(body(&planned, Mode::default()), expected.trim());

        let mut restart = moved(67_417_912, 1, "alpha");
        let mut beta: Value = serde_json::from_str(&restart.members["beta"].raw).unwrap();
        beta["scheduled_restart"] = json!({
            "schedule": "2100-01-01T00:00:00+00:00",
            "postgres_version": "16.0",
            "postmaster_start_time": "2026-11-21 10:20:45.132269+00:00",
        });
        restart.members.insert("beta".into(), member("beta", &beta.to_string()));
        let expected = include_str!("../../tests/golden/api/cluster_restart.json");
        assert_eq!(body(&restart, Mode::default()), expected.trim());

        let mut sync = moved(67_443_584, 3, "gamma");
        sync.sync = synchronous(&["alpha"]);
        let mode = Mode { synchronous: SyncMode::On, ..Mode::default() };
        let expected = include_str!("../../tests/golden/api/cluster_sync.json");
        assert_eq!(body(&sync, mode), expected.trim());
    }

    #[test]
    fn unknown_positions_and_pause_look_as_in_patroni() {
        let mut cluster = Cluster::default();
        let raw = r#"{"conn_url":"x","api_url":"y","state":"stopped","role":"replica"}"#;
        cluster.members.insert("a".into(), member("a", raw));
        let mode = Mode { paused: true, ..Mode::default() };
        let expected = concat!(
            r#"{"members": [{"name": "a", "role": "replica", "state": "stopped", "#,
            r#""api_url": "y", "receive_lsn": "unknown", "receive_lag": "unknown", "#,
            r#""replay_lsn": "unknown", "replay_lag": "unknown", "#,
            r#""lsn": "unknown", "lag": "unknown"}], "pause": true, "scope": "demo"}"#,
        );
        assert_eq!(body(&cluster, mode), expected);
    }

    #[test]
    fn finds_host_and_port_of_a_url() {
        let cases = [
            ("postgres://127.0.0.1:5432/postgres", Some(("127.0.0.1", Some(5432)))),
            ("postgres://u:p@db1/postgres?x=1", Some(("db1", None))),
            ("postgres://[::1]:5433/postgres", Some(("::1", Some(5433)))),
            ("http://[fe80::1]/patroni", Some(("fe80::1", None))),
            ("postgres://:5432/", None),
            ("db1:5432", None),
        ];
        for (url, expected) in cases {
            assert_eq!(address(url), expected, "{url}");
        }
    }
}
