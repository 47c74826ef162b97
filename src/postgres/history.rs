//! Timeline numbers that PostgreSQL must not give out again. Before a promotion it probes
//! `pg_wal/<number>.history`, one number after the other, and takes the first that does not exist
//! (`findNewestTimeLine`, PostgreSQL 13 to 18): a file of that name that holds only a comment makes
//! it go on to the next. For a server that is told to recover to the newest timeline such a file
//! is no descendant of its own, so that it stays where it is; but it must not be there when one
//! starts, for then the newest timeline has to be a descendant.

use std::fs;
use std::path::{Path, PathBuf};

use super::durable::{self, FileError};

const COMMENT: &str = "# pgvigil: given to a promotion that this server never saw\n";

fn file(data_dir: &Path, timeline: u32) -> PathBuf {
    data_dir.join("pg_wal").join(format!("{timeline:08X}.history"))
}

/// Marks these numbers; those of which there is a history file already are left alone. Returns
/// those that were marked now.
pub fn take(data_dir: &Path, timelines: &[u32]) -> Result<Vec<u32>, FileError> {
    let mut written = Vec::new();
    for timeline in timelines {
        let path = file(data_dir, *timeline);
        if !path.exists() {
            durable::write(&path, COMMENT.as_bytes(), None)?;
            written.push(*timeline);
        }
    }
    Ok(written)
}

/// Takes marks above `newest`, the newest timeline of the data directory, away: a promotion that
/// was to skip them did not come to its end.
pub fn forget(data_dir: &Path, newest: u32) -> Result<(), FileError> {
    // PostgreSQL probes upwards without a gap: what is behind one means nothing.
    for timeline in newest.saturating_add(1).. {
        let path = file(data_dir, timeline);
        let Ok(text) = fs::read(&path) else { break };
        if text == COMMENT.as_bytes() {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_only_what_is_free_and_takes_only_marks_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let wal = dir.path().join("pg_wal");
        fs::create_dir(&wal).expect("pg_wal");
        fs::write(wal.join("00000003.history"), "1\t0/3000148\tx\n").expect("a history file");
        assert_eq!(take(dir.path(), &[2, 3, 0x1A]).expect("written"), [2, 0x1A]);
        assert!(wal.join("0000001A.history").exists());
        assert!(take(dir.path(), &[2]).expect("nothing left to write").is_empty());
        forget(dir.path(), 2).expect("nothing to forget above the newest");
        assert!(wal.join("00000002.history").exists());
        forget(dir.path(), 1).expect("forgotten");
        assert!(!wal.join("00000002.history").exists());
        assert!(wal.join("00000003.history").exists(), "a genuine one stays");
    }
}
