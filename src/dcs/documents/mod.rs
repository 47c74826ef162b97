//! Codec between Patroni's JSON documents and the types of `core::cluster`.
//!
//! Writers are exact to the byte: compact, keys in Patroni's order, ASCII only, as other members
//! and scripts are used to. Readers are tolerant: whoever may write to the store must not be able
//! to stop a cluster, so a document of the wrong shape reads as an empty one, a field of the wrong
//! type as an absent one, and what is unknown is ignored.

mod member;
mod records;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub use member::{MemberDocument, member_json, moved_only, tags};
pub use records::{
    failover_json, failsafe_json, handover_json, history_json, pause_json, status_json, sync_json,
    timeline_json,
};

use super::keys::Key;
use crate::core::cluster::{Cluster, Initialize, Keyed, LeaderKey};

/// Longest document that is read; a longer one reads as an empty one. etcd itself refuses
/// requests above 1.5 MiB in its default configuration.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// One key of the store, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Vec<u8>,
    pub mod_revision: i64,
    /// 0: no lease.
    pub lease_id: i64,
}

impl Entry {
    /// The value as text; empty when it is not UTF-8 or too long.
    fn text(&self) -> &str {
        if self.value.len() > DOCUMENT_BYTES_MAX {
            return "";
        }
        std::str::from_utf8(&self.value).unwrap_or_default()
    }

    fn keyed<T>(&self, value: T) -> Option<Keyed<T>> {
        Some(Keyed { value, mod_revision: self.mod_revision })
    }
}

/// What these keys say together. The header's fields (cluster id, revision, term) stay zero: they
/// are not in any document.
pub fn cluster(entries: &[Entry]) -> Cluster {
    let mut cluster = Cluster::default();
    let mut optime = None;
    let mut status = None;
    for entry in entries {
        let text = entry.text();
        match &entry.key {
            Key::Leader => cluster.leader = leader(entry),
            Key::Member(name) => {
                let mut member = member::member(name, text);
                member.lease_id = entry.lease_id;
                member.mod_revision = entry.mod_revision;
                cluster.members.insert(name.clone(), member);
            }
            Key::Initialize => {
                cluster.initialize = match text {
                    "" => Initialize::InProgress { lease_id: entry.lease_id },
                    id => Initialize::Done(id.into()),
                }
            }
            Key::Config => cluster.config = entry.keyed(text.into()),
            Key::Status => status = Some(records::status(text)),
            Key::OptimeLeader => optime = text.trim().parse().ok(),
            Key::Failover => cluster.failover = entry.keyed(records::failover(text)),
            Key::Sync => cluster.sync = entry.keyed(records::sync(text)),
            Key::History => cluster.history = records::history(text),
            Key::Failsafe => cluster.failsafe = entry.keyed(records::failsafe(text)),
            Key::Handover => {
                cluster.handover = records::handover(text).and_then(|note| entry.keyed(note));
            }
            Key::PauseRecord => cluster.pause_record = entry.keyed(records::pause(text)),
            Key::Timeline => cluster.newest_timeline = entry.keyed(records::timeline(text)),
        }
    }
    cluster.status = status.unwrap_or_default();
    if cluster.status.optime.is_none() {
        cluster.status.optime = optime.map(crate::core::lsn::Lsn);
    }
    cluster
}

/// The leader key; an empty name means "no leader", as for Patroni. A name that is no text is
/// somebody all the same.
pub(super) fn leader(entry: &Entry) -> Option<LeaderKey> {
    if entry.value.is_empty() {
        return None;
    }
    Some(LeaderKey {
        name: String::from_utf8_lossy(&entry.value).into_owned(),
        lease_id: entry.lease_id,
        mod_revision: entry.mod_revision,
    })
}

/// The document as Python's `json.dumps(…, separators=(',', ':'))` writes it: compact, and
/// everything outside printable ASCII escaped.
pub fn compact(value: &Value) -> String {
    let json = value.to_string();
    if json.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return json;
    }
    let mut ascii = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        // Such characters occur inside strings only, so an escape may stand for each.
        if (' '..='~').contains(&c) {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

/// The document as an object; anything else reads as an empty one.
fn object(text: &str) -> Map<String, Value> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// A text that says something: empty ones read as absent.
fn string(map: &Map<String, Value>, name: &str) -> Option<String> {
    map.get(name)?.as_str().filter(|text| !text.is_empty()).map(Into::into)
}

/// An unsigned integer, as a number or as its text (both occur in Patroni's documents).
fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}
