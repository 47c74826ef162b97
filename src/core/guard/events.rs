//! What goes into the guard and what comes out.

use std::time::Duration;

use crate::core::budget::Budget;
use crate::core::cluster::Tenure;
use crate::core::time::Boot;

/// Where the guard stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// No deadline: the postgres group holds a standby or nothing.
    #[default]
    Idle,
    /// Armed, the acquiring transaction may be under way; nothing was permitted yet.
    Candidate,
    /// The lease is confirmed and the deadline runs.
    Leading,
    /// The deadline passed: the postgres group is frozen and waits for proof.
    Frozen,
    /// The kill was issued; the group is not empty yet.
    Killing,
    /// The group is empty after a fence; waits for the next start as a standby.
    Fenced,
    /// pg_control says `shut down` and the tenure was burned; walsenders may still finish.
    Sealed,
    /// The leader's confirmed pause record suspends the deadline.
    Paused,
}

/// The renewal sent at `sent_at` was answered, and the leader key was then read as ours under the
/// same raft term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Confirmation {
    pub tenure: Tenure,
    pub cluster_id: u64,
    pub raft_term: u64,
    /// BOOTTIME just before the keepalive was sent: all deadlines count from here.
    pub sent_at: Boot,
    /// What the store granted this lease: no deadline may count on more.
    pub ttl: Duration,
    /// The lease to which a transaction under this tenure, and no other one, may move the key, at
    /// any instant from now on.
    pub next: Option<i64>,
}

/// The postgres group as the kernel tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupState {
    pub populated: bool,
    /// Every process stands still.
    pub frozen: bool,
}

/// What the guard is told. Orders of the agent may be refused; facts never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    // Facts.
    /// Time went by.
    Tick,
    Group(GroupState),
    /// Answer to [`Effect::LookAtTasks`]: a task that is not frozen is in state R.
    Tasks {
        running: bool,
    },
    /// The postmaster ended; its backends may not have.
    PostmasterExited,
    /// At the supervisor's start the group was populated: by what, nobody knows. What a
    /// predecessor knew, if anything, does not fit.
    Found,
    DataJobEnded,
    /// Answer to the last [`Effect::ArmDevice`]: since then it counts, and that was verified.
    DeviceArmed {
        at: Boot,
    },
    /// The device cannot be armed.
    DeviceFailed,
    /// Answer to the last [`Effect::Ping`]: when it returned; `None`: the device refused it.
    Pinged {
        at: Option<Boot>,
    },
    /// The same: not given, because its proof had grown too old.
    PingLate,
    /// The last [`Effect::Kill`] was carried out: SIGKILL is pending for every process of the
    /// group, so that none executes another instruction of its program.
    KillSent,
    /// A postmaster that we did not start was taken over, or a known one turned out to be this.
    Adopted {
        standby: bool,
    },
    // Orders.
    Configure {
        budget: Budget,
        freeze_max: Duration,
    },
    Retune(Budget),
    Campaign,
    Withdraw,
    Confirm(Confirmation),
    /// Every member promised not to lead, the first one asked at this instant.
    Extend(Tenure, Boot),
    LeaseLost(Tenure),
    StartStandby,
    StartPrimary,
    Promote,
    /// A signal that makes the postmaster shut down is about to be sent.
    StopSignal,
    Fence,
    Sealed,
    Release(Tenure),
    Pause(Tenure),
    Resume,
    StartDataJob,
    Goodbye,
    /// PostgreSQL is to go on while nobody supervises it.
    Leave,
}

/// What the supervisor must do, in this order, before it takes the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Publish the deadline to the sentinel. `kill_by`: a group that is not frozen by then dies.
    Arm {
        deadline: Boot,
        kill_by: Boot,
    },
    /// There is no deadline any more.
    Disarm,
    /// Let the watchdog device count, with this timeout; answered by [`Event::DeviceArmed`].
    ArmDevice {
        timeout: Duration,
    },
    /// One ping, which also brings this timeout into force; answered by [`Event::Pinged`]. With a
    /// `proof`, the instant at which its renewal was sent, not once that is older than
    /// [`Budget::proof`].
    Ping {
        proof: Option<Boot>,
        timeout: Duration,
    },
    /// Stop the device. Nothing is to be answered.
    DisarmDevice,
    Freeze,
    Thaw,
    Kill,
    /// The group is empty: take the freeze back, so that what starts next is not born frozen.
    Clear,
    /// Not frozen in time: see which tasks are not, and tell ([`Event::Tasks`]).
    LookAtTasks,
}

/// Why an order was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);
