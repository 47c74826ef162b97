//! Small files of ours alone in a directory that is anybody's, such as /dev/shm: what an agent
//! leaves to the next one. There they need no disk, which may hang, and a boot removes them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file of this user that nobody else may open; a link, and what others own or may
/// open, is refused. At once: a pipe that somebody put there, or a lease that he holds on his file,
/// would have us wait for him.
pub fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.clone().mode(0o600).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    let user = nix::unistd::geteuid().as_raw();
    if !about.is_file() || about.uid() != user || about.mode() & 0o077 != 0 {
        let text = format!("{}: not a file of ours alone", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(file)
}

/// Puts a new file there, whole. What others put there under its name is not written to, and is
/// replaced only if it is ours.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // Of a writer that died.
    let _ = fs::remove_file(&new);
    let mut file = open(&new, OpenOptions::new().write(true).create_new(true))?;
    let done = file.write_all(contents).and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

/// Its text; an error if it is longer than `max_bytes`.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    let file = open(path, OpenOptions::new().read(true))?;
    file.take(max_bytes + 1).read_to_string(&mut text)?;
    if text.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{}", path.display())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_pipe_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let (done, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(read(&path, 100).unwrap_err().kind()));
        let kind = end.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(kind, Ok(io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn links_and_files_that_others_may_open_are_refused_and_links_are_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("note"), folder.path().join("other"));
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path, 3).unwrap(), "two");
        assert!(read(&path, 2).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(&path, 3).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        fs::remove_file(&path).unwrap();
        fs::write(&other, "theirs").unwrap();
        symlink(&other, &path).unwrap();
        assert!(read(&path, 100).is_err());
        write(&path, b"three").unwrap();
        assert_eq!(read(&path, 100).unwrap(), "three");
        assert_eq!(fs::read_to_string(&other).unwrap(), "theirs");
    }
}
