//! What another member, Patroni or pgvigil, says of itself.

use serde_json::Value;

use crate::core::lsn::Lsn;

/// The answer of `GET /patroni`, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// It answered with a status document.
    pub reachable: bool,
    pub state: String,
    pub role: String,
    /// `None`: its PostgreSQL does not run or does not answer.
    pub in_recovery: Option<bool>,
    /// A primary's flush position.
    pub location: Option<Lsn>,
    pub received: Option<Lsn>,
    pub replayed: Option<Lsn>,
    /// The positions were asked for after the question came in, and are those of all the log that
    /// is there. A Patroni asks for each answer.
    pub fresh: bool,
    pub timeline: Option<u32>,
    pub nofailover: bool,
    /// Patroni's default is 1; 0 or less means `nofailover`.
    pub failover_priority: i64,
    pub watchdog_failed: bool,
    /// Its volumes fail, or its PostgreSQL does not answer: `vigil.health.fit` is false.
    pub unfit: bool,
    pub paused: bool,
    pub system_identifier: Option<String>,
    /// The Patroni release whose behaviour it offers.
    pub version: String,
    /// It is a pgvigil.
    pub vigil: bool,
}

impl PeerStatus {
    /// A member that did not answer.
    pub fn unreachable() -> PeerStatus {
        PeerStatus::default()
    }

    /// Anything that is not a status document is an unreachable member.
    pub fn parse(document: &Value) -> PeerStatus {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if !document["state"].is_string() {
            return PeerStatus::unreachable();
        }
        // `wal`: some releases of Patroni named the object so.
        let wal = document.get("wal").or_else(|| document.get("xlog"));
        let position = |key: &str| wal.and_then(|w| w[key].as_u64()).filter(|p| *p != 0).map(Lsn);
        let role = text(&document["role"]);
        let location = position("location");
        let primary = location.is_some() || matches!(role.as_str(), "primary" | "master");
        let tags = &document["tags"];
        let priority = tags.get("failover_priority").and_then(integer);
        let nofailover = match boolean(&tags["nofailover"]) {
            Some(nofailover) => nofailover,
            None => priority.is_some_and(|p| p <= 0),
        };
        PeerStatus {
            reachable: true,
            state: text(&document["state"]),
            role,
            in_recovery: wal.map(|_| !primary),
            location,
            received: position("received_location"),
            replayed: position("replayed_location"),
            fresh: document.get("vigil").is_none_or(|vigil| vigil["fresh"] == true),
            timeline: document["timeline"].as_u64().and_then(|t| u32::try_from(t).ok()),
            nofailover,
            failover_priority: if nofailover { 0 } else { priority.unwrap_or(1) },
            watchdog_failed: boolean(&document["watchdog_failed"]).unwrap_or(false),
            unfit: document["vigil"]["health"]["fit"] == false,
            paused: boolean(&document["pause"]).unwrap_or(false),
            system_identifier: document["database_system_identifier"].as_str().map(str::to_owned),
            version: text(&document["patroni"]["version"]),
            vigil: document.get("vigil").is_some(),
        }
    }

    /// How far its log reaches: the greater of received and replayed, a primary's flush position.
    pub fn position(&self) -> Option<Lsn> {
        self.location.max(self.received).max(self.replayed)
    }

    /// Why it cannot be promoted; `None` when nothing speaks against it.
    pub fn failover_limitation(&self) -> Option<&'static str> {
        if !self.reachable || self.in_recovery.is_none() {
            return Some("not reachable");
        }
        if self.nofailover {
            return Some("not allowed to promote");
        }
        self.watchdog_failed.then_some("not watchdog capable")
    }
}

/// Booleans may be written as numbers and as text.
pub(super) fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => number.as_i64().map(|n| n != 0),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Some(true),
            "off" | "false" | "no" | "0" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_a_primary_and_a_replica() {
        let primary = PeerStatus::parse(&json!({
            "state": "running", "role": "primary", "xlog": {"location": 67108960}, "timeline": 1,
            "tags": {"zone": "z0"}, "database_system_identifier": "7710567681084448811",
            "patroni": {"version": "4.1.4", "scope": "demo", "name": "alpha"},
        }));
        assert_eq!(primary.in_recovery, Some(false));
        assert_eq!(primary.position(), Some(Lsn(67_108_960)));
        assert_eq!(primary.timeline, Some(1));
        assert_eq!(primary.system_identifier.as_deref(), Some("7710567681084448811"));
        assert!(!primary.vigil && primary.fresh, "a Patroni asks its server for each answer");
        let replica = PeerStatus::parse(&json!({
            "state": "running", "role": "replica", "pause": true, "vigil": {"protocol": 1},
            "xlog": {"received_location": 20, "replayed_location": 10},
            "tags": {"failover_priority": "3"},
        }));
        assert_eq!(replica.in_recovery, Some(true));
        assert_eq!(replica.position(), Some(Lsn(20)));
        assert_eq!(replica.failover_priority, 3);
        assert!(replica.paused && replica.vigil && !replica.fresh);
        let asked = json!({"state": "running", "vigil": {"protocol": 1, "fresh": true}});
        assert!(PeerStatus::parse(&asked).fresh);
    }

    #[test]
    fn knows_why_a_member_cannot_be_promoted() {
        let xlog = json!({"received_location": 1, "replayed_location": 1});
        let with = |key: &str, value: Value| {
            let mut document = json!({"state": "running", "role": "replica", "xlog": xlog});
            document[key] = value;
            PeerStatus::parse(&document).failover_limitation()
        };
        assert_eq!(with("tags", json!({})), None);
        let cases = [
            (with("tags", json!({"nofailover": true})), "not allowed to promote"),
            (with("tags", json!({"nofailover": "yes"})), "not allowed to promote"),
            (with("tags", json!({"failover_priority": 0})), "not allowed to promote"),
            (with("watchdog_failed", json!(true)), "not watchdog capable"),
            (
                PeerStatus::parse(&json!({"state": "stopped"})).failover_limitation(),
                "not reachable",
            ),
            (PeerStatus::parse(&json!("garbage")).failover_limitation(), "not reachable"),
            (PeerStatus::unreachable().failover_limitation(), "not reachable"),
        ];
        for (limitation, expected) in cases {
            assert_eq!(limitation, Some(expected));
        }
    }
}
