//! The watchdog device and the supervisor, with a pipe for a device (`driver: testing`): what it is
//! told, and when. What it does with that is seen in virtual machines.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pgvigil::core::guard::Phase;
use pgvigil::link::order::{Configure, Order, Watchdog, WatchdogMode};

use super::rig::{Link, Rig, confirmation, sh, tenure, until};

/// ttl 5 s and a descriptor that is kept: W 4 s, T1 3.4 s.
fn leading(rig: &mut Rig, link: &mut Link) {
    assert_eq!(rig.told(), "V", "opening arms: disarmed at once");
    link.ok(Order::Campaign);
    link.see("armed", |s| s.watchdog.armed);
    assert_eq!(link.state.watchdog.timeout, Duration::from_secs(4));
    link.confirm(1);
    link.see("a ping", |s| s.watchdog.pings == 1);
    assert_eq!(rig.told(), "Ctimeout=4\n11");
}

/// A primary with its postmaster, confirmed a moment ago, and the descriptor that systemd keeps.
fn primary(rig: &mut Rig) -> (Link, OwnedFd) {
    let mut link = rig.configured(5, 30);
    let stored = rig.stored();
    leading(rig, &mut link);
    link.ok(Order::StartPrimary(rig.postmaster("while :; do sleep 0.1; done")));
    rig.wait_for_postmaster(&link);
    confirmed(&mut link);
    rig.told();
    (link, stored)
}

/// Confirmed again and again: one that was sent before the last ping by time is no proof.
fn thawed(link: &mut Link) {
    until("thawed", || {
        let seq = link.send(confirmation(1));
        link.see("the order's end", |s| s.seq_seen >= seq);
        (link.state.phase == Phase::Leading).then_some(())
    });
    link.see("it runs", |s| !s.group.frozen);
}

fn confirmed(link: &mut Link) {
    let pings = link.state.watchdog.pings;
    link.confirm(1);
    link.see("a ping", |s| s.watchdog.pings > pings);
}

#[test]
fn the_device_is_armed_with_the_lease_and_pinged_by_proof() {
    let Some(mut rig) = Rig::watched("pings") else { return };
    let mut link = rig.configured(5, 30);
    assert_eq!(link.state.watchdog.identity, "Watchdog test harness");
    assert!(link.state.watchdog.kept && !link.state.watchdog.armed);
    leading(&mut rig, &mut link);
    link.ok(Order::StartPrimary(sh("while :; do :; done")));
    confirmed(&mut link);
    assert_eq!(rig.told(), "1");
    // Nothing confirms any more: no ping before everything stands still, then by time.
    let (before, withheld) = (link.state.watchdog.pings, link.state.watchdog.withheld);
    link.see("frozen", |s| s.phase == Phase::Frozen);
    assert_eq!((link.state.watchdog.pings, withheld), (before, 0));
    link.see("pings by time", |s| s.watchdog.pings > before + 1);
    assert!(link.state.group.frozen && rig.told().starts_with("11"));
    thawed(&mut link);
    rig.told();
    link.ok(Order::LeaseLost { tenure: tenure(1) });
    link.see("fenced", |s| s.phase == Phase::Fenced && !s.watchdog.armed);
    until("disarmed", || rig.told().ends_with('V').then_some(()));
    link.send(Order::Goodbye { failed: false });
    assert_eq!(rig.exit_code(), 0);
    assert_eq!(rig.told(), "VV", "stopped in two ways before the close");
}

#[test]
fn a_standby_has_no_device_and_a_lost_race_none_either() {
    let Some(mut rig) = Rig::watched("standby") else { return };
    let mut link = rig.configured(5, 30);
    rig.told();
    link.ok(Order::StartStandby(sh("sleep 1000")));
    link.ok(Order::Campaign);
    link.see("armed", |s| s.watchdog.armed);
    // However long the race takes: nothing of ours can acknowledge.
    link.see("a ping by time", |s| s.watchdog.pings == 1);
    link.ok(Order::Withdraw);
    link.see("disarmed", |s| !s.watchdog.armed && s.group.populated);
    until("it is told", || rig.told().ends_with('V').then_some(()));
}

#[test]
fn neither_a_replacement_nor_a_crash_disarms_or_pings() {
    let Some(mut rig) = Rig::watched("keep") else { return };
    let (_link, stored) = primary(&mut rig);
    rig.signal(libc::SIGUSR2);
    let mut next = rig.configured(5, 30);
    assert_eq!(rig.told(), "");
    next.see("still armed", |s| s.watchdog.armed && s.phase == Phase::Leading);
    confirmed(&mut next);
    assert!(rig.told().ends_with('1'));
    rig.crash_with(stored);
    let mut last = rig.configured(5, 30);
    assert_eq!(rig.told(), "");
    last.see("still armed", |s| s.watchdog.armed && s.phase == Phase::Leading);
    confirmed(&mut last);
    last.see("no freeze", |s| s.counters.freezes == 0 && s.group.populated);
}

/// When the device was pinged last the new supervisor does not know.
#[test]
fn what_a_new_supervisor_freezes_is_pinged_before_the_device_fires() {
    let Some(mut rig) = Rig::watched("near") else { return };
    let (_link, stored) = primary(&mut rig);
    let pinged = Instant::now();
    // Shortly before its deadline.
    std::thread::sleep(Duration::from_secs(3));
    rig.crash_with(stored);
    let mut next = rig.configured(5, 30);
    next.see("frozen", |s| s.phase == Phase::Frozen && s.group.frozen);
    next.see("a ping", |s| s.watchdog.pings > 0);
    assert!(pinged.elapsed() < next.state.watchdog.timeout, "{:?}", pinged.elapsed());
    assert!(rig.told().ends_with('1'));
    thawed(&mut next);
}

#[test]
fn without_the_device_that_is_required_there_is_no_campaign() {
    let Some(mut rig) = Rig::watched("required") else { return };
    let mut link = rig.link();
    // Too short for the device: refused with the numbers, or done without it.
    let why = link.refused(rig.configure_device(2, 30, true));
    assert!(why.contains("ttl 2000 ms") && why.contains("timeout of 1 s"), "{why}");
    link.ok(rig.configure(2, 30));
    assert!(link.state.watchdog.trouble.contains("raise ttl"), "{:?}", link.state.watchdog);
    assert_eq!(link.state.budget.unwrap().watch, None);
    link.ok(Order::Campaign);
    link.confirm(1);
    link.ok(Order::StartStandby(sh("sleep 1000")));
    assert!(!link.state.watchdog.armed);

    let Some(mut rig) = Rig::new("none", true) else { return };
    let mut link = rig.link();
    link.ok(rig.configure_device(10, 30, true));
    let why = link.refused(Order::Campaign);
    assert!(why.contains("watchdog.mode is required"), "{why}");
    link.ok(Order::StartStandby(sh("sleep 1000")));
}

#[test]
fn a_leader_takes_a_device_that_appears_and_other_times_into_use() {
    let Some(mut rig) = Rig::watched_later("late") else { return };
    let mut link = rig.configured(5, 30);
    assert!(link.state.watchdog.node.is_empty(), "{:?}", link.state.watchdog);
    link.ok(Order::Campaign);
    link.confirm(1);
    link.ok(Order::StartPrimary(sh("while :; do :; done")));
    assert_eq!(link.state.budget.unwrap().watch, None);
    rig.show_device();
    // What the agent orders when it sees one.
    link.ok(Order::Campaign);
    link.see("armed", |s| s.watchdog.armed && s.phase == Phase::Leading);
    confirmed(&mut link);
    assert_eq!(rig.told(), "VCtimeout=4\n11");
    // A reload: from here on without.
    let Order::Configure(configure) = rig.configure(5, 30) else { unreachable!() };
    let off = Watchdog { mode: WatchdogMode::Off, ..configure.watchdog };
    link.ok(Order::Configure(Configure { watchdog: off, rho_ppm: 100_000, ..configure.clone() }));
    link.confirm(1);
    link.see("disarmed", |s| !s.watchdog.armed && s.phase == Phase::Leading);
    let budget = link.state.budget.unwrap();
    assert_eq!((budget.exclusive, budget.watch), (Duration::from_millis(4500), None));
    link.ok(Order::Configure(configure));
    link.confirm(1);
    link.see("armed again", |s| s.watchdog.armed && s.group.populated);
}

/// It fails, and ttl changes: what is required then is required still.
#[test]
fn a_device_that_is_required_and_fails_is_required_with_another_lease_too() {
    let Some(mut rig) = Rig::badly_watched("fails") else { return };
    let mut link = rig.link();
    link.ok(rig.configure_device(5, 30, true));
    link.ok(Order::Campaign);
    link.see("its failure", |s| !s.watchdog.trouble.is_empty());
    link.ok(Order::Retune { ttl: Duration::from_secs(10) });
    link.refused(confirmation(1));
    assert!(link.state.phase == Phase::Candidate && !link.state.watchdog.armed);
}
