//! `/metrics`: Patroni's names, types and sentences, in Patroni's order.

use std::fmt::Write;

use crate::core::settings::SyncMode;

use super::fence;
use super::view::View;

const STATES: [(&str, &str); 15] = [
    ("initializing new cluster", "initdb"),
    ("initdb failed", "initdb_failed"),
    ("running custom bootstrap script", "custom_bootstrap"),
    ("custom bootstrap failed", "custom_bootstrap_failed"),
    ("creating replica", "creating_replica"),
    ("running", "running"),
    ("starting", "starting"),
    ("starting after custom bootstrap", "bootstrap_starting"),
    ("start failed", "start_failed"),
    ("restarting", "restarting"),
    ("restart failed", "restart_failed"),
    ("stopping", "stopping"),
    ("stopped", "stopped"),
    ("stop failed", "stop_failed"),
    ("crashed", "crashed"),
];

struct Page {
    out: String,
    labels: String,
}

impl Page {
    fn gauge(&mut self, name: &str, value: impl ToString, help: &str) {
        self.put(name, "gauge", value, help);
    }

    fn flag(&mut self, name: &str, value: bool, help: &str) {
        self.put(name, "gauge", u8::from(value), help);
    }

    fn counter(&mut self, name: &str, value: u64, help: &str) {
        self.put(name, "counter", value, help);
    }

    fn put(&mut self, name: &str, kind: &str, value: impl ToString, help: &str) {
        let (labels, value) = (&self.labels, value.to_string());
        writeln!(
            self.out,
            "# HELP patroni_{name} {help}\n# TYPE patroni_{name} {kind}\n\
             patroni_{name}{labels} {value}"
        )
        .expect("invariant: writing to a string does not fail");
    }
}

/// The whole page, in the text format of Prometheus.
pub fn page(view: &View) -> String {
    let snapshot = view.snapshot;
    let (scope, name) = (escape(&snapshot.scope), escape(&snapshot.name));
    let labels = format!("scope=\"{scope}\",name=\"{name}\"");
    let mut page = Page { out: String::with_capacity(8192), labels: format!("{{{labels}}}") };
    let version: String = snapshot.version.split('.').map(|part| format!("{part:0>2}")).collect();
    page.gauge("version", version, "Patroni semver without periods.");
    server(view, &mut page);
    replication(view, &mut page);
    cluster(view, &mut page);
    let own = snapshot.fence.as_ref().map(|f| fence::metrics(f, &labels, view.now));
    page.out + &own.unwrap_or_default()
}

fn server(view: &View, page: &mut Page) {
    let primary = view.role() == "primary";
    let started = view.probe.map(|p| p.postmaster_start_time.as_str());
    page.flag(
        "postgres_running",
        view.probe.is_some() && view.state() == "running",
        "Value is 1 if Postgres is running, 0 otherwise.",
    );
    page.gauge("postmaster_start_time", epoch(started), "Epoch seconds since Postgres started.");
    page.flag("primary", primary, "Value is 1 if this node is the leader, 0 otherwise.");
    page.flag("master", primary, "Value is 1 if this node is the leader, 0 otherwise.");
    page.counter(
        "xlog_location",
        view.probe.and_then(|p| p.flush_lsn).filter(|_| primary).unwrap_or_default().0,
        "Current location of the Postgres transaction log, 0 if this node is not the leader.",
    );
}

fn replication(view: &View, page: &mut Page) {
    let standby_leader = view.role() == "standby_leader";
    page.flag(
        "standby_leader",
        standby_leader,
        "Value is 1 if this node is the standby_leader, 0 otherwise.",
    );
    let replica = view.role() == "replica";
    page.flag("replica", replica, "Value is 1 if this node is a replica, 0 otherwise.");
    page.flag(
        "sync_standby",
        view.is_sync(SyncMode::On),
        "Value is 1 if this node is a sync standby, 0 otherwise.",
    );
    page.flag(
        "quorum_standby",
        view.is_sync(SyncMode::Quorum),
        "Value is 1 if this node is a quorum standby, 0 otherwise.",
    );
    page.counter(
        "xlog_received_location",
        view.received().0,
        "Current location of the received Postgres transaction log, \
         0 if this node is not a replica.",
    );
    page.counter(
        "xlog_replayed_location",
        view.replayed().0,
        "Current location of the replayed Postgres transaction log, \
         0 if this node is not a replica.",
    );
    page.gauge(
        "xlog_replayed_timestamp",
        epoch(view.probe.and_then(|p| p.replayed_timestamp.as_deref())),
        "Current timestamp of the replayed Postgres transaction log, 0 if null.",
    );
    page.flag(
        "xlog_paused",
        view.probe.is_some_and(|p| p.in_recovery && p.replay_paused),
        "Value is 1 if the Postgres xlog is paused, 0 otherwise.",
    );
    if view.probe.is_some() {
        page.flag(
            "postgres_streaming",
            view.replication_state() == Some("streaming"),
            "Value is 1 if Postgres is streaming, 0 otherwise.",
        );
        page.flag(
            "postgres_in_archive_recovery",
            view.replication_state() == Some("in archive recovery"),
            "Value is 1 if Postgres is replicating from archive, 0 otherwise.",
        );
    }
    page.gauge(
        "postgres_server_version",
        view.probe.map_or(0, |p| p.server_version),
        "Version of Postgres (if running), 0 otherwise.",
    );
}

fn cluster(view: &View, page: &mut Page) {
    let snapshot = view.snapshot;
    page.flag(
        "cluster_unlocked",
        view.is_unlocked(),
        "Value is 1 if the cluster is unlocked, 0 if locked.",
    );
    page.flag(
        "failsafe_mode_is_active",
        snapshot.failsafe_active,
        "Value is 1 if failsafe mode is active, 0 if inactive.",
    );
    page.flag(
        "failsafe_mode_enabled",
        snapshot.settings.failsafe_mode,
        "Value is 1 if failsafe_mode is enabled, 0 otherwise.",
    );
    page.flag(
        "failsafe_member",
        snapshot.failsafe.as_ref().is_some_and(|f| f.get(&snapshot.name).is_some()),
        "Value is 1 if this node is a member of failsafe, 0 otherwise.",
    );
    page.gauge(
        "postgres_timeline",
        view.probe.map_or(0, |p| p.timeline),
        "Postgres timeline of this node (if running), 0 otherwise.",
    );
    page.gauge(
        "dcs_last_seen",
        snapshot.dcs_last_seen,
        "Epoch timestamp when DCS was last contacted successfully by Patroni.",
    );
    page.flag(
        "pending_restart",
        !snapshot.pending_restart.is_empty(),
        "Value is 1 if the node needs a restart, 0 otherwise.",
    );
    page.flag(
        "is_paused",
        snapshot.settings.paused,
        "Value is 1 if auto failover is disabled, 0 otherwise.",
    );
    let names = STATES.iter().enumerate().map(|(i, (_, name))| format!("{i}={name}"));
    let state = STATES.iter().position(|(word, _)| *word == view.state());
    page.gauge(
        "postgres_state",
        state.map_or_else(|| "-1".to_owned(), |i| i.to_string()),
        &format!(
            "Numeric representation of Postgres state.\n# Values: {}",
            names.collect::<Vec<_>>().join(", ")
        ),
    );
    page.gauge("failover_priority", snapshot.failover_priority, "Failover priority of this node.");
}

/// Seconds since 1970 of PostgreSQL's text, written as Python writes a float; `0` for none.
fn epoch(text: Option<&str>) -> String {
    let at = text.and_then(|t| t.parse::<jiff::Timestamp>().ok());
    at.map_or_else(|| "0".to_owned(), |at| format!("{:?}", at.as_microsecond() as f64 / 1e6))
}

/// A label's value as the text format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::samples::{self, NOW, replica_probe};
    use super::super::snapshot::Snapshot;
    use super::*;
    use crate::core::database::Probe;
    use crate::core::lsn::Lsn;

    const POSITION: Option<Lsn> = Some(Lsn(67_417_912));

    /// The page without the metric that Patroni 4 no longer has.
    fn lines(snapshot: &Snapshot) -> Vec<String> {
        let page = page(&View::new(snapshot, NOW));
        page.lines().filter(|l| !l.contains("patroni_master")).map(str::to_owned).collect()
    }

    fn with_probe(snapshot: Snapshot, probe: Probe) -> Snapshot {
        let dcs_last_seen = 1_795_256_543;
        Snapshot { probe: Some((Arc::new(probe), NOW)), dcs_last_seen, ..snapshot }
    }

    #[test]
    fn the_leaders_page_equals_patronis() {
        let snapshot = samples::leader();
        let probe = Probe::clone(&snapshot.probe.as_ref().unwrap().0);
        let snapshot = with_probe(snapshot, Probe { flush_lsn: POSITION, ..probe });
        let expected = include_str!("../../tests/golden/api/leader.metrics");
        assert_eq!(lines(&snapshot), expected.lines().collect::<Vec<_>>());
    }

    #[test]
    fn a_replicas_values_equal_patronis() {
        let probe = Probe {
            postmaster_start_time: "2026-11-21 10:22:19.508721+00:00".into(),
            receive_lsn: POSITION,
            replay_lsn: POSITION,
            replayed_timestamp: Some("2026-11-21 10:22:07.260290+00:00".into()),
            ..replica_probe()
        };
        let values = lines(&with_probe(samples::replica(), probe));
        let values: Vec<_> = values.iter().filter(|l| !l.starts_with('#')).collect();
        let expected = include_str!("../../tests/golden/api/replica.metrics");
        assert_eq!(values, expected.lines().collect::<Vec<_>>());
    }

    #[test]
    fn a_server_that_does_not_answer_is_not_running() {
        let snapshot = Snapshot { probe: None, scope: "a\"b".into(), ..samples::leader() };
        let lines = lines(&snapshot);
        for (name, value) in [("postgres_running", "0"), ("postgres_state", "-1")] {
            let line = format!("patroni_{name}{{scope=\"a\\\"b\",name=\"alpha\"}} {value}");
            assert!(lines.contains(&line), "{line}");
        }
    }
}
