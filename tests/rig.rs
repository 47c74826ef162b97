//! Members on free loopback ports in a directory of their own; ended by pid and removed on drop.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use pgvigil::postgres::pidfile;
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::http::{self, Answer};
use crate::lab::process::{child_with, family, lives, signal};
use crate::lab::wait::wait_until;

const PASSWORD: &str = "wrong-secret";
/// The longest wait for a REST answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A member that is to refuse does so within this.
const REFUSED_WITHIN: Duration = Duration::from_secs(60);

pub struct Rig {
    base: TempDir,
    etcd: Vec<String>,
}

impl Rig {
    /// A rig whose members know this etcd.
    pub fn new(etcd: Vec<String>) -> Rig {
        let mode = fs::Permissions::from_mode(0o755);
        let base = tempfile::Builder::new().permissions(mode).tempdir_in("/var/tmp");
        let base = base.expect("a directory in /var/tmp");
        // A target directory below a home is not open to postgres.
        fs::copy(env!("CARGO_BIN_EXE_pgvigil"), base.path().join("pgvigil")).expect("a copy");
        Rig { base, etcd }
    }

    pub fn program(&self) -> String {
        self.base.path().join("pgvigil").display().to_string()
    }

    /// A member with a directory of its own; nothing is written or started yet.
    pub fn member(&self, name: &str) -> Member {
        let directory = self.base.path().join(name);
        if !directory.exists() {
            make_directory(&directory);
        }
        let [rest, port] = [free_port(), free_port()];
        let (name, etcd, command) = (name.to_owned(), self.etcd.clone(), vec![self.program()]);
        Member { name, directory, command, etcd, rest, port, resolv_conf: None, child: None }
    }

    /// The same, with another program.
    pub fn member_of(&self, name: &str, command: &[String]) -> Member {
        let mut member = self.member(name);
        member.command = command.to_vec();
        member
    }
}

impl Drop for Rig {
    /// What was killed leaves its pages and notes behind.
    fn drop(&mut self) {
        let ours = self.base.path().file_name().unwrap_or_default().to_string_lossy();
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(&*ours) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

pub struct Member {
    name: String,
    pub directory: PathBuf,
    /// The start of its command line.
    command: Vec<String>,
    etcd: Vec<String>,
    pub rest: u16,
    pub port: u16,
    /// What it finds at /etc/resolv.conf; for root only.
    resolv_conf: Option<PathBuf>,
    child: Option<Child>,
}

impl Member {
    /// A configuration that is right.
    pub fn config(&self) -> String {
        let Member { name, rest, port, .. } = self;
        let (base, bin) = (self.directory.display(), bin_dir());
        let hosts: Vec<&str> =
            self.etcd.iter().filter_map(|url| url.strip_prefix("http://")).collect();
        let hosts = hosts.join(", ");
        format!(
            "\
scope: wrong
name: {name}
restapi:
  listen: 127.0.0.1:{rest}
  connect_address: 127.0.0.1:{rest}
etcd3:
  hosts: [{hosts}]
bootstrap:
  dcs:
    ttl: 5
    loop_wait: 1
    retry_timeout: 2
  initdb:
  - encoding: UTF8
  - no-sync
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {base}/data
  bin_dir: {bin}
  pgpass: {base}/pgpass
  authentication:
    superuser: {{username: postgres, password: {PASSWORD}}}
    replication: {{username: replicator, password: {PASSWORD}}}
  parameters:
    unix_socket_directories: {base}
    shared_buffers: 16MB
  pg_hba:
  - local all all trust
  - host replication replicator 127.0.0.1/32 scram-sha-256
  - host all all 127.0.0.1/32 scram-sha-256
"
        )
    }

    pub fn file(&self) -> String {
        self.directory.join("config.yml").display().to_string()
    }

    pub fn write(&self, config: &str) {
        fs::write(self.file(), config).expect("a file");
    }

    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// From its next start on it asks this name server.
    pub fn ask_dns(&mut self, server: IpAddr) {
        let conf = self.directory.join("resolv.conf");
        fs::write(&conf, format!("nameserver {server}\n")).expect("a file");
        fs::set_permissions(&conf, fs::Permissions::from_mode(0o644)).expect("chmod");
        self.resolv_conf = Some(conf);
    }

    /// What it wrote to standard output and error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Makes a data directory of no cluster that etcd knows.
    pub fn initdb(&self) {
        let initdb = format!("{}/initdb", bin_dir());
        let data = self.data().display().to_string();
        let (code, text) =
            output(&mut as_postgres(&[&initdb, "--no-sync", "-U", "postgres", "-D", &data]));
        assert_eq!(code, Some(0), "{text}");
    }

    fn spawn(&self, variables: &[(&str, &str)]) -> Child {
        let log = File::create(self.directory.join("log")).expect("a log");
        self.command(&[&self.file()])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the program")
    }

    pub fn start(&mut self) {
        self.child = Some(self.spawn(&[]));
    }

    /// With one more variable in its environment.
    pub fn start_with(&mut self, variable: &str, value: &str) {
        self.child = Some(self.spawn(&[(variable, value)]));
    }

    /// The supervisor.
    pub fn pid(&self) -> i32 {
        let child = self.child.as_ref().expect("a started member");
        i32::try_from(child.id()).expect("a pid")
    }

    pub fn agent(&self) -> Option<i32> {
        child_with(self.pid(), |arguments| arguments.get(1).is_some_and(|first| first == "agent"))
    }

    /// Its end, if it comes by then.
    pub fn exits_within(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let child = self.child.as_mut().expect("a started member");
        let patience = std::time::Instant::now() + limit;
        loop {
            let ended = child.try_wait().expect("a child");
            if ended.is_some() || std::time::Instant::now() >= patience {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn wait_exit(&mut self, limit: Duration) -> std::process::ExitStatus {
        let child = self.child.as_mut().expect("a started member");
        wait_until("an exit", limit, || child.try_wait().ok()?)
    }

    /// Runs until it refuses with exit code 1; its log.
    pub fn refused(&self) -> String {
        let (status, log) = self.ended();
        assert_eq!(status.code(), Some(1), "{log}");
        log
    }

    /// Runs until it ends by itself; how, and its log.
    pub fn ended(&self) -> (std::process::ExitStatus, String) {
        let mut running = Running { child: self.spawn(&[]), data: self.data() };
        let status = wait_until("an exit", REFUSED_WITHIN, || running.child.try_wait().ok()?);
        (status, self.log())
    }

    /// Starts with this configuration and waits for the primary.
    pub fn lead(&mut self, config: &str) {
        self.write(config);
        self.start();
        self.wait_primary();
    }

    /// The pid in `postmaster.pid`.
    pub fn postmaster(&self) -> Option<i32> {
        pidfile::read(&self.data()).map(|file| file.pid)
    }

    /// Waits until it says on REST that it is the primary.
    pub fn wait_primary(&self) {
        wait_until("a primary", Duration::from_secs(90), || {
            self.get("/primary").filter(|answer| answer.status == 200)
        });
    }

    pub fn get(&self, path: &str) -> Option<Answer> {
        self.ask("GET", path, "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Option<Answer> {
        self.ask("POST", path, &body.to_string())
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let server = SocketAddr::from(([127, 0, 0, 1], self.rest));
        http::request(server, method, path, body, ANSWER_WITHIN).ok()
    }

    /// `pgvigil ctl` with this member's configuration.
    pub fn ctl(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let file = self.file();
        let start = ["ctl", "-c", &file];
        output(&mut self.command(&[&start, arguments].concat()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let command = as_postgres(&self.line(arguments));
        match &self.resolv_conf {
            Some(conf) => with_resolv_conf(conf, &command),
            None => command,
        }
    }

    /// Its command line with these arguments.
    pub fn line<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        self.command.iter().map(String::as_str).chain(arguments.iter().copied()).collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.name, self.log());
        }
        if let Some(child) = self.child.take() {
            drop(Running { child, data: self.data() });
        }
    }
}

/// Ended with everything that it started, on drop.
struct Running {
    child: Child,
    data: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let pid = i32::try_from(self.child.id()).expect("a pid");
        for pid in family(pid) {
            signal(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let postmaster = text.lines().next().and_then(|line| line.trim().parse().ok());
        if let Some(postmaster) = postmaster.filter(|&pid| lives(pid)) {
            signal(postmaster, Signal::SIGQUIT);
            wait_until("the postmaster's end", Duration::from_secs(30), || {
                (!lives(postmaster)).then_some(())
            });
        }
    }
}

/// A small file system, unmounted on drop.
pub struct Mount(PathBuf);

impl Mount {
    /// `None`: not permitted here.
    pub fn tmpfs(path: &Path, size: &str) -> Option<Mount> {
        let (uid, gid) = postgres_user();
        let options = format!("size={size},mode=0700,uid={uid},gid={gid}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path);
        (output(&mut mount).0 == Some(0)).then(|| Mount(path.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let (code, text) = output(Command::new("umount").arg(&self.0));
        assert_eq!(code, Some(0), "{text}");
    }
}

/// Exactly one line of the log says ERROR or CRITICAL.
#[track_caller]
pub fn one_error(log: &str) {
    let errors = log.lines().filter(|line| line.contains("ERROR") || line.contains("CRITICAL"));
    assert_eq!(errors.count(), 1, "{log}");
}

/// Exit code, standard output and error.
pub fn output(command: &mut Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().expect("a program");
    let both = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&both).into_owned())
}

/// A command as `postgres` if we are root, else as we are.
pub fn as_postgres(command: &[&str]) -> Command {
    let mut full = match nix::unistd::geteuid().is_root() {
        true => {
            let (uid, gid) = postgres_user();
            let mut full = Command::new("setpriv");
            full.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
            full.args(command);
            full
        }
        false => {
            let mut full = Command::new(command[0]);
            full.args(&command[1..]);
            full
        }
    };
    full.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/nonexistent");
    // The clone may be in a home that postgres may not enter.
    full.current_dir("/");
    full
}

/// The same in a mount namespace of its own, with another /etc/resolv.conf.
fn with_resolv_conf(conf: &Path, command: &Command) -> Command {
    let mut full = Command::new("unshare");
    let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    full.args(["--mount", "sh", "-c", mount]).arg(conf);
    full.arg(command.get_program()).args(command.get_args());
    full.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    full.current_dir("/");
    full
}

pub fn make_directory(path: &Path) {
    fs::create_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if nix::unistd::geteuid().is_root() {
        let (uid, gid) = postgres_user();
        chown(path, Some(uid), Some(gid)).expect("chown");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("chmod");
}

pub fn bin_dir() -> String {
    crate::lab::Settings::default().bin_dir.display().to_string()
}

fn postgres_user() -> (u32, u32) {
    let user = nix::unistd::User::from_name("postgres").ok().flatten();
    let user = user.expect("a user postgres (Debian: postgresql-common)");
    (user.uid.as_raw(), user.gid.as_raw())
}

/// Below those that the kernel gives to outgoing connections: a port of these is still free a
/// second later.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A port that is free now, and was not given before by this process.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    // Another process that tests begins elsewhere.
    let seed = || AtomicU32::new(RandomState::new().hash_one(0_u8) as u32);
    let next = || {
        let counted = NEXT.get_or_init(seed).fetch_add(1, Ordering::Relaxed);
        PORTS.start + (counted % u32::from(PORTS.end - PORTS.start)) as u16
    };
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(next).find(is_free).expect("a free port")
}

/// An executable shell script.
pub fn script(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path.display().to_string()
}
