//! The border to the kernel: an open device, or what stands in for one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sys::watchdog as kernel;
pub use crate::sys::watchdog::Info;

/// An open watchdog device.
pub trait Card: Send {
    fn info(&mut self) -> io::Result<Info>;
    /// Status bits of the boot.
    fn boot_status(&mut self) -> io::Result<u32>;
    /// Seconds. Pings, too, while it counts.
    fn set_timeout(&mut self, seconds: u32) -> io::Result<()>;
    /// Seconds in force; `None`: the driver does not tell.
    fn timeout(&mut self) -> io::Result<Option<u32>>;
    /// Seconds before the reset; 0: none.
    fn set_pretimeout(&mut self, seconds: u32) -> io::Result<()>;
    /// What the kernel does then (`noop`: a line in its log, `panic`); empty: nothing.
    fn governor(&mut self) -> String;
    fn keep_alive(&mut self) -> io::Result<()>;
    /// Any write pings; a `V` in it permits that the close disarms.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn enable(&mut self, on: bool) -> io::Result<()>;
    /// Whether it counts; `None`: nobody tells.
    fn is_active(&mut self) -> Option<bool>;
}

/// A device of the kernel.
#[derive(Debug)]
pub struct Kernel {
    file: File,
    /// `/sys/class/watchdog/watchdogN`; legacy drivers have none.
    sysfs: Option<PathBuf>,
}

impl Kernel {
    /// Opening arms the device, if it does not count already.
    pub fn open(node: &Path, sysfs: Option<PathBuf>) -> io::Result<Kernel> {
        let file = OpenOptions::new().write(true).open(node)?;
        if !file.metadata()?.file_type().is_char_device() {
            return Err(io::Error::other("not a device"));
        }
        Ok(Kernel { file, sysfs })
    }

    /// A descriptor of an open device that somebody kept.
    pub fn take(fd: OwnedFd, sysfs: Option<PathBuf>) -> Kernel {
        Kernel { file: File::from(fd), sysfs }
    }
}

impl AsFd for Kernel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Card for Kernel {
    fn info(&mut self) -> io::Result<Info> {
        kernel::info(self.file.as_fd())
    }

    fn boot_status(&mut self) -> io::Result<u32> {
        kernel::boot_status(self.file.as_fd())
    }

    fn set_timeout(&mut self, seconds: u32) -> io::Result<()> {
        kernel::set_timeout(self.file.as_fd(), seconds)
    }

    fn timeout(&mut self) -> io::Result<Option<u32>> {
        kernel::timeout_s(self.file.as_fd()).map(Some)
    }

    fn set_pretimeout(&mut self, seconds: u32) -> io::Result<()> {
        kernel::set_pretimeout(self.file.as_fd(), seconds)
    }

    fn governor(&mut self) -> String {
        let file = self.sysfs.as_ref().map(|sysfs| sysfs.join("pretimeout_governor"));
        let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        text.trim().to_owned()
    }

    fn keep_alive(&mut self) -> io::Result<()> {
        kernel::keep_alive(self.file.as_fd())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn enable(&mut self, on: bool) -> io::Result<()> {
        kernel::enable(self.file.as_fd(), on)
    }

    fn is_active(&mut self) -> Option<bool> {
        let state = std::fs::read_to_string(self.sysfs.as_ref()?.join("state")).ok()?;
        Some(state.trim() == "active")
    }
}

/// Patroni's `driver: testing`: a named pipe that is told what a device would be told: `1` for a
/// ping, `Ctimeout=N` for a timeout, `V` for the end.
#[derive(Debug)]
pub struct Pipe {
    file: File,
    timeout_s: u32,
    active: bool,
}

impl Pipe {
    /// Never waits for a reader. What nobody reads is lost once the pipe is full.
    pub fn open(path: &Path) -> io::Result<Pipe> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        Ok(Pipe { file, timeout_s: 60, active: false })
    }

    pub fn take(fd: OwnedFd) -> Pipe {
        Pipe { file: File::from(fd), timeout_s: 60, active: true }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Card for Pipe {
    fn info(&mut self) -> io::Result<Info> {
        Ok(Info { options: 0, identity: "Watchdog test harness".to_owned() })
    }

    fn boot_status(&mut self) -> io::Result<u32> {
        Ok(0)
    }

    fn set_timeout(&mut self, seconds: u32) -> io::Result<()> {
        self.timeout_s = seconds;
        self.write(format!("Ctimeout={seconds}\n").as_bytes())
    }

    fn timeout(&mut self) -> io::Result<Option<u32>> {
        Ok(Some(self.timeout_s))
    }

    fn set_pretimeout(&mut self, _seconds: u32) -> io::Result<()> {
        Ok(())
    }

    fn governor(&mut self) -> String {
        String::new()
    }

    fn keep_alive(&mut self) -> io::Result<()> {
        self.write(b"1")
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write(bytes) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn enable(&mut self, on: bool) -> io::Result<()> {
        self.active = on;
        if on { Ok(()) } else { self.write(b"V") }
    }

    fn is_active(&mut self) -> Option<bool> {
        Some(self.active)
    }
}
