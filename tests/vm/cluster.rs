//! Two virtual machines that form one pgvigil cluster. etcd and the writing client are outside, in
//! the laboratory's namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::guest::{Guest, Hardware};
use pgvigil::core::budget::{self, Budget, Wish};

use crate::lab::judge::{self, Verdict};
use crate::lab::view::View;
use crate::lab::wait::wait_until;
use crate::lab::{Lab, Settings, config};

/// pgvigil's control groups in a guest.
pub const GROUPS: &str = "/sys/fs/cgroup/system.slice/pgvigil.service";

/// `watchdog.mode`: a member leads only with its device armed.
pub const REQUIRED: &str = "required";
/// The default of `vigil.rho`.
const RHO_PPM: u32 = 10_000;

const SETUP: &str = include_str!("guest/setup");
/// As the packages install them.
const UNIT: &str = include_str!("../../systemd/pgvigil.service");
const RULES: &str = include_str!("../../udev/70-pgvigil-watchdog.rules");
/// What is this laboratory's alone: the data lies on a disk that a unit of the image mounts.
pub const ORDER: &str = "[Unit]\nAfter=vm-network.service vm-data.service\n";

/// The device that a machine's pgvigil arms; every machine has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Softdog,
    I6300esb,
}

impl Device {
    /// m1 has the one, m2 the other, so that one cluster shows both.
    pub fn of(member: u8) -> Device {
        if member == 1 { Device::Softdog } else { Device::I6300esb }
    }

    pub fn member(self) -> u8 {
        if self == Device::Softdog { 1 } else { 2 }
    }

    /// As its driver says it.
    pub fn identity(self) -> &'static str {
        match self {
            Device::Softdog => "Software Watchdog",
            Device::I6300esb => "i6300ESB timer",
        }
    }

    /// What the budget must count with: docs/FENCING.md.
    fn keeps_time(self) -> budget::Device {
        budget::Device {
            min_s: 1,
            max_s: if self == Device::Softdog { 65_535 } else { 2046 },
            factor_ppm: 1_010_000,
            late: Duration::ZERO,
            early: Duration::ZERO,
        }
    }
}

/// Fields are dropped in this order: the machines, then their network.
pub struct Cluster {
    guests: Vec<Guest>,
    /// `watchdog.mode` of both.
    mode: &'static str,
    pub lab: Lab,
}

impl Cluster {
    /// Switches both machines on, installs pgvigil, and returns when one leads and the other
    /// streams.
    pub fn start(settings: Settings) -> Cluster {
        let image = image();
        let begun = Instant::now();
        let lab = Lab::without_members(settings, Vec::new());
        let base = lab.base();
        let program = program(base);
        let guests = lab.numbers().map(|n| {
            let payload = payload(&lab.settings, n, base, &program);
            let hardware = Hardware { image: &image, payload: &payload, processors: 1 };
            Guest::start(&hardware, n, base, &lab.network)
        });
        let guests = guests.collect();
        let mut cluster = Cluster { guests, mode: REQUIRED, lab };
        cluster.guests.iter().for_each(|guest| guest.wait_booted(1));
        println!("two machines up after {} s", begun.elapsed().as_secs());
        for guest in &cluster.guests {
            guest.run(SETUP);
        }
        let view = cluster.wait_healthy("bootstrap");
        cluster.lab.begin_writing(&view);
        cluster.lab.wait_written();
        println!("a cluster after {} s", begun.elapsed().as_secs());
        cluster
    }

    pub fn guest(&self, number: u8) -> &Guest {
        &self.guests[usize::from(number) - 1]
    }

    pub fn wait_healthy(&self, what: &str) -> View {
        self.lab.wait_healthy(what, PATIENCE)
    }

    pub fn leader(&self) -> u8 {
        self.lab.wait_leader(None, PATIENCE)
    }

    /// Waits until somebody else leads, as that one says itself.
    pub fn wait_other_leader(&self, than: u8) -> u8 {
        self.lab.wait_leader(Some(than), PATIENCE)
    }

    pub fn other(&self, than: u8) -> u8 {
        self.lab.numbers().find(|&n| n != than).expect("a second member")
    }

    /// Makes this member the leader, by a switchover if it is not.
    pub fn make_leader(&self, number: u8) {
        let leader = self.leader();
        if leader != number {
            let body = format!(r#"{{"leader":"m{leader}","candidate":"m{number}"}}"#);
            let answer = self.lab.ask(leader, "POST", "/switchover", &body);
            let view = self.wait_healthy("switchover");
            let now = view.leader().map(|line| line.number);
            assert_eq!(now, Some(number), "{answer:?}");
        }
    }

    /// The device of a member counts.
    pub fn is_armed(&self, member: u8) -> bool {
        self.guest(member).run(&self.sysfs(member, "state")) == "active"
    }

    /// A command that prints what sysfs tells of the member's device.
    pub fn sysfs(&self, member: u8, file: &str) -> String {
        let identity = Device::of(member).identity();
        format!("cat $(dirname $(grep -lx '{identity}' /sys/class/watchdog/*/identity))/{file}")
    }

    /// What is predicted of the leader, whose device must be armed with just that timeout.
    pub fn budget(&self) -> Budget {
        let leader = self.leader();
        let wish = Wish { grade: None, margin_s: None, election: budget::ELECTION, kept: true };
        let ttl = Duration::from_secs(self.lab.settings.ttl.into());
        let device = Device::of(leader).keeps_time();
        let budget = Budget::watched(ttl, RHO_PPM, &device, &wish).expect("a budget");
        let watch = budget.watch.expect("a device");
        assert!(self.is_armed(leader), "the device of m{leader} is not armed");
        let set = self.guest(leader).run(&self.sysfs(leader, "timeout"));
        assert_eq!(set, watch.set.as_secs().to_string(), "the timeout of m{leader}'s device");
        budget
    }

    /// What a member says of itself in the object `vigil`.
    pub fn told(&self, member: u8) -> serde_json::Value {
        let answer = self.lab.ask(member, "GET", "/patroni", "");
        let answer = answer.map(|answer| serde_json::from_str(&answer.body).unwrap_or_default());
        answer.map_or(serde_json::Value::Null, |mut all: serde_json::Value| all["vigil"].take())
    }

    /// Sets `watchdog.mode` everywhere; returns when it is in force.
    pub fn set_watchdog(&mut self, mode: &'static str) {
        if std::mem::replace(&mut self.mode, mode) == mode {
            return;
        }
        for guest in &self.guests {
            let edit = format!("sed -i 's/^  mode: .*/  mode: {mode}/' /etc/pgvigil/pgvigil.yml");
            guest.run(&format!("{edit}; systemctl reload pgvigil"));
        }
        wait_until("the watchdog mode in force", PATIENCE, || {
            (self.is_armed(self.leader()) == (mode != "off")).then_some(())
        });
    }

    /// An instant on the writers' clock.
    pub fn on_writers_clock(&self, at: Instant) -> Duration {
        self.lab.writer().now().saturating_sub(at.elapsed())
    }

    /// What was acknowledged since, without a look at the table.
    pub fn acknowledged(&self, since: Duration) -> Verdict {
        let until = self.lab.writer().now();
        judge::judge(&self.lab.writer().acks(), &BTreeSet::new(), since, until)
    }

    /// When this member first acknowledged a row since then.
    pub fn first_row(&self, of: u8, since: Duration) -> Option<Duration> {
        let acks = self.lab.writer().acks();
        let own = acks.iter().filter(|ack| ack.member == of && ack.acked >= since);
        own.map(|ack| ack.acked).min()
    }

    /// When this member last acknowledged a row.
    pub fn last_row(&self, of: u8) -> Option<Duration> {
        let acks = self.lab.writer().acks();
        acks.iter().filter(|ack| ack.member == of).map(|ack| ack.acked).max()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("LAB_LOGS").is_some() {
            self.keep_logs();
        }
    }
}

impl Cluster {
    /// Of a failure prints the ends of the journals, or of the console where there is no answer;
    /// copies them to where `LAB_LOGS` says.
    fn keep_logs(&self) {
        let kept = std::env::var_os("LAB_LOGS").map(PathBuf::from);
        for guest in &self.guests {
            let log = guest.log();
            if std::thread::panicking() {
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(40)..];
                eprintln!("---- m{}, last lines:\n{}", guest.number, tail.join("\n"));
            }
            if let Some(kept) = &kept {
                let file = kept.join(format!("vm{}.log", guest.number));
                fs::write(file, log).unwrap_or_else(|e| eprintln!("{e}"));
            }
        }
    }
}

/// The image, built if it is not there.
pub fn image() -> PathBuf {
    let script = format!("{}/tests/vm/image.sh", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(script).stderr(std::process::Stdio::inherit()).output();
    let output = output.expect("tests/vm/image.sh");
    assert!(output.status.success(), "the image of the virtual machines could not be built");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// The program without debug information: it is read through an emulated disk.
fn program(base: &Path) -> PathBuf {
    let copy = base.join("pgvigil");
    let done = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(&copy)
        .arg(env!("CARGO_BIN_EXE_pgvigil"))
        .status();
    assert!(done.is_ok_and(|status| status.success()), "strip (Debian: binutils)");
    copy
}

/// A tar archive with everything that the packages would install.
fn payload(settings: &Settings, member: u8, base: &Path, program: &Path) -> PathBuf {
    let root = base.join(format!("payload{member}"));
    let file = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    };
    let configuration = config::render(settings, member, Path::new("/data/pgvigil"));
    // The thousands of hashes of a SCRAM login take seconds in an emulated machine.
    let configuration = configuration.replace("scram-sha-256", "trust");
    // Copies and rewinds send whole segments, at the speed of an emulated network.
    let configuration =
        configuration.replace("- data-checksums\n", "- data-checksums\n  - wal-segsize: 1\n");
    let watchdog = format!("watchdog:\n  mode: {REQUIRED}\n");
    let configuration = configuration.replace("watchdog: {mode: off}\n", &watchdog);
    let identity = Device::of(member).identity();
    // The next fault comes sooner than any on a real server.
    let health = "  health: {hand_over_interval: 1}\n";
    let choice = format!("vigil:\n{health}  watchdog:\n    identity: {identity}\n");
    file("etc/pgvigil/pgvigil.yml", &(configuration + &choice));
    file("etc/systemd/system/pgvigil.service", UNIT);
    file("etc/systemd/system/pgvigil.service.d/vm.conf", ORDER);
    file("etc/udev/rules.d/70-pgvigil-watchdog.rules", RULES);
    let installed = root.join("usr/bin/pgvigil");
    fs::create_dir_all(installed.parent().expect("a parent")).expect("a directory");
    fs::copy(program, &installed).expect("the program");
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).expect("its mode");
    let archive = base.join(format!("payload{member}.tar"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&root).arg("-cf").arg(&archive);
    let done = tar.args(["--owner=0", "--group=0", "etc", "usr"]).status();
    assert!(done.is_ok_and(|status| status.success()), "tar");
    archive
}
