//! Readers of /proc.

use std::fs;
use std::path::PathBuf;

/// The fields of `/proc/PID/stat` that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    /// `R`, `S`, `D`, `Z`, …
    pub state: char,
    pub parent: i32,
    pub session: i32,
    /// Clock ticks from boot to the start: with the pid, the identity of a process.
    pub start_ticks: u64,
}

/// `None`: there is no such process (any more).
pub fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(text: &str) -> Option<Stat> {
    // The name, in parentheses, may hold anything, parentheses and blanks included.
    let (pid, rest) = (text.split(' ').next()?, &text[text.rfind(')')? + 1..]);
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        pid: pid.parse().ok()?,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// The executable, without the mark of a file that was replaced by an upgrade.
pub fn exe(pid: i32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    match path.to_str().and_then(|p| p.strip_suffix(" (deleted)")) {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(path),
    }
}

/// The working directory.
pub fn cwd(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// Every process there is now.
pub fn all() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| stat(e.file_name().to_str()?.parse().ok()?)).collect()
}

/// Whether this process is a child of ours is not asked: `pid` and all that descend from it.
pub fn descendants(pid: i32, all: &[Stat]) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|s| s.parent == parent).map(|s| s.pid));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name_with_parentheses() {
        let line = "42 (a) R (b) S 1 42 43 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 987 0 0";
        let expected = Stat { pid: 42, state: 'S', parent: 1, session: 43, start_ticks: 987 };
        assert_eq!(parse(line), Some(expected));
        for bad in ["", "x", "1 (a", "1 (a)", "1 (a) S 2"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn knows_this_process() {
        let own = std::process::id() as i32;
        let all = all();
        assert_eq!(stat(own).map(|s| s.pid), Some(own));
        assert!(descendants(stat(own).map_or(0, |s| s.parent), &all).contains(&own));
        assert_eq!(exe(own), std::env::current_exe().ok());
        assert_eq!(cwd(own), std::env::current_dir().ok());
    }
}
