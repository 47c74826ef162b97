//! The means of fencing: control groups, and what is left without them.

use std::io;
use std::path::{Path, PathBuf};

use crate::core::guard::GroupState;
use crate::sys::cgroup::{self, Group};
use crate::sys::{proc, process};

/// The control groups of one member, below a group that is ours to manage.
#[derive(Debug)]
pub struct Groups {
    pub base: PathBuf,
    /// The postmaster, all it starts, and whoever sends a promotion.
    pub postgres: Group,
    pub agent: Group,
    /// The one data job.
    pub data: Group,
    pub scripts: Group,
    pub sentinel: Group,
}

impl Groups {
    /// Makes them below `base` (default: the group this process is in) and moves this process to
    /// a group of its own, because a group with processes may have to have none below it.
    pub fn open(base: Option<&Path>) -> io::Result<Groups> {
        let base = match base {
            Some(base) => base.to_path_buf(),
            None => base_of(cgroup::own()?),
        };
        let open = |name: &str| {
            let path = base.join(name);
            Group::open(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })
        };
        open("supervisor")?.add(std::process::id() as i32)?;
        Ok(Groups {
            postgres: open("postgres")?,
            agent: open("agent")?,
            data: open("data")?,
            scripts: open("scripts")?,
            sentinel: open("sentinel")?,
            base,
        })
    }
}

/// A supervisor that was in a group of its own already (systemd restarted it there) means the
/// group above, and so does what systemd starts before or after it (`.control`).
pub fn base_of(own: PathBuf) -> PathBuf {
    let within = own.ends_with("supervisor") || own.ends_with(".control");
    own.parent().filter(|_| within).map(Path::to_path_buf).unwrap_or(own)
}

/// Kills a group; true once it is empty.
pub fn emptied(group: &Group) -> bool {
    match group.events() {
        Ok(events) if !events.populated => true,
        _ => {
            // Repeated until it works: the caller comes again.
            let _ = group.kill();
            false
        }
    }
}

/// Without control groups: PostgreSQL's processes by what they are. A postmaster and its backends
/// work in the data directory and run the same executable, also a backend whose postmaster died;
/// archive commands and the like descend from them.
#[derive(Clone, Debug)]
pub struct Descent {
    /// Canonical.
    pub data_dir: PathBuf,
    /// Name of the executable, `postgres`.
    pub exe_name: String,
}

impl Descent {
    pub fn is_postgres(&self, pid: i32) -> bool {
        let is_exe = |exe: PathBuf| exe.file_name().is_some_and(|n| n == self.exe_name.as_str());
        proc::cwd(pid).as_deref() == Some(&self.data_dir) && proc::exe(pid).is_some_and(is_exe)
    }

    /// All of them, each after its parent; zombies do not count.
    pub fn find(&self) -> Vec<i32> {
        let all = proc::all();
        let mut found = Vec::new();
        for stat in all.iter().filter(|stat| self.is_postgres(stat.pid)) {
            for pid in proc::descendants(stat.pid, &all) {
                let dead = all.iter().any(|s| s.pid == pid && matches!(s.state, 'Z' | 'X'));
                if !dead && !found.contains(&pid) {
                    found.push(pid);
                }
            }
        }
        // A postmaster is the parent of others: first, so that it starts nothing new.
        found.sort_by_key(|pid| !all.iter().any(|s| s.parent == *pid));
        found
    }

    /// Stops them in passes until a pass finds nothing new, then kills them. The stop only keeps
    /// them from forking away under the passes: nothing ever continues them.
    pub fn kill(&self) {
        let mut stopped: Vec<i32> = Vec::new();
        // A pass that finds more had a fork racing with it; what was stopped forks no more.
        for _ in 0..20 {
            let new: Vec<i32> = self.find().into_iter().filter(|p| !stopped.contains(p)).collect();
            if new.is_empty() {
                break;
            }
            new.iter().for_each(|pid| process::kill(*pid, libc::SIGSTOP));
            stopped.extend(new);
        }
        stopped.iter().for_each(|pid| process::kill(*pid, libc::SIGKILL));
    }
}

/// PostgreSQL's processes, by the means in force.
#[derive(Debug)]
pub enum Reach<'a> {
    Group(&'a Group),
    Descent(&'a Descent),
}

impl Reach<'_> {
    /// A failure to read counts as the worse: there is something, and it moves.
    pub fn look(&self) -> GroupState {
        match self {
            Reach::Group(group) => group
                .events()
                .map(|e| GroupState { populated: e.populated, frozen: e.frozen })
                .unwrap_or(GroupState { populated: true, frozen: false }),
            Reach::Descent(descent) => {
                GroupState { populated: !descent.find().is_empty(), frozen: false }
            }
        }
    }

    pub fn freeze(&self) -> io::Result<()> {
        match self {
            Reach::Group(group) => group.freeze(),
            Reach::Descent(_) => Ok(()),
        }
    }

    pub fn kill(&self) -> io::Result<()> {
        match self {
            Reach::Group(group) => group.kill(),
            Reach::Descent(descent) => {
                descent.kill();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_above_the_supervisors_own_group() {
        for (own, base) in [
            ("/c/a.service", "/c/a.service"),
            ("/c/a.service/supervisor", "/c/a.service"),
            ("/c/a.service/.control", "/c/a.service"),
        ] {
            assert_eq!(base_of(own.into()), Path::new(base));
        }
    }
}
