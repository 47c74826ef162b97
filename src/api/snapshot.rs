//! What the agent publishes for its readers, and what they may ask of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::fence::Fence;
use crate::core::candidates::Candidacy;
use crate::core::cluster::Cluster;
use crate::core::database::Probe;
use crate::core::guard::Phase;
use crate::core::settings::Settings;
use crate::core::time::Boot;

/// Everything a REST answer needs, replaced whole after each turn of the agent's loop.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub scope: String,
    pub name: String,
    /// The Patroni release whose behaviour we offer.
    pub version: String,
    /// Patroni's state word: `running`, `starting`, `stopped`, `creating replica`, …
    pub state: String,
    /// Patroni's role word as the agent believes it: `primary`, `replica`, `demoted`, …
    pub role: String,
    /// The postmaster lives, as the supervisor sees it.
    pub postmaster_alive: bool,
    /// The last answer of PostgreSQL and when it was received; `None` before the first one of
    /// this postmaster.
    pub probe: Option<(Arc<Probe>, Boot)>,
    /// Older than this, a probe is no proof of life.
    pub probe_fresh: Duration,
    pub system_identifier: Option<String>,
    pub cluster: Option<Arc<Cluster>>,
    /// When the store last confirmed `cluster`; older than `ttl`, it counts as unknown.
    pub cluster_at: Boot,
    /// The cluster follows another one (`standby_cluster` in the dynamic configuration).
    pub standby_cluster: bool,
    /// Wall-clock seconds of the last successful contact with the store.
    pub dcs_last_seen: i64,
    /// Until when this process's own confirmed lease lets it call itself leader.
    pub leader_until: Option<Boot>,
    pub phase: Phase,
    pub settings: Settings,
    /// The tags as published: Patroni's set, those that are false left out.
    pub tags: BTreeMap<String, serde_json::Value>,
    pub noloadbalance: bool,
    pub failover_priority: i64,
    /// Keys and texts as Patroni's `pending_restart_reason`: parameter → (old, new).
    pub pending_restart: BTreeMap<String, (String, String)>,
    /// Patroni's `scheduled_restart` object, if one is planned.
    pub scheduled_restart: Option<serde_json::Value>,
    pub failsafe_active: bool,
    /// The store's `/failsafe` document, an object of member names and `api_url`s.
    pub failsafe: Option<serde_json::Value>,
    /// A `restore_command` is in force: a replica that does not stream reads the archive.
    pub restore_command: bool,
    pub watchdog_failed: bool,
    pub fence: Option<Fence>,
    /// When the agent's loop last finished a turn.
    pub loop_at: Boot,
    /// The rule that fired last and its sentence.
    pub rule: &'static str,
    pub why: String,
    /// The other members, and why they could not lead now.
    pub candidates: Vec<Candidacy>,
    /// The last decisions, for `explain`: one line each, oldest first.
    pub explain: Vec<String>,
    /// The object `vigil` of `/patroni` (version, fencing means, margins).
    pub vigil: serde_json::Value,
}

/// A command that came over HTTP, with the place for its answer. A dropped sender is answered 503.
#[derive(Debug)]
pub struct Request {
    pub command: Command,
    pub reply: oneshot::Sender<Reply>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Body as parsed; the agent validates.
    PatchConfig(serde_json::Value),
    PutConfig(serde_json::Value),
    Reload,
    Restart(serde_json::Value),
    DeleteRestart,
    Reinitialize(serde_json::Value),
    Switchover(serde_json::Value),
    Failover(serde_json::Value),
    DeleteSwitchover,
    /// A leader without etcd asks for a promise not to lead: `core::failsafe`.
    Failsafe(serde_json::Value),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// Empty with a status of 400 or more: answered with the error page of that status.
    pub body: String,
    /// `application/json` instead of `text/html`.
    pub json: bool,
    /// Sent beside the usual ones.
    pub headers: Vec<(&'static str, u64)>,
}

impl Reply {
    /// A sentence, as most commands are answered.
    pub fn text(status: u16, body: impl Into<String>) -> Reply {
        Reply { status, body: body.into(), json: false, headers: Vec::new() }
    }

    /// A document, as `PATCH /config` is answered.
    pub fn json(status: u16, body: &serde_json::Value) -> Reply {
        Reply { status, body: super::json::python(body), json: true, headers: Vec::new() }
    }

    /// The error page of this status.
    pub fn error(status: u16) -> Reply {
        Reply { status, body: String::new(), json: false, headers: Vec::new() }
    }
}
