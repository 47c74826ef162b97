//! Processes of the laboratory: who they are, and their end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::net::MARK;
use super::wait::wait_until;

/// Sends a signal; a process that is gone is no error.
pub fn signal(pid: i32, signal: Signal) {
    if let Err(error) = kill(Pid::from_raw(pid), signal)
        && error != nix::errno::Errno::ESRCH
    {
        panic!("{signal} to {pid}: {error}");
    }
}

pub fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Lives, and is not a zombie.
pub fn lives(pid: i32) -> bool {
    parent_and_state(pid).is_some_and(|(_, state)| state != 'Z' && state != 'X')
}

fn parent_and_state(pid: i32) -> Option<(i32, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// The first argument-wise match among the children of a process.
pub fn child_with(parent: i32, wanted: impl Fn(&[String]) -> bool) -> Option<i32> {
    all().find(|&pid| {
        parent_and_state(pid).is_some_and(|(ppid, state)| ppid == parent && state != 'Z')
            && wanted(&arguments(pid))
    })
}

pub fn arguments(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&b| b == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// SIGKILL to all, again and again until a look finds none.
pub fn kill_until_none(find: impl Fn() -> Vec<i32>) {
    wait_until("the last process to end", Duration::from_secs(10), || {
        let found: Vec<i32> = find().into_iter().filter(|&pid| lives(pid)).collect();
        found.iter().for_each(|&pid| signal(pid, Signal::SIGKILL));
        found.is_empty().then_some(())
    });
}

/// Whether a name tells of a laboratory whose process is dead.
pub fn is_leftover(name: &str) -> bool {
    let pid = name.strip_prefix(MARK).and_then(|rest| rest.split('-').next());
    pid.and_then(|pid| pid.parse::<i32>().ok()).is_some_and(|pid| !lives(pid))
}

/// A process and those of its children that run the same program.
pub fn family(pid: i32) -> Vec<i32> {
    let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let same = |child: &i32| {
        parent_and_state(*child).is_some_and(|(parent, _)| parent == pid)
            && program(*child) == program(pid)
    };
    std::iter::once(pid).chain(all().filter(same)).collect()
}

#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub private_dirty_kib: u64,
    pub rss_kib: u64,
    pub locked_kib: u64,
    /// Time on a processor since the start, all threads that still live.
    pub cpu: Duration,
}

/// What a process costs; `None`: it is gone.
pub fn cost(pid: i32) -> Option<Cost> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let on_cpu = threads.filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    let cpu = Duration::from_nanos(on_cpu.sum());
    Some(Cost {
        private_dirty_kib: kib("Private_Dirty:")?,
        rss_kib: kib("Rss:")?,
        locked_kib: kib("Locked:")?,
        cpu,
    })
}

/// The version 2 control group file system, wherever it is mounted.
pub fn control_groups() -> Option<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    Some(Path::new(line.split(' ').nth(1)?).to_path_buf())
}

/// By trying: a container's mount may be read-only.
pub fn can_make_control_groups() -> bool {
    let name = format!("{MARK}{}-try", std::process::id());
    let path = control_groups().map(|groups| groups.join(name));
    path.is_some_and(|path| fs::create_dir(&path).and_then(|()| fs::remove_dir(path)).is_ok())
}

/// Ends everything in a control group and removes it with all groups below it.
pub fn remove_control_group(path: &Path) {
    if !path.exists() {
        return;
    }
    fs::write(path.join("cgroup.kill"), "1").unwrap_or_else(|e| eprintln!("{e}"));
    wait_until("an empty control group", Duration::from_secs(10), || {
        let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        events.contains("populated 0").then_some(())
    });
    remove_groups(path);
}

fn remove_groups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    fs::remove_dir(path).unwrap_or_else(|e| eprintln!("{}: {e}", path.display()));
}
