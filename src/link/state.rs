//! Supervisor to agent.

use std::time::Duration;

pub use crate::core::budget::{Budget, Timeout};
use crate::core::cluster::Tenure;
use crate::core::guard::Phase;
use crate::core::time::Boot;
pub use crate::sys::process::ExitStatus;

use super::order::JobKind;

/// Everything the agent may know of the supervisor, in one datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub generation: u32,
    /// Highest order sequence number that was handled (carried out or refused).
    pub seq_seen: u64,
    /// The last order that was refused, and why.
    pub refused: Option<Refusal>,
    pub phase: Phase,
    pub tenure: Option<Tenure>,
    /// Send instant of the last accepted confirmation.
    pub sent_at: Option<Boot>,
    /// When the postgres group is frozen unless a confirmation comes first.
    pub deadline: Option<Boot>,
    /// The tenure that was given up; a key that carries it may be deleted.
    pub burned: Option<Tenure>,
    pub budget: Option<Budget>,
    pub group: Group,
    pub postmaster: Option<Postmaster>,
    pub last_exit: Option<Exit>,
    /// Running jobs and the last few that ended.
    pub jobs: Vec<JobState>,
    /// SIGTERM or SIGINT came: stop in good order.
    pub stop_requested: bool,
    /// Counts SIGHUPs.
    pub reloads: u32,
    pub capsule: Vec<u8>,
    pub counters: Counters,
    pub watchdog: Device,
}

impl State {
    /// The budget in force counts on the watchdog device, which does not count.
    pub fn lacks_device(&self) -> bool {
        self.budget.is_some_and(|budget| budget.watch.is_some()) && !self.watchdog.armed
    }

    /// The same, and nothing is known to be wrong with it: it will count in a moment.
    pub fn awaits_device(&self) -> bool {
        self.lacks_device() && self.watchdog.trouble.is_empty()
    }
}

/// The watchdog device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Without it this member must not lead.
    pub required: bool,
    /// Node and identity; empty: none is held.
    pub node: String,
    pub identity: String,
    /// Why it is not used, or what is wrong with it; empty: nothing.
    pub trouble: String,
    /// It counts: without a ping it resets the machine.
    pub armed: bool,
    /// What is in force in the device.
    pub timeout: Duration,
    /// It cannot be stopped (`nowayout`).
    pub endless: bool,
    /// Somebody else holds a duplicate of the descriptor.
    pub kept: bool,
    /// Flags of the last boot, if the driver tells.
    pub boot_status: Option<u32>,
    pub pings: u32,
    /// Confirmations that gave none.
    pub withheld: u32,
    pub failed: u32,
    /// The least that was left of the timeout when a ping came.
    pub margin_min: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub seq: u64,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub means: Means,
    pub populated: bool,
    pub frozen: bool,
}

/// How PostgreSQL is fenced on this member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Means {
    /// cgroup v2: freeze, kill, events.
    ControlGroup,
    /// No control group can be written: stop and kill process by process.
    #[default]
    Descent,
    /// A postmaster in a group that we neither own nor may signal.
    NotFenceable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Postmaster {
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: with the pid, the identity of the process.
    pub start_ticks: u64,
    pub started_at: Boot,
    /// Not our child: its exit status will be unknown.
    pub adopted: bool,
    /// It was started as a primary or got a promotion permit.
    pub permitted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub pid: i32,
    pub at: Boot,
    pub status: ExitStatus,
    /// It had been a permitted primary.
    pub permitted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobState {
    pub id: u64,
    pub kind: JobKind,
    /// `None` while it runs.
    pub ended: Option<ExitStatus>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub freezes: u32,
    pub thaws: u32,
    pub kills: u32,
    pub agent_starts: u32,
}
