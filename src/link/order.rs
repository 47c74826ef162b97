//! Agent to supervisor.

use std::time::Duration;

use crate::core::budget::Grade;
use crate::core::cluster::Tenure;
pub use crate::core::guard::Confirmation;
pub use crate::core::settings::WatchdogMode;
use crate::core::time::Boot;

/// An order with its sender's generation; the supervisor refuses those of another generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub generation: u32,
    /// Strictly increasing within a generation.
    pub seq: u64,
    pub order: Order,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// First order of every generation, and again after a reload. Until the first one the
    /// supervisor runs nothing but agents.
    Configure(Configure),
    /// New lease length: the supervisor computes T1, G and W from it. A smaller one is in force
    /// when the state says so; a larger one only from the next confirmation on, which must hence be
    /// one of a lease with this length.
    Retune {
        ttl: Duration,
    },
    /// Arm before the transaction that may acquire the leader key is sent.
    Campaign,
    /// The race was lost or given up: disarm. Refused once this postmaster got a permit.
    Withdraw,
    /// The renewal sent at `sent_at` was answered and the leader key was then read as ours.
    Confirm(Confirmation),
    /// Every member promised not to lead for the ttl in force, the first one asked at `sent_at`.
    Extend {
        tenure: Tenure,
        sent_at: Boot,
    },
    /// A linearizable read shows the key absent or another's.
    LeaseLost {
        tenure: Tenure,
    },
    /// Start the postmaster as a standby (the agent wrote `standby.signal` before).
    StartStandby(Command),
    /// Start the postmaster as a primary: only under a fresh confirmation.
    StartPrimary(Command),
    /// Run the promoting command inside the postgres group: only under a fresh confirmation.
    Promote(Command),
    /// Signal the postmaster.
    Signal(PgSignal),
    /// Kill the whole postgres group now (freeze first), for the reason given.
    Fence {
        reason: String,
    },
    /// pg_control says `shut down`, written by the shutdown of this postmaster.
    Sealed,
    /// Ask to give up the tenure: granted (state: `burned`) when the group is empty or sealed.
    Release {
        tenure: Tenure,
    },
    /// The leader's pause record was confirmed at this revision under this tenure.
    Pause {
        tenure: Tenure,
        revision: i64,
    },
    /// Pause is over; a fresh confirmation must come first, else the postgres group is frozen.
    Resume,
    RunJob(Job),
    CancelJob {
        id: u64,
    },
    /// A postmaster that already runs on the data directory, as postmaster.pid tells, or what the
    /// known one turned out to be. `standby`: it cannot accept writes, as the agent concludes from
    /// standby.signal and pg_control (it may be frozen: no SQL). One that is no standby is frozen
    /// unless a lease is confirmed.
    Adopt {
        pid: i32,
        standby: bool,
    },
    /// Opaque bytes kept for the next agent (lease id and the like), at most 4 KiB.
    Capsule(Vec<u8>),
    /// Sent every second or two; `status` goes to systemd's STATUS=, `ready` to READY=1 (once).
    Heartbeat {
        status: String,
        ready: bool,
    },
    /// The reload numbered so was carried out.
    Reloaded {
        reload: u32,
    },
    /// The orderly stop is complete: nothing of PostgreSQL runs, the supervisor may exit 0.
    /// `failed`: this member must not go on; exit 1.
    Goodbye {
        failed: bool,
    },
    /// In a pause: the supervisor may exit 0, PostgreSQL goes on and is adopted by the next one.
    Leave,
}

/// What the supervisor must know before it runs anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configure {
    /// Without symbolic links, as /proc shows it when it is a working directory. The supervisor
    /// itself touches no file on that volume.
    pub data_dir: String,
    pub ttl: Duration,
    /// Bound of the relative clock rate error, parts per million (default 10,000).
    pub rho_ppm: u32,
    /// Zero: kill at the deadline instead of freezing.
    pub freeze_max: Duration,
    /// Executable name of the postmaster (for the fallback without control groups): `postgres`.
    pub postgres_path: String,
    pub watchdog: Watchdog,
}

/// How the watchdog device is to be used; which one it is was fixed at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watchdog {
    pub mode: WatchdogMode,
    /// As [`Wish`](crate::core::budget::Wish) has them.
    pub grade: Option<Grade>,
    pub margin_s: Option<i64>,
    pub election: Duration,
}

/// A program to run. The child opens `output` itself (append) for stdout and stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// argv[0] is an absolute path, executed as it is.
    pub argv: Vec<String>,
    /// Added to the supervisor's own environment.
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
    /// `None`: the supervisor's stderr.
    pub output: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Chosen by the agent, unique over generations; an id that is known is not run again.
    pub id: u64,
    pub kind: JobKind,
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobKind {
    /// Works on the data directory (initdb, base backup, rewind): never beside a postmaster or
    /// another data job.
    Data,
    /// Callbacks, hooks and the like.
    Script,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PgSignal {
    /// SIGHUP.
    Reload,
    /// SIGTERM: waits for the clients.
    SmartStop,
    /// SIGINT.
    FastStop,
    /// SIGQUIT.
    ImmediateStop,
}
