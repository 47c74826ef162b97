//! The supervisor's own log sender. It never waits: what cannot be sent now is dropped and counted,
//! because a journal on a hung disk must not delay a fence.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::core::events;
use crate::core::guard::Phase;
use crate::sys::{clock, journal};

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
        Log { journal: journal::is_stderr().then(connect).flatten(), dropped: 0 }
    }

    pub fn info(&mut self, message: &str) {
        self.line(6, "INFO", message, events::SUPERVISOR);
    }

    pub fn warning(&mut self, message: &str) {
        self.line(4, "WARNING", message, events::SUPERVISOR_TROUBLE);
    }

    /// A fence, or a failure to fence. The journal writes this priority to disk at once.
    pub fn critical(&mut self, message: &str) {
        self.line(2, "CRITICAL", message, events::SUPERVISOR_TROUBLE);
    }

    /// A change of the guard's phase, of the class that the journal's catalog explains.
    pub fn phase(&mut self, before: Phase, after: Phase) {
        let fence = matches!(after, Phase::Frozen | Phase::Killing);
        let (priority, level) = if fence { (2, "CRITICAL") } else { (6, "INFO") };
        let class = events::of_phases(before, after);
        self.line(priority, level, &format!("{before:?} -> {after:?}"), class);
    }

    fn line(&mut self, priority: u8, level: &str, message: &str, class: &str) {
        let mut message = message.replace('\n', " ");
        if self.dropped > 0 {
            message += &format!(" ({} lines before this one were dropped)", self.dropped);
        }
        let sent = match &self.journal {
            Some(journal) => {
                let own = format!("PRIORITY={priority}\nMESSAGE_ID={class}\nMESSAGE={message}\n");
                journal.send(format!("SYSLOG_IDENTIFIER=pgvigil\n{own}").as_bytes()).is_ok()
            }
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

fn connect() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(JOURNAL).ok().map(|()| socket)
}
