//! What this kernel can do, by trying it: a version number says nothing of a seccomp filter.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::process::{self, Child};

/// What a supervisor cannot do without and this kernel refuses: name, the first Linux that has it,
/// and the error.
pub fn missing() -> Vec<(&'static str, &'static str, io::Error)> {
    let own = Child::of(std::process::id() as i32);
    let signal = own.as_ref().map_err(clone).and_then(|own| process::signal(own.pidfd.as_fd(), 0));
    let wait = own.as_ref().map_err(clone).and_then(|own| {
        // We are no child of ours: ECHILD is the answer of a kernel that knows the question.
        match waitid(Id::PIDFd(own.pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Err(Errno::ECHILD) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    });
    [
        ("pidfd_open and pidfd_send_signal", "5.3", signal),
        ("waitid by pidfd", "5.4", wait),
        ("close_range with CLOSE_RANGE_CLOEXEC", "5.11", close_range()),
    ]
    .into_iter()
    .filter_map(|(name, since, tried)| Some((name, since, tried.err()?)))
    .collect()
}

fn clone(error: &io::Error) -> io::Error {
    io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::ENOSYS))
}

/// Without it a child would inherit descriptors that are not its own.
fn close_range() -> io::Result<()> {
    let none = libc::c_uint::MAX;
    // SAFETY: no descriptor has this number.
    let result = unsafe { libc::close_range(none, none, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_that_runs_the_tests_has_all_of_it() {
        assert!(super::missing().is_empty(), "{:?}", super::missing());
    }
}
