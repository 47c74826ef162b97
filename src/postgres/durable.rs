//! Files that are either the old or the new one after any crash, never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file operation that failed: what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}{hint}", path = path.display(), hint = hint(source))]
pub struct FileError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// The cause itself is the `source`; this adds what an administrator can do.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => " (the volume is full: free some space)",
        io::ErrorKind::QuotaExceeded => " (the quota is used up)",
        io::ErrorKind::ReadOnlyFilesystem => " (the volume is mounted read-only: remount it)",
        io::ErrorKind::PermissionDenied => " (it must belong to the user that runs pgvigil)",
        io::ErrorKind::ResourceBusy => " (it is a mount point)",
        _ => "",
    }
}

/// `map_err(at("read", path))`.
pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}

/// Replaces a file by temporary file, fsync, rename and fsync of the folder. `mode: None` keeps
/// the old file's permissions (a new file gets 0600). A symbolic link is followed. Returns
/// whether anything changed; an equal file is not touched.
pub fn write(path: &Path, contents: &[u8], mode: Option<u32>) -> Result<bool, FileError> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old_mode = fs::metadata(&path).ok().map(|meta| meta.permissions().mode() & 0o777);
    let mode = mode.or(old_mode).unwrap_or(0o600);
    if old_mode == Some(mode) && holds(&path, contents) {
        return Ok(false);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".pgvigil-new");
    let new = path.with_file_name(name);
    let result = write_new(&new, contents, mode)
        .map_err(at("write", &new))
        .and_then(|()| fs::rename(&new, &path).map_err(at("replace", &path)));
    if result.is_err() {
        // Best effort: the error that led here is the one to report.
        let _ = fs::remove_file(&new);
    }
    result?;
    sync_parent(&path)?;
    Ok(true)
}

fn write_new(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(contents)?;
    file.sync_all()
}

fn holds(path: &Path, contents: &[u8]) -> bool {
    let mut old = Vec::new();
    let limit = contents.len() as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut old));
    read.is_ok() && old == contents
}

/// Makes a rename, creation or removal in the file's folder last.
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|file| file.sync_all()).map_err(at("sync", folder))
}

/// The folders in which `path` is to be, as far as they are missing, for all to enter.
pub fn make_parents(path: &Path) -> Result<(), FileError> {
    let missing = path.parent().filter(|folder| !folder.exists());
    let Some(folder) = missing else { return Ok(()) };
    make_parents(folder)?;
    DirBuilder::new().mode(0o755).create(folder).map_err(at("make", folder))?;
    sync_parent(folder)
}

/// Whole file as text, at most `max_bytes`; `None` if there is no such file.
pub fn read(path: &Path, max_bytes: u64) -> Result<Option<String>, FileError> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(at("read", path))?,
    };
    let mut text = String::new();
    file.take(max_bytes).read_to_string(&mut text).map_err(at("read", path))?;
    Ok(Some(text))
}

/// Removes a file; whether it was there.
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(at("remove", path))?,
    }
    sync_parent(path)?;
    Ok(true)
}

/// An empty file whose presence says something about processes: it need not outlive the kernel, so
/// that nobody waits for the disk.
pub fn mark(path: &Path) -> Result<(), FileError> {
    fs::write(path, b"").map_err(at("write", path))
}

/// A folder with mode 0700, parents included; an existing one only gets that mode if group or
/// others may write to it, or others may read it (PostgreSQL accepts 0700 and 0750).
pub fn private_folder(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("create", path))?;
    let mode = fs::metadata(path).map_err(at("read", path))?.permissions().mode();
    if mode & 0o027 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(at("protect", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_missing_are_made() {
        let base = tempfile::tempdir().expect("folder");
        let path = base.path().join("15/main/data");
        make_parents(&path).expect("made");
        assert!(base.path().join("15/main").is_dir() && !path.exists());
        make_parents(&path).expect("there already");
        fs::write(base.path().join("file"), "").expect("written");
        assert!(make_parents(&base.path().join("file/main/data")).is_err());
    }

    #[test]
    fn writes_once_and_keeps_mode_and_links() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.conf");
        assert!(write(&path, b"one\n", None).expect("written"));
        assert!(!write(&path, b"one\n", None).expect("equal"));
        let mode = |p: &Path| fs::metadata(p).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
        let link = folder.path().join("link.conf");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        assert!(write(&link, b"two\n", None).expect("written"));
        assert_eq!(fs::read_to_string(&path).expect("text"), "two\n");
        assert_eq!(mode(&path), 0o640);
        assert!(write(&path, b"two\n", Some(0o600)).expect("mode changed"));
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2, "no leftovers");
        assert!(remove(&path).expect("removed") && !remove(&path).expect("gone"));
        assert_eq!(read(&path, 10).expect("no error"), None);
    }

    #[test]
    fn errors_tell_what_to_do() {
        let error = write(Path::new("/proc/pgvigil"), b"", None).unwrap_err();
        assert!(error.to_string().starts_with("cannot write /proc/pgvigil.pgvigil-new"));
        let full = FileError {
            action: "write",
            path: "/d/f".into(),
            source: io::Error::from(io::ErrorKind::StorageFull),
        };
        assert_eq!(full.to_string(), "cannot write /d/f (the volume is full: free some space)");
    }
}
