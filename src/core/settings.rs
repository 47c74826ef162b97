//! The settings that decisions read, with Patroni's names and defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decision::Upstream;
use super::health::Limits;
use super::slots::{PermanentSlot, SlotPattern};

/// Patroni's `synchronous_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncMode {
    #[default]
    Off,
    On,
    Quorum,
}

/// Patroni's `watchdog.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchdogMode {
    Off,
    /// Lead without one if there is none that can be used.
    #[default]
    Automatic,
    /// Lead only while one is armed.
    Required,
}

/// Effective settings: defaults, dynamic configuration, local configuration, in that order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    pub ttl: Duration,
    pub loop_wait: Duration,
    pub retry_timeout: Duration,
    pub maximum_lag_on_failover_bytes: u64,
    /// Zero: fail over at once when the primary's postmaster dies.
    pub primary_start_timeout: Duration,
    /// Zero: no limit on a clean stop.
    pub primary_stop_timeout: Duration,
    pub synchronous_mode: SyncMode,
    pub synchronous_mode_strict: bool,
    pub synchronous_node_count: u32,
    pub maximum_lag_on_syncnode_bytes: i64,
    pub failsafe_mode: bool,
    pub paused: bool,
    pub check_timeline: bool,
    pub max_timelines_history: u32,
    pub member_slots_ttl: Duration,
    pub use_pg_rewind: bool,
    pub use_slots: bool,
    /// The cluster follows another one and accepts no writes.
    pub standby_cluster: Option<StandbyCluster>,
    pub slots: Vec<PermanentSlot>,
    pub ignore_slots: Vec<SlotPattern>,
    pub remove_data_directory_on_rewind_failure: bool,
    pub remove_data_directory_on_diverged_timelines: bool,
    /// `vigil.freeze_max`: how long a frozen primary waits for its lease before it is killed.
    pub freeze_max: Duration,
    /// `vigil.allow_unfenced`: lead although the postmaster cannot be fenced.
    pub allow_unfenced: bool,
    /// `vigil.health`.
    pub health: Limits,
    /// How a replica's data directory is made, to be tried in this order; never empty.
    pub replica_methods: Vec<ReplicaMethod>,
}

/// Where the leader of a standby cluster gets its WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StandbyCluster {
    /// The remote primary; none: the archive alone.
    pub upstream: Option<Upstream>,
    /// A slot on the remote primary.
    pub slot_name: Option<String>,
    /// Recovery parameters of the standby leader.
    pub recovery: BTreeMap<String, String>,
}

/// The method that is built in.
pub const BASEBACKUP: &str = "basebackup";

/// A way to make the data directory of a replica, as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaMethod {
    pub name: String,
    /// Works without a member to copy from.
    pub no_leader: bool,
    /// Starts from what is in the data directory, which is hence not emptied.
    pub keep_data: bool,
}

impl Default for ReplicaMethod {
    fn default() -> ReplicaMethod {
        ReplicaMethod { name: BASEBACKUP.to_owned(), no_leader: false, keep_data: false }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
            maximum_lag_on_failover_bytes: 1_048_576,
            primary_start_timeout: Duration::from_secs(300),
            primary_stop_timeout: Duration::ZERO,
            synchronous_mode: SyncMode::Off,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            maximum_lag_on_syncnode_bytes: -1,
            failsafe_mode: false,
            paused: false,
            check_timeline: false,
            max_timelines_history: 0,
            member_slots_ttl: Duration::from_secs(1800),
            use_pg_rewind: false,
            use_slots: true,
            standby_cluster: None,
            slots: Vec::new(),
            ignore_slots: Vec::new(),
            remove_data_directory_on_rewind_failure: false,
            remove_data_directory_on_diverged_timelines: false,
            freeze_max: Duration::from_secs(30),
            allow_unfenced: false,
            health: Limits::default(),
            replica_methods: vec![ReplicaMethod::default()],
        }
    }
}
