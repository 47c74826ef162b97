//! Which status code a health check gets.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::core::guard::Phase;
use crate::core::settings::SyncMode;

use super::quantity;
use super::view::View;

/// Query parameters, the first of each name.
pub type Query = BTreeMap<String, String>;

/// The paths that mean something. Others fail, unless one of these words is part of them.
pub const CHECKS: &[&str] = &[
    "/",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/read-only",
    "/sync",
    "/synchronous",
    "/quorum",
    "/async",
    "/asynchronous",
    "/read-only-quorum",
    "/read-only-sync",
    "/read-only-synchronous",
    "/health",
];

/// Whether the check that this path stands for passes. Names are matched as substrings, in
/// Patroni's order; a path that means nothing fails.
pub fn passes(path: &str, query: &Query, view: &View) -> bool {
    let path = if path == "/" { "/primary" } else { path };
    let has = |word: &str| path.contains(word);
    if has("standby_leader") || has("standby-leader") {
        return view.is_standby_leader();
    }
    if has("leader") {
        return view.is_primary() || view.is_standby_leader();
    }
    if has("master") || has("primary") || has("read-write") {
        return view.is_primary();
    }
    readable(path, query, view) && tags_match(query, view)
}

/// The checks that a replica can pass, without the tags.
fn readable(path: &str, query: &Query, view: &View) -> bool {
    let has = |word: &str| path.contains(word);
    if has("replica") {
        return replica(query, view);
    }
    let leader = || view.is_primary() || view.is_standby_leader();
    if has("read-only") && !has("sync") && !has("quorum") {
        return leader() || replica(query, view);
    }
    if has("health") {
        return view.probe.is_some() && view.state() == "running";
    }
    if view.cluster.is_none() {
        return false;
    }
    let sync = || view.is_sync(SyncMode::On) && replica(query, view);
    let quorum = || view.is_sync(SyncMode::Quorum) && replica(query, view);
    match path {
        "/sync" | "/synchronous" => sync(),
        "/quorum" => quorum(),
        "/async" | "/asynchronous" => {
            !view.is_sync(SyncMode::On) && !view.is_sync(SyncMode::Quorum) && replica(query, view)
        }
        "/read-only-quorum" => leader() || quorum(),
        "/read-only-sync" | "/read-only-synchronous" => leader() || sync(),
        _ => false,
    }
}

/// A running replica that may take load, is near enough and replicates as asked.
fn replica(query: &Query, view: &View) -> bool {
    if view.snapshot.noloadbalance || !view.is_running_replica() || view.is_standby_leader() {
        return false;
    }
    if query.get("replication_state").is_some_and(|s| view.replication_state() != Some(s)) {
        return false;
    }
    let limit = query.get("lag").and_then(|text| quantity::bytes(text));
    limit.is_none_or(|limit| lag(view, view.replayed().0) <= i128::from(limit))
}

/// Bytes behind the leader; negative when ahead of what it published.
fn lag(view: &View, position: u64) -> i128 {
    match view.leader_position().0 {
        // Nothing is known of the leader: no lag can be claimed.
        0 => i128::MIN,
        leader => i128::from(leader) - i128::from(position),
    }
}

/// `tag_<name>=<value>`: each must be a tag of this member with that value, compared as text.
fn tags_match(query: &Query, view: &View) -> bool {
    query.iter().filter_map(|(key, value)| Some((key.strip_prefix("tag_")?, value))).all(
        |(name, wanted)| match view.snapshot.tags.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => text == wanted,
            Some(other) => other.to_string().to_lowercase() == *wanted,
        },
    )
}

/// `/liveness`: the agent's loop turns. A frozen server is being dealt with, and in pause nobody
/// shall kill the process that keeps it.
pub fn is_alive(view: &View) -> bool {
    let snapshot = view.snapshot;
    if snapshot.settings.paused || snapshot.phase == Phase::Frozen {
        return true;
    }
    let primary = snapshot.role == "primary" && snapshot.postmaster_alive;
    let patience: Duration = snapshot.settings.ttl * if primary { 1 } else { 2 };
    view.now.since(snapshot.loop_at) < snapshot.settings.loop_wait + patience
}

/// `/readiness`: the leader, or a replica that streams and is not too far behind.
pub fn is_ready(query: &Query, view: &View) -> bool {
    if view.leads() && view.probe.is_some() {
        return true;
    }
    if view.state() != "running" || view.replication_state() != Some("streaming") {
        return false;
    }
    if view.cluster.is_none() && view.latest_end().is_none() {
        return view.snapshot.failsafe_active;
    }
    let writes = query.get("mode").is_some_and(|mode| mode == "write");
    let position = if writes { view.received() } else { view.replayed() };
    let limit = query.get("lag").and_then(|text| quantity::bytes(text)).map(i128::from);
    let limit = limit.unwrap_or(view.snapshot.settings.maximum_lag_on_failover_bytes.into());
    lag(view, position.0) <= limit
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::samples::{self, NOW, POSITION, replica_probe};
    use super::super::snapshot::Snapshot;
    use super::*;
    use crate::core::cluster::Cluster;
    use crate::core::database::{Probe, WalReceiver};
    use crate::core::lsn::Lsn;

    fn query(pairs: &[(&str, &str)]) -> Query {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn check(path: &str, snapshot: &Snapshot) -> bool {
        let view = View::new(snapshot, NOW);
        match path {
            "/liveness" => is_alive(&view),
            "/readiness" => is_ready(&Query::new(), &view),
            _ => passes(path, &Query::new(), &view),
        }
    }

    fn listed(mode: SyncMode) -> Snapshot {
        let cluster = Cluster { sync: samples::synchronous(&["beta"]), ..samples::cluster() };
        let mut snapshot = Snapshot { cluster: Some(Arc::new(cluster)), ..samples::replica() };
        snapshot.settings.synchronous_mode = mode;
        snapshot
    }

    /// Rows of the table that was measured: leader, sync standby, quorum standby, replica,
    /// standby leader, and a replica of the standby leader that does not stream.
    #[test]
    fn status_codes_equal_those_of_patroni() {
        let cascade = Snapshot {
            standby_cluster: true,
            probe: Some((Arc::new(Probe { wal_receiver: None, ..replica_probe() }), NOW)),
            ..samples::replica()
        };
        let members = [
            samples::leader(),
            listed(SyncMode::On),
            listed(SyncMode::Quorum),
            samples::replica(),
            samples::standby_leader(),
            cascade,
        ];
        let table = [
            ("/ /primary /master /read-write /x/primary", "200 503 503 503 503 503"),
            ("/leader", "200 503 503 503 200 503"),
            ("/standby-leader /standby_leader", "503 503 503 503 200 503"),
            ("/replica", "503 200 200 200 503 200"),
            ("/read-only", "200 200 200 200 200 200"),
            ("/sync /synchronous", "503 200 503 503 503 503"),
            ("/async /asynchronous", "503 503 503 200 503 200"),
            ("/read-only-sync /read-only-synchronous", "200 200 503 503 200 503"),
            ("/quorum", "503 503 200 503 503 503"),
            ("/read-only-quorum", "200 503 200 503 200 503"),
            ("/health /liveness", "200 200 200 200 200 200"),
            ("/readiness", "200 200 200 200 200 503"),
            ("/nosuch /switchover", "503 503 503 503 503 503"),
        ];
        let named: Vec<&str> = table.iter().flat_map(|(paths, _)| paths.split(' ')).collect();
        assert!(CHECKS.iter().all(|path| named.contains(path)), "{named:?}");
        for (paths, codes) in table {
            for path in paths.split(' ') {
                for (i, (member, code)) in members.iter().zip(codes.split(' ')).enumerate() {
                    assert_eq!(check(path, member), code == "200", "{path}, column {i}");
                }
            }
        }
    }

    type Doubt = fn(&mut Snapshot);

    /// Each doubt alone takes the leader's checks away, and liveness never.
    #[test]
    fn only_a_proven_leader_is_primary() {
        let stale = NOW.minus(Duration::from_secs(6));
        let probe = || samples::leader().probe.unwrap().0;
        let doubts: [(&str, Doubt); 8] = [
            ("lease ended", |s| s.leader_until = Some(NOW)),
            ("no lease", |s| s.leader_until = None),
            ("frozen", |s| s.phase = Phase::Frozen),
            ("candidate", |s| s.phase = Phase::Candidate),
            ("sealed", |s| s.phase = Phase::Sealed),
            ("postmaster gone", |s| s.postmaster_alive = false),
            ("no probe", |s| s.probe = None),
            ("stopping", |s| s.state = "stopping".into()),
        ];
        for (doubt, apply) in doubts {
            let mut snapshot = samples::leader();
            apply(&mut snapshot);
            for path in ["/primary", "/leader", "/read-write", "/readiness", "/read-only"] {
                assert!(!check(path, &snapshot), "{doubt}: {path}");
            }
            assert!(check("/liveness", &snapshot), "{doubt}");
        }
        let old = Snapshot { probe: Some((probe(), stale)), ..samples::leader() };
        assert!(!check("/primary", &old));
        let promoting =
            Snapshot { probe: Some((Arc::new(replica_probe()), NOW)), ..samples::leader() };
        assert!(!check("/primary", &promoting));
    }

    #[test]
    fn in_pause_the_role_decides_unless_another_leads() {
        let lapsed = Snapshot { leader_until: None, phase: Phase::Paused, ..samples::leader() };
        assert!(check("/primary", &lapsed));
        let mut cluster = samples::cluster();
        cluster.leader.as_mut().unwrap().name = "beta".into();
        let overruled = Snapshot { cluster: Some(Arc::new(cluster)), ..lapsed.clone() };
        assert!(!check("/primary", &overruled));
        let blind = Snapshot { cluster: None, ..lapsed };
        assert!(check("/primary", &blind));
        let frozen = Snapshot { phase: Phase::Frozen, ..blind };
        assert!(!check("/primary", &frozen));
    }

    #[test]
    fn an_old_view_of_the_store_is_none() {
        let snapshot =
            Snapshot { cluster_at: NOW.minus(Duration::from_secs(21)), ..listed(SyncMode::On) };
        assert!(!check("/sync", &snapshot));
        assert!(!check("/async", &snapshot));
        assert!(check("/replica", &snapshot));
    }

    #[test]
    fn parameters_narrow_the_checks_of_replicas() {
        let receiver = WalReceiver {
            status: "streaming".into(),
            latest_end_lsn: Some(Lsn(POSITION.0 + 1024)),
            ..WalReceiver::default()
        };
        let probe = Probe { wal_receiver: Some(receiver), ..replica_probe() };
        let mut behind = Snapshot { probe: Some((Arc::new(probe), NOW)), ..samples::replica() };
        behind.tags.insert("weight".into(), json!(10));
        let cases: [(&[(&str, &str)], bool); 11] = [
            (&[], true),
            (&[("lag", "1kB")], true),
            (&[("lag", "1023")], false),
            (&[("lag", "rubbish")], true),
            (&[("replication_state", "streaming")], true),
            (&[("replication_state", "in archive recovery")], false),
            (&[("tag_zone", "z1"), ("tag_clonefrom", "true")], true),
            (&[("tag_weight", "10")], true),
            (&[("tag_zone", "z2")], false),
            (&[("tag_nosuch", "1")], false),
            (&[("other", "1")], true),
        ];
        for (pairs, expected) in cases {
            let view = View::new(&behind, NOW);
            assert_eq!(passes("/replica", &query(pairs), &view), expected, "{pairs:?}");
        }
        let view = View::new(&behind, NOW);
        assert!(!is_ready(&query(&[("lag", "1023")]), &view));
        assert!(is_ready(&query(&[("lag", "1kB")]), &view));
        let leader = samples::leader();
        assert!(passes("/primary", &query(&[("tag_zone", "z9")]), &View::new(&leader, NOW)));
        behind.noloadbalance = true;
        assert!(!check("/replica", &behind) && !check("/read-only", &behind));
        assert!(check("/health", &behind));
    }

    #[test]
    fn liveness_follows_the_loop() {
        let mut leader = samples::leader();
        leader.loop_at = NOW.minus(Duration::from_secs(23));
        assert!(!check("/liveness", &leader));
        leader.settings.paused = true;
        assert!(check("/liveness", &leader));
        let mut replica = samples::replica();
        replica.loop_at = NOW.minus(Duration::from_secs(42));
        assert!(check("/liveness", &replica));
        replica.loop_at = NOW.minus(Duration::from_secs(43));
        assert!(!check("/liveness", &replica));
    }

    #[test]
    fn readiness_without_the_store() {
        let mut replica = Snapshot { cluster: None, ..samples::replica() };
        assert!(!check("/readiness", &replica));
        replica.failsafe_active = true;
        assert!(check("/readiness", &replica));
    }
}
