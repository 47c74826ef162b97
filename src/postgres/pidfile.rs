//! `postmaster.pid`: who runs, or ran, on a data directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What the file says. A server that is only starting has not written all of it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostmasterPid {
    pub pid: i32,
    /// The data directory as that server names it.
    pub data_dir: String,
    /// Seconds since 1970.
    pub start_time: i64,
    pub port: Option<u16>,
    pub socket_dir: Option<String>,
    /// The first of `listen_addresses`; `None`: sockets only.
    pub listen_address: Option<String>,
    /// Key and id of the System V segment that every process of that server attaches to.
    pub shm: Option<(i64, i64)>,
    /// `starting`, `stopping`, `ready` or `standby`.
    pub status: Option<String>,
}

impl PostmasterPid {
    /// Where this server takes connections, for people; `None` while it takes none.
    pub fn listening(&self) -> Option<String> {
        let open = matches!(self.status.as_deref(), Some("ready" | "standby"));
        let port = self.port.filter(|_| open)?;
        let address = self.listen_address.as_deref().unwrap_or("none");
        let sockets = self.socket_dir.as_deref().unwrap_or("none");
        Some(format!("port {port}, address {address}, socket directory {sockets}"))
    }
}

/// Reads the file; `None` if it is missing, unreadable or not of a postmaster. (A negative pid
/// is a single-user server.)
pub fn read(data_dir: &Path) -> Option<PostmasterPid> {
    let mut text = String::new();
    let file = File::open(data_dir.join("postmaster.pid")).ok()?;
    file.take(16 * 1024).read_to_string(&mut text).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<PostmasterPid> {
    let mut lines = text.lines().map(str::trim);
    let pid = lines.next()?.parse().ok()?;
    let data_dir = lines.next()?.to_owned();
    let start_time = lines.next()?.parse().ok()?;
    let mut next = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
    let port = next().and_then(|port| port.parse().ok());
    let socket_dir = next();
    let listen_address = next();
    let shm = next().and_then(|keys| {
        let (key, id) = keys.split_once(char::is_whitespace)?;
        Some((key.parse().ok()?, id.trim().parse().ok()?))
    });
    let status = next();
    let known =
        PostmasterPid { pid, data_dir, start_time, port, socket_dir, listen_address, shm, status };
    Some(known)
}

/// How many processes are attached to the segment; `None` if there is no such segment. After a
/// reboot ids begin anew: the same id with another key is another server's.
pub fn shm_attached((key, id): (i64, i64)) -> io::Result<Option<u32>> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm")?;
    Ok(attached_in(&table, key, id))
}

/// Columns: key, shmid, perms, size, cpid, lpid, nattch, …
fn attached_in(table: &str, key: i64, id: i64) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let mut number = || columns.next()?.parse::<i64>().ok();
        // A key is 32 bits without a sign in the one file and perhaps with one in the other.
        let same = (number()? as u32, number()?) == (key as u32, id);
        if same { columns.nth(4)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_complete_and_an_early_file() {
        let full = "4711\n/data\n1795256736\n5432\n/run/pg\n*\n  5432001   32771\nready   \n";
        let pid = parse(full).expect("valid");
        assert_eq!((pid.pid, pid.start_time, pid.port), (4711, 1_795_256_736, Some(5432)));
        assert_eq!(pid.socket_dir.as_deref(), Some("/run/pg"));
        assert_eq!((pid.shm, pid.status.as_deref()), (Some((5_432_001, 32771)), Some("ready")));
        let place = "port 5432, address *, socket directory /run/pg";
        assert_eq!(pid.listening().as_deref(), Some(place));
        let early = parse("4711\n/data\n1795256736\n5432\n\n").expect("valid");
        assert_eq!(early.listening(), None);
        assert_eq!((early.socket_dir, early.shm, early.status), (None, None, None));
        for bad in ["", "x\n/data\n1", "1\n/data\n", "1\n"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn counts_attached_processes() {
        let table = "       key      shmid perms  size  cpid  lpid nattch   uid\n\
                     5432001      32771   600  56  100  200  9  101\n";
        assert_eq!(attached_in(table, 5_432_001, 32771), Some(9));
        assert_eq!(attached_in(table, 5_432_002, 32771), None);
        assert!(shm_attached((-1, -1)).expect("readable").is_none());
    }
}
