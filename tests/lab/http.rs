//! One HTTP request, as small as it can be: what a scenario asks must not depend on the code under
//! test.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer longer than this is cut off.
const BODY_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The header lines, as they came.
    pub head: Vec<String>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Asks with HTTP/1.0 (no chunks, the server closes).
pub fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    within: Duration,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {server}\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(BODY_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let head_lines = head.lines().skip(1).map(str::to_owned).collect();
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Answer { status, head: head_lines, body: body.to_owned() })
}
