//! What the agent's loop is woken by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::api::snapshot::Request;
use crate::core::cluster::Cluster;
use crate::core::database::Probe;
use crate::core::health::Ailing;
use crate::core::slot_copies::LeaderSlots;
use crate::core::time::Boot;
use crate::core::timeline::History;
use crate::core::view::PeerAnswer;
use crate::dcs::Write;
use crate::link::state::State;

use super::lease::Held;
use super::progress::Copied;
use super::volume::Room;

#[derive(Debug)]
pub enum Event {
    /// A new state of the supervisor.
    Link(Arc<State>),
    /// The socket to the supervisor is closed: stop renewing and exit.
    LinkLost,
    /// A linearizable read, sent and received at these instants.
    Cluster {
        cluster: Box<Cluster>,
        sent_at: Boot,
        received_at: Boot,
    },
    /// The store did not answer.
    ClusterFailed {
        at: Boot,
    },
    /// The own lease as it is now; `None`: it has expired.
    Lease(Held),
    /// Read the cluster now.
    Refresh,
    /// The postmaster with this pid answered, or did not.
    Probe {
        pid: i32,
        answer: Option<Box<Probe>>,
        asked_at: Boot,
    },
    /// The postmaster with this pid answered that it does not serve our session.
    Refused {
        pid: i32,
        why: String,
    },
    /// The postmaster with this pid takes connections, but not where the configuration says.
    Unreached {
        pid: i32,
        why: String,
    },
    /// The running batch of actions has ended.
    Done {
        facts: Vec<Fact>,
        failed: Option<String>,
    },
    /// For how long the postmaster with this pid has not answered a new connection.
    Unanswered {
        pid: i32,
        lasting: Duration,
    },
    /// For how long a small transaction has not ended under this postmaster.
    Unwritten {
        pid: i32,
        lasting: Duration,
    },
    /// What the volume that is worst off suffers from, and what is free on each.
    Volumes {
        worst: Option<Ailing>,
        rooms: Vec<Room>,
    },
    /// How far the running copy is; `None`: it has ended.
    Copied(Option<Copied>),
    /// The running duties have ended.
    DutiesDone {
        facts: Vec<Fact>,
        failed: bool,
    },
    Request(Request),
    /// A round of questions for promises: when it began, and who did not promise.
    Promises {
        asked_at: Boot,
        missing: Vec<String>,
    },
}

/// What an action found out or brought about.
#[derive(Debug)]
pub enum Fact {
    Peers {
        answers: BTreeMap<String, PeerAnswer>,
        asked_at: Boot,
    },
    BootstrapWon,
    BootstrapFailed,
    /// The written configuration follows this `conn_url`.
    Upstream(Option<String>),
    History {
        timeline: u32,
        history: History,
    },
    StopAsked {
        pid: i32,
        at: Boot,
    },
    RestartDone,
    ReinitializeBegun,
    Cluster {
        cluster: Box<Cluster>,
        sent_at: Boot,
        received_at: Boot,
    },
    /// The member document that now stands in the store, and the lease that it carries.
    MemberWritten {
        document: String,
        lease_id: i64,
    },
    StatusWritten(Vec<Write>),
    HistoryWritten(u32),
    /// What the leader said of its logical slots, asked at this instant by the member with this
    /// postmaster.
    LeaderSlots {
        pid: i32,
        at: Boot,
        slots: LeaderSlots,
    },
    /// The revision that our write gave `/failsafe`; `None`: it is deleted.
    FailsafeWritten(Option<i64>),
    /// The data directory changed under us: look again.
    Inspect,
    /// Exit with 1 and this sentence.
    GiveUp(String),
    /// The supervisor was told that the stop is complete.
    SaidGoodbye,
}
