//! What lets the supervisor act in time on a machine that is short of memory or of CPU.

use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Keeps all present and future memory of this process from being paged out. A child does not
/// inherit it. Refused under a finite RLIMIT_MEMLOCK: an allocation beyond it would fail later.
pub fn lock_memory() -> io::Result<()> {
    if getrlimit(Resource::RLIMIT_MEMLOCK)?.0 != RLIM_INFINITY {
        return Err(io::Error::other("LimitMEMLOCK is not infinity"));
    }
    Ok(mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)?)
}

/// As root, before becoming another user: permits [`lock_memory`] and [`prioritize`] to it.
pub fn permit(priority: i32) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    let priority = priority as libc::rlim_t;
    let limit = libc::rlimit { rlim_cur: priority, rlim_max: priority };
    // SAFETY: the limit lives through the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_RTPRIO, &limit) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Real-time priority for this process, not for its children.
pub fn prioritize(priority: i32) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameter lives through the call; 0 means this thread.
    let result = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameter)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Processors out of those that this thread may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processors {
    First,
    AllButFirst,
}

/// Binds this thread to some of its processors; where there is only one nothing changes.
pub fn bind(to: Processors) -> io::Result<()> {
    // SAFETY: an empty set is all zeroes; both calls get a set that lives, with its size, and 0
    // means this thread; the macros index within the set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut all = 0..libc::CPU_SETSIZE as usize;
        let Some(first) = all.find(|cpu| libc::CPU_ISSET(*cpu, &set)) else { return Ok(()) };
        if libc::CPU_COUNT(&set) < 2 {
            return Ok(());
        }
        match to {
            Processors::First => {
                libc::CPU_ZERO(&mut set);
                libc::CPU_SET(first, &mut set);
            }
            Processors::AllButFirst => libc::CPU_CLR(first, &mut set),
        }
        if libc::sched_setaffinity(0, size_of_val(&set), &raw const set) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
