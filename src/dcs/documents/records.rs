//! The documents of the cluster as a whole: status, failover, sync, history, handover, pause.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{compact, object, string, unsigned};
use crate::core::cluster::{
    FailoverRequest, Handover, HistoryEntry, NewestTimeline, PauseRecord, Status, SyncState,
};
use crate::core::lsn::Lsn;
use crate::core::time::Wall;

/// `/status` as stored: slots in the order of their names.
pub fn status_json(status: &Status) -> String {
    let mut map = Map::new();
    if let Some(optime) = status.optime {
        map.insert("optime".into(), optime.0.into());
    }
    if !status.slots.is_empty() {
        let slots = status.slots.iter().map(|(name, lsn)| (name.clone(), lsn.0.into()));
        map.insert("slots".into(), Value::Object(slots.collect()));
    }
    if !status.retain_slots.is_empty() {
        map.insert("retain_slots".into(), status.retain_slots.clone().into());
    }
    compact(&Value::Object(map))
}

/// `/failsafe` as stored.
pub fn failsafe_json(members: &BTreeMap<String, String>) -> String {
    let urls = members.iter().map(|(name, url)| (name.clone(), url.as_str().into()));
    compact(&Value::Object(urls.collect()))
}

/// Names and URLs; whoever has no URL can promise nothing and is named all the same.
pub(super) fn failsafe(text: &str) -> BTreeMap<String, String> {
    let url = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    object(text).iter().map(|(name, value)| (name.clone(), url(value))).collect()
}

/// Also reads a bare position, which early releases of Patroni wrote.
pub(super) fn status(text: &str) -> Status {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let Value::Object(map) = value else {
        return Status { optime: unsigned(&value).map(Lsn), ..Status::default() };
    };
    let mut status = Status {
        optime: map.get("optime").and_then(unsigned).map(Lsn),
        retain_slots: strings(map.get("retain_slots")),
        ..Status::default()
    };
    if let Some(Value::Object(slots)) = map.get("slots") {
        let known = slots.iter().filter_map(|(name, at)| Some((name.clone(), Lsn(unsigned(at)?))));
        status.slots = known.collect();
    }
    status
}

/// `/failover` as stored; an empty request is `{}`, which is how it is cleared.
pub fn failover_json(request: &FailoverRequest) -> String {
    let mut map = Map::new();
    if let Some(leader) = &request.leader {
        map.insert("leader".into(), leader.as_str().into());
    }
    if let Some(candidate) = &request.candidate {
        map.insert("member".into(), candidate.as_str().into());
    }
    if let Some(at) = request.scheduled_at {
        map.insert("scheduled_at".into(), iso_8601(at).into());
    }
    compact(&Value::Object(map))
}

/// A request whose time cannot be read asks for nothing: taken without its time it would be
/// carried out at once, which is the last thing that its author meant.
pub(super) fn failover(text: &str) -> FailoverRequest {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => {
            let time = string(&map, "scheduled_at");
            let scheduled_at = time.as_deref().and_then(wall);
            let absent = matches!(map.get("scheduled_at"), None | Some(Value::Null));
            if scheduled_at.is_none() && !absent && time.as_deref() != Some("") {
                return FailoverRequest::default();
            }
            FailoverRequest {
                leader: string(&map, "leader"),
                candidate: string(&map, "member").or_else(|| string(&map, "candidate")),
                scheduled_at,
            }
        }
        Ok(_) => FailoverRequest::default(),
        Err(_) => legacy_failover(text),
    }
}

/// `leader:candidate`, either of which may be missing. Text that looks like damaged JSON is not it.
fn legacy_failover(text: &str) -> FailoverRequest {
    if text.contains(['{', '}', '"', '[', ']']) {
        return FailoverRequest::default();
    }
    let (leader, candidate) = text.split_once(':').unwrap_or((text, ""));
    let name = |part: &str| Some(part.trim()).filter(|part| !part.is_empty()).map(Into::into);
    FailoverRequest { leader: name(leader), candidate: name(candidate), scheduled_at: None }
}

/// `/sync` as stored: standbys sorted, `null` when there are none.
pub fn sync_json(sync: &SyncState) -> String {
    let mut standbys = sync.standbys.clone();
    standbys.sort();
    let standbys = (!standbys.is_empty()).then(|| standbys.join(","));
    compact(&json!({ "leader": sync.leader, "quorum": sync.quorum, "sync_standby": standbys }))
}

pub(super) fn sync(text: &str) -> SyncState {
    let map = object(text);
    let Some(leader) = string(&map, "leader") else {
        // Without a leader the names mean nothing, as for Patroni.
        return SyncState::default();
    };
    let listed = string(&map, "sync_standby").unwrap_or_default();
    let names = listed.split(',').map(str::trim).filter(|name| !name.is_empty());
    let quorum = map.get("quorum").and_then(unsigned);
    SyncState {
        leader: Some(leader),
        standbys: names.map(Into::into).collect(),
        quorum: quorum.and_then(|number| u32::try_from(number).ok()).unwrap_or(0),
    }
}

/// `/history` as stored.
pub fn history_json(history: &[HistoryEntry]) -> String {
    let line = |entry: &HistoryEntry| {
        let mut line = vec![json!(entry.timeline), json!(entry.lsn.0), json!(entry.reason)];
        // The trailing fields are positional: the name can only stand after the time.
        if entry.timestamp.is_some() || entry.new_leader.is_some() {
            line.push(json!(entry.timestamp.as_deref().unwrap_or_default()));
        }
        line.extend(entry.new_leader.as_ref().map(|name| json!(name)));
        Value::Array(line)
    };
    compact(&Value::Array(history.iter().map(line).collect()))
}

/// Lines that cannot be read are left out.
pub(super) fn history(text: &str) -> Vec<HistoryEntry> {
    let Ok(Value::Array(lines)) = serde_json::from_str(text) else { return Vec::new() };
    lines.iter().filter_map(history_line).collect()
}

fn history_line(line: &Value) -> Option<HistoryEntry> {
    let line = line.as_array()?;
    let word = |at: usize| {
        line.get(at).and_then(Value::as_str).filter(|text| !text.is_empty()).map(Into::into)
    };
    Some(HistoryEntry {
        timeline: u32::try_from(unsigned(line.first()?)?).ok()?,
        lsn: Lsn(unsigned(line.get(1)?)?),
        reason: word(2).unwrap_or_default(),
        timestamp: word(3),
        new_leader: word(4),
    })
}

/// `vigil/handover` as stored.
pub fn handover_json(note: &Handover) -> String {
    compact(&json!({
        "from": note.from,
        "to": note.to,
        "lsn": note.lsn.0,
        "leader_mod_revision": note.leader_mod_revision,
    }))
}

/// `None` unless every field is there: half a note is no permission to take a leader's key.
pub(super) fn handover(text: &str) -> Option<Handover> {
    let map = object(text);
    Some(Handover {
        from: string(&map, "from")?,
        to: string(&map, "to")?,
        lsn: Lsn(map.get("lsn").and_then(unsigned)?),
        leader_mod_revision: map.get("leader_mod_revision").and_then(Value::as_i64)?,
    })
}

/// `vigil/pause` as stored.
pub fn pause_json(record: &PauseRecord) -> String {
    let mut map = Map::new();
    map.insert("leader".into(), record.leader.as_str().into());
    map.extend(record.since.map(|at| ("since".into(), iso_8601(at).into())));
    if record.stopped {
        map.insert("stopped".into(), true.into());
    }
    compact(&Value::Object(map))
}

/// Whatever stands there is a record.
pub(super) fn pause(text: &str) -> PauseRecord {
    let map = object(text);
    PauseRecord {
        leader: string(&map, "leader").unwrap_or_default(),
        since: string(&map, "since").as_deref().and_then(wall),
        stopped: map.get("stopped") == Some(&Value::Bool(true)),
    }
}

/// `vigil/timeline` as stored.
pub fn timeline_json(newest: NewestTimeline) -> String {
    compact(&json!({
        "number": newest.number,
        "leader_mod_revision": newest.leader_mod_revision,
    }))
}

/// A number that cannot be read is 0: nothing is known.
pub(super) fn timeline(text: &str) -> NewestTimeline {
    let map = object(text);
    NewestTimeline {
        number: map.get("number").and_then(unsigned).and_then(|n| n.try_into().ok()).unwrap_or(0),
        leader_mod_revision: map.get("leader_mod_revision").and_then(Value::as_i64).unwrap_or(0),
    }
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(Into::into).collect()
}

/// ISO 8601 with an offset or `Z`; without one the instant is unknown.
fn wall(text: &str) -> Option<Wall> {
    text.trim().parse::<Timestamp>().ok().map(|at| Wall(at.as_microsecond()))
}

/// As Python's `isoformat()` prints a time in UTC.
fn iso_8601(at: Wall) -> String {
    let micros = at.0.clamp(Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_microsecond());
    let at = Timestamp::from_microsecond(micros).expect("invariant: within jiff's range");
    let format = match at.subsec_microsecond() {
        0 => "%Y-%m-%dT%H:%M:%S+00:00",
        _ => "%Y-%m-%dT%H:%M:%S.%6f+00:00",
    };
    at.strftime(format).to_string()
}
