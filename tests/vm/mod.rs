//! A cluster of two virtual machines with real systemd, real watchdog devices and real resets.
//!
//! `make test-vm-quick` runs `quick`, `make test-vm` the rest; `SCENARIO=name|name` only those
//! whose names contain one of these, `LAB_LOGS=DIR` keeps the journals. Verdicts rest on QEMU's
//! stamps, on the writing client's record and on what the guests say, never on how fast this
//! machine emulates.

mod cluster;
mod guest;
mod package;
mod scenarios;
mod table;
mod wire;

use std::path::Path;
use std::time::{Duration, Instant};

use cluster::{Cluster, Device, REQUIRED};
use table::Row;

use crate::lab::Settings;

/// Patroni's default, and a lease that a busy machine's software emulation can renew.
const TTL: u32 = 30;
/// How long a cluster of emulated machines may take for what takes seconds on real ones.
const PATIENCE: Duration = Duration::from_secs(600);

/// Which device the primary has.
#[derive(Clone, Copy, Debug)]
enum With {
    /// The leader's, whoever that is.
    Any,
    Only(Device),
    /// `watchdog.mode: off`
    None,
}

type Scenario = (&'static str, With, fn(&mut Cluster) -> Row);

const SOFTDOG: With = With::Only(Device::Softdog);
const I6300ESB: With = With::Only(Device::I6300esb);

const QUICK: &[Scenario] = &[
    ("supervisor stopped", SOFTDOG, scenarios::supervisor_stopped),
    ("interrupts off", I6300ESB, scenarios::interrupts_off),
    ("etcd away, frozen and thawed", With::Any, scenarios::freeze_and_thaw),
    ("negative control: all stopped, no device", With::None, scenarios::negative_control),
];

const REST: &[Scenario] = &[
    ("supervisor, sentinel and agent stopped", SOFTDOG, scenarios::all_stopped),
    ("supervisor, sentinel and agent stopped", I6300ESB, scenarios::all_stopped),
    ("supervisor stopped", I6300ESB, scenarios::supervisor_stopped),
    ("supervisor killed, not started again", SOFTDOG, scenarios::supervisor_gone),
    ("supervisor killed, not started again", I6300ESB, scenarios::supervisor_gone),
    ("processors taken by real-time spinners", SOFTDOG, scenarios::starved),
    ("processors taken by real-time spinners", I6300ESB, scenarios::starved),
    ("kernel panic (sysrq c)", I6300ESB, scenarios::panicked),
    ("data disk suspended", SOFTDOG, scenarios::disk_hung),
    ("supervisor killed, started by systemd", SOFTDOG, scenarios::supervisor_killed),
    ("supervisor re-executed, agent killed", I6300ESB, scenarios::replaced_and_restarted),
    ("agents stopped", With::Any, scenarios::agents_stopped),
    ("PostgreSQL stopped (SIGSTOP)", With::Any, scenarios::postgres_stopped),
    ("network cut, back in time", With::Any, scenarios::cut_for_a_while),
    ("network cut", With::Any, scenarios::cut_off),
    ("switchover, pause, stop", With::Any, scenarios::orderly),
    ("network cut, nowayout", SOFTDOG, scenarios::cut_off_nowayout),
    ("`watchdog calibrate` on the replica", SOFTDOG, scenarios::calibrated),
];

#[test]
fn quick() {
    run(QUICK);
}

#[test]
#[ignore = "most of an hour: make test-vm"]
fn rest() {
    run(REST);
}

fn run(scenarios: &[Scenario]) {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let is_wanted = |line: &&Scenario| wanted.split('|').any(|name| line.0.contains(name));
    let scenarios: Vec<_> = scenarios.iter().filter(is_wanted).collect();
    if scenarios.is_empty() {
        return;
    }
    if let Some(reason) = impossible() {
        println!("virtual machines: SKIPPED, {reason}");
        return;
    }
    let mut cluster = Cluster::start(settings());
    let mut lines = Vec::new();
    for (name, with, scenario) in scenarios {
        println!("vm: {name} …");
        let begun = Instant::now();
        match with {
            With::Any => cluster.set_watchdog(REQUIRED),
            With::None => cluster.set_watchdog("off"),
            With::Only(device) => {
                cluster.set_watchdog(REQUIRED);
                cluster.make_leader(device.member());
            }
        }
        let device = match with {
            With::None => "none".to_owned(),
            _ => format!("{:?}", Device::of(cluster.leader())).to_lowercase(),
        };
        let row = scenario(&mut cluster);
        cluster.wait_healthy(name);
        println!("vm: {name}, {device}: {}; {} s", row.measured, begun.elapsed().as_secs());
        lines.push(table::line(name, &device, &row));
    }
    println!("{}", lines.join("\n"));
}

fn settings() -> Settings {
    Settings {
        members: 2,
        etcds: 1,
        ttl: TTL,
        loop_wait: 10,
        retry_timeout: 10,
        // Fifty rows a second would take half of an emulated processor.
        write_every: Duration::from_millis(100),
        bin_dir: "/usr/lib/postgresql/15/bin".into(),
        ..Settings::default()
    }
}

/// Why no virtual machine can run here.
fn impossible() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    let found = |path: &&str| Path::new(path).exists();
    (!["/usr/bin/qemu-system-x86_64", "/usr/bin/mmdebstrap"].iter().all(found))
        .then(|| "QEMU or mmdebstrap is missing: packaging/setup.sh vm".to_owned())
}
