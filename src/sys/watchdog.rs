//! The kernel's watchdog interface: ioctls on an open /dev/watchdogN.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct watchdog_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

mod raw {
    use super::RawInfo;
    use libc::c_int;

    nix::ioctl_read!(support, b'W', 0, RawInfo);
    nix::ioctl_read!(boot_status, b'W', 2, c_int);
    // The kernel declares these two as reads; the first one takes its argument for all that.
    nix::ioctl_read!(set_options, b'W', 4, c_int);
    nix::ioctl_read!(keep_alive, b'W', 5, c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, c_int);
    nix::ioctl_read!(timeout, b'W', 7, c_int);
    nix::ioctl_readwrite!(set_pretimeout, b'W', 8, c_int);
}

const DISABLE_CARD: libc::c_int = 1;
const ENABLE_CARD: libc::c_int = 2;

/// Option bit: it can give a warning before the reset.
pub const PRETIMEOUT: u32 = 0x200;
/// Option bit: it raises an alarm and resets nothing.
pub const ALARM_ONLY: u32 = 0x400;
/// Status bit: the last reset was this device's.
pub const CARD_RESET: u32 = 0x20;

/// What a driver says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Some drivers (ipmi_watchdog) leave all bits zero: their absence proves nothing.
    pub options: u32,
    pub identity: String,
}

pub fn info(fd: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = RawInfo { options: 0, firmware_version: 0, identity: [0; 32] };
    // SAFETY: the structure is as long as the kernel's and lives through the call.
    unsafe { raw::support(fd.as_raw_fd(), &raw mut info) }?;
    let end = info.identity.iter().position(|b| *b == 0).unwrap_or(info.identity.len());
    let identity = String::from_utf8_lossy(&info.identity[..end]).trim().to_owned();
    Ok(Info { options: info.options, identity })
}

/// The status bits of the time when the driver was loaded.
pub fn boot_status(fd: BorrowedFd<'_>) -> io::Result<u32> {
    number(fd, raw::boot_status)
}

/// Seconds in force, in the driver's opinion.
pub fn timeout_s(fd: BorrowedFd<'_>) -> io::Result<u32> {
    number(fd, raw::timeout)
}

pub fn keep_alive(fd: BorrowedFd<'_>) -> io::Result<()> {
    number(fd, raw::keep_alive).map(drop)
}

/// Pings, too, if it counts.
pub fn set_timeout(fd: BorrowedFd<'_>, seconds: u32) -> io::Result<()> {
    let mut seconds = i32::try_from(seconds).map_err(io::Error::other)?;
    // SAFETY: the number lives through the call.
    unsafe { raw::set_timeout(fd.as_raw_fd(), &raw mut seconds) }?;
    Ok(())
}

/// How long before the reset the warning comes, less than the timeout; 0: none.
pub fn set_pretimeout(fd: BorrowedFd<'_>, seconds: u32) -> io::Result<()> {
    let mut seconds = i32::try_from(seconds).map_err(io::Error::other)?;
    // SAFETY: the number lives through the call.
    unsafe { raw::set_pretimeout(fd.as_raw_fd(), &raw mut seconds) }?;
    Ok(())
}

/// Starts or stops the countdown while the device stays open.
pub fn enable(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let mut option = if on { ENABLE_CARD } else { DISABLE_CARD };
    // SAFETY: the number lives through the call, which only reads it.
    unsafe { raw::set_options(fd.as_raw_fd(), &raw mut option) }?;
    Ok(())
}

type Read = unsafe fn(libc::c_int, *mut libc::c_int) -> nix::Result<libc::c_int>;

fn number(fd: BorrowedFd<'_>, read: Read) -> io::Result<u32> {
    let mut value = 0;
    // SAFETY: each of these ioctls writes one int, which lives through the call.
    unsafe { read(fd.as_raw_fd(), &raw mut value) }?;
    Ok(value.cast_unsigned())
}
