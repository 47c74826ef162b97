//! The journal's stream: what a service writes to its standard error, line by line, under a name.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

const STREAM: &str = "/run/systemd/journal/stdout";

/// Device and inode of a stream to the journal, as systemd.exec(5) describes it.
const VARIABLE: &str = "JOURNAL_STREAM";

/// Whether standard error is the journal's, and nobody redirected it since.
pub fn is_stderr() -> bool {
    let Ok(stream) = std::env::var(VARIABLE) else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|m| stream == format!("{}:{}", m.dev(), m.ino()))
}

/// If standard error is the journal's: gives this process, and those that inherit it, a stream of
/// its own whose lines stand under `identifier`. To be called while the process has one thread.
pub fn rename_stderr(identifier: &str) -> io::Result<()> {
    if !is_stderr() {
        return Ok(());
    }
    let stream = connect(STREAM, identifier)?;
    for number in [1, 2] {
        // SAFETY: both are open descriptors; what they were is not used after this.
        if unsafe { libc::dup2(stream.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let about = std::fs::metadata("/proc/self/fd/2")?;
    // SAFETY: one thread, as the caller promises: nobody reads the environment meanwhile.
    unsafe { std::env::set_var(VARIABLE, format!("{}:{}", about.dev(), about.ino())) };
    Ok(())
}

/// The header of sd_journal_stream_fd(3): identifier, unit (the journal knows it better), priority,
/// whether lines may begin with one (`<3>`), and three ways of forwarding.
fn connect(path: impl AsRef<Path>, identifier: &str) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("{identifier}\n\n6\n1\n0\n0\n0\n").as_bytes())?;
    stream.shutdown(std::net::Shutdown::Read)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_stream_begins_with_its_header() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdout");
        let listener = UnixListener::bind(&path).unwrap();
        let mut stream = connect(&path, "postgres").unwrap();
        writeln!(stream, "LOG:  ready").unwrap();
        drop(stream);
        let mut heard = String::new();
        listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "postgres\n\n6\n1\n0\n0\n0\nLOG:  ready\n");
    }
}
