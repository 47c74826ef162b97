//! `/members/<name>`.

use serde_json::{Map, Value, json};

use super::{compact, object, string, unsigned};
use crate::core::cluster::{Member, Tags};
use crate::core::database::PendingParameter;
use crate::core::lsn::Lsn;

/// What a member publishes about itself. Fields in the order in which they are written; what is
/// `None`, empty or false is left out, except the first five.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberDocument {
    pub conn_url: String,
    pub api_url: String,
    pub state: String,
    pub role: String,
    /// The Patroni release whose behaviour we offer.
    pub version: String,
    pub proxy_url: Option<String>,
    /// Promoted and not yet checkpointed: written as `"checkpoint_after_promote":false`.
    pub awaits_checkpoint: bool,
    /// Tags as published, in the order in which the configuration has them.
    pub tags: Map<String, Value>,
    pub pending_restart: Vec<PendingParameter>,
    pub xlog_location: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    pub receive_lsn: Option<Lsn>,
    pub replication_state: Option<String>,
    pub timeline: Option<u32>,
    pub scheduled_restart: Option<Value>,
    pub pause: bool,
    /// Our own release: written as the object `vigil`, last.
    pub vigil_version: Option<String>,
    /// What reset this machine while it was primary, the last time: in the object `vigil`.
    pub last_reset: Option<Value>,
}

/// Number of the dialect that pgvigil members speak among themselves.
const VIGIL_PROTOCOL: u32 = 1;

/// The document as stored.
pub fn member_json(document: &MemberDocument) -> String {
    let d = document;
    let mut map = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(name.into(), value);
        }
    };
    let text = |value: &Option<String>| value.as_deref().map(Value::from);
    let position = |lsn: Option<Lsn>| lsn.map(|lsn| Value::from(lsn.0));
    let pending = !d.pending_restart.is_empty();
    put("conn_url", Some(d.conn_url.as_str().into()));
    put("api_url", Some(d.api_url.as_str().into()));
    put("state", Some(d.state.as_str().into()));
    put("role", Some(d.role.as_str().into()));
    put("version", Some(d.version.as_str().into()));
    put("proxy_url", text(&d.proxy_url));
    put("checkpoint_after_promote", d.awaits_checkpoint.then_some(false.into()));
    put("tags", (!d.tags.is_empty()).then(|| d.tags.clone().into()));
    put("pending_restart", pending.then_some(true.into()));
    put("pending_restart_reason", pending.then(|| reasons(&d.pending_restart)));
    put("xlog_location", position(d.xlog_location));
    put("replay_lsn", position(d.replay_lsn));
    put("receive_lsn", position(d.receive_lsn));
    put("replication_state", text(&d.replication_state));
    put("timeline", d.timeline.map(Value::from));
    put("scheduled_restart", d.scheduled_restart.clone());
    put("pause", d.pause.then_some(true.into()));
    let vigil = d.vigil_version.as_ref().map(|version| {
        let mut vigil = json!({ "version": version, "protocol": VIGIL_PROTOCOL });
        if let Some(reset) = &d.last_reset {
            vigil["last_reset"] = reset.clone();
        }
        vigil
    });
    put("vigil", vigil);
    compact(&Value::Object(map))
}

fn reasons(pending: &[PendingParameter]) -> Value {
    let reason = |p: &PendingParameter| {
        let values = json!({ "old_value": p.old_value, "new_value": p.new_value });
        (p.name.clone(), values)
    };
    Value::Object(pending.iter().map(reason).collect())
}

/// A member's document. Lease and revision are not part of it and stay zero.
pub(super) fn member(name: &str, text: &str) -> Member {
    let mut member = Member { name: name.into(), raw: text.into(), ..Member::default() };
    if text.starts_with("postgres") {
        (member.conn_url, member.api_url) = legacy(text);
        return member;
    }
    let map = object(text);
    let word = |name: &str| string(&map, name).unwrap_or_default();
    let position = |name: &str| map.get(name).and_then(unsigned).map(Lsn);
    let timeline = map.get("timeline").and_then(unsigned);
    member.conn_url = word("conn_url");
    member.api_url = word("api_url");
    member.state = word("state");
    member.role = word("role");
    member.version = word("version");
    member.timeline = timeline.and_then(|number| u32::try_from(number).ok());
    member.xlog_location = position("xlog_location");
    member.receive_lsn = position("receive_lsn");
    member.replay_lsn = position("replay_lsn");
    member.replication_state = string(&map, "replication_state");
    member.checkpoint_after_promote = map.get("checkpoint_after_promote").and_then(Value::as_bool);
    member.pause = map.get("pause").and_then(Value::as_bool).unwrap_or(false);
    member.vigil = map.get("vigil").is_some_and(Value::is_object);
    if let Some(Value::Object(published)) = map.get("tags") {
        member.tags = tags(published);
    }
    member
}

/// Patroni before 1.0 wrote a connection URL that carries the API's URL as `application_name`.
fn legacy(url: &str) -> (String, String) {
    let Some((conn_url, query)) = url.split_once('?') else { return (url.into(), String::new()) };
    let api_url = query.split('&').find_map(|pair| pair.strip_prefix("application_name="));
    (conn_url.into(), api_url.map(percent_decoded).unwrap_or_default())
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = match (first, tail) {
            (b'%', [high, low, ..]) => hexadecimal(*high).zip(hexadecimal(*low)),
            _ => None,
        };
        match code {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &tail[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Tags with the meaning that Patroni gives them. An explicit `nofailover` wins over
/// `failover_priority`, and `nosync` over `sync_priority`.
pub fn tags(published: &Map<String, Value>) -> Tags {
    let flag = |name: &str| published.get(name).is_some_and(is_true);
    let (nofailover, failover_priority) = ranked(published, "nofailover", "failover_priority");
    let (nosync, sync_priority) = ranked(published, "nosync", "sync_priority");
    Tags {
        nofailover,
        failover_priority,
        nosync,
        sync_priority,
        noloadbalance: flag("noloadbalance"),
        clonefrom: flag("clonefrom"),
        replicatefrom: string(published, "replicatefrom"),
        nostream: flag("nostream"),
        published: published.iter().map(|(k, v)| (k.clone(), compact(v))).collect(),
    }
}

/// A switch and the number that refines it: (switched off, priority).
fn ranked(published: &Map<String, Value>, switch: &str, priority: &str) -> (bool, i64) {
    let number = published.get(priority).and_then(integer);
    let off = match published.get(switch) {
        Some(value) => is_true(value),
        None => number.is_some_and(|number| number <= 0),
    };
    let rank = if off { 0 } else { number.unwrap_or(1).max(1) };
    (off, rank)
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// `true`, a number other than zero, or one of YAML's words for it.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => {
            matches!(text.trim().to_ascii_lowercase().as_str(), "true" | "on" | "yes" | "1")
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Whether two documents differ in positions only. A member publishes its positions at each round;
/// if that woke the others, and they published theirs, the cluster would never rest.
pub fn moved_only(before: &[u8], after: &[u8]) -> bool {
    let still = |bytes: &[u8]| {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        let map = value.as_object_mut()?;
        for position in ["xlog_location", "replay_lsn", "receive_lsn"] {
            map.remove(position);
        }
        Some(value)
    };
    still(before).is_some_and(|before| still(after).as_ref() == Some(&before))
}
