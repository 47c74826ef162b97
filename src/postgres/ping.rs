//! Whether anybody answers a new connection at all.
//!
//! The question is the protocol's request for TLS: a child of the postmaster answers it with one
//! byte before it has read a catalog, so that neither a locked `pg_authid` nor a full
//! `max_connections` looks like a hang, nor does a server that is starting or shutting down.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::session::Target;

/// `SSLRequest`: its length, and the number that stands where a version of the protocol would.
/// Source: PostgreSQL's documentation, "Message Formats".
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What became of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A byte came, whichever.
    Alive,
    /// The connection stood, or waited to be accepted, for the whole time.
    Silent,
    /// Nobody listens there, or it was closed: no evidence of life, and none of a hang.
    Nobody,
}

/// Asks once; takes no longer than `within`.
pub async fn ping(target: &Target, within: Duration) -> Answer {
    match tokio::time::timeout(within, ask(target)).await {
        Ok(Ok(())) => Answer::Alive,
        Ok(Err(error)) => match error.kind() {
            // A full queue of connections that nobody accepts: on a Unix socket the kernel says so
            // at once. That it is full says that nobody accepted for long.
            ErrorKind::WouldBlock => {
                tokio::time::sleep(within).await;
                Answer::Silent
            }
            ErrorKind::TimedOut => Answer::Silent,
            _ => Answer::Nobody,
        },
        Err(_) => Answer::Silent,
    }
}

async fn ask(target: &Target) -> io::Result<()> {
    if target.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", target.host, target.port);
        return exchange(UnixStream::connect(path).await?).await;
    }
    exchange(TcpStream::connect((target.host.as_str(), target.port)).await?).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(&TLS_REQUEST).await?;
    stream.read_u8().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, port: u16) -> Target {
        Target {
            host: host.to_owned(),
            port,
            user: String::new(),
            password: None,
            database: String::new(),
            statement_timeout: Duration::ZERO,
            options: Default::default(),
        }
    }

    #[tokio::test]
    async fn silence_is_told_from_absence_and_from_life() {
        let within = Duration::from_millis(300);
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = socket.local_addr().expect("address").port();
        // Nobody accepts.
        assert_eq!(ping(&target("127.0.0.1", port), within).await, Answer::Silent);
        let refusal = tokio::spawn(async move {
            loop {
                let (mut stream, _) = socket.accept().await.expect("a connection");
                let mut question = [0; 8];
                if stream.read_exact(&mut question).await.is_ok() {
                    stream.write_all(b"E").await.expect("written");
                }
            }
        });
        // The first is the one that gave up above.
        assert_eq!(ping(&target("127.0.0.1", port), within).await, Answer::Alive);
        refusal.abort();
        let _ = refusal.await;
        assert_eq!(ping(&target("127.0.0.1", port), within).await, Answer::Nobody);
        assert_eq!(ping(&target("/nowhere", 5432), within).await, Answer::Nobody);
    }

    #[tokio::test]
    async fn a_full_queue_is_silence() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(".s.PGSQL.1");
        let socket = tokio::net::UnixListener::bind(&path).expect("bound");
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(100), UnixStream::connect(&path)).await
        {
            waiting.push(stream);
        }
        let host = directory.path().to_str().expect("text");
        assert_eq!(ping(&target(host, 1), Duration::from_millis(100)).await, Answer::Silent);
        drop(socket);
    }
}
