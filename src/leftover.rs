//! PostgreSQL without a supervisor, for the unit: what an unfinished stop left behind is fenced
//! (`pgvigil fence-leftover`, ExecStopPost=), and what another service started is taken into the
//! unit's control group, so that the supervisor can adopt it (`pgvigil take-in`, ExecStartPre=+).
//!
//! Neither replaces a tier of the fence: the sentinel keeps the deadline whatever happens here. A
//! stop that was cut short, by systemd's SIGKILL or because the supervisor died in it, leaves a
//! PostgreSQL that nobody will supervise again, and that is what `fence-leftover` ends. Then it
//! stops the watchdog device, which would reset the machine for nothing. After a crash that was no
//! stop it does nothing: the next start adopts.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::supervisor::{Descent, Memory, Reach, base_of, lock_path};
use crate::sys::cgroup::{self, Group};
use crate::sys::{clock, proc};
use crate::watchdog::held;

/// What a kill is given. A process that a hung disk keeps in the kernel takes longer.
const KILLED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What systemd is given to close its duplicate of the device's descriptor.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
/// That descriptor's name in systemd's store, as the supervisor gives it.
const STORED: &str = "watchdog";

/// The supervisor would not start, most often for an error in the configuration. It says that again
/// with each start, and so the next one waits: the journal is to keep what came before.
const REFUSED: &str = "refused";
const START_PAUSE: Duration = Duration::from_secs(2);

/// Passes over the processes, each of which may find what forked meanwhile.
const PASSES: u32 = 20;

/// Whom it is about, as configured; for a data directory that is not there `None`.
pub fn known(data_dir: &str, exe_name: Option<&String>) -> Option<Descent> {
    let data_dir = fs::canonicalize(data_dir).ok()?;
    let exe_name = exe_name.cloned().unwrap_or_else(|| "postgres".to_owned());
    Some(Descent { data_dir, exe_name })
}

/// How the service ended, from what systemd gives ExecStopPost=. A death by SIGHUP, SIGINT or
/// SIGPIPE is a success to it as one by SIGTERM is, but only SIGTERM is a stop; after the others it
/// starts the service again.
pub fn result(variable: impl Fn(&str) -> String) -> String {
    let result = variable("SERVICE_RESULT");
    let status = variable("EXIT_STATUS");
    let killed = variable("EXIT_CODE") == "killed" && status != "TERM";
    match result.as_str() {
        "success" if killed => "signal".to_owned(),
        "exit-code" if status == "1" => REFUSED.to_owned(),
        _ => result,
    }
}

/// Ends what a stop left, as far as `$SERVICE_RESULT` or the supervisor's record says that there
/// was one, and stops the watchdog device. The exit code.
pub fn fence(known: Option<Descent>, result: &str, device: Option<held::Options>) -> i32 {
    let code = match try_fence(known, result, device) {
        Ok(what) => {
            println!("fence-leftover: {what}");
            0
        }
        Err(why) => {
            eprintln!("fence-leftover: {why}");
            1
        }
    };
    if result == REFUSED {
        std::thread::sleep(START_PAUSE);
    }
    code
}

fn try_fence(
    known: Option<Descent>,
    result: &str,
    device: Option<held::Options>,
) -> Result<String, String> {
    let base = cgroup::own().ok().map(base_of);
    let group = base.as_deref().and_then(|base| open(base, "postgres"));
    let of_group = || of_group(group.as_ref()?);
    let Some(descent) = known.or_else(of_group) else {
        return Ok("no data directory, nothing runs".to_owned());
    };
    if held(&descent.data_dir) {
        return Ok("a supervisor runs: nothing is left over".to_owned());
    }
    let left = Left::read(&descent.data_dir, result);
    match left {
        Left::Crash => return Ok("not a stop: the next start adopts what runs".to_owned()),
        Left::OnPurpose => {
            return Ok("paused: PostgreSQL goes on and is adopted at the next start".to_owned());
        }
        Left::Unfinished | Left::Ended => {}
    }
    let killed = kill(&descent, base.as_deref(), group.as_ref())?;
    let device = match device.filter(|_| left == Left::Unfinished) {
        Some(options) => stop_device(&options),
        None => String::new(),
    };
    // As at the end in good order: there is nothing to go on with.
    if let (Left::Unfinished, Ok(memory)) = (left, Memory::open(&descent.data_dir, false)) {
        memory.remove();
    }
    let what =
        if killed { "a stop left PostgreSQL running: killed" } else { "nothing is left over" };
    Ok(format!("{what}{device}"))
}

/// Kills all of it. False: there was nothing.
fn kill(descent: &Descent, base: Option<&Path>, group: Option<&Group>) -> Result<bool, String> {
    let works = |reach: &Reach<'_>| reach.look().populated;
    let reaches: Vec<Reach<'_>> = (group.map(Reach::Group).into_iter())
        .chain([Reach::Descent(descent)])
        .filter(works)
        .collect();
    if reaches.is_empty() {
        return Ok(false);
    }
    // First those who could start something.
    for name in ["agent", "scripts", "data"] {
        if let Some(group) = base.and_then(|base| open(base, name)) {
            let _ = group.kill();
        }
    }
    let begun = clock::boot();
    while reaches.iter().any(works) {
        if clock::boot().since(begun) > KILLED_WITHIN {
            return Err(format!("processes of {} do not end", descent.data_dir.display()));
        }
        for reach in &reaches {
            // A failure shows as what is still there.
            let _ = reach.kill();
        }
        std::thread::sleep(LOOK_EVERY);
    }
    if let Some(sentinel) = base.and_then(|base| open(base, "sentinel")) {
        let _ = sentinel.kill();
    }
    Ok(true)
}

/// What the end of the service means for what still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The supervisor ended in good order.
    Ended,
    /// It left a paused member running.
    OnPurpose,
    /// It was told to stop and did not come to the end of it.
    Unfinished,
    /// It died otherwise: systemd starts another one, which adopts.
    Crash,
}

impl Left {
    /// A supervisor that ended in good order has removed its record, unless it left a paused member
    /// running (`stop.leave`). One that was cut off left it as it was; `stop` in it is the SIGTERM
    /// that it got, whatever its end looks like to systemd.
    fn read(data_dir: &Path, result: &str) -> Left {
        let saved = Memory::open(data_dir, false).ok().and_then(|mut memory| memory.read());
        let line = |key: &str| saved.as_ref().and_then(|saved| saved.get(key)).map(String::as_str);
        let (told, paused) = (line("stop") == Some("1"), line("guard.phase") == Some("paused"));
        match result {
            "success" if told || paused => Left::OnPurpose,
            "success" if saved.is_none() => Left::Ended,
            "success" | "timeout" if !paused => Left::Unfinished,
            _ if told && !paused => Left::Unfinished,
            "timeout" => Left::OnPurpose,
            _ => Left::Crash,
        }
    }
}

/// Nothing of PostgreSQL is left, so nothing needs the reset that the device is counting to.
/// systemd has a duplicate of its descriptor; when that is closed the device counts on, and can be
/// opened. As an addition to what is said: how it went.
fn stop_device(options: &held::Options) -> String {
    use sd_notify::NotifyState::Custom;
    // Heard because of NotifyAccess=exec. An error shows as a device that stays busy.
    let _ = sd_notify::notify(&[Custom("FDSTOREREMOVE=1"), Custom(&format!("FDNAME={STORED}"))]);
    let begun = clock::boot();
    loop {
        match held::open(options, None) {
            Ok(mut held) => {
                held.device.close();
                return match held.device.is_endless() {
                    true => "; the watchdog device cannot be stopped".to_owned(),
                    false => "; the watchdog device is stopped".to_owned(),
                };
            }
            Err(why) if clock::boot().since(begun) > CLOSED_WITHIN => {
                return format!("; no watchdog device was stopped: {why}");
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// The data directory in which a group works, if the configuration cannot be read.
fn of_group(group: &Group) -> Option<Descent> {
    let data_dir = group.pids().ok()?.into_iter().find_map(proc::cwd)?;
    Some(Descent { data_dir, exe_name: "postgres".to_owned() })
}

/// A group that is there already.
fn open(base: &Path, name: &str) -> Option<Group> {
    let path = base.join(name);
    path.is_dir().then(|| Group::open(&path).ok())?
}

/// Whether a supervisor holds the lock of this data directory.
fn held(data_dir: &Path) -> bool {
    let lock = lock_path(data_dir).and_then(|path| File::open(path).ok());
    lock.is_some_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

/// As root: moves a PostgreSQL that runs in this data directory, and all that belongs to it, into
/// this unit's control group. The exit code.
pub fn take_in(known: Option<Descent>) -> i32 {
    let Some(descent) = known.filter(|descent| !held(&descent.data_dir)) else { return 0 };
    match try_take_in(&descent) {
        Ok(0) => 0,
        Ok(count) => {
            println!("take-in: {count} processes of {} moved here", descent.data_dir.display());
            0
        }
        Err(error) => {
            eprintln!("take-in: {}: {error}", descent.data_dir.display());
            1
        }
    }
}

fn try_take_in(descent: &Descent) -> io::Result<usize> {
    let mut moved = 0;
    if descent.find().is_empty() {
        return Ok(moved);
    }
    let path = base_of(cgroup::own()?).join("postgres");
    let group = Group::open(&path)?;
    hand_over(&path, &descent.data_dir)?;
    for _ in 0..PASSES {
        let inside = group.pids()?;
        let outside: Vec<i32> =
            descent.find().into_iter().filter(|p| !inside.contains(p)).collect();
        if outside.is_empty() {
            return Ok(moved);
        }
        for pid in outside {
            match group.add(pid) {
                // It has ended since.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                done => done.map(|()| moved += 1)?,
            }
        }
    }
    Err(io::Error::other("it starts processes faster than they can be moved"))
}

/// The owner of the data directory, as whom the supervisor runs, must be able to freeze and kill.
fn hand_over(group: &Path, data_dir: &Path) -> io::Result<()> {
    let owner = fs::metadata(data_dir)?;
    let files = fs::read_dir(group)?.flatten().map(|entry| entry.path());
    for path in files.filter(|path| !path.is_dir()).chain([PathBuf::from(group)]) {
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}
