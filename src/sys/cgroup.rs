//! Control groups, version 2: a directory whose processes are frozen and killed in one write.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::process;

/// What `cgroup.events` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// A live process is in the group or below it.
    pub populated: bool,
    /// Every process of the group is frozen.
    pub frozen: bool,
}

/// One control group. Its files are opened once: a freeze or a kill needs no path look-up.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    dir: OwnedFd,
    events: File,
    freeze: File,
    procs: File,
    threads: File,
    /// Linux 5.14 and later.
    kill: Option<File>,
}

impl Group {
    /// Opens the group, making it if it is not there. The parent must exist.
    pub fn open(path: &Path) -> io::Result<Group> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let dir = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
        let read = |name: &str| File::open(path.join(name));
        let write = |name: &str| OpenOptions::new().write(true).open(path.join(name));
        Ok(Group {
            dir: dir.into(),
            events: read("cgroup.events")?,
            freeze: write("cgroup.freeze")?,
            procs: OpenOptions::new().read(true).write(true).open(path.join("cgroup.procs"))?,
            threads: read("cgroup.threads")?,
            kill: write("cgroup.kill").ok(),
            path: path.to_path_buf(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory: where a new process is put by [`process::spawn`].
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Becomes POLLPRI when [`Group::events`] has changed.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// What a process that closes all else must keep to go on using this value.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let files = [&self.events, &self.freeze, &self.procs, &self.threads];
        let files = files.into_iter().chain(&self.kill).map(|file| file.as_raw_fd());
        files.chain([self.dir.as_raw_fd()]).collect()
    }

    pub fn events(&self) -> io::Result<Events> {
        let mut buffer = [0; 256];
        let length = self.events.read_at(&mut buffer, 0)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        let on = |line: &str| text.lines().any(|l| l == line);
        Ok(Events { populated: on("populated 1"), frozen: on("frozen 1") })
    }

    /// Asks for the freeze; [`Group::events`] tells when every process stands still.
    pub fn freeze(&self) -> io::Result<()> {
        self.freeze.write_at(b"1", 0).map(drop)
    }

    pub fn thaw(&self) -> io::Result<()> {
        self.freeze.write_at(b"0", 0).map(drop)
    }

    /// SIGKILL to every process of the group, forks in progress included; frozen ones die, too.
    pub fn kill(&self) -> io::Result<()> {
        if let Some(kill) = &self.kill {
            return kill.write_at(b"1", 0).map(drop);
        }
        // Before Linux 5.14: frozen processes cannot fork, so one pass reaches all of them.
        self.freeze()?;
        self.pids()?.into_iter().for_each(|pid| process::kill(pid, libc::SIGKILL));
        Ok(())
    }

    /// The processes in it now.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        numbers(&self.procs)
    }

    /// The threads in it now.
    pub fn tids(&self) -> io::Result<Vec<i32>> {
        numbers(&self.threads)
    }

    /// Moves a process in.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        self.procs.write_at(pid.to_string().as_bytes(), 0).map(drop)
    }
}

fn numbers(file: &File) -> io::Result<Vec<i32>> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = file.read_at(&mut buffer, text.len() as u64)?;
        if length == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..length]);
    }
    Ok(String::from_utf8_lossy(&text).lines().filter_map(|l| l.parse().ok()).collect())
}

/// The control group this process is in, as a path below the mount point of the unified hierarchy.
pub fn own() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    find(&mounts, &groups).ok_or_else(|| {
        let text = "no control group of version 2: nothing of type cgroup2 in /proc/self/mounts";
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

/// The same for what is read of any process.
pub fn find(mounts: &str, groups: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| place.replace("\\040", " "))
    })?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(if group.is_empty() { PathBuf::from(mount) } else { Path::new(&mount).join(group) })
}

/// Hands the group at `path` (made if need be) to a user, who then makes groups below it and moves
/// processes about in it. Needs root.
pub fn delegate(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(path.join(file), Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Moves this process into the group at `path`.
pub fn enter(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_unified_hierarchy() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        for (mounts, groups, expected) in [
            (hybrid, "5:cpu:/x\n0::/\n", Some("/sys/fs/cgroup/unified")),
            (
                "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
                "0::/system.slice/pgvigil.service\n",
                Some("/sys/fs/cgroup/system.slice/pgvigil.service"),
            ),
            ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", "0::/\n", None),
            (hybrid, "5:cpu:/x\n", None),
        ] {
            assert_eq!(find(mounts, groups), expected.map(PathBuf::from), "{mounts}{groups}");
        }
    }
}
