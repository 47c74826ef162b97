//! One cluster that goes member by member from Patroni to pgvigil and back, in synchronous mode,
//! with a fault or an operator's command at each step, while a client writes.
//!
//! `/config` asks for a ttl of 5: Patroni takes it for 20, and so must pgvigil as long as a Patroni
//! is registered. `SCENARIO=name` runs only the steps whose name contains it.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cluster::{assert_untouched, configure, impossible, leader, run_one, wait_caught_up};
use crate::lab::Product::{Patroni, Pgvigil};
use crate::lab::ctl::Said;
use crate::lab::process::signal;
use crate::lab::wait::wait_until;
use crate::lab::{Lab, Product, Settings};

/// A machine that is busy with other tests starts a Patroni in some seconds.
pub const SOON: Duration = Duration::from_secs(120);
/// Between any deadline of a lease of 5 s and any of a lease of 20 s that was renewed just now.
const BETWEEN_MS: u64 = 6_000;

struct Step {
    name: &'static str,
    /// How many of the three members are Patroni.
    patronis: usize,
    leader: Product,
    run: fn(&mut Lab),
}

const fn step(patronis: usize, leader: Product, name: &'static str, run: fn(&mut Lab)) -> Step {
    Step { name, patronis, leader, run }
}

const JOURNEY: &[Step] = &[
    step(3, Patroni, "three Patroni", nothing),
    step(2, Patroni, "Patroni leads: configuration from either ctl", configuration),
    step(2, Patroni, "Patroni leads: pause and resume from either ctl", pause_and_resume),
    step(2, Patroni, "Patroni leads: agents restarted", agents_restarted),
    step(2, Patroni, "failover from Patroni to pgvigil", lost),
    step(2, Pgvigil, "pgvigil leads: configuration from either ctl", configuration),
    step(2, Pgvigil, "pgvigil leads: pause and resume from either ctl", pause_and_resume),
    step(2, Pgvigil, "pgvigil leads: agents restarted", agents_restarted),
    step(2, Pgvigil, "switchover to Patroni and back", there_and_back),
    step(2, Pgvigil, "pgvigil isolated, Patroni takes over", isolated),
    step(1, Patroni, "Patroni isolated, pgvigil takes over", isolated),
    step(1, Patroni, "Patroni stopped in good order", stopped),
    step(1, Pgvigil, "pgvigil stopped in good order", stopped),
    step(0, Pgvigil, "three pgvigil", nothing),
    step(2, Pgvigil, "failover from pgvigil to Patroni", lost),
    step(3, Patroni, "three Patroni again", nothing),
    step(3, Patroni, "replicas taken over in a pause", taken_over_in_a_pause),
];

#[test]
fn there_and_back_again() {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let steps: Vec<&Step> = JOURNEY.iter().filter(|step| step.name.contains(&wanted)).collect();
    let settings = Settings { synchronous: true, ..Settings::default() };
    if steps.is_empty() {
        return;
    }
    if let Some(reason) = impossible(&settings) {
        println!("mixed: SKIPPED, {reason}");
        return;
    }
    let mut lab = Lab::new(settings);
    lab.numbers().for_each(|number| lab.set_product(number, Patroni));
    lab.bootstrap();
    // A Patroni that bootstraps writes what it takes the file's values for.
    configure(&lab, r#"{"ttl":5,"retry_timeout":2}"#);
    let from = lab.writer().now();
    for step in steps {
        run_one(&mut lab, "mixed", step.name, |lab| {
            arrange(lab, step.patronis, step.leader);
            (step.run)(lab);
        });
    }
    let whole = lab.judge(from);
    println!("mixed: {whole:?}");
    assert_eq!((whole.lost, whole.overlap), (0, 0), "the whole way");
}

/// Exchanges programs until so many members are Patroni and a member of this kind leads.
pub fn arrange(lab: &mut Lab, patronis: usize, leading: Product) {
    loop {
        let have = lab.numbers().filter(|&n| lab.product(n) == Patroni).count();
        let to = match have.cmp(&patronis) {
            std::cmp::Ordering::Less => Patroni,
            std::cmp::Ordering::Equal => break,
            std::cmp::Ordering::Greater => Pgvigil,
        };
        let leader = leader(lab);
        match lab.numbers().find(|&n| n != leader && lab.product(n) != to) {
            Some(replica) => exchange(lab, replica, to),
            None => {
                let heir = candidate(lab, to);
                switch_to(lab, heir, to);
            }
        }
    }
    if lab.product(leader(lab)) != leading {
        let heir = candidate(lab, leading);
        switch_to(lab, heir, leading);
    }
    check_floor(lab);
}

/// A replica of this kind that may take over.
fn candidate(lab: &mut Lab, wanted: Product) -> u8 {
    if lab.settings.synchronous {
        return make_synchronous(lab, wanted);
    }
    let leader = leader(lab);
    let all = lab.numbers().find(|&n| n != leader && lab.product(n) == wanted);
    all.expect("a replica of that kind")
}

/// As an administrator migrates a node: stop the one service, start the other.
fn exchange(lab: &mut Lab, number: u8, to: Product) {
    let status = lab.member(number).stop(SOON);
    assert!(status.success(), "m{number}: {status}");
    lab.set_product(number, to);
    lab.member(number).start();
    lab.wait_healthy("a member's program exchanged", SOON);
}

fn synchronous_standby(lab: &Lab) -> u8 {
    wait_until("a synchronous standby", SOON, || {
        let view = lab.view(leader(lab))?;
        view.members.iter().find(|line| line.role == "sync_standby").map(|line| line.number)
    })
}

/// Sees to it that the synchronous standby is of this kind. Both products keep the present one
/// while it streams.
pub fn make_synchronous(lab: &mut Lab, wanted: Product) -> u8 {
    let present = synchronous_standby(lab);
    if lab.product(present) == wanted {
        return present;
    }
    assert!(lab.member(present).stop(SOON).success(), "m{present}");
    let other = wait_until("another synchronous standby", SOON, || {
        Some(synchronous_standby(lab)).filter(|&standby| standby != present)
    });
    lab.member(present).start();
    lab.wait_healthy("the other standby is back", SOON);
    assert_eq!(lab.product(other), wanted);
    other
}

/// By this product's ctl.
pub fn switch_to(lab: &mut Lab, candidate: u8, by: Product) {
    let (from, to) = (format!("m{}", leader(lab)), format!("m{candidate}"));
    let arguments = ["switchover", "--leader", &from, "--candidate", &to, "--force"];
    let said = lab.ctl(by, &arguments);
    let done = format!("Successfully switched over to \"{to}\"");
    assert!(said.code == Some(0) && said.out.contains(&done), "{said:?}");
    let view = lab.wait_healthy("switchover", SOON);
    assert_eq!(view.leader().map(|leader| leader.number), Some(candidate));
}

/// A leading pgvigil says how far its deadline is: its lease is Patroni's shortest as long as there
/// is a Patroni, and the configured one when the last is gone.
fn check_floor(lab: &Lab) {
    let leader = leader(lab);
    if lab.product(leader) == Patroni {
        return;
    }
    let patroni = lab.numbers().any(|n| lab.product(n) == Patroni);
    wait_until("a lease as long as the members want", SOON, || {
        let document = lab.get(leader, "/patroni")?.json();
        let deadline = document["vigil"]["deadline_in_ms"].as_u64()?;
        ((deadline > BETWEEN_MS) == patroni).then_some(())
    });
}

fn nothing(lab: &mut Lab) {
    lab.wait_written();
}

fn configuration(lab: &mut Lab) {
    let leader = leader(lab);
    let (from, postmaster) = (lab.writer().now(), lab.member(leader).postmaster());
    let kib = 1024 + u64::try_from(from.as_millis()).expect("a time") % 1000;
    for (by, kib) in [(Patroni, kib), (Pgvigil, kib + 1)] {
        let change = format!("work_mem={kib}kB");
        let said = lab.ctl(by, &["edit-config", "--force", "-p", &change]);
        assert!(said.code == Some(0) && said.out.contains("Configuration changed"), "{said:?}");
        for number in lab.numbers() {
            wait_until("the parameter in force", SOON, || {
                let rows = lab.query(number, "SHOW work_mem").ok()?;
                (rows == [[Some(format!("{kib}kB"))]]).then_some(())
            });
        }
    }
    assert_eq!(lab.ctl(Patroni, &["show-config"]), lab.ctl(Pgvigil, &["show-config"]));
    assert_untouched(lab, leader, postmaster, from);
}

fn pause_and_resume(lab: &mut Lab) {
    let leader = leader(lab);
    let (from, postmaster) = (lab.writer().now(), lab.member(leader).postmaster());
    for (pauses, resumes) in [(Patroni, Pgvigil), (Pgvigil, Patroni)] {
        let said = lab.ctl(pauses, &["pause", "--wait"]);
        assert!(succeeded(&said, "cluster management is paused"), "{said:?}");
        for number in lab.numbers() {
            let view = lab.view(number).expect("a view");
            assert!(view.paused, "m{number} does not say that the cluster is paused");
        }
        let said = lab.ctl(resumes, &["resume", "--wait"]);
        assert!(succeeded(&said, "cluster management is resumed"), "{said:?}");
        for number in lab.numbers() {
            let view = lab.view(number).expect("a view");
            assert!(!view.paused, "m{number} says that the cluster is paused");
        }
    }
    assert_untouched(lab, leader, postmaster, from);
}

fn succeeded(said: &Said, what: &str) -> bool {
    said.code == Some(0) && said.out.contains(&format!("Success: {what}"))
}

/// What watches over PostgreSQL dies everywhere; PostgreSQL goes on.
fn agents_restarted(lab: &mut Lab) {
    let leader = leader(lab);
    let from = lab.writer().now();
    let before: Vec<_> = lab.numbers().map(|n| lab.member(n).postmaster()).collect();
    for number in lab.numbers() {
        if let Some(agent) = lab.member(number).agent() {
            signal(agent, Signal::SIGKILL);
            let member = lab.member(number);
            wait_until("another agent", SOON, || member.agent().filter(|&a| a != agent));
        }
        lab.member(number).kill_supervisor();
        lab.member(number).start();
        lab.wait_healthy("an agent restarted", SOON);
    }
    let after: Vec<_> = lab.numbers().map(|n| lab.member(n).postmaster()).collect();
    assert_eq!(before, after, "the postmasters");
    assert_untouched(lab, leader, before[usize::from(leader) - 1], from);
}

/// Each Patroni but the leader is stopped in a pause, in which PostgreSQL goes on, and a pgvigil
/// adopts it. Not the leader: no lease of ours covers its primary, and outside of our control group
/// (nobody here is root, to take it in) it cannot be frozen until Patroni's ends, but is killed.
fn taken_over_in_a_pause(lab: &mut Lab) {
    // The last one that changed its product may still be about to be rewound.
    lab.wait_healthy("three Patroni", SOON);
    let (leader, from) = (leader(lab), lab.writer().now());
    let before: Vec<_> = wait_until("three postmasters", SOON, || {
        lab.numbers().map(|n| lab.member(n).postmaster().map(Some)).collect()
    });
    let said = lab.ctl(Patroni, &["pause", "--wait"]);
    assert!(succeeded(&said, "cluster management is paused"), "{said:?}");
    for number in lab.numbers().filter(|&number| number != leader) {
        let status = lab.member(number).stop(SOON);
        assert!(status.success(), "m{number}: {status}");
        assert_eq!(lab.member(number).postmaster(), before[usize::from(number) - 1]);
        lab.set_product(number, Pgvigil);
        lab.member(number).start();
        wait_until("a member in the pause", SOON, || lab.view(number)?.paused.then_some(()));
    }
    let said = lab.ctl(Pgvigil, &["resume", "--wait"]);
    assert!(succeeded(&said, "cluster management is resumed"), "{said:?}");
    lab.wait_healthy("taken over", SOON);
    let after: Vec<_> = lab.numbers().map(|n| lab.member(n).postmaster()).collect();
    assert_eq!(before, after, "the postmasters");
    assert_untouched(lab, leader, before[usize::from(leader) - 1], from);
}

/// The other product than the one that leads.
fn other_kind(lab: &Lab) -> Product {
    match lab.product(leader(lab)) {
        Patroni => Pgvigil,
        Pgvigil => Patroni,
    }
}

fn there_and_back(lab: &mut Lab) {
    for by in [Patroni, Pgvigil] {
        let to = other_kind(lab);
        let standby = make_synchronous(lab, to);
        switch_to(lab, standby, by);
    }
}

/// The leader's machine is gone, and a member of the other kind takes over.
fn lost(lab: &mut Lab) {
    let (old, heir) = heir(lab);
    lab.lose(old);
    assert_eq!(lab.wait_leader(Some(old), SOON), heir);
    assert_eq!(lab.wait_written(), heir);
    lab.give_back(old);
}

fn heir(lab: &mut Lab) -> (u8, u8) {
    let kind = other_kind(lab);
    let heir = make_synchronous(lab, kind);
    (leader(lab), heir)
}

/// Cut from etcd and its peers, not from its clients; the old leader follows afterwards.
fn isolated(lab: &mut Lab) {
    let (old, heir) = heir(lab);
    lab.isolate(old);
    assert_eq!(lab.wait_leader(Some(old), SOON), heir);
    assert_eq!(lab.wait_written(), heir);
    lab.network.heal();
    lab.wait_healthy("the old leader follows", SOON);
    wait_caught_up(lab, heir);
}

/// The key is given up at once: nobody waits for the lease.
fn stopped(lab: &mut Lab) {
    let (old, heir) = heir(lab);
    let from = lab.writer().now();
    assert!(lab.member(old).stop(SOON).success(), "m{old}");
    assert_eq!(lab.wait_leader(Some(old), SOON), heir);
    assert_eq!(lab.wait_written(), heir);
    let gap = lab.judge(from).gap;
    assert!(gap < Duration::from_secs(15), "no writes for {gap:?}: the lease was waited for");
    lab.member(old).start();
}
