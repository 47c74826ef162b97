//! `log.dir`: a file of limited size and its predecessors. A thread writes, so that a disk that
//! hangs costs records and not decisions.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::config::LogFile;

/// Patroni's name, which shippers look for.
const NAME: &str = "patroni.log";

/// Hands lines to the thread that writes them.
pub struct FileWriter {
    lines: SyncSender<String>,
    dropped: AtomicU64,
}

impl FileWriter {
    /// Opens the file, so that a wrong directory is told at once.
    pub fn open(options: &LogFile) -> io::Result<FileWriter> {
        let mut rotating = Rotating::open(options.clone())?;
        let (lines, queue): (_, Receiver<String>) = sync_channel(options.queue);
        std::thread::Builder::new().name("log".into()).spawn(move || {
            for line in queue {
                // What cannot be written is lost: there is no other place that would not fill up.
                let _ = rotating.write(&line);
            }
        })?;
        Ok(FileWriter { lines, dropped: AtomicU64::new(0) })
    }

    /// Never waits; a line that finds the queue full is dropped and counted.
    pub fn write(&self, mut line: String) {
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            line.insert_str(0, &format!("({lost} lines before this one were dropped)\n"));
        }
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

struct Rotating {
    options: LogFile,
    path: PathBuf,
    file: File,
    size: u64,
}

impl Rotating {
    fn open(options: LogFile) -> io::Result<Rotating> {
        let path = Path::new(&options.dir).join(NAME);
        let file = append(&path, options.mode)?;
        let size = file.metadata()?.len();
        Ok(Rotating { options, path, file, size })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let limit = self.options.size;
        if limit > 0 && self.size > 0 && self.size + line.len() as u64 > limit {
            self.rotate()?;
        }
        self.file.write_all(line.as_bytes())?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// `.1` is the youngest.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |n: usize| self.path.with_file_name(format!("{NAME}.{n}"));
        for n in (1..self.options.keep).rev() {
            if numbered(n).exists() {
                fs::rename(numbered(n), numbered(n + 1))?;
            }
        }
        match self.options.keep {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, numbered(1))?,
        }
        (self.file, self.size) = (append(&self.path, self.options.mode)?, 0);
        Ok(())
    }
}

fn append(path: &Path, mode: Option<u32>) -> io::Result<File> {
    let file =
        OpenOptions::new().create(true).append(true).mode(mode.unwrap_or(0o666)).open(path)?;
    if let Some(mode) = mode {
        // The umask took its part away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_by_size_and_keeps_so_many() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = LogFile {
            dir: dir.path().to_string_lossy().into_owned(),
            mode: Some(0o640),
            keep: 2,
            size: 10,
            queue: 10,
        };
        let mut log = Rotating::open(options).expect("opened");
        for line in ["one 1\n", "two 2\n", "three\n", "four\n"] {
            log.write(line).expect("written");
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(read("patroni.log").as_deref(), Some("four\n"));
        assert_eq!(read("patroni.log.1").as_deref(), Some("three\n"));
        assert_eq!(read("patroni.log.2").as_deref(), Some("two 2\n"));
        assert_eq!(read("patroni.log.3"), None);
        let mode = fs::metadata(dir.path().join(NAME)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
