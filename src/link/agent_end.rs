//! The agent's end: asynchronous.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram as StdDatagram;

use tokio::net::UnixDatagram;

use super::codec::{DATAGRAM_MAX, decode, encode};
use super::order::Envelope;
use super::state::State;
use crate::sys::fd;

/// Receives states, sends orders. Both may be called at the same time (`&self`).
#[derive(Debug)]
pub struct AgentEnd {
    /// Of SOCK_SEQPACKET in truth: the same calls, and a receive of nothing is the end.
    socket: UnixDatagram,
}

impl AgentEnd {
    /// The end that the supervisor handed over in the environment, and the generation. To be
    /// called once, inside a tokio runtime.
    pub fn from_env() -> io::Result<(AgentEnd, u32)> {
        let generation = std::env::var(super::GENERATION).ok().and_then(|g| g.parse().ok());
        let generation = generation.ok_or_else(|| {
            let text = format!("{} is not set: the supervisor starts agents", super::GENERATION);
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        Ok((AgentEnd::new(fd::inherited(super::LINK_FD)?)?, generation))
    }

    /// `socket`: non-blocking. To be called inside a tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<AgentEnd> {
        Ok(AgentEnd { socket: UnixDatagram::from_std(StdDatagram::from(socket))? })
    }

    /// The next state. `UnexpectedEof`: the supervisor is gone; stop renewing and exit.
    /// Safe to drop while it waits.
    pub async fn recv(&self) -> io::Result<State> {
        let mut buffer = vec![0; DATAGRAM_MAX + 1];
        match self.socket.recv(&mut buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => decode(&buffer[..length]).map_err(io::Error::other),
        }
    }

    /// Sends one order whole, or nothing.
    pub async fn send(&self, envelope: &Envelope) -> io::Result<()> {
        let bytes = encode(envelope).map_err(io::Error::other)?;
        self.socket.send(&bytes).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SupervisorEnd;
    use super::super::order::Order;
    use super::*;

    #[tokio::test]
    async fn states_one_way_orders_the_other() {
        let (ours, theirs) = fd::seqpacket_pair().unwrap();
        let agent = AgentEnd::new(ours).unwrap();
        let mut supervisor = SupervisorEnd::new(theirs);
        let envelope = Envelope { generation: 1, seq: 1, order: Order::Campaign };
        assert_eq!(supervisor.recv().unwrap(), None);
        agent.send(&envelope).await.unwrap();
        assert_eq!(supervisor.recv().unwrap(), Some(envelope));

        // A reader that lags loses states in between, never the last one.
        for seq_seen in 1..=10_000 {
            supervisor.send(&State { seq_seen, ..State::default() });
        }
        assert!(supervisor.has_unsent());
        let mut last = 0;
        while last < 10_000 {
            last = agent.recv().await.unwrap().seq_seen;
            supervisor.flush();
        }
        assert!(!supervisor.has_unsent());

        drop(supervisor);
        assert_eq!(agent.recv().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
