//! The supervisor with a real PostgreSQL.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pgvigil::core::guard::Phase;
use pgvigil::link::order::{Command, Job, JobKind, Order};
use pgvigil::link::state::{ExitStatus, Means};
use pgvigil::sys::process;

use super::rig::{Link, Rig, tenure, until};

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// Never waits for anything, so a dead postmaster is nothing to it.
const BUSY: &str = "select count(*) from generate_series(1, 100000000000)";

fn program(name: &str, arguments: &[&str]) -> Command {
    let argv = [format!("{BIN}/{name}")].into_iter();
    let argv = argv.chain(arguments.iter().map(|a| a.to_string())).collect();
    Command { argv, ..Command::default() }
}

fn postmaster(rig: &Rig) -> Command {
    let (data, dir) = (rig.data_dir(), rig.dir.to_str().unwrap());
    let mut command = program(
        "postgres",
        &["-D", &data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off"],
    );
    command.output = Some(format!("{dir}/postgres.log"));
    command
}

fn initdb(rig: &Rig, link: &mut Link) {
    let command = program("initdb", &["-N", "-A", "trust", "-D", &rig.data_dir()]);
    link.ok(Order::RunJob(Job { id: 1, kind: JobKind::Data, command }));
    link.see("initdb", |s| s.jobs.iter().any(|j| j.ended == Some(ExitStatus::Code(0))));
}

fn psql(rig: &Rig, statement: &str) -> std::process::Child {
    std::process::Command::new(format!("{BIN}/psql"))
        .args(["-h", rig.dir.to_str().unwrap(), "-U", "postgres", "-Atc", statement])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn busy(rig: &Rig) -> std::process::Child {
    until("PostgreSQL", || psql(rig, "select 1").wait().unwrap().success().then_some(()));
    let client = psql(rig, BUSY);
    until("the busy backend", || {
        let running = "select 1/count(*) from pg_stat_activity where query like 'select count%'";
        psql(rig, running).wait().unwrap().success().then_some(())
    });
    client
}

fn rig(name: &str, grouped: bool) -> Option<Rig> {
    if !fs::exists(format!("{BIN}/initdb")).unwrap() {
        println!("skipped: needs PostgreSQL in {BIN}");
        return None;
    }
    Rig::new(name, grouped)
}

/// Processes of the data directory, those included that are dead but for their working directory.
fn processes(rig: &Rig) -> usize {
    let is_ours = |s: &&pgvigil::sys::proc::Stat| {
        pgvigil::sys::proc::cwd(s.pid).is_some_and(|cwd| cwd == rig.dir.join("data"))
    };
    pgvigil::sys::proc::all().iter().filter(is_ours).count()
}

/// All of PostgreSQL into another control group.
fn move_out(rig: &Rig, group: &Path) {
    until("all outside", || {
        let inside = fs::read_to_string(rig.group("postgres").join("cgroup.procs")).unwrap();
        for pid in inside.lines() {
            // Some, like clients' backends, end meanwhile.
            let _ = fs::write(group.join("cgroup.procs"), pid);
        }
        inside.is_empty().then_some(())
    });
}

#[test]
fn without_control_groups_the_deadline_kills_every_backend() {
    let Some(mut rig) = rig("descent", false) else { return };
    let mut link = rig.configured(30, 30);
    assert_eq!(link.state.group.means, Means::Descent);
    initdb(&rig, &mut link);
    link.lead();
    link.ok(Order::StartPrimary(postmaster(&rig)));
    let mut client = busy(&rig);
    // A postmaster that dies alone leaves the busy backend; a second later it is gone.
    process::kill(link.state.postmaster.unwrap().pid, libc::SIGKILL);
    link.see("the postmaster's end", |s| s.postmaster.is_none());
    assert!(link.state.group.populated && processes(&rig) > 0);
    link.see("the orphan's end", |s| !s.group.populated);
    until("the last one's end", || (processes(&rig) == 0).then_some(()));
    assert!(!client.wait().unwrap().success());

    link.ok(Order::Campaign);
    link.confirm(2);
    link.ok(Order::StartPrimary(postmaster(&rig)));
    let mut client = busy(&rig);
    link.ok(Order::Retune { ttl: Duration::from_secs(5) });
    link.see("fenced", |s| s.phase == Phase::Fenced);
    assert_eq!(link.state.counters.thaws, 0);
    until("the last one's end", || (processes(&rig) == 0).then_some(()));
    assert!(!client.wait().unwrap().success());
}

#[test]
fn without_control_groups_the_sentinel_kills_every_backend() {
    let Some(mut rig) = rig("descent2", false) else { return };
    let mut link = rig.configured(5, 30);
    initdb(&rig, &mut link);
    link.lead();
    link.ok(Order::StartPrimary(postmaster(&rig)));
    let mut client = busy(&rig);
    rig.signal(libc::SIGKILL);
    rig.exit_code();
    assert!(processes(&rig) > 0);
    until("an empty data directory", || (processes(&rig) == 0).then_some(()));
    assert!(!client.wait().unwrap().success());
}

#[test]
fn a_running_postmaster_is_adopted_with_its_backends() {
    let Some(mut rig) = rig("adopt", true) else { return };
    let mut link = rig.configured(30, 30);
    initdb(&rig, &mut link);
    // A supervisor that dies leaves its postmaster to the next one.
    link.lead();
    link.ok(Order::StartPrimary(postmaster(&rig)));
    let mut client = busy(&rig);
    let pid = link.state.postmaster.unwrap().pid;
    let outside = rig.cgroup.as_ref().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    move_out(&rig, &outside);
    // Of which nothing is known.
    fs::remove_file(rig.memory()).unwrap();
    rig.crash();
    let mut link = rig.configured(30, 30);
    assert!(!link.state.group.populated);
    link.ok(Order::Adopt { pid, standby: false });
    link.see("frozen", |s| s.phase == Phase::Frozen && s.group.frozen);
    assert_eq!(fs::read_to_string(outside.join("cgroup.procs")).unwrap(), "");
    assert!(link.state.postmaster.unwrap().adopted);
    link.ok(Order::Campaign);
    link.confirm(1);
    link.see("thawed", |s| s.phase == Phase::Leading && !s.group.frozen);
    link.ok(Order::LeaseLost { tenure: tenure(1) });
    link.see("fenced", |s| s.phase == Phase::Fenced);
    assert_eq!(link.state.last_exit.unwrap().status, ExitStatus::Unknown);
    assert!(!client.wait().unwrap().success());
    fs::remove_dir(&outside).unwrap();
}

/// As one that another unit of systemd started: we may not take it out of its control group.
#[test]
fn the_sentinel_kills_what_could_not_be_moved_into_our_group() {
    let Some(mut rig) = rig("unmoved", true) else { return };
    let mut link = rig.configured(5, 30);
    initdb(&rig, &mut link);
    link.lead();
    link.ok(Order::StartPrimary(postmaster(&rig)));
    let mut client = busy(&rig);
    move_out(&rig, &pgvigil::sys::cgroup::own().unwrap());
    let before = rig.sentinel();
    rig.crash();
    let mut link = rig.configured(5, 30);
    assert_eq!(link.state.group.means, Means::Descent);
    link.confirm(1);
    until("a sentinel that reaches by descent", || {
        let now = rig.sentinel();
        (now.len() == 1 && now != before).then_some(())
    });
    rig.signal(libc::SIGKILL);
    rig.exit_code();
    assert!(processes(&rig) > 0);
    until("an empty data directory", || (processes(&rig) == 0).then_some(()));
    assert!(!client.wait().unwrap().success());
}
