//! A network on one machine: every host has its own network namespace and address, and all hang
//! on one bridge in a namespace of its own, so that laboratories may use the same addresses.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fmt, thread};

use nix::sched::{CloneFlags, setns};

/// Start of the names of everything that a laboratory leaves on the machine; the process's pid
/// follows, so that a later run can tell what a dead one left behind.
pub const MARK: &str = "pgvigil-lab-";

const NAMESPACES: &str = "/run/netns";
/// A link-layer address that nobody has: what is sent there is lost without a word.
const NOBODY: &str = "02:00:00:00:00:99";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Client,
    /// Numbered from 1.
    Etcd(u8),
    /// Numbered from 1.
    Member(u8),
}

impl Host {
    pub fn address(self) -> Ipv4Addr {
        let last = match self {
            Host::Client => 100,
            Host::Etcd(n) => 20 + n,
            Host::Member(n) => 10 + n,
        };
        Ipv4Addr::new(10, 77, 0, last)
    }

    pub fn socket(self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address(), port))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Client => write!(f, "client"),
            Host::Etcd(n) => write!(f, "etcd{n}"),
            Host::Member(n) => write!(f, "m{n}"),
        }
    }
}

/// The namespaces of one laboratory; dropped, they are gone.
pub struct Network {
    prefix: String,
    hosts: Vec<Host>,
}

impl Network {
    pub fn new(hosts: Vec<Host>) -> Network {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Network { prefix: format!("{MARK}{}-{count}-", std::process::id()), hosts };
        let switch = network.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for &host in &network.hosts {
            network.connect(host);
        }
        network
    }

    fn connect(&self, host: Host) {
        let (switch, name, port) = (self.switch(), self.name(host), host.to_string());
        ip(&["netns", "add", &name]);
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", &name];
        ip(&[&["-n", &switch, "link", "add", &port][..], &peer].concat());
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        let address = format!("{}/24", host.address());
        ip(&["-n", &name, "address", "add", &address, "dev", "eth0"]);
        ip(&["-n", &name, "link", "set", "eth0", "up"]);
        // A lost machine takes its sockets along; here the kernel outlives the "machine" and would
        // deliver what dead processes had sent once the cable is back.
        self.at(host, || std::fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "1"))
            .expect("tcp_orphan_retries");
    }

    fn switch(&self) -> String {
        format!("{}switch", self.prefix)
    }

    /// A port of the switch for a virtual machine with this host's address; [`Network::unplug`]
    /// pulls its cable. Returns the namespace in which the port is, and its name.
    pub fn tap(&self, host: Host) -> (PathBuf, String) {
        let (switch, port) = (self.switch(), host.to_string());
        ip(&["-n", &switch, "tuntap", "add", "dev", &port, "mode", "tap"]);
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
        (PathBuf::from(NAMESPACES).join(switch), port)
    }

    fn name(&self, host: Host) -> String {
        format!("{}{host}", self.prefix)
    }

    /// A name for what belongs to this host outside of the network, its control group for one.
    pub fn unique_name(&self, host: Host) -> String {
        self.name(host)
    }

    /// What `nsenter --net=` and `setns` take.
    pub fn path(&self, host: Host) -> PathBuf {
        PathBuf::from(NAMESPACES).join(self.name(host))
    }

    /// Runs the work in a thread of its own that sits at this host: sockets opened there have its
    /// address.
    pub fn at<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path(host);
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(&path);
                work()
            });
            thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
        })
    }

    /// Loses all that the two send to each other, silently, as a firewall or a dead switch does.
    pub fn cut(&self, one: Host, other: Host) {
        self.lose(one, other);
        self.lose(other, one);
    }

    fn lose(&self, from: Host, to: Host) {
        let (name, address) = (self.name(from), to.address().to_string());
        let entry = ["neigh", "replace", &address, "lladdr", NOBODY, "dev", "eth0"];
        ip(&[&["-n", &name][..], &entry, &["nud", "permanent"]].concat());
    }

    /// Undoes every cut.
    pub fn heal(&self) {
        for &host in &self.hosts {
            ip(&["-n", &self.name(host), "neigh", "flush", "dev", "eth0", "nud", "permanent"]);
        }
    }

    /// Pulls the host's cable: nobody hears from it any more, not even that a connection closed.
    pub fn unplug(&self, host: Host) {
        ip(&["-n", &self.switch(), "link", "set", &host.to_string(), "down"]);
    }

    pub fn plug(&self, host: Host) {
        ip(&["-n", &self.switch(), "link", "set", &host.to_string(), "up"]);
    }

    /// All processes at this host.
    pub fn pids(&self, host: Host) -> Vec<i32> {
        pids_in(&self.name(host))
    }

    /// A process at this host that runs a program of this name.
    pub fn job(&self, host: Host, program: &str) -> Option<i32> {
        self.pids(host).into_iter().find(|&pid| {
            let arguments = super::process::arguments(pid);
            arguments.first().is_some_and(|first| first.rsplit('/').next() == Some(program))
        })
    }

    /// Ends all processes at this host with SIGKILL and returns when there are none.
    pub fn kill_all(&self, host: Host) {
        super::process::kill_until_none(|| self.pids(host));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for &host in &self.hosts {
            self.kill_all(host);
            remove_namespace(&self.name(host));
        }
        remove_namespace(&self.switch());
    }
}

/// Moves the calling thread into a namespace, for good.
pub fn enter(path: &std::path::Path) {
    let namespace = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|e| panic!("entering {}: {e}", path.display()));
}

/// Ends and removes what laboratories of dead processes left behind.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if super::process::is_leftover(&name) {
            super::process::kill_until_none(|| pids_in(&name));
            remove_namespace(&name);
        }
    }
}

fn remove_namespace(name: &str) {
    let done = Command::new("ip").args(["netns", "delete", name]).output();
    if let Ok(output) = done
        && !output.status.success()
    {
        eprintln!("removing {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
}

fn pids_in(name: &str) -> Vec<i32> {
    let Ok(wanted) = fs::metadata(PathBuf::from(NAMESPACES).join(name)) else { return Vec::new() };
    super::process::all()
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
        })
        .collect()
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip (Debian: iproute2)");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {}", arguments.join(" "), error.trim());
}
