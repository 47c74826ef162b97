//! `pgvigil watchdog`: the devices of this machine, and whether they do what they promise.

use std::fs;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::core::time::Boot;
use crate::sys::{clock, proc};
use crate::watchdog::card::Kernel;
use crate::watchdog::device::Device;
use crate::watchdog::discover::{self, Choice, Found};
use crate::watchdog::record::{self, Calibration};

use super::table::Table;

/// Between two records of a calibration: what the measured time is uncertain by.
const STEP: Duration = Duration::from_millis(50);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The devices, who holds them, and what else wants them; as root it sees every process
    List {
        /// Print JSON
        #[arg(short, long)]
        json: bool,
    },
    /// Reset this machine by its watchdog device, to see that it does. Asks first
    Test(Run),
    /// The same, with a record on disk of how long it took; call it again after the reset
    Calibrate(Run),
    /// Let PostgreSQL start again after a reset (`vigil.watchdog.stay_down`)
    Release {
        /// The data directory of the member
        data_dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    /// Device node; default: the one that pgvigil would choose
    #[arg(long, value_name = "NODE")]
    device: Option<PathBuf>,
    /// Timeout in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    timeout: u32,
    /// Instead of typing it: the name of this machine
    #[arg(long, value_name = "HOSTNAME")]
    yes: Option<String>,
}

/// Runs one of them; the exit code.
pub fn run(command: &Command) -> i32 {
    let result = match command {
        Command::List { json } => list(*json),
        Command::Test(run) => reset(run, None),
        Command::Calibrate(run) => calibrate(run, Path::new(record::CALIBRATION)),
        Command::Release { data_dir } => release(data_dir),
    };
    match result {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("pgvigil watchdog: {why}");
            1
        }
    }
}

fn list(as_json: bool) -> Result<(), String> {
    let found = discover::list();
    let others = rivals();
    if as_json {
        let devices: Vec<_> = found.iter().map(describe).collect();
        let others = json!({"devices": devices, "rivals": others});
        return print(&format!("{others:#}\n"));
    }
    if found.is_empty() {
        println!("no watchdog device: load the driver of the hardware, or softdog");
    } else {
        let heads = ["Device", "Identity", "Driver", "State", "Timeout", "Range", "Resets within"]
            .map(|head| (head.to_owned(), false));
        let rows: Vec<Vec<String>> = found.iter().map(row).collect();
        print(&Table { title: None, heads: Some(&heads), rows: &rows }.render())?;
        for device in &found {
            for (pid, name) in holders(&device.node) {
                println!("{} is held by process {pid} ({name})", device.node.display());
            }
            if device.nowayout {
                println!("{} cannot be stopped once it runs (nowayout)", device.node.display());
            }
        }
        match discover::choose(&Choice::default(), &found) {
            Ok(chosen) => println!("pgvigil would choose {}", chosen.node.display()),
            Err(why) => println!("pgvigil would choose none: {why}"),
        }
    }
    others.iter().for_each(|rival| println!("{rival}"));
    Ok(())
}

fn print(text: &str) -> Result<(), String> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
}

fn factor_ppm(device: &Found) -> (u32, bool) {
    let (timing, measured) = record::timing(&device.identity, device.min_s, device.max_s);
    (timing.factor_ppm, measured)
}

fn row(device: &Found) -> Vec<String> {
    let state = match device.active {
        Some(true) => "counts",
        Some(false) => "stopped",
        None => "unknown",
    };
    let driver = match device.driver().module {
        "" => "unknown",
        module => module,
    };
    let (factor, measured) = factor_ppm(device);
    let how = if measured { "measured" } else { "assumed" };
    vec![
        device.node.display().to_string(),
        device.identity.clone(),
        driver.to_owned(),
        state.to_owned(),
        format!("{} s", device.timeout_s),
        format!("{}..{} s", device.min_s, device.max_s),
        format!("{}.{:02} times, {how}", factor / 1_000_000, factor / 10_000 % 100),
    ]
}

fn describe(device: &Found) -> serde_json::Value {
    let (factor, measured) = factor_ppm(device);
    let holders: Vec<_> = holders(&device.node)
        .into_iter()
        .map(|(pid, name)| json!({"pid": pid, "name": name}))
        .collect();
    json!({
        "device": device.node,
        "identity": device.identity,
        "driver": device.driver().module,
        "active": device.active,
        "timeout_s": device.timeout_s,
        "min_s": device.min_s,
        "max_s": device.max_s,
        "nowayout": device.nowayout,
        "boot_status": device.boot_status,
        "factor_ppm": factor,
        "measured": measured,
        "holders": holders,
    })
}

/// The processes that have this device open, as far as we may look.
fn holders(node: &Path) -> Vec<(i32, String)> {
    let Ok(device) = fs::metadata(node).map(|about| about.rdev()) else { return Vec::new() };
    let holds = |pid: i32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::metadata(fd.path()).ok()).any(|about| about.rdev() == device)
    };
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let pids = proc::all().into_iter().map(|stat| stat.pid).filter(|_| device != 0);
    pids.filter(|pid| holds(*pid)).map(|pid| (pid, name(pid).trim().to_owned())).collect()
}

/// What else pings watchdog devices on such machines.
fn rivals() -> Vec<String> {
    let mut found = Vec::new();
    let show = ["show", "--property=RuntimeWatchdogUSec", "--property=WatchdogDevice"];
    if let Ok(output) = process::Command::new("systemctl").args(show).output() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let runtime = text.lines().find_map(|line| line.strip_prefix("RuntimeWatchdogUSec="));
        if let Some(time) = runtime.filter(|time| !matches!(*time, "0" | "" | "infinity")) {
            let device = text.lines().find_map(|line| line.strip_prefix("WatchdogDevice="));
            let device = device.filter(|device| !device.is_empty()).unwrap_or("the first device");
            found.push(format!(
                "PID 1 pings {device} (RuntimeWatchdogSec={time}): give it another one by \
                 WatchdogDevice=, or switch it off"
            ));
        }
    }
    for (path, name) in [
        ("/usr/sbin/watchdog", "watchdog"),
        ("/usr/sbin/wd_keepalive", "wd_keepalive"),
        ("/usr/sbin/sbd", "sbd"),
        ("/usr/sbin/watchdog-mux", "watchdog-mux"),
    ] {
        if Path::new(path).exists() {
            found.push(format!("{name} is installed ({path}) and may take a device"));
        }
    }
    found
}

/// Lets the device fire. `record`: called before it is armed, which may take a second, and every
/// [`STEP`] from then on.
fn reset(run: &Run, mut record: Option<&mut dyn FnMut() -> io::Result<()>>) -> Result<(), String> {
    let running = proc::all().into_iter().find(|stat| {
        let exe = proc::exe(stat.pid).unwrap_or_default();
        exe.file_name().is_some_and(|name| name == "postgres" || name == "postmaster")
    });
    if let Some(stat) = running {
        return Err(format!("PostgreSQL runs here (process {}): stop it first", stat.pid));
    }
    let choice = Choice { device: run.device.clone(), identity: None };
    let found = discover::choose(&choice, &discover::list())?;
    agree(run, &found)?;
    let open = Kernel::open(&found.node, found.sysfs.clone());
    let card = open.map_err(|error| format!("{}: {error}", found.node.display()))?;
    let (mut device, _) = Device::new(Box::new(card))?;
    nix::unistd::sync();
    if let Some(record) = &mut record
        && let Err(error) = record()
    {
        device.close();
        return Err(format!("the record cannot be written, nothing was armed: {error}"));
    }
    if let Err(failure) = device.arm(run.timeout) {
        device.close();
        return Err(failure.to_string());
    }
    let (begin, factor) = (clock::boot(), factor_ppm(&found).0);
    let longest = Duration::from_secs(run.timeout.into()) * (factor / 500_000).max(2);
    println!("armed: this machine resets within {} s", longest.as_secs());
    while clock::boot().since(begin) < longest {
        if let Some(record) = &mut record
            && let Err(error) = record()
        {
            device.close();
            return Err(format!("the record cannot be written, disarmed: {error}"));
        }
        std::thread::sleep(STEP);
    }
    device.close();
    let node = found.node.display();
    let waited = longest.as_secs();
    Err(format!("{node} did not reset this machine within {waited} s: do not rely on it"))
}

/// By typing the name of the machine: it is the one that will go down.
fn agree(run: &Run, found: &Found) -> Result<(), String> {
    let name = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let typed = match &run.yes {
        Some(name) => name.clone(),
        None => {
            print(&format!(
                "{} ({}) will reset this machine in {} s, without a shutdown.\nType its name: ",
                found.node.display(),
                found.identity,
                run.timeout
            ))?;
            let _ = io::stdout().flush();
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line).map_err(|error| error.to_string())?;
            line.trim().to_owned()
        }
    };
    if typed == name && !name.is_empty() {
        return Ok(());
    }
    Err(format!("{typed:?} is not the name of this machine: nothing was done"))
}

/// Before the reset it arms and writes, after it it computes.
fn calibrate(run: &Run, path: &Path) -> Result<(), String> {
    let at = |error: io::Error| format!("{}: {error}", path.display());
    let boot = record::boot_id();
    let before = Calibration::read(path).filter(|c| c.factor_ppm.is_none() && c.boot != boot);
    if let Some(before) = before {
        let Some(factor) = before.measured() else {
            fs::remove_file(path).map_err(at)?;
            let ran = before.last_at.since(before.armed_at).as_secs();
            return Err(format!(
                "{}: the machine went down {ran} s after the device was armed for {} s, so not by \
                 the device: nothing was measured. Calibrate once more",
                before.identity, before.timeout_s
            ));
        };
        let done = Calibration { factor_ppm: Some(factor), ..before };
        write(path, &done).map_err(at)?;
        println!(
            "{}: resets within {}.{:02} times its timeout; {} holds that, and pgvigil uses it",
            done.identity,
            factor / 1_000_000,
            factor / 10_000 % 100,
            path.display()
        );
        return Ok(());
    }
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(at)?;
    let choice = Choice { device: run.device.clone(), identity: None };
    let found = discover::choose(&choice, &discover::list())?;
    let mut calibration = Calibration {
        boot,
        identity: found.identity,
        firmware: record::firmware(),
        timeout_s: run.timeout.into(),
        step_us: STEP.as_micros() as u64,
        ..Calibration::default()
    };
    let mut step = || {
        // It may be slewed by some per mille; the margin on top holds more.
        let now = clock::boot();
        if calibration.armed_at == Boot(0) {
            (calibration.armed_at, calibration.last_at) = (now, now);
        }
        let step_us = now.since(calibration.last_at).as_micros().try_into().unwrap_or(u64::MAX);
        calibration.step_us = calibration.step_us.max(step_us);
        calibration.last_at = now;
        write(path, &calibration)
    };
    reset(run, Some(&mut step))
}

/// In place, with the data on the disk when it returns.
fn write(path: &Path, calibration: &Calibration) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let text = calibration.encode();
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

fn release(data_dir: &Path) -> Result<(), String> {
    let hold = record::hold(data_dir);
    match fs::remove_file(&hold) {
        Ok(()) => {
            println!("released: PostgreSQL starts again");
            Ok(())
        }
        Err(error) => Err(format!("nothing is held ({}: {error})", hold.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(yes: &str) -> Run {
        Run { device: None, timeout: 10, yes: Some(yes.into()) }
    }

    #[test]
    fn only_the_name_of_this_machine_resets_it() {
        let name = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
        assert!(agree(&run(&name), &Found::default()).is_ok());
        for wrong in ["", "y", "yes", &format!("{name}.other")] {
            let error = agree(&run(wrong), &Found::default()).unwrap_err();
            assert!(error.contains("nothing was done"), "{error}");
        }
    }

    #[test]
    fn a_calibration_is_finished_after_the_reset() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("calibration");
        let before = Calibration {
            boot: "an earlier one".into(),
            identity: "iTCO_wdt".into(),
            firmware: record::firmware(),
            timeout_s: 10,
            armed_at: Boot(1),
            last_at: Boot(1).plus(Duration::from_millis(19_950)),
            step_us: 50_000,
            factor_ppm: None,
        };
        // By somebody's hand.
        write(&path, &Calibration { last_at: Boot(2_000_000_001), ..before.clone() }).unwrap();
        let said = calibrate(&run("unused"), &path).unwrap_err();
        assert!(said.contains("went down 2 s after"), "{said}");
        assert!(!path.exists());
        write(&path, &before).unwrap();
        calibrate(&run("unused"), &path).unwrap();
        let done = Calibration::read(&path).unwrap();
        assert_eq!(done.factor_ppm, Some(2_015_000));
    }

    #[test]
    fn a_hold_is_released_once() {
        let root = tempfile::tempdir().unwrap();
        let data_dir = root.path().join("main");
        fs::write(record::hold(&data_dir), "a reset").unwrap();
        release(&data_dir).unwrap();
        assert!(release(&data_dir).unwrap_err().contains("nothing is held"));
    }

    #[test]
    fn a_device_in_a_row() {
        let device = Found {
            node: "/dev/watchdog1".into(),
            identity: "i6300ESB timer".into(),
            active: Some(false),
            timeout_s: 30,
            min_s: 1,
            max_s: 2046,
            ..Found::default()
        };
        let cells = row(&device);
        assert_eq!(cells[2..6], ["i6300esb", "stopped", "30 s", "1..2046 s"]);
        assert_eq!(describe(&device)["driver"], "i6300esb");
        assert_eq!(holders(Path::new("/nowhere")), []);
    }
}
