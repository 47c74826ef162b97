//! What a supervisor knows, in a file in shared memory that outlives it: a successor, after a
//! crash or an upgrade, goes on as if nothing had happened.
//!
//! The file begins with the sentinel's words. Two slots follow, each the whole record as lines of
//! text, `key value`; unknown keys are ignored, so that the previous release can read what this one
//! wrote. They are written in turns, so that one is whole wherever the writer was stopped; the
//! checksum tells which. Writing is copying: no call, no wait. What must be in it before what:
//!
//! - `decide` writes the guard's new state before it carries out any effect, and whatever else
//!   happens because of the decision happens after that: a tenure is burned here before the state
//!   that grants the release is sent, so before the key can be deleted; a permit stands here before
//!   the postmaster is started or promoted, so what runs without a permit is a standby; a
//!   confirmation and its deadline stand here before the agent sees it accepted.
//! - A freeze or a kill that stands here may not have been carried out: the successor repeats it.
//!   A thaw may not: a group that stands still against the record stays so until there is proof.
//! - The rest (capsule, processes) is written once a turn, before the state is sent.
//!
//! The file is of this boot, because it lives in memory; deadlines of another would mean nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::shared::{Page, WORDS};
use crate::watchdog::record::boot_id;

/// The lines of a predecessor.
pub type Saved = BTreeMap<String, String>;

/// Where the first slot begins; the sentinel's words stand before it.
const SLOTS: usize = 512;
const SLOT_WORDS: usize = (WORDS - SLOTS) / 2;
/// A slot's words: sequence number, length of the text in bytes, checksum; then the text.
const HEADER: usize = 3;
/// A capsule in hexadecimal digits, two paths, and the jobs that are remembered fit in.
const TEXT_MAX_BYTES: usize = (SLOT_WORDS - HEADER) * size_of::<u64>();

#[derive(Debug)]
pub struct Memory {
    pub page: Page,
    path: Option<PathBuf>,
    boot_id: String,
    sequence: u64,
    written: String,
}

impl Memory {
    /// The file of this data directory (a canonical path).
    pub fn open(data_dir: &Path, create: bool) -> io::Result<Memory> {
        let path = memory_path(nix::unistd::geteuid().as_raw(), data_dir);
        Ok(Memory { path: Some(path.clone()), ..Memory::with(Page::named(&path, create)?) })
    }

    /// Without a file: nothing is left to a successor.
    pub fn anonymous() -> io::Result<Memory> {
        Ok(Memory::with(Page::anonymous()?))
    }

    fn with(page: Page) -> Memory {
        Memory { page, path: None, boot_id: boot_id(), sequence: 0, written: String::new() }
    }

    pub fn outlives(&self) -> bool {
        self.path.is_some()
    }

    /// The newest record, if it is whole and of this boot.
    pub fn read(&mut self) -> Option<Saved> {
        let (sequence, text) = [0, 1].into_iter().filter_map(|i| self.slot(i)).max()?;
        self.sequence = sequence;
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let saved: Saved = lines.map(|(k, v)| (k.to_string(), v.to_string())).collect();
        (saved.get("boot") == Some(&self.boot_id)).then_some(saved)
    }

    fn slot(&self, number: usize) -> Option<(u64, String)> {
        let word = |at: usize| self.page.load(SLOTS + number * SLOT_WORDS + at);
        let length = usize::try_from(word(1)).ok().filter(|n| *n <= TEXT_MAX_BYTES)?;
        let words = (0..length.div_ceil(8)).flat_map(|i| word(HEADER + i).to_le_bytes());
        let text = String::from_utf8(words.take(length).collect()).ok()?;
        (word(2) == checksum(word(0), &text)).then(|| (word(0), text))
    }

    /// Writes the record if it changed.
    pub fn write(&mut self, lines: &str) {
        let text = format!("boot {}\n{lines}", self.boot_id);
        if text == self.written {
            return;
        }
        assert!(text.len() <= TEXT_MAX_BYTES, "invariant: all that a record holds is bounded");
        self.sequence += 1;
        let start = SLOTS + (self.sequence % 2) as usize * SLOT_WORDS;
        for (i, bytes) in text.as_bytes().chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.page.store(start + HEADER + i, u64::from_le_bytes(word));
        }
        let header = [self.sequence, text.len() as u64, checksum(self.sequence, &text)];
        header.into_iter().enumerate().for_each(|(i, word)| self.page.store(start + i, word));
        self.written = text;
    }

    /// At the orderly end there is nothing to go on with.
    pub fn remove(&self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// The file of a supervisor that runs as `user` on this data directory (a canonical path).
pub fn memory_path(user: u32, data_dir: &Path) -> PathBuf {
    let hash = fnv(data_dir.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/dev/shm/pgvigil-{user}-{hash:016x}"))
}

fn checksum(sequence: u64, text: &str) -> u64 {
    fnv(&[&sequence.to_le_bytes(), text.as_bytes()].concat())
}

/// FNV-1a: against torn writes, not against forgery.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(memory: &mut Memory) -> Option<String> {
        memory.read().map(|saved| saved["n"].clone())
    }

    #[test]
    fn the_newest_whole_record_of_this_boot_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut one = Memory::open(directory.path(), true).unwrap();
        let mut two = Memory::open(directory.path(), false).unwrap();
        assert_eq!(read(&mut two), None);
        for n in 1..5 {
            one.write(&format!("n {n}\n"));
            assert_eq!(read(&mut two), Some(n.to_string()));
        }
        // The successor goes on with the numbers.
        two.write("n 5\n");
        assert_eq!(read(&mut one), Some("5".into()));
        // Torn: the one before it.
        let newest = SLOTS + SLOT_WORDS;
        one.page.store(newest + HEADER + 1, 0);
        assert_eq!(read(&mut two), Some("4".into()));
        let boot_id = std::mem::replace(&mut two.boot_id, "another".into());
        two.write("n 6\n");
        assert_eq!(read(&mut one), None);
        two.boot_id = boot_id;
        two.write("n 7\n");
        assert_eq!(read(&mut one), Some("7".into()));
        one.page.store(SLOTS + 1, u64::MAX);
        one.page.store(newest + 1, u64::MAX);
        assert_eq!(read(&mut two), None);
        two.remove();
        assert!(Memory::open(directory.path(), false).is_err());
    }
}
