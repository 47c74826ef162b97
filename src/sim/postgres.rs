//! PostgreSQL as far as safety is concerned: data directories, timelines, WAL positions, commits
//! that clients were told of, streaming. Every promotion opens a *branch*; its number is what
//! PostgreSQL knows, and two branches may have the same number.

use crate::core::database::{ControlData, ControlState, DataDir};
use crate::core::lsn::Lsn;
use crate::core::timeline::{History, Switch};

pub type Branch = usize;

#[derive(Clone, Debug)]
pub struct BranchInfo {
    /// The timeline number.
    pub number: u32,
    pub parent: Option<(Branch, u64)>,
}

/// A position in the tree of all that was ever written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub branch: Branch,
    pub lsn: u64,
}

#[derive(Clone, Debug)]
pub struct Commit {
    pub at: Place,
    /// Lost, as it must be said once.
    pub lost: bool,
    /// Acknowledged before the store began anew from a backup, whose `/sync` knows nothing of it,
    /// or while there may be another leader, whose history wins.
    pub doubtful: bool,
}

/// The tree of all WAL.
#[derive(Clone, Debug, Default)]
pub struct Wal {
    pub branches: Vec<BranchInfo>,
}

impl Wal {
    pub fn root(&mut self) -> Branch {
        self.branches.push(BranchInfo { number: 1, parent: None });
        self.branches.len() - 1
    }

    pub fn fork(&mut self, from: Place, number: u32) -> Branch {
        self.branches.push(BranchInfo { number, parent: Some((from.branch, from.lsn)) });
        self.branches.len() - 1
    }

    pub fn number(&self, branch: Branch) -> u32 {
        self.branches[branch].number
    }

    /// Whether who stands at `later` has everything up to `earlier`.
    pub fn contains(&self, later: Place, earlier: Place) -> bool {
        let mut at = later;
        loop {
            if at.branch == earlier.branch {
                return earlier.lsn <= at.lsn;
            }
            match self.branches[at.branch].parent {
                Some((branch, lsn)) => at = Place { branch, lsn: lsn.min(at.lsn) },
                None => return false,
            }
        }
    }

    /// The last place that both have.
    pub fn fork_point(&self, a: Place, b: Place) -> Option<Place> {
        let mut at = b;
        loop {
            let mut other = a;
            loop {
                if other.branch == at.branch {
                    return Some(Place { branch: at.branch, lsn: at.lsn.min(other.lsn) });
                }
                match self.branches[other.branch].parent {
                    Some((branch, lsn)) => other = Place { branch, lsn: lsn.min(other.lsn) },
                    None => break,
                }
            }
            let (branch, lsn) = self.branches[at.branch].parent?;
            at = Place { branch, lsn: lsn.min(at.lsn) };
        }
    }

    /// The history file of a branch.
    pub fn history(&self, branch: Branch) -> History {
        let mut switches = Vec::new();
        let mut at = branch;
        while let Some((parent, lsn)) = self.branches[at].parent {
            let (timeline, lsn) = (self.number(parent), Lsn(lsn));
            switches.push(Switch { timeline, lsn, reason: "no recovery target specified".into() });
            at = parent;
        }
        switches.reverse();
        History(switches)
    }

    /// What PostgreSQL checks before it streams: numbers, not branches.
    pub fn may_stream(&self, from: Place, to: Place) -> bool {
        let (mine, theirs) = (self.number(to.branch), self.number(from.branch));
        if mine == theirs {
            return to.lsn <= from.lsn;
        }
        let history = self.history(from.branch);
        history.0.iter().any(|s| s.timeline == mine && to.lsn <= s.lsn.0)
    }
}

/// A data directory that can be started.
#[derive(Clone, Debug)]
pub struct Dir {
    pub system_identifier: u64,
    /// End of the WAL that is here and durable.
    pub end: Place,
    pub state: ControlState,
    /// Start of the last checkpoint record, and the timeline that it stands on.
    pub checkpoint: Place,
    pub min_recovery: Place,
    pub standby_signal: bool,
    pub bootstrapping: bool,
    /// Beside the directory: a promotion was ordered since the last start.
    pub promoting: bool,
    /// A rewind was begun and its end not yet noted.
    pub half_rewound: bool,
    /// Of the primary's configuration.
    pub sync_names: String,
    pub upstream: Option<usize>,
    /// The branch that this very server wrote as a primary.
    pub primary_of: Branch,
    /// Greatest timeline number of a history file in `pg_wal`.
    pub known_timeline: u32,
}

/// What stands in a data directory.
#[derive(Clone, Debug, Default)]
pub enum Disk {
    #[default]
    Empty,
    /// An unfinished base backup.
    Rubbish,
    Data(Box<Dir>),
}

pub const SEGMENT_BYTES: u32 = 16 * 1024 * 1024;

impl Disk {
    pub fn dir(&self) -> Option<&Dir> {
        match self {
            Disk::Data(dir) => Some(dir),
            Disk::Empty | Disk::Rubbish => None,
        }
    }

    pub fn dir_mut(&mut self) -> Option<&mut Dir> {
        match self {
            Disk::Data(dir) => Some(dir),
            Disk::Empty | Disk::Rubbish => None,
        }
    }

    /// As the agent finds it in the files.
    pub fn inspect(&self, wal: &Wal) -> DataDir {
        match self {
            Disk::Empty => DataDir::Empty,
            Disk::Rubbish => DataDir::Unusable { reason: "pg_control is missing".to_owned() },
            Disk::Data(dir) => DataDir::Cluster { version: 15, control: dir.control(wal) },
        }
    }
}

impl Dir {
    pub fn control(&self, wal: &Wal) -> ControlData {
        ControlData {
            system_identifier: self.system_identifier,
            state: self.state,
            checkpoint_lsn: Lsn(self.checkpoint.lsn),
            redo_lsn: Lsn(self.checkpoint.lsn),
            timeline: wal.number(self.checkpoint.branch),
            min_recovery_lsn: Lsn(self.min_recovery.lsn),
            min_recovery_timeline: if self.min_recovery.lsn == 0 {
                0
            } else {
                wal.number(self.min_recovery.branch)
            },
            wal_log_hints: true,
            data_checksums: true,
            wal_segment_bytes: SEGMENT_BYTES,
            checkpoint_time: 0,
        }
    }

    /// As written by a server that runs.
    pub fn checkpoint_here(&mut self, recovery: bool) {
        self.checkpoint = self.end;
        self.min_recovery = if recovery { self.end } else { Place { branch: 0, lsn: 0 } };
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    None,
    /// Clients were sent away; the checkpoint is being written.
    Fast,
    /// It is written; walsenders may go on.
    ShutDown,
}

/// The processes of one postmaster.
#[derive(Clone, Debug)]
pub struct Server {
    pub pid: i32,
    pub ready: bool,
    pub recovery: bool,
    pub stop: Stop,
    pub promoting: bool,
    /// The postmaster is dead; its backends are not.
    pub orphaned: bool,
    /// Those backends are not in the control group.
    pub escaped: bool,
    /// Stopped by a signal from outside (not by us).
    pub hung: bool,
    /// It was told to die while it waited for its volume: it executes nothing any more.
    pub doomed: bool,
    pub sync_names: String,
    pub upstream: Option<usize>,
    pub streaming: bool,
    /// Flush positions that standbys reported on this connection.
    pub senders: std::collections::BTreeMap<usize, u64>,
    /// Commits that wait for a standby.
    pub pending: std::collections::VecDeque<Place>,
}

impl Server {
    /// What is left is out of the supervisor's reach.
    pub fn outside(&self) -> bool {
        self.orphaned && self.escaped
    }

    /// A client could be told of a commit, were the group not frozen.
    pub fn writable(&self) -> bool {
        self.ready && !self.recovery && self.stop == Stop::None && !self.hung
    }
}
