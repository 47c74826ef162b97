//! What systemd hears: sd_notify without ever waiting for PID 1.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;

use crate::core::time::Boot;
use crate::sys::clock;

/// How often a stop that takes long asks for more time, and for how much.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
const EXTEND_US: u32 = 30_000_000;

#[derive(Debug)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    ready: bool,
    status: String,
    extended_at: Boot,
}

impl Notify {
    pub fn open() -> Notify {
        let name = std::env::var("NOTIFY_SOCKET").ok();
        let socket = name.and_then(|name| connect(&name));
        Notify { socket, ready: false, status: String::new(), extended_at: Boot(0) }
    }

    fn send(&self, states: &[NotifyState<'_>]) -> bool {
        let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
        self.socket.as_ref().is_none_or(|socket| socket.send(lines.as_bytes()).is_ok())
    }

    /// Gives systemd a descriptor to keep for the unit's next process. False: nobody took it.
    pub fn store(&self, name: &str, fd: BorrowedFd<'_>) -> bool {
        let Some(socket) = &self.socket else { return false };
        // A watchdog device cannot be polled; without FDPOLL=0 some versions would refuse it.
        let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
        let (fds, text) = ([fd.as_raw_fd()], [IoSlice::new(text.as_bytes())]);
        let rights = [ControlMessage::ScmRights(&fds)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(socket.as_raw_fd(), &text, &rights, flags, None).is_ok()
    }

    /// Takes it back.
    pub fn forget(&self, name: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(format!("FDSTOREREMOVE=1\nFDNAME={name}\n").as_bytes());
        }
    }

    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// What the program before this one, in this process, has said.
    pub fn is_again(&mut self, ready: bool) {
        self.ready = ready;
    }

    /// What the agent says of the member.
    pub fn heartbeat(&mut self, status: &str, ready: bool) {
        if ready && !self.ready {
            self.ready = self.send(&[NotifyState::Ready]);
        }
        let status = status.replace('\n', " ");
        if status != self.status && self.send(&[NotifyState::Status(&status)]) {
            self.status = status;
        }
    }

    pub fn reloading(&self) {
        let now = NotifyState::MonotonicUsec(clock::monotonic_us().into());
        self.send(&[NotifyState::Reloading, now]);
    }

    pub fn reloaded(&self) {
        self.send(&[NotifyState::Ready]);
    }

    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// To be called while stopping: a shutdown checkpoint may take longer than systemd waits.
    pub fn extend(&mut self, now: Boot) {
        if now.since(self.extended_at) >= EXTEND_EVERY {
            self.extended_at = now;
            self.send(&[NotifyState::ExtendTimeoutUsec(EXTEND_US)]);
        }
    }
}

fn connect(name: &str) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok()?,
        None => SocketAddr::from_pathname(name).ok()?,
    };
    socket.connect_addr(&address).ok().map(|()| socket)
}
