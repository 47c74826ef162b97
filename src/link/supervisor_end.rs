//! The supervisor's end: never blocks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::codec::{DATAGRAM_MAX, decode, encode};
use super::order::Envelope;
use super::state::State;

/// Receives orders, sends states.
#[derive(Debug)]
pub struct SupervisorEnd {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// The newest state, encoded, if the socket was full.
    unsent: Option<Vec<u8>>,
}

impl SupervisorEnd {
    /// `socket`: non-blocking.
    pub fn new(socket: OwnedFd) -> SupervisorEnd {
        SupervisorEnd { socket, buffer: vec![0; DATAGRAM_MAX + 1], unsent: None }
    }

    /// The next order. `None`: nothing is there now. `UnexpectedEof`: the agent is gone;
    /// `InvalidData`: it sent what is no order.
    pub fn recv(&mut self) -> io::Result<Option<Envelope>> {
        match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => decode(&self.buffer[..length])
                .map(Some)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(Errno::ECONNRESET) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends the state; if the socket is full it waits here until [`SupervisorEnd::flush`], or
    /// until a newer one takes its place.
    pub fn send(&mut self, state: &State) {
        self.unsent = Some(encode(state).expect("invariant: all that a state holds is bounded"));
        self.flush();
    }

    /// Tries again: to be called when the socket is writable.
    pub fn flush(&mut self) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if let Some(bytes) = &self.unsent {
            match send(self.socket.as_raw_fd(), bytes, flags) {
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => {}
                // A failure is the agent's end, which the next receive reports.
                _ => self.unsent = None,
            }
        }
    }

    /// Whether to wait for the socket to become writable.
    pub fn has_unsent(&self) -> bool {
        self.unsent.is_some()
    }
}

impl AsFd for SupervisorEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
