//! What is known of the local PostgreSQL, from its files and from its own answers.

use std::path::{Path, PathBuf};

use super::lsn::Lsn;
use super::time::Wall;

/// Where a member keeps `what` beside its data directory: that one comes and goes, and pg_rewind
/// removes from it what its source does not have.
pub fn beside(data_dir: &Path, what: &str) -> PathBuf {
    let name = data_dir.file_name().unwrap_or_default().to_string_lossy();
    data_dir.with_file_name(format!(".{name}.pgvigil.{what}"))
}

/// What the data directory is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DataDir {
    /// Missing, or there is nothing in it.
    Empty,
    /// A cluster of this major version (13, 15, …) with readable control data.
    Cluster { version: u32, control: ControlData },
    /// Something is there that cannot be used; the sentence says what and where.
    Unusable { reason: String },
}

impl DataDir {
    /// Why no start can bring a server up here.
    pub fn lost(&self) -> Option<&str> {
        match self {
            DataDir::Cluster { .. } => None,
            DataDir::Empty => Some("the data directory is empty"),
            DataDir::Unusable { reason } => Some(reason),
        }
    }
}

/// `state` of pg_control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ControlState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

/// The part of pg_control that decisions need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ControlData {
    pub system_identifier: u64,
    pub state: ControlState,
    /// Position of the latest checkpoint record.
    pub checkpoint_lsn: Lsn,
    pub redo_lsn: Lsn,
    /// TimeLineID of the latest checkpoint.
    pub timeline: u32,
    /// Minimum recovery ending location; zero when none.
    pub min_recovery_lsn: Lsn,
    pub min_recovery_timeline: u32,
    pub wal_log_hints: bool,
    pub data_checksums: bool,
    pub wal_segment_bytes: u32,
    /// `time of latest checkpoint`, seconds since 1970: tells one shutdown from another.
    pub checkpoint_time: i64,
}

/// One answer of the running server to the status query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Probe {
    /// `server_version_num`.
    pub server_version: u32,
    pub system_identifier: u64,
    /// As PostgreSQL prints it in UTC with microseconds: `2026-11-21 10:20:36.947647+00:00`.
    pub postmaster_start_time: String,
    pub in_recovery: bool,
    /// Primary: from its current WAL file. Replica: the WAL receiver's, else the last checkpoint's.
    pub timeline: u32,
    /// Primary only.
    pub flush_lsn: Option<Lsn>,
    pub insert_lsn: Option<Lsn>,
    /// Replica only.
    pub receive_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    pub replayed_at: Option<Wall>,
    /// `pg_last_xact_replay_timestamp()` as text, UTC, like `postmaster_start_time`.
    pub replayed_timestamp: Option<String>,
    pub replay_paused: bool,
    /// Replay waits for WAL from elsewhere: it has read all that is here.
    pub replay_waits: bool,
    pub wal_receiver: Option<WalReceiver>,
    pub wal_senders: Vec<WalSender>,
    pub slots: Vec<Slot>,
    pub synchronous_standby_names: String,
    /// The checkpointer waits in its main loop, so that it has read the configuration.
    pub checkpointer_idle: bool,
    /// Sessions with a transaction id: they write, or have written and not ended.
    pub writers: u32,
    /// Recovery settings in force (13 and later: ordinary parameters).
    pub primary_conninfo: String,
    pub primary_slot_name: String,
    /// Parameters changed in the files that wait for a restart.
    pub pending_restart: Vec<PendingParameter>,
}

impl Probe {
    /// The positions say how far the log reaches that is here. A standby that was just started
    /// answers while it still replays what it had received, and confirmed, before: it tells how
    /// far replay is, and nothing received (a receiver is asked for only when all was read).
    pub fn knows_its_end(&self) -> bool {
        !self.in_recovery || self.receive_lsn.is_some() || self.replay_waits
    }
}

/// Row of `pg_stat_wal_receiver`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WalReceiver {
    /// `streaming`, `starting`, `waiting`, …
    pub status: String,
    pub sender_host: Option<String>,
    pub sender_port: Option<u16>,
    pub slot_name: Option<String>,
    pub received_timeline: u32,
    pub written_lsn: Option<Lsn>,
    pub latest_end_lsn: Option<Lsn>,
}

/// Row of `pg_stat_replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WalSender {
    pub usename: String,
    pub application_name: String,
    pub client_addr: Option<String>,
    pub state: String,
    pub sync_state: String,
    pub sync_priority: i32,
    pub flush_lsn: Option<Lsn>,
    pub write_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
}

/// Row of `pg_replication_slots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    pub name: String,
    /// `physical` or `logical`.
    pub kind: String,
    /// Of a logical slot.
    pub database: Option<String>,
    pub plugin: Option<String>,
    pub active: bool,
    pub restart_lsn: Option<Lsn>,
    pub confirmed_flush_lsn: Option<Lsn>,
    /// The oldest transaction whose catalog rows the slot needs.
    pub catalog_xmin: Option<u32>,
}

/// A parameter whose new value waits for a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PendingParameter {
    pub name: String,
    pub old_value: String,
    pub new_value: String,
}
