//! Descriptors: socket pairs, timers, inheritance. All are close-on-exec unless said otherwise.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::core::time::Boot;

/// Both ends of a connection that keeps message borders, non-blocking.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Takes over the descriptor whose number is in the environment variable `name`.
///
/// To be called once for a variable; a second call would make a second owner.
pub fn inherited(name: &str) -> io::Result<OwnedFd> {
    let number: RawFd =
        std::env::var(name).ok().and_then(|v| v.parse().ok()).filter(|n| *n > 2).ok_or_else(
            || io::Error::new(io::ErrorKind::NotFound, format!("{name} is not set to a number")),
        )?;
    // SAFETY: fcntl fails with EBADF on a number that is not open; an open number above 2 that
    // our parent named in this variable belongs to nobody else in this process.
    let fd = unsafe {
        if libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(number)
    };
    Ok(fd)
}

/// Takes over the descriptor that systemd kept under this name for the unit's next process.
///
/// To be called once for a name, as [`inherited`].
pub fn kept(name: &str) -> Option<OwnedFd> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return None;
    }
    let count: usize = variable("LISTEN_FDS").parse().ok()?;
    let names = variable("LISTEN_FDNAMES");
    let position = names.split(':').take(count).position(|kept| kept == name)?;
    // SAFETY: systemd passes descriptors from number 3 on, as many as it says (sd_listen_fds(3));
    // fcntl fails on a number that is not open; nobody else in this process knows of it.
    unsafe {
        let number = 3 + position as RawFd;
        if libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) < 0 {
            return None;
        }
        Some(OwnedFd::from_raw_fd(number))
    }
}

/// Lets `fd` live through an exec (`true`), or not.
pub fn keep_over_exec(fd: BorrowedFd<'_>, keep: bool) -> io::Result<()> {
    let flags = if keep { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// A timer on CLOCK_BOOTTIME: readable from its instant on, at once after a suspend.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    pub fn new() -> io::Result<Timer> {
        // SAFETY: a plain system call; the result is checked and then owned.
        unsafe {
            let fd =
                libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK);
            if fd < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(Timer(OwnedFd::from_raw_fd(fd)))
            }
        }
    }

    /// Fires at `at` (at once if that is past) and forgets what was set before; `None`: never.
    pub fn set(&self, at: Option<Boot>) -> io::Result<()> {
        let ns = at.map_or(0, |at| at.0.max(1));
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        };
        let spec = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: the descriptor is a timerfd of ours, `spec` lives through the call.
        let result = unsafe {
            let old = std::ptr::null_mut();
            libc::timerfd_settime(self.0.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &spec, old)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
