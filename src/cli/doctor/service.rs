//! The service: what is in force for the running supervisor, what its unit says, and what else on
//! this machine would interfere.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::config;
use crate::core::database::beside;
use crate::sys::proc;

use super::Check;
use super::machine::running;
use super::member::Known;

const UNIT: &str = "pgvigil.service";

/// Programs that steer PostgreSQL or hold the watchdog.
const RIVALS: [(&str, &str); 9] = [
    ("patroni", "it steers PostgreSQL, too: one of the two per data directory"),
    ("repmgrd", "it promotes and stops PostgreSQL, too"),
    ("pg_autoctl", "it promotes and stops PostgreSQL, too"),
    ("pgpool", "its failover_command must not promote"),
    ("watchdog", "it holds a watchdog device, and pings it whatever PostgreSQL does"),
    ("wd_keepalive", "it holds a watchdog device, and pings it whatever PostgreSQL does"),
    ("sbd", "it holds a watchdog device"),
    ("watchdog-mux", "it holds a watchdog device"),
    ("corosync", "Pacemaker must not manage this PostgreSQL"),
];

pub fn checks(known: &Known, config: Option<&Path>) -> Vec<Check> {
    let pid = supervisor(known);
    let mut checks: Vec<Check> = pid.map(in_force).into_iter().flatten().collect();
    let groups = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
    checks.extend(unit(&unit_name(groups.as_deref(), config)));
    checks.push(rivals());
    checks
}

/// The supervisor of this configuration's member, if it runs: the one whose lock names it.
pub fn supervisor(known: &Known) -> Option<i32> {
    let local = known.local.as_ref()?;
    let data_dir = Path::new(&local.postgresql.data_dir);
    let pid: i32 = fs::read_to_string(beside(data_dir, "lock")).ok()?.trim().parse().ok()?;
    let exe = proc::exe(pid)?;
    exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgvigil")).then_some(pid)
}

/// Memory lock, priority, protection from the OOM killer: as the kernel says.
fn in_force(pid: i32) -> Vec<Check> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let locked = kib.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let topic = "supervisor";
    let advice = "in the unit: LimitMEMLOCK=infinity, LimitRTPRIO=50 or more, OOMScoreAdjust=-1000";
    let oom = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default();
    let check = |good: bool, what: String| match good {
        true => Check::good(topic, what),
        false => Check::warning(topic, what, advice),
    };
    let locked = locked.unwrap_or(0);
    let (policy, priority) = scheduling(&stat).unwrap_or((0, 0));
    let real_time = policy == libc::SCHED_FIFO;
    let (memory, pace) = (["may be paged out", "locked"], ["ordinary priority", "real time"]);
    vec![check(
        locked > 0 && real_time,
        format!(
            "process {pid}: memory {}, {} {priority}, oom_score_adj {}",
            memory[usize::from(locked > 0)],
            pace[usize::from(real_time)],
            oom.trim()
        ),
    )]
}

/// Policy and real-time priority: fields 41 and 40 of /proc/PID/stat.
pub fn scheduling(stat: &str) -> Option<(i32, i32)> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    Some((fields.get(38)?.parse().ok()?, fields.get(37)?.parse().ok()?))
}

/// The service of this member: the one in whose control group its supervisor runs, else the one
/// that would run this file.
pub fn unit_name(groups: Option<&str>, config: Option<&Path>) -> String {
    let ours = |part: &&str| part.starts_with("pgvigil") && part.ends_with(".service");
    if let Some(unit) = groups.and_then(|groups| groups.split(['/', '\n']).find(ours)) {
        return unit.to_owned();
    }
    let file = config.filter(|path| path.parent() == Path::new(config::SERVICE_FILE).parent());
    match file.and_then(|path| path.file_name()?.to_str()?.strip_suffix(".yml")) {
        Some(instance) if instance != "pgvigil" => format!("pgvigil@{instance}.service"),
        _ => UNIT.to_owned(),
    }
}

fn unit(name: &str) -> Vec<Check> {
    let topic = "systemd";
    if !Path::new("/run/systemd/system").exists() {
        let advice = "see that pgvigil is started again when it ends, at once";
        return vec![Check::warning(topic, "is not the service manager here", advice)];
    }
    let wanted = "LoadState,ActiveState,Delegate,KillMode,Restart,LimitMEMLOCK,LimitRTPRIO,\
                  OOMScoreAdjust,FileDescriptorStoreMax";
    let show = Command::new("systemctl").args(["show", name, "-p", wanted]).output();
    match show {
        Ok(output) => settings(name, &String::from_utf8_lossy(&output.stdout)),
        Err(error) => vec![Check::warning(topic, format!("systemctl: {error}"), "")],
    }
}

/// What `systemctl show` prints, judged.
pub fn settings(unit: &str, text: &str) -> Vec<Check> {
    let topic = "systemd";
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    };
    if value("LoadState") != "loaded" {
        let what = format!("there is no {unit}");
        return vec![Check::warning(topic, what, "install the package, or write a unit")];
    }
    let wrong: Vec<String> = [
        ("Delegate", "yes", "PostgreSQL's control group cannot be made"),
        ("KillMode", "process", "PostgreSQL ends with the supervisor"),
        ("Restart", "always", "a supervisor that ends is not started again"),
        ("LimitMEMLOCK", "infinity", "the supervisor's memory may be paged out"),
    ]
    .into_iter()
    .filter(|(name, wanted, _)| value(name) != *wanted)
    .map(|(name, wanted, why)| format!("{name}={} instead of {wanted} ({why})", value(name)))
    .collect();
    let state = value("ActiveState");
    if state == "failed" {
        let advice =
            format!("journalctl -u {unit} says why; after mending: systemctl start {unit}");
        return vec![Check::warning(topic, format!("{unit}: failed"), advice)];
    }
    if wrong.is_empty() {
        return vec![Check::good(topic, format!("{unit}: {state}, with the settings it needs"))];
    }
    let what = format!("{unit}: {state}; {}", wrong.join(", "));
    vec![Check::warning(topic, what, format!("systemctl edit {unit}"))]
}

fn rivals() -> Check {
    let topic = "rivals";
    let names = running();
    let found: Vec<String> = RIVALS
        .iter()
        .filter(|(name, _)| names.contains(*name))
        .map(|(name, why)| format!("{name} runs: {why}"))
        .collect();
    match found.is_empty() {
        true => Check::good(topic, "no other program that steers PostgreSQL or holds a watchdog"),
        false => Check::warning(topic, found.join("; "), "stop it, or make sure that they agree"),
    }
}
