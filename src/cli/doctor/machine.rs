//! The machine: clocks, what the kernel can do, control groups.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::cgroup::{self, Group};
use crate::sys::process::{self, Spec};
use crate::sys::{clock, kernel, proc};

use super::Check;
use super::member::Known;

/// What chrony permits itself unless told otherwise. Source: chrony.conf(5), maxslewrate.
const CHRONY_SLEWS_PPM: u32 = 83_333;

/// The kernel's own limit. Source: adjtimex(2).
const KERNEL_SLEWS_PPM: u32 = 500;

const DONE_WITHIN: Duration = Duration::from_secs(2);

pub fn checks(known: &Known) -> Vec<Check> {
    let mut checks = clocks(known);
    checks.push(kernel());
    checks.push(groups(known));
    checks
}

/// Names of the programs that run.
pub fn running() -> BTreeSet<String> {
    let names = proc::all().into_iter().filter_map(|stat| {
        fs::read_to_string(format!("/proc/{}/comm", stat.pid)).ok().map(|s| s.trim().to_owned())
    });
    names.collect()
}

/// Deadlines need rates, not times: the bound of the rate error is `vigil.rho`.
fn clocks(known: &Known) -> Vec<Check> {
    let topic = "clock";
    let rho_ppm = known.effective.as_ref().map_or(10_000, |effective| effective.rho_ppm);
    let state = match clock::discipline() {
        Ok(state) => state,
        Err(error) => {
            return vec![Check::warning(topic, format!("adjtimex: {error}"), "run doctor as root")];
        }
    };
    let rate = state.rate_ppm.unsigned_abs();
    let percent = |ppm: u32| f64::from(ppm) / 10_000.0;
    let mut checks = Vec::new();
    checks.push(if rate > u64::from(rho_ppm) {
        let what = format!("is slewed by {} ppm, and vigil.rho is {rho_ppm}", state.rate_ppm);
        Check::bad(topic, what, "wait until the time daemon is done, or raise vigil.rho")
    } else if !state.synchronized {
        let what = format!("is not synchronised, rate corrected by {} ppm", state.rate_ppm);
        let advice = "run chrony: schedules and logs are by the wall clock (leases are not)";
        Check::warning(topic, what, advice)
    } else {
        let (ms, rate) = (state.max_error_us / 1000, state.rate_ppm);
        Check::good(topic, format!("synchronised within {ms} ms, rate corrected by {rate} ppm"))
    });
    let slews = if running().contains("chronyd") { chrony_slews() } else { KERNEL_SLEWS_PPM };
    // Ours and etcd's may be slewed in opposite directions.
    let enough = slews.saturating_mul(2) <= rho_ppm;
    let what =
        format!("may be slewed by up to {} %; vigil.rho is {} %", percent(slews), percent(rho_ppm));
    checks.push(if enough {
        Check::good(topic, what)
    } else {
        let advice = "set `maxslewrate 1000` in chrony.conf here and on etcd's servers, or raise \
                      vigil.rho";
        Check::warning(topic, what, advice)
    });
    checks
}

fn chrony_slews() -> u32 {
    let files = ["/etc/chrony/chrony.conf", "/etc/chrony.conf"];
    let texts = files.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.filter_map(|text| slew_rate(&text)).next().unwrap_or(CHRONY_SLEWS_PPM)
}

pub fn slew_rate(text: &str) -> Option<u32> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("maxslewrate"));
    let rates = lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    // Rounded up: it is a bound.
    rates.map(|ppm| ppm.ceil().clamp(0.0, f64::from(u32::MAX)) as u32).next_back()
}

fn kernel() -> Check {
    let topic = "kernel";
    let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = version.trim().to_owned();
    let missing: Vec<String> = kernel::missing()
        .into_iter()
        .map(|(name, since, error)| format!("{name} (Linux {since} and later): {error}"))
        .collect();
    match missing.is_empty() {
        true => Check::good(topic, format!("Linux {version} has what the supervisor needs")),
        false => Check::bad(
            topic,
            format!("Linux {version}: {}", missing.join("; ")),
            "a newer kernel is needed, or a seccomp filter that permits it",
        ),
    }
}

/// Tried with a process of our own: made, frozen, killed, removed.
fn groups(known: &Known) -> Check {
    let topic = "control group";
    let means = known.answer.as_ref().and_then(|a| a["vigil"]["fenced_by"].as_str());
    let advice = "Delegate=yes in the unit, or `pgvigil --cgroup DIR` as root: without a control \
                  group a primary is killed at its deadline, process by process, instead of frozen";
    if let Some(means) = means.filter(|means| *means != "control group") {
        return Check::warning(topic, format!("the running member fences by: {means}"), advice);
    }
    let base = match supervisor_group(known).map_or_else(cgroup::own, Ok) {
        Ok(base) => base,
        Err(error) => return Check::warning(topic, error.to_string(), advice),
    };
    match try_group(&base) {
        Ok(took) => {
            let kill = ["without cgroup.kill", "cgroup.kill works"];
            let kill = kill[usize::from(took.by_file)];
            let what = format!(
                "tried below {}: frozen after {} ms, {kill}, empty after {} ms",
                base.display(),
                took.frozen.as_millis(),
                took.killed.as_millis()
            );
            Check::good(topic, what)
        }
        Err(error) if means.is_some() => {
            let what = format!("in use by the running member; not tried: {error}");
            Check::good(topic, what)
        }
        Err(error) => Check::warning(topic, format!("below {}: {error}", base.display()), advice),
    }
}

/// The group above the running supervisor's own.
fn supervisor_group(known: &Known) -> Option<PathBuf> {
    let pid = super::service::supervisor(known)?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = cgroup::find(&mounts, &groups)?;
    own.ends_with("supervisor").then(|| own.parent().map(Path::to_path_buf))?
}

struct Tried {
    frozen: Duration,
    killed: Duration,
    by_file: bool,
}

/// The nearest control group that has both below it, or is one of them.
pub fn stands_over<'a>(from: &Path, to: &'a Path) -> &'a Path {
    to.ancestors().find(|group| from.starts_with(group)).unwrap_or(to)
}

/// A process is moved to another group by whoever may write the list of the one that stands over
/// both: root, or the owner of a delegated group from inside of it. Source: the kernel's
/// cgroup-v2.rst, "Delegation Containment".
fn may_enter(base: &Path) -> io::Result<()> {
    let own = cgroup::own()?;
    let list = stands_over(&own, base).join("cgroup.procs");
    let opened = fs::OpenOptions::new().write(true).open(&list);
    opened.map(drop).map_err(|error| {
        let what = format!("from {} it takes root to enter it: {}", own.display(), list.display());
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

fn try_group(base: &Path) -> io::Result<Tried> {
    may_enter(base)?;
    let path = base.join(format!("pgvigil-doctor-{}", std::process::id()));
    let group = Group::open(&path)?;
    let tried = try_with_process(&group);
    // Whatever happened: nothing is left.
    let _ = group.kill();
    let removed = wait_until(|| fs::remove_dir(&path).is_ok());
    let tried = tried?;
    removed?;
    Ok(tried)
}

fn try_with_process(group: &Group) -> io::Result<Tried> {
    let argv: Vec<CString> =
        ["/bin/sleep", "60"].map(|s| CString::new(s).unwrap_or_default()).into();
    let child = process::spawn(&Spec {
        argv: &argv,
        env: &[],
        cwd: None,
        output: None,
        group: Some(group.dir()),
        inherit: None,
        oom_score_adj: c"0",
    })?;
    wait_until(|| group.events().is_ok_and(|events| events.populated))?;
    group.freeze()?;
    let frozen = wait_until(|| group.events().is_ok_and(|events| events.frozen))?;
    let by_file = group.path().join("cgroup.kill").exists();
    group.kill()?;
    let killed = wait_until(|| {
        let _ = process::reap(child.pidfd.as_fd());
        group.events().is_ok_and(|events| !events.populated)
    })?;
    Ok(Tried { frozen, killed, by_file })
}

fn wait_until(mut ready: impl FnMut() -> bool) -> io::Result<Duration> {
    let begun = clock::boot();
    loop {
        let took = clock::boot().since(begun);
        if ready() {
            return Ok(took);
        }
        if took > DONE_WITHIN {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
