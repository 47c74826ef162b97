//! The supervisor with the real kernel: control groups, signals, clocks.

mod device;
mod postgres;
mod rig;

use std::os::fd::AsFd;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pgvigil::core::guard::Phase;
use pgvigil::core::time::Boot;
use pgvigil::link::order::{Job, JobKind, Order, PgSignal};
use pgvigil::link::state::{ExitStatus, Means, State};
use pgvigil::sys::{clock, proc, process};
use rig::{Rig, confirmation, sh, tenure, until};

/// Tries of a race.
const REPLACEMENTS: u32 = 40;
/// Two processes that never sleep, the second one outliving the first.
const BUSY: &str = "while :; do :; done & while :; do :; done";
/// Freezes at once where other programs have all processors, too.
const IDLE: &str = "sleep 1000 & sleep 1000; :";

#[test]
fn a_deadline_freezes_and_fresh_proof_thaws() {
    let Some(mut rig) = Rig::new("thaw", true) else { return };
    let mut link = rig.configured(3, 30);
    assert_eq!(link.state.group.means, Means::ControlGroup);
    link.refused(Order::StartPrimary(sh(BUSY)));
    link.lead();
    link.ok(Order::StartPrimary(sh(BUSY)));
    link.see("it runs", |s| s.group.populated && s.postmaster.is_some_and(|p| p.permitted));
    let deadline = link.state.deadline.unwrap();
    link.see("frozen", |s| s.phase == Phase::Frozen && s.group.frozen);
    let late = clock::boot().since(deadline);
    assert!(late < Duration::from_millis(250), "{late:?}");
    rig.is("frozen 1").unwrap();
    link.confirm(1);
    link.see("thawed", |s| s.phase == Phase::Leading && !s.group.frozen);
    rig.is("frozen 0").unwrap();
    assert_eq!(link.state.counters.thaws, 1);
    link.ok(Order::LeaseLost { tenure: tenure(1) });
    link.see("fenced", |s| s.phase == Phase::Fenced && s.postmaster.is_none());
    assert_eq!(link.state.last_exit.unwrap().status, ExitStatus::Signal(9));
    rig.is("populated 0").unwrap();
    // Not born frozen, and no primary any more.
    link.ok(Order::StartStandby(sh("sleep 1000")));
    link.see("it runs", |s| s.group.populated && !s.group.frozen && s.phase == Phase::Idle);
    assert!(!link.state.postmaster.unwrap().permitted);
}

#[test]
fn the_deadline_needs_no_agent() {
    let Some(mut rig) = Rig::new("stopped", true) else { return };
    let mut link = rig.configured(3, 1);
    link.lead();
    link.ok(Order::StartPrimary(sh(BUSY)));
    process::kill(link.agent_pid, libc::SIGSTOP);
    let start = Instant::now();
    until("frozen", || rig.is("frozen 1"));
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
    until("killed after freeze_max", || rig.is("populated 0"));
    // Silent for ten seconds: the next generation comes and is told how things stand.
    let mut next = rig.link();
    assert_eq!(next.generation, link.generation + 1);
    next.see("the state", |s| s.phase == Phase::Fenced && s.last_exit.is_some());
    assert!(proc::stat(link.agent_pid).is_none_or(|stat| stat.state == 'Z'));
}

#[test]
fn the_sentinel_fences_when_the_supervisor_is_dead() {
    let Some(mut rig) = Rig::new("sentinel", true) else { return };
    let mut link = rig.configured(3, 1);
    link.lead();
    link.ok(Order::StartPrimary(sh(BUSY)));
    rig.wait_for_postmaster(&link);
    rig.signal(libc::SIGKILL);
    rig.exit_code();
    rig.is("frozen 0").unwrap();
    until("frozen", || rig.is("frozen 1"));
    until("killed after freeze_max", || rig.is("populated 0"));
    let sentinel = rig.group("sentinel").join("cgroup.events");
    until("the sentinel's own end", || {
        std::fs::read_to_string(&sentinel).unwrap().contains("populated 0").then_some(())
    });
}

#[test]
fn what_a_dead_supervisor_left_is_frozen_and_a_standby_thawed() {
    let Some(mut rig) = Rig::new("found", true) else { return };
    let mut link = rig.configured(30, 30);
    link.ok(Order::StartStandby(sh("sleep 1000 & sleep 1000")));
    let pid = rig.wait_for_postmaster(&link);
    rig.signal(libc::SIGKILL);
    rig.exit_code();
    rig.restart();
    until("frozen", || rig.is("frozen 1"));
    let mut link = rig.configured(30, 30);
    // A sleep in / is no postmaster of this data directory.
    assert!(link.refused(Order::Adopt { pid, standby: true }).contains("is no postgres"));
    link.ok(Order::Fence { reason: "unknown".into() });
    link.see("fenced", |s| s.phase == Phase::Fenced);
}

/// In words of [`State`]: all that a crash must not change.
fn kept(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    let postmaster = state.postmaster.map(|p| (p.pid, p.started_at, p.permitted));
    let lease = (state.tenure, state.sent_at, state.deadline, state.burned, state.budget);
    (state.phase, lease, postmaster, state.capsule.clone(), state.counters.freezes)
}

fn a_crash_changes_nothing(grouped: bool) {
    let name = if grouped { "crash" } else { "crash-descent" };
    let Some(mut rig) = Rig::new(name, grouped) else { return };
    let mut link = rig.configured(10, 30);
    link.lead();
    link.ok(Order::StartPrimary(rig.postmaster("while :; do sleep 0.1; done")));
    for (id, script) in [(1, "sleep 1000"), (2, "exit 0"), (3, "exit 7")] {
        link.ok(Order::RunJob(Job { id, kind: JobKind::Script, command: sh(script) }));
    }
    link.see("two jobs' ends", |s| s.jobs.iter().filter(|job| job.ended.is_some()).count() == 2);
    link.ok(Order::Capsule(vec![1, 2, 255]));
    link.confirm(1);
    rig.wait_for_postmaster(&link);
    let before = kept(&link.state);
    let sentinel = rig.sentinel();
    for _ in 0..3 {
        rig.crash();
        let mut next = rig.configured(10, 30);
        next.see("the state", |s| s.group.populated && s.postmaster.is_some());
        assert_eq!(kept(&next.state), before);
        assert!(next.generation > link.generation && next.state.postmaster.unwrap().adopted);
        assert_eq!(next.state.counters.agent_starts, link.state.counters.agent_starts + 1);
        next.see("the job's end", |s| s.jobs.iter().all(|job| job.ended.is_some()));
        let ended = |id| next.state.jobs.iter().find(|job| job.id == id).and_then(|job| job.ended);
        let statuses = [2, 3].map(ended);
        assert_eq!(statuses, [0, 7].map(|code| Some(ExitStatus::Code(code))));
        link = next;
    }
    assert_eq!(rig.sentinel(), sentinel, "the sentinel is kept");
    if grouped {
        rig.is("frozen 0").unwrap();
    }
    // The deadline goes on to count, and to be moved.
    link.confirm(1);
    assert!(link.state.sent_at > Some(Boot(0)) && link.state.phase == Phase::Leading);
    link.ok(Order::Retune { ttl: Duration::from_secs(3) });
    let end = if grouped { Phase::Frozen } else { Phase::Fenced };
    link.see("the fence", |s| s.phase == end);
}

#[test]
fn a_crash_changes_nothing_for_a_primary() {
    a_crash_changes_nothing(true);
}

#[test]
fn a_crash_changes_nothing_without_control_groups() {
    a_crash_changes_nothing(false);
}

#[test]
fn a_burned_tenure_is_remembered_by_the_next_supervisor() {
    let Some(mut rig) = Rig::new("burned", true) else { return };
    let mut link = rig.configured(30, 30);
    link.lead();
    link.ok(Order::RunJob(Job { id: 1, kind: JobKind::Data, command: sh("sleep 1000") }));
    link.ok(Order::Release { tenure: tenure(1) });
    rig.crash();
    let mut link = rig.configured(30, 30);
    assert_eq!(link.state.burned, Some(tenure(1)));
    link.ok(Order::Campaign);
    assert_eq!(link.refused(confirmation(1)), "this tenure was given up");
    // The data directory is free again.
    link.confirm(2);
    link.see("the job's end", |s| s.jobs.iter().all(|job| job.ended.is_some()));
    link.ok(Order::StartPrimary(sh("sleep 1000")));
}

#[test]
fn frozen_stays_frozen_and_is_thawed_by_proof_after_a_crash() {
    let Some(mut rig) = Rig::new("frozen", true) else { return };
    let mut link = rig.configured(3, 30);
    link.lead();
    link.ok(Order::StartPrimary(rig.postmaster(IDLE)));
    link.see("frozen", |s| s.phase == Phase::Frozen && s.group.frozen);
    // Past the instant at which a group that moves would be killed.
    std::thread::sleep(Duration::from_secs(2));
    let before = kept(&link.state);
    rig.crash();
    let mut link = rig.configured(3, 30);
    link.see("frozen", |s| s.group.frozen && s.postmaster.is_some());
    assert_eq!(kept(&link.state), before);
    assert!(link.refused(confirmation(2)).contains("another tenure"));
    link.confirm(1);
    link.see("thawed", |s| s.phase == Phase::Leading && !s.group.frozen);
    // Nobody renews while nobody is there: frozen by the sentinel, known to the next supervisor.
    rig.signal(libc::SIGKILL);
    rig.exit_code();
    until("frozen", || rig.is("frozen 1"));
    rig.restart();
    let mut link = rig.configured(3, 30);
    link.see("frozen", |s| s.phase == Phase::Frozen && s.group.frozen);
    link.confirm(1);
    link.see("thawed", |s| s.phase == Phase::Leading && !s.group.frozen);
}

#[test]
fn a_postmaster_that_died_with_its_supervisor_is_cleaned_up_after() {
    let Some(mut rig) = Rig::new("both-died", true) else { return };
    let mut link = rig.configured(30, 30);
    link.lead();
    link.ok(Order::StartPrimary(rig.postmaster("(while :; do :; done) & wait")));
    until("the backend", || (rig.pids("postgres").len() == 2).then_some(()));
    let pid = rig.wait_for_postmaster(&link);
    rig.signal(libc::SIGKILL);
    rig.exit_code();
    process::kill(pid, libc::SIGKILL);
    rig.restart();
    let mut link = rig.configured(30, 30);
    link.see("the orphan's end", |s| !s.group.populated && s.phase == Phase::Leading);
    let exit = link.state.last_exit.unwrap();
    assert_eq!((exit.pid, exit.permitted, exit.status), (pid, true, ExitStatus::Unknown));
    link.confirm(1);
    link.ok(Order::StartPrimary(rig.postmaster("sleep 1000")));
}

#[test]
fn a_record_that_cannot_be_read_is_as_none() {
    let Some(mut rig) = Rig::new("corrupt", true) else { return };
    let mut link = rig.configured(30, 30);
    link.lead();
    link.ok(Order::StartPrimary(rig.postmaster("while :; do sleep 0.1; done")));
    let pid = rig.wait_for_postmaster(&link);
    rig.signal(libc::SIGKILL);
    rig.exit_code();
    let mut bytes = std::fs::read(rig.memory()).unwrap();
    bytes[4096..].iter_mut().for_each(|byte| *byte ^= 1);
    // Without O_CREAT: /dev/shm is sticky, and with fs.protected_regular not even root may create
    // over somebody's file there.
    let file = std::fs::OpenOptions::new().write(true).open(rig.memory()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    rig.restart();
    until("frozen", || rig.is("frozen 1"));
    let mut link = rig.configured(30, 30);
    assert_eq!((link.state.phase, link.state.tenure), (Phase::Frozen, None));
    link.ok(Order::Adopt { pid, standby: false });
    link.ok(Order::Campaign);
    link.confirm(1);
    link.see("thawed", |s| s.phase == Phase::Leading && !s.group.frozen);
    rig.is("frozen 0").unwrap();
    // The old sentinel goes, one of our own is there.
    until("one sentinel", || (rig.pids("sentinel").len() == 1).then_some(()));
}

/// Else the sentinel would freeze a paused primary, and kill it.
#[test]
fn a_deadline_that_was_taken_back_does_not_outlive_a_crash() {
    let Some(mut rig) = Rig::new("taken-back", true) else { return };
    let mut link = rig.configured(30, 30);
    link.lead();
    link.ok(Order::StartPrimary(rig.postmaster("while :; do sleep 0.1; done")));
    rig.wait_for_postmaster(&link);
    link.ok(Order::Pause { tenure: tenure(1), revision: 1 });
    rig.signal(libc::SIGKILL);
    rig.exit_code();
    // As if it had died before it told the sentinel: the second word is the deadline.
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).open(rig.memory()).unwrap();
    let ahead = clock::boot().plus(Duration::from_secs(60)).0.to_le_bytes();
    std::os::unix::fs::FileExt::write_all_at(&file, &ahead, 8).unwrap();
    rig.restart();
    let link = rig.configured(30, 30);
    assert_eq!(link.state.phase, Phase::Paused);
    let mut word = [1; 8];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut word, 8).unwrap();
    assert_eq!(word, [0; 8]);
}

#[test]
fn a_replaced_program_keeps_everything() {
    let Some(mut rig) = Rig::new("replace", true) else { return };
    let mut link = rig.configured(30, 30);
    link.lead();
    link.ok(Order::StartPrimary(sh("trap 'exit 7' INT; while :; do sleep 0.1; done")));
    // Of a generation that the clock has not come to again since it wrapped.
    let numbered = link.generation + 1_000_000;
    let id = u64::from(numbered) << 32 | 1;
    let job = Job { id, kind: JobKind::Script, command: sh("sleep 1000") };
    link.ok(Order::RunJob(job));
    link.ok(Order::Capsule(vec![1, 2, 255]));
    let before = link.state.clone();
    rig.signal(libc::SIGUSR2);
    let mut next = rig.link();
    assert!(next.generation > numbered);
    next.see("the state", |s| s.group.populated && s.generation > before.generation);
    let after = next.state.clone();
    assert_eq!((after.phase, after.tenure), (before.phase, before.tenure));
    assert_eq!((after.sent_at, after.deadline), (before.sent_at, before.deadline));
    assert_eq!((after.postmaster, after.jobs), (before.postmaster, before.jobs));
    assert_eq!((after.capsule, after.budget), (before.capsule, before.budget));
    next.ok(rig.configure(30, 30));
    // Still our child: its status is known.
    next.ok(Order::Signal(PgSignal::FastStop));
    next.see("its end", |s| s.last_exit.is_some_and(|e| e.status == ExitStatus::Code(7)));
}

/// What the old program's handlers took and nobody looked at would end with it: systemd asks to
/// stop once, and kills after its patience. The two race, so it is tried at many instants around
/// the end of the self-check, which is when the old program goes.
#[test]
fn a_signal_in_the_midst_of_a_replacement_is_not_lost() {
    let Some(mut rig) = Rig::new("midst", true) else { return };
    let mut link = rig.configured(30, 30);
    for n in 1..=REPLACEMENTS {
        rig.signal(libc::SIGUSR2);
        // It lives for some milliseconds; one that was not seen costs a try, and no more.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            let Some(pid) = rig.pids("scripts").first().copied() else { continue };
            let Ok(check) = process::Child::of(pid) else { break };
            let mut ended = [PollFd::new(check.pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut ended, PollTimeout::from(15_000u16)).unwrap();
            break;
        }
        let (end, after) = (Instant::now(), Duration::from_micros(20) * (n % 20));
        while end.elapsed() < after {}
        rig.signal(libc::SIGHUP);
        link = rig.link();
        link.see("the reload", |s| s.reloads == n);
        link.ok(rig.configure(30, 30));
    }
    rig.signal(libc::SIGTERM);
    link.see("the stop", |s| s.stop_requested);
}

#[test]
fn jobs_run_one_on_the_data_directory_and_leave_nothing() {
    let Some(mut rig) = Rig::new("jobs", true) else { return };
    let mut link = rig.configured(30, 30);
    let job = |id, kind, script| Order::RunJob(Job { id, kind, command: sh(script) });
    link.ok(job(1, JobKind::Data, "sleep 1000 & exit 3"));
    link.see("ended", |s| s.jobs.iter().any(|j| j.ended == Some(ExitStatus::Code(3))));
    assert!(std::fs::read_to_string(rig.group("data").join("cgroup.procs")).unwrap().is_empty());
    link.ok(job(1, JobKind::Data, "exit 9")); // known: not run again
    link.ok(job(2, JobKind::Data, "sleep 1000"));
    link.refused(job(3, JobKind::Data, "true"));
    link.refused(Order::StartStandby(sh("true")));
    link.refused(Order::Goodbye { failed: false });
    link.ok(Order::CancelJob { id: 2 });
    link.see("cancelled", |s| s.jobs.iter().any(|j| j.ended == Some(ExitStatus::Signal(15))));
    link.ok(job(4, JobKind::Script, "exec /nowhere"));
    link.see("failed", |s| s.jobs.iter().any(|j| j.ended == Some(ExitStatus::Code(127))));
    assert_eq!(link.state.jobs.len(), 3);
}

#[test]
fn stop_reload_and_goodbye() {
    let Some(mut rig) = Rig::new("stop", true) else { return };
    let mut link = rig.link();
    assert_eq!(link.refused(Order::Campaign), "not configured");
    link.ok(rig.configure(30, 30));
    rig.signal(libc::SIGHUP);
    link.see("a reload", |s| s.reloads == 1);
    rig.signal(libc::SIGTERM);
    link.see("the stop", |s| s.stop_requested);
    link.ok(Order::StartStandby(sh("trap 'exit 0' TERM; while :; do sleep 0.1; done")));
    link.refused(Order::Goodbye { failed: false });
    link.ok(Order::Signal(PgSignal::SmartStop));
    link.see("its end", |s| !s.group.populated && s.postmaster.is_none());
    assert!(rig.memory().exists());
    link.send(Order::Goodbye { failed: false });
    assert_eq!(rig.exit_code(), 0);
    assert!(!rig.memory().exists());
}

#[test]
fn an_agent_that_dies_is_replaced_and_the_postmaster_does_not_notice() {
    let Some(mut rig) = Rig::new("agent", true) else { return };
    let mut link = rig.configured(30, 30);
    link.ok(Order::StartStandby(sh("sleep 1000")));
    let pid = link.state.postmaster.unwrap().pid;
    process::kill(link.agent_pid, libc::SIGKILL);
    let mut next = rig.configured(30, 30);
    next.see("the same postmaster", |s| s.postmaster.is_some_and(|p| p.pid == pid));
    assert_eq!(next.state.counters.agent_starts, 2);
    // Orders of another generation are not orders.
    next.generation -= 1;
    next.send(Order::Fence { reason: "from the grave".into() });
    next.generation += 1;
    next.ok(Order::Heartbeat { status: "fine".into(), ready: true });
    assert!(next.state.group.populated);
}

#[test]
fn a_data_directory_has_one_supervisor() {
    let Some(mut rig) = Rig::new("lock", true) else { return };
    let link = rig.configured(30, 30);
    let first = rig.child.id();
    let mut second = Rig::second(&rig, "lock2");
    let mut other = second.link();
    other.send(rig.configure(30, 30));
    assert_eq!(second.exit_code(), 1);
    assert!(second.log().contains(&format!("held by process {first}")), "{}", second.log());
    drop(link);
}

#[test]
fn orphaned_backends_are_killed() {
    let Some(mut rig) = Rig::new("orphans", true) else { return };
    let mut link = rig.configured(30, 30);
    link.lead();
    link.ok(Order::StartPrimary(sh("setsid sh -c 'while :; do :; done' & sleep 0.2; exit 1")));
    link.see("the postmaster's end", |s| s.last_exit.is_some());
    assert!(link.state.group.populated);
    link.see("the orphan's end", |s| !s.group.populated && s.phase == Phase::Leading);
    link.confirm(1);
    link.ok(Order::StartPrimary(sh("sleep 1000")));
}

#[test]
fn what_may_not_be_signalled_is_said_to_be_out_of_reach() {
    let Some(mut rig) = Rig::onlooker("onlooker") else { return };
    let mut link = rig.configured(10, 30);
    let mut run = rig.postmaster("");
    // Root's: a shell that waits for its input.
    let mut foreign = Program::new(run.argv.remove(0));
    let foreign = foreign.current_dir(rig.data_dir()).stdin(Stdio::piped());
    let mut foreign = foreign.spawn().unwrap();
    let pid = foreign.id() as i32;
    link.ok(Order::Adopt { pid, standby: true });
    assert_eq!(link.state.group.means, Means::NotFenceable);
    drop(foreign.stdin.take());
    foreign.wait().unwrap();
    link.see("the usual means", |state| state.group.means == Means::Descent);
}
