//! The Debian package in a machine of its own: what `tests/packaging/server.rs` shows in a
//! container, with a kernel, a watchdog device that resets, and boots. One member, a client that
//! writes all the time, and what an administrator does, from the installation to the purge.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::guest::{Guest, Hardware};
use super::{PATIENCE, cluster, impossible, settings};
use crate::lab::net::Host;
use crate::lab::wait::wait_until;
use crate::lab::{Lab, Settings, config};
use crate::packaging::built::{self, VERSIONS};

const UNIT: &str = "pgvigil.service";
const DATA: &str = "/data/pgvigil/data";
/// Another cluster's member, with other ports.
const SECOND: &str = "pgvigil@second.service";

struct Server {
    guest: Guest,
    lab: Lab,
    begun: Instant,
}

impl Server {
    fn start() -> Server {
        let lab = Lab::without_members(Settings { members: 1, ..settings() }, Vec::new());
        let payload = payload(&lab);
        let image = cluster::image();
        let hardware = Hardware { image: &image, payload: &payload, processors: 1 };
        let guest = Guest::start(&hardware, 1, lab.base(), &lab.network);
        guest.wait_booted(1);
        Server { guest, lab, begun: Instant::now() }
    }

    fn run(&self, command: &str) -> String {
        self.guest.run(command).trim().to_owned()
    }

    fn wait(&self, what: &str, command: &str) {
        wait_until(what, PATIENCE, || {
            self.guest.try_run(command).filter(|answer| answer.status == 0)
        });
        println!("package: {what}, {} s", self.begun.elapsed().as_secs());
    }

    /// Runs it and expects that it fails; what it said.
    fn refused(&self, command: &str) -> String {
        let answer = self.guest.try_run(command).expect("an answer");
        assert_ne!(answer.status, 0, "{command}: {}", answer.output);
        answer.output
    }

    fn main_process(&self) -> String {
        self.run(&format!("systemctl show --value -p MainPID {UNIT}"))
    }

    fn postmaster(&self) -> String {
        self.run(&format!("head -n 1 {DATA}/postmaster.pid"))
    }

    fn primary(&self, what: &str) {
        wait_until(&format!("a primary: {what}"), PATIENCE, || {
            self.lab.get(1, "/primary").filter(|answer| answer.status == 200)
        });
        println!("package: {what}, {} s", self.begun.elapsed().as_secs());
    }

    fn counts(&self) -> bool {
        self.run("cat /sys/class/watchdog/watchdog*/state | grep -cx active || true") != "0"
    }

    /// Nobody noticed: no connection was lost, the postmaster is the same, the watchdog counted on.
    fn unnoticed(&self, what: &str, act: impl FnOnce() -> String) -> String {
        let (postmaster, since) = (self.postmaster(), self.lab.writer().now());
        let said = act();
        self.lab.wait_written();
        assert_eq!(self.postmaster(), postmaster, "{what}");
        assert_eq!(self.lab.writer().broken_since(since, 1), Vec::<String>::new(), "{what}");
        assert!(self.counts(), "{what}: the watchdog device counts");
        assert_eq!(self.guest.boots(), 1, "{what}: a reset");
        let verdict = self.lab.judge(since);
        assert_eq!((verdict.lost, verdict.overlap), (0, 0), "{what}");
        println!("package: {what}: longest time without an acknowledged row {:?}", verdict.gap);
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let log = self.guest.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        if let Some(kept) = std::env::var_os("LAB_LOGS").map(PathBuf::from) {
            let written = fs::write(kept.join("vm-package.log"), log);
            let console = fs::write(kept.join("vm-package.console"), self.guest.console());
            written.and(console).unwrap_or_else(|e| eprintln!("{e}"));
        }
    }
}

/// Both packages and a configuration as `init` would have put it there.
fn payload(lab: &Lab) -> PathBuf {
    let root = lab.base().join("payload");
    let packages = root.join("root");
    fs::create_dir_all(root.join("etc/pgvigil")).expect("a directory");
    fs::create_dir_all(&packages).expect("a directory");
    built::make_versions("deb", &packages);
    let member = |directory: &str| {
        let text = config::render(&lab.settings, 1, Path::new(directory));
        let text = text.replace("scram-sha-256", "trust");
        text.replace("watchdog: {mode: off}\n", "watchdog: {mode: required}\n")
    };
    let second = member("/data/second").replace("scope: lab", "scope: second");
    let second = second.replace(":8008", ":8009").replace(":5432", ":5433");
    fs::write(root.join("etc/pgvigil/pgvigil.yml"), member("/data/pgvigil")).expect("a file");
    fs::write(root.join("etc/pgvigil/second.yml"), second).expect("a file");
    for unit in [UNIT, SECOND] {
        let directory = root.join(format!("etc/systemd/system/{unit}.d"));
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("vm.conf"), cluster::ORDER).expect("a file");
    }
    let archive = lab.base().join("payload.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&root).arg("-cf").arg(&archive).args([
        "--owner=0",
        "--group=0",
        "etc",
        "root",
    ]);
    assert!(tar.status().is_ok_and(|status| status.success()), "tar");
    archive
}

#[test]
#[ignore = "a quarter of an hour: make test-vm"]
fn package() {
    if let Some(reason) = impossible() {
        return println!("virtual machines: SKIPPED, {reason}");
    }
    let mut server = Server::start();
    installed(&server);
    running(&mut server);
    upgraded(&server);
    killed_and_stopped(&server);
    paused(&server);
    adopted(&server);
    hung(&server);
    shared(&server);
    reset(&mut server);
    removed(&server);
}

fn installed(server: &Server) {
    server.run("tar -C / -xf /dev/vdc");
    let said = server.run(&format!("dpkg -i /root/pgvigil_{}_*.deb", VERSIONS[0]));
    println!("{said}");
    // As docs/INSTALL.md says.
    server.run("sed -i 's/^#softdog/softdog/' /etc/modules-load.d/pgvigil.conf; modprobe softdog");
    server.run("udevadm settle");
    assert_eq!(server.run("getent group pgvigil | cut -d: -f4"), "", "a group without members");
    assert!(server.run("stat -c %G:%a /dev/watchdog0").contains("pgvigil:660"));
    assert_eq!(server.run(&format!("systemctl is-enabled {UNIT} || true")), "disabled");
    assert_eq!(server.run(&format!("systemctl is-active {UNIT} || true")), "inactive");
    let score = server.run(&format!("systemd-analyze security --no-pager {UNIT} | tail -n 1"));
    println!("package: {score}");
    server.run("chown root:postgres /etc/pgvigil/*.yml && chmod 640 /etc/pgvigil/*.yml");
    server.run("install -d -o postgres -g postgres -m 700 /data/pgvigil /data/second");
    server.run(&format!("systemctl enable --now {UNIT}"));
    server.primary("installed, enabled, started");
}

fn running(server: &mut Server) {
    let view = server.lab.wait_healthy("one member", PATIENCE);
    server.lab.begin_writing(&view);
    server.lab.wait_written();
    assert!(server.counts(), "the watchdog device counts");
    let status = server.run(&format!("systemctl status --no-pager {UNIT}"));
    for wanted in ["primary running", "timeline 1", "lease confirmed for"] {
        assert!(status.contains(wanted), "{wanted}: {status}");
    }
    let journal = |arguments: &str| server.run(&format!("journalctl -q --no-pager {arguments}"));
    assert!(journal("-t postgres").contains("ready to accept connections"));
    assert_eq!(journal("-t exe"), "");
    assert!(journal("-t pgvigil -x").contains("This member leads"), "the catalog explains");
    assert!(!journal("PGVIGIL_RULE=leader.start PGVIGIL_SCOPE=lab").is_empty());
    server.run(&format!("systemctl reload {UNIT}"));
    assert!(journal("-t pgvigil").contains("Reloaded the configuration"));
    let doctor = server.guest.try_run("pgvigil doctor /etc/pgvigil/pgvigil.yml").expect("doctor");
    println!("{}", doctor.output);
    assert!(doctor.output.contains("with the settings it needs"), "{}", doctor.output);
}

fn upgraded(server: &Server) {
    for version in [VERSIONS[1], VERSIONS[0]] {
        let main = server.main_process();
        let said = server.unnoticed(&format!("dpkg -i {version}"), || {
            server.run(&format!("dpkg -i /root/pgvigil_{version}_*.deb"))
        });
        assert!(said.contains(&format!("process {main} is pgvigil")), "{said}");
        assert_eq!(server.main_process(), main);
        assert_eq!(server.run(&format!("readlink /proc/{main}/exe")), "/usr/bin/pgvigil");
    }
    let said = server.refused("dpkg -r pgvigil");
    assert!(said.contains("nobody fences its PostgreSQL"), "{said}");
    server.lab.wait_written();
}

fn killed_and_stopped(server: &Server) {
    let main = server.main_process();
    server.unnoticed("SIGKILL of the supervisor", || {
        server.run(&format!("systemctl kill -s KILL --kill-who=main {UNIT}"));
        wait_until("another supervisor", PATIENCE, || {
            let now = server.main_process();
            (now != main && now != "0").then_some(now)
        })
    });
    server.run(&format!("systemctl stop {UNIT}"));
    assert_eq!(server.run("pgrep -c postgres || true"), "0");
    assert!(!server.counts());
    server.run(&format!("systemctl start {UNIT}"));
    server.primary("stopped and started");
    server.run(&format!("systemctl restart {UNIT}"));
    server.primary("restarted");
    assert_eq!(server.guest.boots(), 1, "no reset");
}

/// In a pause a stop leaves PostgreSQL running, ExecStopPost= included.
fn paused(server: &Server) {
    server.lab.wait_written();
    let before = server.postmaster();
    let ctl = "pgvigilctl -c /etc/pgvigil/pgvigil.yml";
    server.run(&format!("{ctl} pause --wait"));
    server.run(&format!("systemctl stop {UNIT}"));
    server.run(&format!("kill -0 {before}"));
    let journal = server.run(&format!("journalctl -q --no-pager -u {UNIT} -n 20"));
    assert!(journal.contains("PostgreSQL goes on and is adopted"), "{journal}");
    server.run(&format!("systemctl start {UNIT} && sleep 5; {ctl} resume --wait"));
    server.primary("a pause");
    assert_eq!(server.postmaster(), before);
}

/// A PostgreSQL that another unit started, and that unit does not stop.
fn adopted(server: &Server) {
    server.run(&format!("systemctl stop {UNIT}"));
    server.run(&format!(
        "systemd-run --unit=other -p User=postgres -p KillMode=none -p Type=exec \
         /usr/lib/postgresql/15/bin/postgres -D {DATA} -c listen_addresses='*'",
    ));
    wait_until("PostgreSQL of another unit", PATIENCE, || {
        let ready = format!("grep -q ready {DATA}/postmaster.pid");
        server.guest.try_run(&ready).filter(|answer| answer.status == 0)
    });
    let before = server.postmaster();
    server.run(&format!("systemctl stop other.service; kill -0 {before}"));
    server.run(&format!("systemctl start {UNIT}"));
    server.primary("adopted");
    assert_eq!(server.postmaster(), before);
    let group = server.run(&format!("cat /proc/{before}/cgroup"));
    assert!(group.contains(&format!("{UNIT}/postgres")), "{group}");
}

/// A supervisor that hangs in a stop is killed by systemd, PostgreSQL by `fence-leftover`, which
/// also stops the device: no reset.
fn hung(server: &Server) {
    server.run(&format!(
        "mkdir -p /run/systemd/system/{UNIT}.d && \
         printf '[Service]\\nTimeoutStopSec=2\\n' >/run/systemd/system/{UNIT}.d/lab.conf && \
         systemctl daemon-reload"
    ));
    let frozen = format!("/sys/fs/cgroup/system.slice/{UNIT}/supervisor/cgroup.freeze");
    server.run(&format!("echo 1 >{frozen}; systemctl stop {UNIT} || true"));
    let result = server.run(&format!("systemctl show --value -p Result {UNIT}"));
    assert_eq!(result, "timeout");
    assert_eq!(server.run("pgrep -c postgres || true"), "0");
    assert!(!server.counts(), "{}", server.run(&format!("journalctl -u {UNIT} -n 9 --no-pager")));
    assert_eq!(server.guest.boots(), 1, "no reset");
    server.run(&format!("rm -r /run/systemd/system/{UNIT}.d; systemctl daemon-reload"));
    server.run(&format!("systemctl reset-failed {UNIT}; systemctl start {UNIT}"));
    server.primary("a stop that hung, and a start");
}

/// One device has one owner: a second instance that requires it does not lead, one that does not
/// leads without it, and the first one never notices.
fn shared(server: &Server) {
    server.lab.wait_written();
    server.unnoticed("a second instance", || {
        server.run(&format!("systemctl start --no-block {SECOND}"));
        let journal = format!("journalctl -q --no-pager -u {SECOND}");
        server.wait("a device in use", &format!("{journal} | grep 'is held by another process'"));
        server.run("sed -i 's/mode: required/mode: automatic/' /etc/pgvigil/second.yml");
        assert_eq!(server.run(&format!("{journal} | grep -c 'Candidate -> Leading' || true")), "0");
        server.run(&format!("systemctl restart {SECOND}"));
        let rest = format!("exec 3<>/dev/tcp/{}/8009", Host::Member(1).address());
        let asked = "printf 'GET /primary HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3 | grep ' 200'";
        server.wait("a second primary without a device", &format!("{rest}; {asked}"));
        server.run(&format!("systemctl stop {SECOND}"))
    });
}

/// A supervisor that is stopped resets the machine, which boots while etcd is not there.
fn reset(server: &mut Server) {
    server.lab.wait_written();
    let since = server.lab.writer().now();
    server.run(&format!("systemctl kill -s STOP --kill-who=main {UNIT}"));
    server.lab.kill_etcd(1);
    server.guest.wait_booted(2);
    println!("package: reset, {} s", server.begun.elapsed().as_secs());
    server
        .wait("a boot without etcd", &format!("journalctl -b -u {UNIT} | grep 'waiting on etcd'"));
    assert_eq!(server.run("pgrep -fc '[p]ostgres: .*walwriter' || true"), "0", "no primary");
    server.lab.start_etcd(1);
    server.primary("etcd is back");
    server.lab.wait_written();
    let verdict = server.lab.judge(since);
    assert_eq!((verdict.lost, verdict.overlap), (0, 0));
    assert!(server.counts(), "the watchdog device counts");
}

fn removed(server: &Server) {
    server.run(&format!("systemctl disable --now {UNIT}"));
    server.run("dpkg -r pgvigil");
    assert_eq!(server.run("ls /usr/bin/pgvigil* 2>/dev/null || true"), "");
    server.run("dpkg -P pgvigil");
    for gone in ["/var/lib/pgvigil", "/etc/modprobe.d/pgvigil.conf", "/usr/lib/pgvigil"] {
        server.run(&format!("test ! -e {gone}"));
    }
    server.run(&format!("test -e /etc/pgvigil/pgvigil.yml && test -e {DATA}/PG_VERSION"));
    assert_eq!(server.guest.boots(), 2, "no other reset");
}
