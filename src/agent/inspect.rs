//! Looks at the data directory: files only, off the loop, with a deadline of the caller.

use std::path::{Path, PathBuf};

use crate::core::database::{DataDir, beside};
use crate::postgres::{datadir, pidfile};
use crate::watchdog::record::hold;

/// Stands in the data directory from initdb's end until roles, configuration and identifier are
/// published: a bootstrap that was interrupted is taken up again, not mistaken for a server.
pub const BOOTSTRAP_MARKER: &str = "pgvigil.bootstrap";

/// Stands beside the data directory while a rewind is under way, and stays if it did not end well:
/// pages of two histories may be mixed then.
pub fn rewind_marker(data_dir: &Path) -> PathBuf {
    beside(data_dir, "rewind")
}

/// Stands beside the data directory from the order to promote until the next start: the server may
/// become writable at any instant, and what it says of itself meanwhile looks like a standby's.
pub fn promotion_marker(data_dir: &Path) -> PathBuf {
    beside(data_dir, "promote")
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    pub data_dir: Option<DataDir>,
    pub standby_signal: bool,
    pub bootstrapping: bool,
    /// A promotion of this server was ordered, by us or by anybody who uses pg_ctl's file.
    pub promoting: bool,
    /// A rewind was begun and did not end well.
    pub half_rewound: bool,
    /// After a reset an operator is to look first.
    pub stay_down: bool,
    pub shm_attached: bool,
    /// The pid that postmaster.pid names, if that process works in the data directory.
    pub running_pid: Option<i32>,
}

pub fn inspect(data_dir: &Path) -> Inspection {
    let pid = pidfile::read(data_dir);
    let shm = pid.as_ref().and_then(|p| p.shm);
    Inspection {
        data_dir: Some(datadir::inspect(data_dir)),
        standby_signal: data_dir.join("standby.signal").exists(),
        bootstrapping: data_dir.join(BOOTSTRAP_MARKER).exists(),
        promoting: promotion_marker(data_dir).exists() || data_dir.join("promote").exists(),
        half_rewound: rewind_marker(data_dir).exists(),
        stay_down: hold(data_dir).exists(),
        // Unreadable /proc is no proof of absence, but the control group is asked, too.
        shm_attached: shm.is_some_and(|id| {
            pidfile::shm_attached(id).ok().flatten().is_some_and(|count| count > 0)
        }),
        running_pid: running_pid(data_dir),
    }
}

/// The postmaster that works in the data directory, as postmaster.pid and /proc agree.
pub fn running_pid(data_dir: &Path) -> Option<i32> {
    pidfile::read(data_dir).map(|p| p.pid).filter(|pid| works_in(*pid, data_dir))
}

fn works_in(pid: i32, data_dir: &Path) -> bool {
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    cwd.is_some() && cwd == data_dir.canonicalize().ok()
}
