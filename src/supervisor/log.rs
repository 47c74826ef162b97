//! The supervisor's own log sender. It never waits: what cannot be sent now is dropped and counted,
//! because a journal on a hung disk must not delay a fence.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::clock;

const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where the lines go.
#[derive(Debug)]
pub struct Log {
    /// Set if our stderr is the journal's: then with a priority and without a second time stamp.
    journal: Option<UnixDatagram>,
    dropped: u32,
}

impl Log {
    pub fn open() -> Log {
        Log { journal: stderr_is_journal().then(connect).flatten(), dropped: 0 }
    }

    pub fn info(&mut self, message: &str) {
        self.line(6, "INFO", message);
    }

    pub fn warning(&mut self, message: &str) {
        self.line(4, "WARNING", message);
    }

    /// A fence, or a failure to fence. The journal writes this priority to disk at once.
    pub fn critical(&mut self, message: &str) {
        self.line(2, "CRITICAL", message);
    }

    fn line(&mut self, priority: u8, level: &str, message: &str) {
        let mut message = message.replace('\n', " ");
        if self.dropped > 0 {
            message += &format!(" ({} lines before this one were dropped)", self.dropped);
        }
        let sent = match &self.journal {
            Some(journal) => journal
                .send(
                    format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=pgvigil\nMESSAGE={message}\n")
                        .as_bytes(),
                )
                .is_ok(),
            None => to_stderr(&format!("{} {level}: {message}\n", clock::local(clock::wall()))),
        };
        self.dropped = if sent { 0 } else { self.dropped.saturating_add(1) };
    }
}

/// A pipe that is writable takes a line of less than PIPE_BUF (4096) bytes without blocking.
fn to_stderr(line: &str) -> bool {
    let stderr = std::io::stderr();
    let writable = poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO);
    let bytes = &line.as_bytes()[..line.len().min(4096)];
    writable == Ok(1) && stderr.lock().write_all(bytes).is_ok()
}

/// systemd tells device and inode of the journal's stream, which is not ours if stderr was
/// redirected since.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|m| stream == format!("{}:{}", m.dev(), m.ino()))
}

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(JOURNAL).ok()?;
    Some(socket)
}
