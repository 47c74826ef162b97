//! Words that processes share, and that may outlive all of them.

use std::fs::OpenOptions;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::private;

/// Words in a [`Page`].
pub const WORDS: usize = 10 * 1024;
const BYTES: usize = WORDS * size_of::<u64>();

/// A memory file, mapped.
#[derive(Debug)]
pub struct Page {
    words: NonNull<AtomicU64>,
}

// SAFETY: the mapping belongs to no thread, and all access to it is atomic.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Zeroes without a name: for this process and those that it forks.
    pub fn anonymous() -> io::Result<Page> {
        Page::map(&memfd_create(c"pgvigil", MFdFlags::MFD_CLOEXEC)?)
    }

    /// The file at `path`, which must be on a file system in memory; with `create` it is made, of
    /// zeroes, if it is not there. The directory may be anybody's: see [`private::open`].
    pub fn named(path: &Path, create: bool) -> io::Result<Page> {
        let mut options = OpenOptions::new();
        Page::map(&private::open(path, options.read(true).write(true).create(create))?)
    }

    fn map(file: impl AsFd) -> io::Result<Page> {
        // Memory that is there already cannot be missing at a store.
        nix::fcntl::posix_fallocate(&file, 0, BYTES as i64)?;
        let length = NonZeroUsize::new(BYTES).expect("invariant: not zero");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping that only this value knows; the file is at least as long, none of
        // ours ever cuts it, and all access is atomic.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Page { words: start.cast() })
    }

    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::SeqCst)
    }

    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::SeqCst);
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS, "invariant: {index} is in the page");
        // SAFETY: in bounds, aligned (a page starts the mapping), mapped as long as `self` lives.
        unsafe { self.words.add(index).as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which no reference outlives `self`.
        let _ = unsafe { munmap(self.words.cast(), BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn two_mappings_see_one_file_of_ours_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page");
        assert_eq!(Page::named(&path, false).unwrap_err().kind(), io::ErrorKind::NotFound);
        let one = Page::named(&path, true).unwrap();
        let two = Page::named(&path, false).unwrap();
        one.store(WORDS - 1, 7);
        assert_eq!((two.load(WORDS - 1), two.load(0)), (7, 0));

        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(Page::named(&link, true).is_err());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(Page::named(&path, false).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
