//! What a decision says: which rule, in which words, what to do, when to look again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::{PauseRecord, SyncState, Tenure};
use super::lsn::Lsn;
use super::time::Boot;
use super::view::Memory;

/// The outcome of one look at the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Stable name of the rule that fired; stands in logs, in the journal and in `explain`.
    pub rule: &'static str,
    /// Patroni's sentence where Patroni has one.
    pub why: String,
    /// Carried out in this order; the next starts only after success.
    pub actions: Vec<Action>,
    pub memory: Memory,
    /// Look again after this long even if nothing happens.
    pub wake_after: Duration,
    /// The lease may be renewed until here, and no longer.
    pub renew_until: Boot,
}

/// Something to bring about. Each is idempotent and carries its own precondition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask every other registered member for its position.
    AskPeers,
    /// Supervisor: take a running postmaster over.
    Adopt {
        pid: i32,
        standby: bool,
    },
    /// Supervisor: arm before an acquiring transaction.
    Campaign,
    /// Supervisor: disarm after a lost race.
    Withdraw,
    /// Renew the lease, then take the vacant leader key in one transaction that also compares
    /// `/config`, `/failover` and `/failsafe`, and `/sync` when synchronous mode is on; then
    /// confirm.
    AcquireLeader {
        sync_revision: Option<i64>,
        record: RecordIs,
    },
    /// Renew the lease, then replace the sealed leader's key by the handover note's transaction.
    TakeHandover {
        note_revision: i64,
        leader_revision: i64,
        sync_revision: Option<i64>,
    },
    /// Confirm the key that carries our own lease.
    ConfirmOwn,
    /// Grant a lease of this length and move the leader key to it.
    ReletLease {
        tenure: Tenure,
        ttl: Duration,
    },
    /// Supervisor: the key was seen absent or another's.
    LeaseLost {
        tenure: Tenure,
    },
    /// Supervisor: kill everything of PostgreSQL.
    Fence {
        reason: String,
    },
    /// Write the configuration of a standby of `upstream` (none: of nobody) and start it.
    StartStandby {
        upstream: Option<Upstream>,
    },
    /// Write the configuration of a primary and start it by permit.
    StartPrimary,
    /// Promote by permit; runs `pre_promote` first. PostgreSQL must not give the new timeline one
    /// of the numbers `taken`.
    Promote {
        taken: Vec<u32>,
    },
    /// Write the greatest timeline number into `vigil/timeline` under the tenure if it still has
    /// this revision (0: absent).
    WriteTimeline {
        tenure: Tenure,
        revision: i64,
        number: u32,
    },
    /// Rewrite the standby configuration and reload.
    Follow {
        upstream: Option<Upstream>,
    },
    /// Reload the server: wakes a standby that sleeps before it connects again.
    Reload,
    Checkpoint,
    StopFast,
    StopImmediate,
    /// Supervisor: pg_control says `shut down`.
    Sealed,
    /// Supervisor: give the tenure up; the key may be deleted after it was granted.
    Release {
        tenure: Tenure,
    },
    /// Publish the position of the shutdown checkpoint in `/status` under the tenure.
    WriteShutdownStatus {
        tenure: Tenure,
        lsn: Lsn,
    },
    /// Write the handover note under the tenure.
    WriteHandover {
        tenure: Tenure,
        to: String,
        lsn: Lsn,
    },
    /// Delete the leader key (and the note) of a burned tenure.
    DeleteLeader {
        tenure: Tenure,
    },
    /// Take `/initialize` with an empty value on our lease.
    RaceInitialize,
    /// Give `/initialize` up and move the data directory aside.
    AbortBootstrap,
    Initdb,
    /// Mark the new data directory as one whose bootstrap is not finished.
    PrepareBootstrap,
    /// Roles, then `/config` and `/initialize`, then the marker is removed.
    FinishBootstrap,
    /// Write the system identifier of an adopted server into an absent `/initialize`.
    AdoptInitialize,
    /// Make the data directory by this method, from this member if there is one.
    CreateReplica {
        method: String,
        from: Option<Upstream>,
    },
    /// The rewind ended well: its mark is taken away.
    RewindDone,
    /// Mark the directory, then rewind it.
    Rewind {
        from: Upstream,
    },
    /// Ask the leader for its timeline history.
    FetchHistory {
        from: Upstream,
        timeline: u32,
    },
    /// Remove what is in the data directory (reinitialize, impossible rewind).
    RemoveData {
        reason: String,
    },
    /// Write `/failover` = `{}` if it still has this revision.
    ClearFailover {
        revision: i64,
    },
    /// Write `/sync` under the tenure if it still has this revision (0: absent).
    WriteSync {
        tenure: Tenure,
        revision: i64,
        state: SyncState,
    },
    /// Write `/failsafe` under the tenure if it still has this revision (0: absent); `None`:
    /// delete it.
    WriteFailsafe {
        tenure: Tenure,
        revision: i64,
        members: Option<BTreeMap<String, String>>,
    },
    /// Write the pause record under the tenure.
    WritePauseRecord {
        tenure: Tenure,
        record: PauseRecord,
    },
    /// Remove the pause record if it still has this revision: under the tenure, or while nobody
    /// leads.
    RemovePauseRecord {
        tenure: Option<Tenure>,
        revision: i64,
    },
    /// Supervisor: suspend the deadline under the record of this revision.
    Pause {
        tenure: Tenure,
        revision: i64,
    },
    /// Confirm the lease, then, supervisor: the deadline runs again.
    Resume,
    /// Put these names into `synchronous_standby_names` and reload.
    SetSyncNames {
        names: String,
    },
    /// Cancel the data job that runs.
    CancelWork,
    /// The restart that was asked for is over.
    RestartDone,
    /// The new copy that was asked for will not be made.
    DropReinitialize,
    /// The orderly stop is complete.
    Goodbye,
    /// Supervisor: exit, and leave PostgreSQL running.
    Leave,
    /// This member must not go on: log the sentence, exit 1.
    GiveUp {
        reason: String,
    },
}

impl Action {
    /// Sends a transaction that may take the leader key: nobody promises to stay away from it
    /// meanwhile (`core::failsafe`).
    pub fn may_acquire(&self) -> bool {
        matches!(
            self,
            Action::Campaign
                | Action::AcquireLeader { .. }
                | Action::TakeHandover { .. }
                | Action::ConfirmOwn
        )
    }
}

/// What an acquiring transaction compares and does about the pause record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordIs {
    /// It must not exist.
    Absent,
    /// It is ours, unchanged, and stays.
    Ours { revision: i64 },
    /// It is unchanged and goes: its leader's PostgreSQL has ended, or an operator says so.
    Overruled { revision: i64 },
}

/// Where a standby streams from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upstream {
    pub name: String,
    /// The member's `conn_url`.
    pub conn_url: String,
}
