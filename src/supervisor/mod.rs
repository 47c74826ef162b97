//! Process 1 of a member: parent of the postmaster, of the agent and of every job, and owner of
//! the deadline and of the kill. One poll loop, nothing that waits: no DNS, no TLS, no file on the
//! data volume, no blocking log. What it may do at which instant is decided by `core::guard`; here
//! it is done. A second thread, the petter, enters the driver of the watchdog device.

mod agents;
mod children;
mod device;
mod groups;
mod log;
mod memory;
mod notify;
mod orders;
mod record;
mod replace;
mod sentinel;
mod watch;

use std::io;
use std::path::PathBuf;

use crate::sys::{cgroup, process, realtime};
use crate::watchdog::held;
use device::Dog;
pub use groups::{Descent, Reach, base_of};
use log::Log;
pub use memory::{Memory, memory_path};
pub use orders::lock_path;
use watch::Supervisor;

/// SCHED_FIFO, below the kernel's own threads.
const PRIORITY: i32 = 50;

/// How to run a member.
#[derive(Clone, Debug)]
pub struct Options {
    /// Program and arguments of the agent. argv[0] is a path.
    pub agent: Vec<String>,
    /// Control group of this member, to be made if need be. Default: the one we are in.
    pub cgroup: Option<PathBuf>,
    /// Whom to become if started as root: the owner of the data directory, name or number.
    pub user: Option<String>,
    /// The watchdog device to hold; `None`: none.
    pub watchdog: Option<held::Options>,
}

impl Options {
    /// This program itself as `pgvigil agent CONFIG`.
    pub fn new(config: Option<String>) -> Options {
        let agent = ["/proc/self/exe", "agent"].map(String::from);
        let agent = agent.into_iter().chain(config).collect();
        Options { agent, cgroup: None, user: None, watchdog: None }
    }
}

/// Supervises a member until its orderly stop. Returns the exit code: 0 stopped, 1 refused.
/// Must be called in a process with one thread. On SIGUSR2 the process executes the program that
/// stands at its own path now, with its own arguments.
pub fn run(options: Options) -> i32 {
    let mut log = Log::open();
    match start(options, &mut log) {
        Ok(mut supervisor) => supervisor.run(),
        Err(error) => {
            log.critical(&format!("cannot start: {error}"));
            1
        }
    }
}

fn start(options: Options, log: &mut Log) -> io::Result<Supervisor> {
    process::become_subreaper()?;
    // As whom we were started: the device may be root's.
    let dog = Dog::open(options.watchdog.clone(), log);
    if process::is_root() {
        leave_root(&options, log)?;
    }
    Supervisor::new(options, dog)
}

/// Started by root: prepares the control group, puts this process in, and becomes the user, who
/// from then on owns the group and needs no privilege.
fn leave_root(options: &Options, log: &mut Log) -> io::Result<()> {
    let Some(name) = &options.user else {
        let text = "PostgreSQL does not run as root: give --user, the owner of the data directory";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    };
    let user = process::user(name)?;
    if let Some(path) = &options.cgroup {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        if let Err(error) = cgroup::delegate(path, uid, gid).and_then(|()| cgroup::enter(path)) {
            log.warning(&format!("no control group at {}: {error}", path.display()));
        }
    }
    if let Err(error) = realtime::permit(PRIORITY) {
        log.info(&format!("limits stay as they are: {error}"));
    }
    process::become_user(&user)
}
