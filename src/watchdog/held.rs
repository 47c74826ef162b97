//! Opening the device, or taking over one that somebody kept for us.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use super::card::{Card, Kernel, Pipe};
use super::device::Device;
use super::discover::{self, Choice, Found};
use super::drivers;
use super::record;
use crate::core::budget;

/// Which device, and how it is driven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub choice: Choice,
    /// `driver: testing`: the device is a named pipe.
    pub testing: bool,
}

/// A device that is ours.
pub struct Held {
    pub device: Device,
    /// A duplicate of its descriptor, to be given to a successor.
    pub file: OwnedFd,
    pub node: PathBuf,
    pub identity: String,
    pub timing: budget::Device,
    /// See [`drivers::Driver::is_software`].
    pub software: bool,
    /// Flags of the last boot; `None`: the driver does not tell.
    pub boot_status: Option<u32>,
    /// It counted when we got it: a predecessor's primary may stand behind it.
    pub counted: bool,
    /// What it said then of its timeout.
    pub timeout: Option<Duration>,
}

/// The device that this configuration means. `kept`: the descriptor that a predecessor left.
/// A device that did not count is disarmed at once, for opening arms.
pub fn open(options: &Options, kept: Option<OwnedFd>) -> Result<Held, String> {
    if options.testing {
        return testing(options, kept);
    }
    let found = discover::list();
    let (found, card, counted) = match kept {
        Some(fd) => {
            let found = of_descriptor(&fd, &found);
            let counted = found.active.unwrap_or(true);
            let card = Kernel::take(fd, found.sysfs.clone());
            (found, card, counted)
        }
        None => {
            let found = discover::choose(&options.choice, &found)?;
            let card = Kernel::open(&found.node, found.sysfs.clone())
                .map_err(|error| refused(&found, &error))?;
            let counted = found.active.unwrap_or(false);
            (found, card, counted)
        }
    };
    hold(Box::new(card), Kernel::as_fd, found, counted)
}

fn testing(options: &Options, kept: Option<OwnedFd>) -> Result<Held, String> {
    let path = options.choice.device.clone().unwrap_or_else(|| discover::ALIAS.into());
    let counted = kept.is_some();
    let card = match kept {
        Some(fd) => Pipe::take(fd),
        None => Pipe::open(&path).map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let found = Found { node: path, ..Found::default() };
    hold(Box::new(card), Pipe::as_fd, found, counted)
}

fn hold<C: Card + 'static>(
    card: Box<C>,
    fd: impl Fn(&C) -> std::os::fd::BorrowedFd<'_>,
    found: Found,
    counted: bool,
) -> Result<Held, String> {
    let name = found.node.display();
    let file = fd(&card).try_clone_to_owned().map_err(|error| format!("{name}: {error}"))?;
    let (mut device, info) = Device::new(card).map_err(|why| format!("{name}: {why}"))?;
    if !counted {
        device.disarm();
    }
    let timeout = device.told_timeout_s().map(|s| Duration::from_secs(s.into()));
    let driver = drivers::of(&info.identity);
    Ok(Held {
        boot_status: device.boot_status(),
        device,
        file,
        timing: record::timing(&info.identity, found.min_s, found.max_s).0,
        software: driver.is_software(),
        identity: info.identity,
        node: found.node,
        counted,
        timeout,
    })
}

/// The device behind an open descriptor.
fn of_descriptor(fd: &OwnedFd, found: &[Found]) -> Found {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let node = std::fs::read_link(path).unwrap_or_else(|_| discover::ALIAS.into());
    discover::by_node(&node, found).unwrap_or(Found { node, ..Found::default() })
}

fn refused(found: &Found, error: &io::Error) -> String {
    let node = found.node.display();
    match error.raw_os_error() {
        Some(libc::EBUSY) => format!(
            "{node} ({}) is held by another process (`pgvigil watchdog list`, as root, shows \
             which; PID 1 holds it if RuntimeWatchdogSec= is set)",
            found.identity
        ),
        Some(libc::EACCES) => format!(
            "{node} ({}): permission denied (udev gives devices to the group pgvigil, which the \
             unit has by SupplementaryGroups=)",
            found.identity
        ),
        _ => format!("{node} ({}): {error}", found.identity),
    }
}
