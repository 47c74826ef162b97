//! The cluster as `list` and `topology` show it.

use serde_json::{Map, Value, json};

use crate::api::cluster::{Mode, address, role};
use crate::api::schedule::iso;
use crate::config::{to_yaml, units};
use crate::core::cluster::{Cluster, Initialize, Member};
use crate::core::lsn::Lsn;
use crate::core::settings::SyncMode;

use super::output::{Format, Listing, flow_yaml};

/// Cells that do not fit are hidden in tables only.
const REASON_CHARS_MAX: usize = 50;

/// Where the rows go and how members are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    List(Format),
    /// The table as a tree of who replicates from whom.
    Topology,
}

impl Layout {
    fn is_table(self) -> bool {
        matches!(self, Layout::List(Format::Pretty) | Layout::Topology)
    }
}

/// A member as everybody else sees it.
struct Row {
    name: String,
    host: String,
    port: Option<u16>,
    role: String,
    state: String,
    timeline: Option<u32>,
    /// `None` for the leader, whose positions are not shown.
    positions: Option<[Position; 2]>,
    pending_restart: bool,
    reasons: Vec<String>,
    scheduled_restart: String,
    tags: Value,
    leads: bool,
}

/// A replica's position and how many bytes it is behind the leader; `None`: not reported.
type Position = Option<(Lsn, u64)>;

/// Everything that `list` prints for one cluster.
pub fn render(cluster: &Cluster, name: &str, extended: bool, layout: Layout) -> String {
    let mut rows = rows(cluster, layout);
    if layout == Layout::Topology {
        rows = tree(rows);
    }
    let title = format!(" Cluster: {name} ({}) ", identifier(&cluster.initialize));
    let listing = listing(name, &title, rows, extended, layout);
    let format = match layout {
        Layout::List(format) => format,
        Layout::Topology => Format::Pretty,
    };
    let mut text = listing.render(format);
    if layout.is_table() {
        text.push_str(&notices(cluster));
    }
    text
}

fn identifier(initialize: &Initialize) -> &str {
    match initialize {
        Initialize::Absent => "uninitialized",
        Initialize::InProgress { .. } => "initializing",
        Initialize::Done(identifier) => identifier,
    }
}

/// `/config` as a JSON object; empty if there is none.
pub fn dynamic(cluster: &Cluster) -> Map<String, Value> {
    let parsed =
        cluster.config.as_ref().and_then(|config| serde_json::from_str(&config.value).ok());
    match parsed {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// What `/config` says about the kind of cluster this is.
pub fn mode(cluster: &Cluster) -> Mode {
    let config = dynamic(cluster);
    let synchronous = match config.get("synchronous_mode") {
        Some(Value::String(mode)) if mode.eq_ignore_ascii_case("quorum") => SyncMode::Quorum,
        other if truthy(other) => SyncMode::On,
        _ => SyncMode::Off,
    };
    let standby = config.get("standby_cluster").and_then(Value::as_object);
    Mode {
        synchronous,
        standby_cluster: standby.is_some_and(|section| !section.is_empty()),
        paused: truthy(config.get("pause")),
    }
}

/// `loop_wait` in seconds.
pub fn loop_wait_secs(cluster: &Cluster) -> u64 {
    dynamic(cluster).get("loop_wait").and_then(Value::as_u64).unwrap_or(10)
}

/// `ttl` in seconds.
pub fn ttl_secs(cluster: &Cluster) -> u64 {
    dynamic(cluster).get("ttl").and_then(Value::as_u64).unwrap_or(30)
}

/// Patroni's reading of a boolean that may have been written as text.
pub fn truthy(value: Option<&Value>) -> bool {
    value.and_then(units::boolean).unwrap_or(false)
}

/// The member's document; empty for the very old form that is only a connection string.
pub fn document(member: &Member) -> Map<String, Value> {
    match serde_json::from_str(&member.raw) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn rows(cluster: &Cluster, layout: Layout) -> Vec<Row> {
    let leader = cluster.leader.as_ref().map(|leader| leader.name.as_str());
    let mode = mode(cluster);
    let leader_lsn = cluster.status.optime.unwrap_or_default();
    let row = |member: &Member| {
        let leads = leader == Some(member.name.as_str());
        let position = |lsn: Option<Lsn>| -> Position {
            let known = lsn.filter(|lsn| lsn.0 != 0)?;
            Some((known, leader_lsn.bytes_after(known)))
        };
        let streaming = member.replication_state.as_ref().filter(|_| !leads);
        let (host, port) = address(&member.conn_url).unwrap_or_default();
        let fields = document(member);
        let tags =
            fields.get("tags").filter(|tags| tags.as_object().is_some_and(|t| !t.is_empty()));
        Row {
            name: member.name.clone(),
            host: host.to_lowercase(),
            port: port.or(Some(5432)),
            role: titled(role(member, cluster, mode, leads)),
            state: streaming.unwrap_or(&member.state).clone(),
            timeline: member.timeline,
            positions: (!leads)
                .then(|| [position(member.receive_lsn), position(member.replay_lsn)]),
            pending_restart: truthy(fields.get("pending_restart")),
            reasons: reasons(&fields, layout),
            scheduled_restart: scheduled_restart(&fields),
            tags: tags.cloned().unwrap_or_else(|| json!("")),
            leads,
        }
    };
    cluster.members.values().map(row).collect()
}

/// `sync_standby` as people read it: `Sync Standby`.
fn titled(word: &str) -> String {
    let title = |part: &str| match part.split_at_checked(1) {
        Some((first, rest)) => format!("{}{rest}", first.to_uppercase()),
        None => part.to_owned(),
    };
    word.split('_').map(title).collect::<Vec<_>>().join(" ")
}

fn reasons(document: &Map<String, Value>, layout: Layout) -> Vec<String> {
    let Some(Value::Object(reasons)) = document.get("pending_restart_reason") else {
        return Vec::new();
    };
    let value = |change: &Value, key: &str| match change.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let reason = |(parameter, change): (&String, &Value)| {
        let (old, new) = (value(change, "old_value"), value(change, "new_value"));
        let text = format!("{parameter}: {old}->{new}");
        if layout.is_table() && text.chars().count() > REASON_CHARS_MAX {
            format!("{parameter}: [hidden - too long]")
        } else {
            text
        }
    };
    reasons.iter().map(reason).collect()
}

fn scheduled_restart(document: &Map<String, Value>) -> String {
    let Some(planned) = document.get("scheduled_restart") else { return String::new() };
    let schedule = planned.get("schedule").and_then(Value::as_str).unwrap_or_default();
    match planned.get("postgres_version").and_then(Value::as_str) {
        Some(version) => format!("{schedule} if version < {version}"),
        None => schedule.to_owned(),
    }
}

/// Members below those that they replicate from, each level indented further.
fn tree(rows: Vec<Row>) -> Vec<Row> {
    let leader = rows.iter().position(|row| row.leads);
    let parent = |row: &Row| {
        let wanted = row.tags.get("replicatefrom").and_then(Value::as_str)?;
        rows.iter().position(|other| other.name == wanted && other.name != row.name && !other.leads)
    };
    let parents: Vec<Option<usize>> = rows.iter().map(|row| parent(row).or(leader)).collect();
    let mut order: Vec<(usize, usize)> = leader.map(|leader| (leader, 0)).into_iter().collect();
    // Depth first from the leader; without one, from those that replicate from nobody.
    let mut stack: Vec<(usize, usize)> = Vec::new();
    let children = |of: Option<usize>, depth: usize, stack: &mut Vec<(usize, usize)>| {
        let below = (0..rows.len()).rev().filter(|i| parents[*i] == of && leader != Some(*i));
        stack.extend(below.map(|i| (i, depth)));
    };
    children(leader, 1, &mut stack);
    while let Some((i, depth)) = stack.pop() {
        order.push((i, depth));
        children(Some(i), depth + 1, &mut stack);
    }
    // A circle of `replicatefrom` hangs below nobody; its members are shown all the same.
    let circle: Vec<usize> =
        (0..rows.len()).filter(|i| !order.iter().any(|(known, _)| known == i)).collect();
    order.extend(circle.into_iter().map(|i| (i, 1)));

    let mut rows: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
    let indented = |(i, depth): (usize, usize)| {
        let mut row = rows[i].take()?;
        if depth > 0 {
            row.name = format!("{}+ {}", "  ".repeat(depth - 1), row.name);
        }
        Some(row)
    };
    order.into_iter().filter_map(indented).collect()
}

/// Whether a row has something to show in a column.
type IsPresent = fn(&Row) -> bool;

fn listing<'a>(
    cluster: &str,
    title: &'a str,
    rows: Vec<Row>,
    extended: bool,
    layout: Layout,
) -> Listing<'a> {
    let table = layout.is_table();
    let mut columns = Vec::new();
    if !table {
        columns.push(("Cluster", false));
    }
    let lags = if table { ["Lag", "Lag"] } else { ["Receive Lag", "Replay Lag"] };
    columns.extend([("Member", false), ("Host", false), ("Role", false), ("State", false)]);
    columns.extend([("TL", true), ("Receive LSN", true), (lags[0], true)]);
    columns.extend([("Replay LSN", true), (lags[1], true)]);
    let optional: [(&str, IsPresent); 4] = [
        ("Pending restart", |row| row.pending_restart),
        ("Pending restart reason", |row| !row.reasons.is_empty()),
        ("Scheduled restart", |row| !row.scheduled_restart.is_empty()),
        ("Tags", |row| row.tags.is_object()),
    ];
    let shown = optional.map(|(_, present)| extended || rows.iter().any(present));
    let optional = optional.iter().zip(shown).filter(|(_, shown)| *shown);
    columns.extend(optional.map(|((name, _), _)| (*name, false)));

    let with_port = with_port(&rows);
    let cells = rows.into_iter().map(|row| {
        let mut cells = if table { Vec::new() } else { vec![json!(cluster)] };
        let (required, optional) = row.cells(with_port, layout);
        cells.extend(required);
        cells.extend(optional.into_iter().zip(shown).filter(|(_, shown)| *shown).map(|(c, _)| c));
        cells
    });
    Listing { title: Some(title), rows: cells.collect(), columns, omit_empty: true }
}

/// Ports are shown if one is unusual or if two members share a host.
fn with_port(rows: &[Row]) -> bool {
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.host.is_empty()).collect();
    let shared = |(i, row): (usize, &&Row)| rows[..i].iter().any(|other| other.host == row.host);
    rows.iter().any(|row| row.port != Some(5432)) || rows.iter().enumerate().any(shared)
}

impl Row {
    fn cells(self, with_port: bool, layout: Layout) -> (Vec<Value>, [Value; 4]) {
        let host = match self.port {
            Some(port) if with_port && !self.host.is_empty() => format!("{}:{port}", self.host),
            _ => self.host,
        };
        let mut cells = vec![json!(self.name), json!(host), json!(self.role), json!(self.state)];
        cells.push(self.timeline.map_or_else(|| json!(""), |timeline| json!(timeline)));
        match self.positions {
            None => cells.extend([const { "" }; 4].map(Value::from)),
            Some(positions) => cells.extend(positions.into_iter().flat_map(|p| match p {
                Some((lsn, lag)) => [json!(lsn.to_string()), json!(megabytes(lag))],
                None => [json!("unknown"), json!("")],
            })),
        }
        let tags = match layout {
            Layout::List(Format::Json | Format::Yaml | Format::Yml) => self.tags,
            _ if !self.tags.is_object() => self.tags,
            Layout::List(Format::Pretty) => json!(to_yaml(&self.tags).trim()),
            Layout::List(Format::Tsv) | Layout::Topology => json!(flow_yaml(&self.tags)),
        };
        let pending = if self.pending_restart { "*" } else { "" };
        let optional =
            [json!(pending), json!(self.reasons.join("\n")), json!(self.scheduled_restart), tags];
        (cells, optional)
    }
}

/// Rounded as Python rounds: halves to the even neighbour.
fn megabytes(bytes: u64) -> u64 {
    const MEGABYTE: u64 = 1 << 20;
    let (whole, rest) = (bytes / MEGABYTE, bytes % MEGABYTE);
    let up = rest > MEGABYTE / 2 || (rest == MEGABYTE / 2 && whole % 2 == 1);
    whole + u64::from(up)
}

/// The lines below the table.
fn notices(cluster: &Cluster) -> String {
    let mut lines = String::new();
    if mode(cluster).paused {
        lines.push_str(" Maintenance mode: on\n");
    }
    let failover = cluster.failover.as_ref().map(|failover| &failover.value);
    if let Some((failover, at)) = failover.and_then(|f| f.scheduled_at.map(|at| (f, at))) {
        lines.push_str(&format!(" Switchover scheduled at: {}\n", iso(at)));
        if let Some(leader) = &failover.leader {
            lines.push_str(&format!("                    from: {leader}\n"));
        }
        if let Some(candidate) = &failover.candidate {
            lines.push_str(&format!("                      to: {candidate}\n"));
        }
    }
    lines
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
