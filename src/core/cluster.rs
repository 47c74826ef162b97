//! What the store holds about a cluster, decoded. The documents are Patroni's; `dcs` converts.

use std::collections::BTreeMap;

use super::lsn::Lsn;
use super::time::Wall;

/// The right to be leader during one uninterrupted possession of the leader key: the lease that
/// the key carries and the revision that our own acquiring transaction gave it. Any rewrite of
/// the key by anybody changes the revision, so equality means "the same possession".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenure {
    pub lease_id: i64,
    pub mod_revision: i64,
}

/// One consistent read of everything below the cluster's prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// The store's own cluster id; another value means another store (or one restored elsewhere).
    pub cluster_id: u64,
    /// The store's revision of this read; going back means a store restored from a backup.
    pub revision: i64,
    pub raft_term: u64,
    pub initialize: Initialize,
    /// `/config` as stored (JSON text) with its mod_revision.
    pub config: Option<Keyed<String>>,
    pub leader: Option<LeaderKey>,
    pub members: BTreeMap<String, Member>,
    pub status: Status,
    /// `None`: no key. An empty request (`{}`) is a key with every field absent.
    pub failover: Option<Keyed<FailoverRequest>>,
    pub sync: Option<Keyed<SyncState>>,
    pub history: Vec<HistoryEntry>,
    /// `/failsafe`: names and `api_url`s of the members that a leader without the store asks.
    pub failsafe: Option<Keyed<BTreeMap<String, String>>>,
    /// pgvigil's own `vigil/handover`: the sealed leader's note that names its successor.
    pub handover: Option<Keyed<Handover>>,
    /// pgvigil's own `vigil/pause`: while it exists nobody takes a vacant leader key.
    pub pause_record: Option<Keyed<PauseRecord>>,
    /// pgvigil's own `vigil/timeline`: the greatest timeline number that was given out.
    pub newest_timeline: Option<Keyed<NewestTimeline>>,
}

/// A value and the mod_revision of its key: what a later compare-and-write needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keyed<T> {
    pub value: T,
    pub mod_revision: i64,
}

impl Cluster {
    /// Another value than at an earlier look: somebody has led since. Who acquires the leader key
    /// writes `vigil/timeline` in the same transaction, and in synchronous mode a Patroni, too,
    /// writes `/sync` before it is promoted. Nobody else writes them. Under a pause record somebody
    /// may go on without a key.
    pub fn lately_led(&self) -> [i64; 3] {
        let sync = self.sync.as_ref().map_or(0, |key| key.mod_revision);
        let record = self.pause_record.as_ref().map_or(0, |key| key.mod_revision);
        [sync, self.newest_timeline.map_or(0, |key| key.mod_revision), record]
    }

    /// One of the members is a Patroni.
    pub fn has_patroni(&self) -> bool {
        self.members.values().any(|m| !m.vigil && !m.version.is_empty())
    }

    /// One of the members looks for the leader's position in `optime/leader`: Patroni before 2.1.0.
    pub fn reads_optime(&self) -> bool {
        self.members.values().any(|m| !m.vigil && is_before(&m.version, (2, 1)))
    }
}

/// What is no version is not before any.
fn is_before(version: &str, wanted: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let found = parts.next().flatten().zip(parts.next().flatten());
    found.is_some_and(|found| found < wanted)
}

/// The `/initialize` key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Initialize {
    /// No key: nobody has bootstrapped this cluster.
    #[default]
    Absent,
    /// An empty value, on the lease of who is bootstrapping.
    InProgress { lease_id: i64 },
    /// The system identifier of the cluster's databases.
    Done(String),
}

/// The `/leader` key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderKey {
    pub name: String,
    /// 0 when the key carries no lease (written by hand).
    pub lease_id: i64,
    pub mod_revision: i64,
}

/// One `/members/<name>` document.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    pub name: String,
    pub conn_url: String,
    pub api_url: String,
    /// Patroni's word: `running`, `stopped`, `creating replica`, …
    pub state: String,
    /// Patroni's word: `primary`, `replica`, `standby_leader`, `demoted`, `uninitialized`, …
    pub role: String,
    pub version: String,
    pub timeline: Option<u32>,
    /// Flush position of a primary; the greater of received and replayed on a replica.
    pub xlog_location: Option<Lsn>,
    pub receive_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    /// `streaming` or `in archive recovery`.
    pub replication_state: Option<String>,
    pub tags: Tags,
    /// `Some(false)` on a new leader until its first checkpoint after promotion: no rewind from it.
    pub checkpoint_after_promote: Option<bool>,
    pub pause: bool,
    /// The document has the object `vigil`: this member is a pgvigil, not a Patroni.
    pub vigil: bool,
    pub lease_id: i64,
    pub mod_revision: i64,
    /// The document as stored, for those who need a field that has no place above.
    pub raw: String,
}

impl Member {
    /// Whether the member says that its PostgreSQL runs.
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// A member's tags with the meaning that decisions give them (Patroni's defaults).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tags {
    /// Also where only `failover_priority` is given, and is 0 or less.
    pub nofailover: bool,
    /// Greater wins among equally advanced candidates.
    pub failover_priority: i64,
    pub nosync: bool,
    pub sync_priority: i64,
    pub noloadbalance: bool,
    pub clonefrom: bool,
    pub replicatefrom: Option<String>,
    pub nostream: bool,
    /// Every tag as published, value as compact JSON, in the order of the names.
    pub published: BTreeMap<String, String>,
}

impl Default for Tags {
    fn default() -> Tags {
        Tags {
            nofailover: false,
            failover_priority: 1,
            nosync: false,
            sync_priority: 1,
            noloadbalance: false,
            clonefrom: false,
            replicatefrom: None,
            nostream: false,
            published: BTreeMap::new(),
        }
    }
}

/// The `/status` document.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status {
    /// The leader's last published position.
    pub optime: Option<Lsn>,
    pub slots: BTreeMap<String, Lsn>,
    pub retain_slots: Vec<String>,
}

/// The `/failover` document: what an operator asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FailoverRequest {
    pub leader: Option<String>,
    pub candidate: Option<String>,
    pub scheduled_at: Option<Wall>,
}

impl FailoverRequest {
    /// `{}`: cleared, nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == FailoverRequest::default()
    }
}

/// The `vigil/pause` document: this leader's deadline may be suspended, so that its PostgreSQL may
/// accept writes although its lease is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PauseRecord {
    /// Empty when the document cannot be read: nobody's, and it holds all the same.
    pub leader: String,
    pub since: Option<Wall>,
    /// Its PostgreSQL ended in good order, so that it suspends nothing any more: it only says who
    /// may lead again as long as the cluster is paused.
    pub stopped: bool,
}

/// The `vigil/timeline` document: see `core::numbering`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NewestTimeline {
    /// 0 when the document cannot be read.
    pub number: u32,
    /// mod_revision of the leader key under which it was written.
    pub leader_mod_revision: i64,
}

/// The `/sync` document. An absent key and an empty document both mean "nobody is synchronous".
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncState {
    pub leader: Option<String>,
    pub standbys: Vec<String>,
    pub quorum: u32,
}

impl SyncState {
    /// Whether this member may win the leader race in synchronous mode.
    pub fn contains(&self, name: &str) -> bool {
        self.leader.as_deref() == Some(name) || self.standbys.iter().any(|s| s == name)
    }
}

/// One line of `/history`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryEntry {
    pub timeline: u32,
    pub lsn: Lsn,
    pub reason: String,
    /// As written, ISO 8601.
    pub timestamp: Option<String>,
    pub new_leader: Option<String>,
}

/// The sealed leader's note: `to` may replace the leader key if it has replayed `lsn`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handover {
    pub from: String,
    pub to: String,
    /// End of the old leader's shutdown checkpoint record.
    pub lsn: Lsn,
    /// mod_revision of the leader key that this note belongs to.
    pub leader_mod_revision: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_before_2_1_read_the_position_elsewhere() {
        let cluster = |version: &str, vigil: bool| {
            let member = Member { version: version.to_owned(), vigil, ..Member::default() };
            Cluster { members: [("m".to_owned(), member)].into(), ..Cluster::default() }
        };
        for old in ["2.0.2", "1.6", "0.90.1"] {
            assert!(cluster(old, false).reads_optime(), "{old}");
        }
        for other in ["2.1.0", "2.1", "10.0.1", "4.1.5", "", "2", "master", "-1.0"] {
            assert!(!cluster(other, false).reads_optime(), "{other}");
        }
        assert!(!cluster("2.0.2", true).reads_optime());
    }
}
