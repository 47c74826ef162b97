//! Everything a decision may look at. Each part carries its age; `None` means "not known yet",
//! never "no".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::cloning::Cloning;
use super::cluster::{Cluster, LeaderKey, Member, Tags, Tenure};
use super::database::{ControlData, ControlState, DataDir, Probe};
use super::failsafe::Known;
use super::guard::Phase;
use super::health::{Health, Stuck};
use super::lsn::Lsn;
use super::settings::Settings;
use super::slot_copies::LeaderSlots;
use super::time::{Boot, Wall};
use super::timeline::History;
use super::trust::Doubt;

/// A value and the instant just before the question was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    pub value: T,
    pub at: Boot,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub now: Boot,
    pub wall: Wall,
    pub name: String,
    pub tags: Tags,
    pub settings: Settings,
    pub store: Store,
    pub guard: GuardView,
    pub server: Server,
    pub health: Health,
    pub job: Option<DataJob>,
    /// Answers of the other members, from the last time they were asked.
    pub peers: BTreeMap<String, PeerAnswer>,
    /// When they were asked last.
    pub peers_asked_at: Option<Boot>,
    pub wishes: Wishes,
    pub memory: Memory,
}

/// The store as we know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// The last good linearizable read.
    pub cluster: Option<Seen<Arc<Cluster>>>,
    /// Since when every attempt has failed.
    pub failing_since: Option<Boot>,
    pub lease: Option<OwnLease>,
    /// The lease to which the leader key is being moved.
    pub next_lease: Option<OwnLease>,
    /// The last answer is not believed (cluster id changed, revision went back).
    pub doubt: Option<Doubt>,
    /// When the last one that is believed arrived.
    pub received_at: Boot,
    /// Promises, which stand in for the store.
    pub failsafe: Known,
}

/// The lease that carries our member key and, while we lead, the leader key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnLease {
    pub id: i64,
    /// Not more than was granted, nor than was asked for.
    pub ttl: Duration,
    pub asked: Duration,
    /// Send instant of the last renewal that was answered.
    pub renewed_at: Boot,
}

/// What the supervisor says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardView {
    pub phase: Phase,
    pub tenure: Option<Tenure>,
    pub sent_at: Option<Boot>,
    pub deadline: Option<Boot>,
    pub burned: Option<Tenure>,
    /// G: a permit needs a confirmation younger than this.
    pub fresh: Duration,
    pub fenceable: bool,
    pub populated: bool,
    pub stop_requested: bool,
    /// The watchdog device was told to count and has not answered.
    pub awaits_device: bool,
}

/// The local PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// `None` until the directory was looked at.
    pub data_dir: Option<DataDir>,
    pub standby_signal: bool,
    /// A promotion was ordered since this server was started: it may become writable at any
    /// instant, whatever it looks like now.
    pub promoting: bool,
    /// A rewind was begun and did not end well: pages of two histories may be mixed, nothing may
    /// be started from here.
    pub half_rewound: bool,
    /// The machine was reset while this was the primary, and an operator is to look at it first.
    pub stay_down: bool,
    /// Our bootstrap of this directory has not finished (a marker file says so).
    pub bootstrapping: bool,
    /// A postmaster that runs on the directory, as postmaster.pid and /proc agree.
    pub running_pid: Option<i32>,
    /// A process is still attached to the old server's shared memory.
    pub shm_attached: bool,
    pub postmaster: Option<Postmaster>,
    pub last_exit: Option<LastExit>,
    /// The last answer of this postmaster.
    pub probe: Option<Seen<Arc<Probe>>>,
    /// It runs and does not serve our own session: what it says, and since when.
    pub refused: Option<(String, Boot)>,
    /// It takes connections elsewhere than where it is asked: what was tried and what it says, and
    /// since when.
    pub unreached: Option<(String, Boot)>,
    /// The primary that the written configuration follows: `host:port`.
    pub upstream: Option<String>,
    /// The timeline history of the present leader, once fetched.
    pub leader_history: Option<(u32, History)>,
    /// What the leader last said of its logical slots, to this postmaster's member.
    pub leader_slots: Option<Seen<LeaderSlots>>,
}

impl Server {
    /// Why there is no answer of a server that runs.
    pub fn not_ready(&self) -> String {
        match (&self.refused, &self.unreached) {
            (Some((why, _)), _) => format!("PostgreSQL runs and does not serve pgvigil: {why}"),
            (None, Some((why, _))) => format!("PostgreSQL runs and is not reached: {why}"),
            (None, None) => "PostgreSQL is still starting".to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Postmaster {
    pub pid: i32,
    pub started_at: Boot,
    /// Started as a primary, or promoted.
    pub permitted: bool,
    /// When we first asked it to stop.
    pub stopping_since: Option<Boot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastExit {
    pub pid: i32,
    pub at: Boot,
    pub permitted: bool,
    /// Exit code 0.
    pub clean: bool,
}

/// A job that works on the data directory, running or just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataJob {
    pub id: u64,
    pub work: Work,
    /// `None` while it runs.
    pub succeeded: Option<bool>,
}

/// What a data job does; part of its id, so that the next agent knows it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    Initdb,
    BaseBackup,
    Rewind,
}

/// What another member answered to `GET /patroni`, or that it did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAnswer {
    pub reachable: bool,
    pub in_recovery: bool,
    /// The greater of received and replayed; flush position of a primary.
    pub position: Option<Lsn>,
    /// Its server told the position after we had asked, of all the log that it has; else it is what
    /// was known before, or is still being replayed.
    pub fresh: bool,
    pub timeline: Option<u32>,
    pub nofailover: bool,
    pub failover_priority: i64,
    pub watchdog_failed: bool,
    /// Its volumes fail, or its PostgreSQL does not answer.
    pub unfit: bool,
    /// Its `vigil` object is there.
    pub vigil: bool,
}

/// What operators want of this member right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    pub restart: bool,
    pub reinitialize: bool,
    /// ... by a base backup of the leader.
    pub from_leader: bool,
    /// The supervisor was told to stop.
    pub stop: bool,
}

/// The whole carry-over between decisions. Losing it is safe: everything that matters stands in
/// the store, in the supervisor or in the data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// When we first saw the leader key absent in the present vacancy, and no promise of ours let
    /// anybody lead without it.
    pub vacant_since: Option<Boot>,
    /// Which vacancy that is: [`Cluster::lately_led`].
    pub vacant_under: Option<[i64; 3]>,
    /// We hold the empty `/initialize` key.
    pub bootstrap_won: bool,
    /// The bootstrap cannot be finished: what there is of the cluster is set aside.
    pub bootstrap_failed: bool,
    /// Instants at which the primary's postmaster died under us, recent ones.
    pub crashes: Vec<Boot>,
    /// Since when a primary is being started.
    pub starting_since: Option<Boot>,
    pub rewind_failed: bool,
    pub cloning: Cloning,
    /// When a copy that was begun by these decisions was complete.
    pub copied_at: Option<Boot>,
    /// The job whose end was dealt with.
    pub job_done: u64,
    pub switchover: Option<Switchover>,
    /// A restart was begun and not finished.
    pub restarting: bool,
    /// A reinitialization was begun and not finished.
    pub reinitializing: bool,
    /// When the sealed leader's key was handed over or should have been taken.
    pub handover_since: Option<Boot>,
    /// Since when pg_control of the server that we stop says that it is shut down.
    pub shut_down_since: Option<Boot>,
    /// What was last written as `synchronous_standby_names` of this server, if it was by us.
    pub sync_names: Option<String>,
    /// When that was.
    pub sync_names_set: Option<Boot>,
    /// The postmaster that was told to stop last, or killed by a fence.
    pub stopped_pid: Option<i32>,
    /// When a promotion was asked for last.
    pub promotion_asked: Option<Boot>,
    /// When a postmaster was started last.
    pub started: Option<Boot>,
    /// Why the last demotion took place.
    pub demoted_because: Option<String>,
    /// The job that was told to end.
    pub cancelled: u64,
    /// The revision of `/sync` that our last write of it compared.
    pub sync_wrote: Option<i64>,
    /// The revision of `/failsafe` that our last write of it compared.
    pub failsafe_wrote: Option<i64>,
    /// When the postmaster was last told to stop at once.
    pub quit_at: Option<Boot>,
    /// The leader's member key (mod_revision) for which this standby was woken last.
    pub woken_for: i64,
    /// Since when the leader's history is needed before the server may start.
    pub history_needed_since: Option<Boot>,
    /// Since when a standby that ought to stream does not.
    pub not_streaming_since: Option<Boot>,
    /// Since when we lead.
    pub led_since: Option<Boot>,
    /// Members that streamed from this server since it became primary: what they have is of our
    /// history, even if it has not told them a newer timeline yet.
    pub followers: BTreeSet<String>,
    /// No request that removes a pause record of a later revision can be under way. Unknown: an
    /// earlier agent's can.
    pub record_floor: Option<i64>,
    /// When the key was last to be handed over for reasons of health.
    pub gave_up_at: Option<Boot>,
    /// PostgreSQL is being killed, and then the key is given up.
    pub yielding: bool,
    /// When a hung server was killed to be started again, recent ones.
    pub hang_kills: Vec<Boot>,
    /// Since when the supervisor has been killing PostgreSQL.
    pub killing_since: Option<Boot>,
    /// Starts in a row whose server ended right away.
    pub short_lives: u32,
    /// Where replay stands while there is more to replay.
    pub replay_stuck: Stuck,
    /// How far the log was received while the leader is further.
    pub receive_stuck: Stuck,
}

/// A switchover that this leader carries out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switchover {
    pub to: String,
    pub since: Boot,
}

impl View {
    /// The store's content, if it was ever read and is believed.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.store.cluster.as_ref().map(|seen| &*seen.value)
    }

    /// The cluster view is young enough to act on: the last read began less than this ago.
    pub fn cluster_within(&self, age: Duration) -> Option<&Cluster> {
        let seen = self.store.cluster.as_ref()?;
        (self.now.since(seen.at) <= age && self.store.doubt.is_none()).then_some(&*seen.value)
    }

    pub fn leader(&self) -> Option<&LeaderKey> {
        self.cluster()?.leader.as_ref()
    }

    /// The leader's member document, when the leader is somebody else.
    pub fn leader_member(&self) -> Option<&Member> {
        let leader = self.leader()?;
        if leader.name == self.name {
            return None;
        }
        self.cluster()?.members.get(&leader.name)
    }

    /// The leader key is the one that the supervisor's tenure names.
    pub fn holds_key(&self) -> bool {
        match (self.leader(), self.guard.tenure) {
            (Some(key), Some(t)) => {
                key.lease_id == t.lease_id && key.mod_revision == t.mod_revision
            }
            _ => false,
        }
    }

    /// The leader key, when it still is the one of the tenure that was given up.
    pub fn burned_key(&self) -> Option<Tenure> {
        let (key, burned) = (self.leader()?, self.guard.burned?);
        let same = key.lease_id == burned.lease_id && key.mod_revision == burned.mod_revision;
        same.then_some(burned)
    }

    /// The leader key carries our own living lease, though the supervisor has no tenure (any
    /// more): we took it and the answer was lost, or a fence ended the tenure before the key.
    pub fn reclaimable(&self) -> Option<Tenure> {
        let (key, lease) = (self.leader()?, self.store.lease?);
        let tenure = Tenure { lease_id: key.lease_id, mod_revision: key.mod_revision };
        let ours = key.name == self.name && key.lease_id == lease.id;
        (ours && self.guard.tenure.is_none() && self.guard.burned != Some(tenure)).then_some(tenure)
    }

    /// The key carries our lease, or the one to which we were moving it, at another revision
    /// than the supervisor knows: we rewrote it and have not confirmed that yet.
    pub fn moved(&self) -> Option<Tenure> {
        let key = self.leader().filter(|_| self.guard.tenure.is_some() && !self.holds_key())?;
        let mut leases = self.store.lease.iter().chain(&self.store.next_lease);
        let tenure = Tenure { lease_id: key.lease_id, mod_revision: key.mod_revision };
        let ours = key.name == self.name && leases.any(|lease| lease.id == key.lease_id);
        (ours && self.guard.burned != Some(tenure)).then_some(tenure)
    }

    /// The supervisor would grant a start as primary or a promotion now.
    pub fn may_permit(&self) -> bool {
        self.guard.phase == Phase::Leading
            && self.guard.tenure != self.guard.burned
            && self.guard.sent_at.is_some_and(|s| self.now.since(s) <= self.guard.fresh)
    }

    /// Nothing may be started from the data directory until it is rewound again or copied anew. A
    /// server that runs there regardless was started by somebody who knows.
    pub fn is_half_rewound(&self) -> bool {
        self.server.half_rewound && self.server.postmaster.is_none()
    }

    pub fn control(&self) -> Option<&ControlData> {
        match &self.server.data_dir {
            Some(DataDir::Cluster { control, .. }) if !self.is_half_rewound() => Some(control),
            _ => None,
        }
    }

    /// The data directory is a standby's, as its files say.
    pub fn was_standby(&self) -> bool {
        let recovering = |c: &ControlData| {
            matches!(c.state, ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery)
        };
        self.server.standby_signal || self.control().is_some_and(recovering)
    }

    /// The present postmaster's last answer, whatever its age.
    pub fn probe(&self) -> Option<&Probe> {
        self.server.postmaster.as_ref()?;
        self.server.probe.as_ref().map(|seen| &*seen.value)
    }

    /// PostgreSQL answers and accepts writes.
    pub fn is_primary(&self) -> bool {
        self.probe().is_some_and(|p| !p.in_recovery)
    }

    /// PostgreSQL answers and is a standby.
    pub fn is_standby(&self) -> bool {
        self.probe().is_some_and(|p| p.in_recovery)
    }

    /// The greater of received and replayed on a standby, the flush position on a primary.
    pub fn position(&self) -> Option<Lsn> {
        self.probe().and_then(position)
    }

    /// Names of the other registered members.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        self.cluster().into_iter().flat_map(|c| c.members.values()).filter(|m| m.name != self.name)
    }
}

/// How far a server has the WAL.
pub fn position(probe: &Probe) -> Option<Lsn> {
    if probe.in_recovery { probe.receive_lsn.max(probe.replay_lsn) } else { probe.flush_lsn }
}
