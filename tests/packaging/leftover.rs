//! `pgvigil fence-leftover` and `pgvigil take-in` with real control groups and a program that is
//! called postgres.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgvigil::supervisor::{Memory, memory_path};
use pgvigil::sys::cgroup;

use super::PROGRAM;
use crate::lab::wait::wait_until;

/// Control groups as a unit has them, a data directory, and a configuration of them.
struct Unit {
    directory: tempfile::TempDir,
    group: PathBuf,
    server: Child,
}

impl Unit {
    /// None: control groups cannot be made here.
    fn new(name: &str, inside: bool) -> Option<Unit> {
        let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let group = cgroup::own().unwrap().join(format!("pgvigil-leftover-{name}"));
        for part in [".control", "postgres", "agent"] {
            if fs::create_dir_all(group.join(part)).is_err() {
                println!("{name}: SKIPPED, control groups need root");
                return None;
            }
        }
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::copy("/bin/sleep", directory.path().join("postgres")).unwrap();
        let text = format!(
            "scope: s\nname: n\n\
             restapi: {{listen: '127.0.0.1:1', connect_address: '127.0.0.1:1'}}\n\
             etcd3: {{host: '127.0.0.1:1'}}\npostgresql:\n  listen: 127.0.0.1:2\n  \
             connect_address: 127.0.0.1:2\n  data_dir: {}\n  authentication:\n    \
             replication: {{username: r, password: r}}\n    superuser: {{username: p}}\n",
            data.display()
        );
        fs::write(directory.path().join("config.yml"), text).unwrap();
        let mut server = Command::new(directory.path().join("postgres"));
        server.arg("1000").current_dir(&data).stdin(Stdio::null());
        let server = in_group(&mut server, inside.then(|| group.join("postgres"))).spawn().unwrap();
        let exe = format!("/proc/{}/exe", server.id());
        wait_until("the server", Duration::from_secs(10), || {
            fs::read_link(&exe).is_ok_and(|exe| exe.ends_with("postgres")).then_some(())
        });
        Some(Unit { directory, group, server })
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What a supervisor would have left.
    fn record(&self, lines: &str) {
        Memory::open(&self.data(), true).unwrap().write(lines);
    }

    /// As systemd runs it: in `.control`. `result` is $SERVICE_RESULT, and after a blank the signal
    /// by which the supervisor died.
    fn helper(&self, command: &str, result: &str) -> String {
        let mut helper = Command::new(PROGRAM);
        helper.arg(command).arg(self.directory.path().join("config.yml"));
        let (result, signal) = result.split_once(' ').unwrap_or((result, ""));
        helper.env("SERVICE_RESULT", result).env("EXIT_STATUS", signal);
        helper.env("EXIT_CODE", if signal.is_empty() { "exited" } else { "killed" });
        let output = in_group(&mut helper, Some(self.group.join(".control"))).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn runs(&mut self) -> bool {
        self.server.try_wait().unwrap().is_none()
    }

    fn processes(&self) -> String {
        fs::read_to_string(self.group.join("postgres/cgroup.procs")).unwrap()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = fs::remove_file(memory_path(nix::unistd::geteuid().as_raw(), &self.data()));
        for part in [".control", "postgres", "agent", ""] {
            let _ = fs::remove_dir(self.group.join(part));
        }
    }
}

fn in_group(command: &mut Command, group: Option<PathBuf>) -> &mut Command {
    if let Some(group) = group {
        let file = fs::OpenOptions::new().write(true).open(procs(&group)).unwrap();
        // SAFETY: one write to an open file.
        unsafe { command.pre_exec(move || std::io::Write::write_all(&mut &file, b"0")) };
    }
    command
}

fn procs(group: &Path) -> PathBuf {
    group.join("cgroup.procs")
}

#[test]
fn what_an_unfinished_stop_left_is_killed_and_what_is_meant_to_run_is_not() {
    let leading = "guard.phase leading\nstop 1\n";
    for (name, inside, result, record, killed) in [
        ("timeout", true, "timeout", leading, true),
        ("outside", false, "timeout", leading, true),
        ("unrecorded", true, "success", "", true),
        ("crash", true, "signal", "guard.phase leading\nstop 0\n", false),
        ("died-in-a-stop", true, "signal KILL", leading, true),
        ("standby", true, "signal SEGV", "guard.phase idle\nstop 1\n", true),
        // To systemd both are clean ends; it starts the service again unless it was a stop.
        ("before-handlers", true, "success TERM", "guard.phase leading\nstop 0\n", true),
        ("hung-up", true, "success HUP", "guard.phase leading\nstop 0\n", false),
        ("died-in-a-pause", true, "signal", "guard.phase paused\nstop 1\n", false),
        ("refused", true, "exit-code", "", false),
        ("left", true, "success", "guard.phase idle\nstop 1\n", false),
        ("paused", true, "timeout", "guard.phase paused\nstop 1\n", false),
        ("not-left", true, "success", "guard.phase leading\nstop 0\n", true),
    ] {
        let Some(mut unit) = Unit::new(name, inside) else { return };
        if !record.is_empty() {
            unit.record(record);
        }
        let said = unit.helper("fence-leftover", result);
        if killed {
            wait_until(name, Duration::from_secs(10), || (!unit.runs()).then_some(()));
        }
        assert_eq!(unit.runs(), !killed, "{name}: {said}");
    }
}

/// As systemd gives them to ExecStopPost=: result, code, status.
#[test]
fn how_a_service_ended() {
    for (ended, wanted) in [
        (["success", "exited", "0"], "success"),
        (["success", "killed", "TERM"], "success"),
        (["success", "killed", "HUP"], "signal"),
        (["exit-code", "exited", "1"], "refused"),
        (["exit-code", "exited", "101"], "exit-code"),
        (["timeout", "killed", "KILL"], "timeout"),
    ] {
        let names = ["SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"];
        let value = |name: &str| names.iter().position(|n| *n == name).map(|n| ended[n].to_owned());
        assert_eq!(pgvigil::leftover::result(|n| value(n).unwrap_or_default()), wanted);
    }
}

#[test]
fn a_member_that_another_supervisor_has_is_left_alone() {
    let Some(mut unit) = Unit::new("held", false) else { return };
    let lock = fs::File::create(unit.directory.path().join(".data.pgvigil.lock")).unwrap();
    lock.try_lock().unwrap();
    unit.helper("fence-leftover", "timeout");
    unit.helper("take-in", "");
    assert!(unit.runs() && unit.processes().is_empty());
}

#[test]
fn a_postgres_of_another_service_is_taken_into_the_units_group() {
    let Some(mut unit) = Unit::new("taken", false) else { return };
    let said = unit.helper("take-in", "");
    assert!(said.contains("1 processes"), "{said}");
    assert_eq!(unit.processes().trim(), unit.server.id().to_string());
    assert!(unit.runs());
    assert_eq!(unit.helper("take-in", ""), "", "it is there already");
}
