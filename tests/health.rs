//! Servers that hang and volumes that fail, with real PostgreSQL on volumes of its own: what must
//! end does, within the time that the configuration names, and what passes by itself is left alone.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cluster::{Scenario, impossible, leader, run};
use crate::lab::process::signal;
use crate::lab::volume;
use crate::lab::wait::{let_pass, wait_until};
use crate::lab::{Lab, Settings};

/// `answer_timeout`, `write_timeout` and `storage_timeout` of these laboratories.
const LIMIT: Duration = Duration::from_secs(4);

/// From a kill that cannot be carried out to the end of the lease: the kill's patience of 1 s, the
/// ttl of 5 s, and etcd's half second.
const LEFT_TO_EXPIRE: Duration = Duration::from_millis(6500);

/// A pause between looks, the question for candidates, the race, the promotion: a few seconds, and
/// many on a machine that does much else.
const SLACK: Duration = Duration::from_secs(20);

const SCENARIOS: &[Scenario] = &[
    ("postmaster stopped", postmaster_stopped),
    ("everything of PostgreSQL stopped", all_stopped),
    ("backends stopped in a write", writer_stopped),
    ("volume hangs for a moment", volume_hangs_shortly),
    ("volume hangs", volume_hangs),
    ("volume is full", volume_full),
    ("volume turns read-only", volume_read_only),
    ("standby's volume is read-only", standby_read_only),
];

/// With `pg_wal` on a volume of its own.
const WAL_APART: &[Scenario] =
    &[("volume of pg_wal is full", wal_full), ("volume of pg_wal hangs", wal_hangs)];

#[test]
fn hung_things() {
    run_on_volumes("hung things", false, SCENARIOS);
}

#[test]
fn hung_wal() {
    run_on_volumes("hung pg_wal", true, WAL_APART);
}

fn run_on_volumes(cluster: &str, wal_apart: bool, scenarios: &[Scenario]) {
    let limits = (LIMIT.as_secs(), 5);
    let settings = Settings { health: Some(limits), wal_apart, ..Settings::default() };
    if let Some(reason) = volume::impossible().filter(|_| impossible(&settings).is_none()) {
        println!("{cluster}: SKIPPED, {reason}");
        return;
    }
    run(cluster, settings, scenarios);
}

/// Another member leads within `bound` of now; how long it took is printed.
fn handed_over(lab: &mut Lab, old: u8, what: &str, bound: Duration) {
    let begun = std::time::Instant::now();
    let new = lab.wait_leader(Some(old), bound + Duration::from_secs(30));
    assert_eq!(lab.wait_written(), new, "the writer of the first row after the failover");
    let took = begun.elapsed();
    println!("    {what}: written by another member after {took:.1?}, expected {bound:.1?}");
    assert!(took <= bound, "{took:?}");
}

/// Nobody but us continues it: only SIGKILL can end it.
fn postmaster_stopped(lab: &mut Lab) {
    let old = leader(lab);
    lab.member(old).signal_postmaster(Signal::SIGSTOP);
    handed_over(lab, old, "postmaster stopped", LIMIT + SLACK);
}

fn all_stopped(lab: &mut Lab) {
    let old = leader(lab);
    let all = lab.member(old).postgres_pids();
    assert!(all.len() > 5, "{all:?}");
    all.iter().for_each(|&pid| signal(pid, Signal::SIGSTOP));
    handed_over(lab, old, "everything stopped", LIMIT + SLACK);
}

/// The postmaster answers, but nothing can be committed: the WAL writer's lock is held by one that
/// stands still. Which process that is cannot be arranged from outside, so all but the postmaster
/// are stopped: new sessions come in and wait for what the others hold.
fn writer_stopped(lab: &mut Lab) {
    let old = leader(lab);
    let postmaster = lab.member(old).postmaster();
    let all = lab.member(old).postgres_pids();
    let backends = all.iter().filter(|&&pid| Some(pid) != postmaster);
    backends.for_each(|&pid| signal(pid, Signal::SIGSTOP));
    // Whether a stopped one holds a lock is chance. If none does, the server goes on: new
    // connections are served, and it is right to leave it alone.
    let sql = "INSERT INTO written VALUES (0, -1) ON CONFLICT DO NOTHING";
    let works = lab.query(old, sql).is_ok();
    println!("    a new session {} write", if works { "can" } else { "cannot" });
    if works {
        let_pass(LIMIT * 3);
        assert_eq!(leader(lab), old);
        assert_eq!(lab.member(old).postmaster(), postmaster);
        all.iter().for_each(|&pid| signal(pid, Signal::SIGCONT));
    } else {
        handed_over(lab, old, "nothing can be written", LIMIT + SLACK);
    }
}

fn volume_hangs_shortly(lab: &mut Lab) {
    let old = leader(lab);
    let postmaster = lab.member(old).postmaster();
    lab.member(old).volume().hang();
    let_pass(LIMIT - Duration::from_secs(1));
    lab.member(old).volume().go_on();
    assert_eq!(lab.wait_written(), old);
    assert_eq!(lab.member(old).postmaster(), postmaster, "the postmaster");
}

/// What waits for the disk cannot be killed: the lease runs out.
fn volume_hangs(lab: &mut Lab) {
    let old = leader(lab);
    lab.member(old).volume().hang();
    handed_over(lab, old, "volume hangs", LIMIT + LEFT_TO_EXPIRE + SLACK);
    let log = lab.member(old).log();
    assert!(log.contains("the volume of the data directory hangs"), "it says why");
    lab.member(old).volume().go_on();
}

/// A switchover: no acknowledged row is lost, though nothing is synchronous here.
fn volume_full(lab: &mut Lab) {
    let old = leader(lab);
    let from = lab.writer().now();
    lab.member(old).volume().fill();
    handed_over(lab, old, "volume is full", LIMIT + SLACK);
    assert_eq!(lab.judge(from).lost, 0, "acknowledged rows");
    lab.member(old).volume().empty();
}

/// PostgreSQL panics at its next write.
fn volume_read_only(lab: &mut Lab) {
    let old = leader(lab);
    lab.member(old).volume().damage();
    handed_over(lab, old, "volume is read-only", LIMIT + SLACK);
    lab.lose(old);
    lab.member(old).volume().repair();
    lab.give_back(old);
}

/// It is shown, and neither the standby is restarted again and again, nor the primary disturbed.
fn standby_read_only(lab: &mut Lab) {
    let leader = leader(lab);
    let standby = lab.numbers().find(|&n| n != leader).expect("a standby");
    let starts = |lab: &mut Lab| lab.member(standby).log().matches("postmaster started").count();
    let before = starts(lab);
    lab.member(standby).volume().damage();
    wait_until("the finding", Duration::from_secs(30), || {
        let document = lab.get(standby, "/patroni")?.json();
        let health = &document["vigil"]["health"];
        (health["fit"] == false && health["findings"].to_string().contains("read-only"))
            .then_some(())
    });
    let_pass(LIMIT * 3);
    let again = starts(lab) - before;
    println!("    PostgreSQL was started {again} times on the read-only volume");
    assert!(again <= 5, "{again} starts");
    assert_eq!(lab.wait_written(), leader);
    lab.lose(standby);
    lab.member(standby).volume().repair();
    lab.give_back(standby);
}

fn wal_full(lab: &mut Lab) {
    let old = leader(lab);
    let from = lab.writer().now();
    lab.member(old).wal_volume().fill();
    handed_over(lab, old, "volume of pg_wal is full", LIMIT + SLACK);
    assert_eq!(lab.judge(from).lost, 0, "acknowledged rows");
    assert!(lab.member(old).log().contains("the volume of pg_wal is full"), "it says why");
    lab.member(old).wal_volume().empty();
}

fn wal_hangs(lab: &mut Lab) {
    let old = leader(lab);
    lab.member(old).wal_volume().hang();
    handed_over(lab, old, "volume of pg_wal hangs", LIMIT + LEFT_TO_EXPIRE + SLACK);
    assert!(lab.member(old).log().contains("the volume of pg_wal hangs"), "it says why");
    lab.member(old).wal_volume().go_on();
}
