//! What is done to the machines, and what must hold afterwards.

use std::time::{Duration, Instant};

use super::PATIENCE;
use super::cluster::{Cluster, Device, GROUPS};
use super::guest::Guest;
use super::table::{Row, seconds};
use crate::lab::net::Host;
use crate::lab::wait::{let_pass, wait_until};

/// All of pgvigil's own processes.
const OWN: &str = "{supervisor,agent,sentinel}";
/// How far from its nominal time a device in an emulated machine fires: FENCING.md 6.1 measured 60
/// ms at worst on an idle host. What is allowed here covers a host that is busy.
const LATE: Duration = Duration::from_millis(1500);
/// The timeout of a calibration.
const CALIBRATED_S: u64 = 10;

fn pids(groups: &str) -> String {
    format!("$(cat {GROUPS}/{groups}/cgroup.procs)")
}

fn is_so(guest: &Guest, test: &str) -> bool {
    guest.try_run(test).is_some_and(|answer| answer.status == 0)
}

fn wait_for(guest: &Guest, what: &str, test: &str) {
    wait_until(what, PATIENCE, || is_so(guest, test).then_some(()));
}

fn postmaster(guest: &Guest) -> String {
    guest.run("head -n 1 /data/pgvigil/data/postmaster.pid")
}

/// What was measured of a machine that its device reset.
struct Reset {
    /// From the fault to the reset. The last ping came up to one renewal before the fault.
    after: Duration,
    /// From the fault to the first row of the other one.
    other_after: Duration,
    rejoined_after: Duration,
}

/// A fault on the primary that its device must end: the machine is reset, before the other one
/// leads; no rows overlap; the machine comes back and follows by itself.
fn must_reset(cluster: &mut Cluster, fault: impl FnOnce(&Guest)) -> Reset {
    let old = cluster.leader();
    let told = cluster.told(old);
    println!("    before: renewal {} ms ago, device {}", told["evidence_age_ms"], told["watchdog"]);
    let from = cluster.lab.writer().now();
    let guest = cluster.guest(old);
    let (boots, begun) = (guest.boots(), Instant::now());
    fault(guest);
    let struck = Instant::now();
    let resets = || guest.resets(begun);
    let reset = wait_until("a reset", PATIENCE, || resets().first().cloned());
    let after = reset.at.saturating_duration_since(begun);
    println!("    m{old} was reset after {}", seconds(after));
    let new = cluster.other(old);
    let led = wait_until("rows of the other one", PATIENCE, || cluster.first_row(new, from));
    let reset_at = cluster.on_writers_clock(reset.at);
    println!("    m{new} writes {} after the reset", seconds(led.saturating_sub(reset_at)));
    assert!(reset_at < led, "reset at {reset_at:?}, but m{new} wrote at {led:?}");
    guest.wait_booted(boots + 1);
    println!("    m{old} is up again");
    cluster.wait_healthy("the machine that was reset follows");
    assert_eq!(cluster.acknowledged(from).overlap, 0, "rows of two primaries");
    assert_eq!(resets().len(), 1, "resets: {:?}", resets());
    let struck_at = cluster.on_writers_clock(struck);
    Reset { after, other_after: led.saturating_sub(struck_at), rejoined_after: struck.elapsed() }
}

fn row(predicted: String, found: &Reset) -> Row {
    let Reset { after, other_after, rejoined_after } = found;
    Row {
        predicted,
        measured: format!(
            "reset after {}, the other one writes after {}, it follows again after {}, no overlap",
            seconds(*after),
            seconds(*other_after),
            seconds(*rejoined_after)
        ),
    }
}

/// A reset by the device that the leader armed, at its time: one timeout after the last ping, which
/// was not older than T1 when the fault came, or PostgreSQL would have been frozen already. (On an
/// idle host it is one pause between renewals, but no verdict rests on that.)
fn must_be_bitten(cluster: &mut Cluster, fault: impl FnOnce(&Guest)) -> Row {
    let (old, begun) = (cluster.leader(), Instant::now());
    let budget = cluster.budget();
    let watch = budget.watch.expect("a device");
    let bites = cluster.guest(old).softdog_bites();
    let found = must_reset(cluster, fault);
    let softdog = cluster.guest(old).softdog_bites() - bites;
    let hardware = cluster.guest(old).watchdog_events(begun).len();
    let expected = if Device::of(old) == Device::Softdog { (1, 0) } else { (0, 1) };
    assert_eq!((softdog, hardware), expected, "who reset m{old}: softdog, i6300esb");
    let earliest = watch.set.saturating_sub(budget.t1);
    let after = found.after;
    assert!(after >= earliest, "{after:?}, not before {earliest:?}");
    assert!(after <= watch.reset + LATE, "{after:?}, at the latest {:?}", watch.reset);
    row(format!("reset after {} to {}", seconds(earliest), seconds(watch.reset)), &found)
}

pub fn supervisor_stopped(cluster: &mut Cluster) -> Row {
    must_be_bitten(cluster, |guest| {
        guest.run(&format!("kill -STOP {}", pids("supervisor")));
    })
}

/// The fault of the negative control.
pub fn all_stopped(cluster: &mut Cluster) -> Row {
    must_be_bitten(cluster, |guest| {
        guest.run(&format!("kill -STOP {}", pids(OWN)));
    })
}

/// systemd does not start it again in time. Without the duplicate of the descriptor in systemd's
/// store its end would be one more ping.
pub fn supervisor_gone(cluster: &mut Cluster) -> Row {
    let unit = "/run/systemd/system/pgvigil.service.d";
    cluster.guest(cluster.leader()).run(&format!(
        "mkdir -p {unit}; printf '[Service]\\nRestartSec=600\\n' >{unit}/late.conf; \
         systemctl daemon-reload"
    ));
    must_be_bitten(cluster, |guest| {
        guest.run(&format!("kill -KILL {}", pids("supervisor")));
    })
}

/// More urgent than all of ours, on every processor, for ever. Nothing answers any more.
pub fn starved(cluster: &mut Cluster) -> Row {
    must_be_bitten(cluster, |guest| {
        guest.run(
            "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; \
             (sleep 1; for i in $(seq $(nproc)); do chrt -f 99 sh -c 'while :; do :; done' & \
             done) >/dev/null 2>&1 &",
        );
        let_pass(Duration::from_secs(1));
    })
}

pub fn panicked(cluster: &mut Cluster) -> Row {
    must_be_bitten(cluster, |guest| {
        guest.run("(sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &");
        let_pass(Duration::from_secs(1));
    })
}

pub fn interrupts_off(cluster: &mut Cluster) -> Row {
    must_be_bitten(cluster, Guest::hang)
}

/// Every write to the data disk waits for ever. The processes that wait there cannot be killed.
pub fn disk_hung(cluster: &mut Cluster) -> Row {
    let found = must_reset(cluster, |guest| {
        guest.run("dmsetup suspend --nolockfs --noflush data");
    });
    row("a reset, and it follows again".to_owned(), &found)
}

/// All of pgvigil is stopped and there is no device: the other one leads when the lease is over,
/// and the old primary goes on acknowledging. What the other scenarios count as zero can be seen.
pub fn negative_control(cluster: &mut Cluster) -> Row {
    let old = cluster.leader();
    let from = cluster.lab.writer().now();
    cluster.guest(old).run(&format!("kill -STOP {}", pids(OWN)));
    let new = cluster.wait_other_leader(old);
    let overlap = wait_until("rows of two primaries", PATIENCE, || {
        let overlap = cluster.acknowledged(from).overlap;
        (overlap > 20).then_some(overlap)
    });
    let begun = cluster.first_row(new, from).expect("a row of the other one");
    // It finds the key gone: killed, and rewound.
    cluster.guest(old).run(&format!("kill -CONT {}", pids(OWN)));
    cluster.wait_healthy("the old primary follows");
    let later = cluster.lab.writer().now();
    cluster.lab.wait_written();
    assert_eq!(cluster.acknowledged(later).overlap, 0);
    Row {
        predicted: "overlap from the end of the lease on".to_owned(),
        measured: format!("{overlap} rows of two primaries, from {} on", seconds(begun - from)),
    }
}

/// etcd is away for longer than the deadline and shorter than `freeze_max`.
pub fn freeze_and_thaw(cluster: &mut Cluster) -> Row {
    let leader = cluster.leader();
    let from = cluster.lab.writer().now();
    let before = postmaster(cluster.guest(leader));
    cluster.lab.kill_etcd(1);
    let guest = cluster.guest(leader);
    let frozen = format!("grep -qx 'frozen 1' {GROUPS}/postgres/cgroup.events");
    wait_for(guest, "a frozen group", &frozen);
    let newest = cluster.last_row(leader).expect("a row");
    println!("    systemctl status: {}", guest.run("systemctl show -P StatusText pgvigil"));
    let_pass(Duration::from_secs(3));
    assert_eq!(cluster.last_row(leader), Some(newest), "acknowledged by a frozen primary");
    cluster.lab.start_etcd(1);
    assert_eq!(cluster.lab.wait_written(), leader);
    assert_eq!(cluster.lab.writer().broken_since(from, leader), Vec::<String>::new());
    let guest = cluster.guest(leader);
    assert_eq!(postmaster(guest), before, "the postmaster");
    println!("{}", guest.run("journalctl -q --no-pager -o cat -u pgvigil | grep -iE 'froze|thaw'"));
    let gap = cluster.acknowledged(from).gap;
    Row {
        predicted: "frozen at the deadline, thawed, no connection lost".to_owned(),
        measured: format!(
            "last row {} after etcd's end, no writes for {}, same postmaster",
            seconds(newest.saturating_sub(from)),
            seconds(gap)
        ),
    }
}

/// What a fault that must not be noticed leaves: no reset, same leader, same postmaster, no
/// connection lost.
fn undisturbed(cluster: &mut Cluster, fault: impl FnOnce(&Guest)) -> Duration {
    let leader = cluster.leader();
    let from = cluster.lab.writer().now();
    let guest = cluster.guest(leader);
    let (before, begun) = (postmaster(guest), Instant::now());
    assert!(cluster.is_armed(leader), "the device of the leader is not armed");
    fault(guest);
    let_pass(Duration::from_secs(u64::from(super::TTL) + 2));
    assert_eq!(cluster.lab.wait_written(), leader);
    assert_eq!(postmaster(guest), before, "the postmaster");
    assert_eq!(cluster.lab.writer().broken_since(from, leader), Vec::<String>::new());
    assert_eq!(guest.resets(begun).len(), 0, "resets");
    assert!(cluster.is_armed(leader), "the device of the leader is not armed any more");
    cluster.acknowledged(from).gap
}

fn quiet(gap: Duration) -> Row {
    Row {
        predicted: "no reset, no disarming, same postmaster, no connection lost".to_owned(),
        measured: format!("so; longest time without a row {}", seconds(gap)),
    }
}

/// systemd starts it again, the descriptor comes back from its store.
pub fn supervisor_killed(cluster: &mut Cluster) -> Row {
    quiet(undisturbed(cluster, |guest| {
        guest.run(&format!("kill -KILL {}", pids("supervisor")));
    }))
}

pub fn replaced_and_restarted(cluster: &mut Cluster) -> Row {
    quiet(undisturbed(cluster, |guest| {
        guest.run("systemctl kill --kill-whom=main --signal=USR2 pgvigil");
        let_pass(Duration::from_secs(5));
        guest.run(&format!("kill -KILL {}", pids("agent")));
    }))
}

/// The other one leads after a fault that must not cost the machine.
fn must_hand_over(cluster: &mut Cluster, fault: impl FnOnce(&Guest)) -> (Duration, Duration) {
    let old = cluster.leader();
    let from = cluster.lab.writer().now();
    let begun = Instant::now();
    fault(cluster.guest(old));
    let new = cluster.other(old);
    let led = wait_until("rows of the other one", PATIENCE, || cluster.first_row(new, from));
    assert_eq!(cluster.acknowledged(from).overlap, 0, "rows of two primaries");
    assert_eq!(cluster.guest(old).resets(begun).len(), 0, "resets");
    let last = cluster.last_row(old).unwrap_or_default();
    (last.saturating_sub(from), led.saturating_sub(from))
}

fn handed_over(predicted: &str, (last, led): (Duration, Duration)) -> Row {
    Row {
        predicted: predicted.to_owned(),
        measured: format!(
            "its last row after {}, the other one writes after {}, no reset, no overlap",
            seconds(last),
            seconds(led)
        ),
    }
}

/// Each agent that is started is stopped, too: frozen, killed after `freeze_max`, and the machine
/// stays up, because what is frozen or dead needs no reset.
pub fn agents_stopped(cluster: &mut Cluster) -> Row {
    let old = cluster.leader();
    let times = must_hand_over(cluster, |guest| {
        guest.run(&format!(
            "touch /run/hold; (while [ -e /run/hold ]; do kill -STOP {}; sleep 0.2; done) \
             >/dev/null 2>&1 &",
            pids("agent")
        ));
    });
    let guest = cluster.guest(old);
    guest.run(&format!("rm /run/hold; sleep 1; kill -CONT {}", pids("agent")));
    handed_over("frozen, fenced, no reset", times)
}

/// Everything of PostgreSQL is stopped; the machine and pgvigil are well.
pub fn postgres_stopped(cluster: &mut Cluster) -> Row {
    let times = must_hand_over(cluster, |guest| {
        guest.run(&format!("kill -STOP {}", pids("postgres")));
    });
    handed_over("handed over, no reset", times)
}

/// What the machine sends to etcd and to the other one is lost; its clients still reach it.
fn cut(cluster: &Cluster, member: u8) {
    let nobody = "lladdr 02:00:00:00:00:99 nud permanent dev eth0";
    for host in [Host::Etcd(1), Host::Member(cluster.other(member))] {
        cluster.guest(member).run(&format!("ip neigh replace {} {nobody}", host.address()));
    }
}

fn heal(cluster: &Cluster, member: u8) {
    cluster.guest(member).run("ip neigh flush nud permanent dev eth0");
}

/// Back before the lease is over.
pub fn cut_for_a_while(cluster: &mut Cluster) -> Row {
    let leader = cluster.leader();
    let t1 = cluster.budget().t1;
    let from = cluster.lab.writer().now();
    let before = postmaster(cluster.guest(leader));
    cut(cluster, leader);
    let frozen = format!("grep -qx 'frozen 1' {GROUPS}/postgres/cgroup.events");
    wait_for(cluster.guest(leader), "a frozen group", &frozen);
    heal(cluster, leader);
    assert_eq!(cluster.lab.wait_written(), leader);
    assert_eq!(postmaster(cluster.guest(leader)), before, "the postmaster");
    assert_eq!(cluster.lab.writer().broken_since(from, leader), Vec::<String>::new());
    let gap = cluster.acknowledged(from).gap;
    Row {
        predicted: format!("frozen within {}, thawed", seconds(t1)),
        measured: format!("no writes for {}, same postmaster, no reset", seconds(gap)),
    }
}

/// For good: killed after `freeze_max`, and the machine stays up.
pub fn cut_off(cluster: &mut Cluster) -> Row {
    let old = cluster.leader();
    let begun = Instant::now();
    let mut found = (Duration::ZERO, Duration::ZERO);
    let from = cluster.lab.writer().now();
    cut(cluster, old);
    let new = cluster.other(old);
    let led = wait_until("rows of the other one", PATIENCE, || cluster.first_row(new, from));
    found.1 = led.saturating_sub(from);
    found.0 = cluster.last_row(old).unwrap_or_default().saturating_sub(from);
    // Long enough for a device that is pinged no more.
    let_pass(Duration::from_secs(u64::from(super::TTL)));
    heal(cluster, old);
    cluster.wait_healthy("the old primary follows");
    assert_eq!(cluster.guest(old).resets(begun).len(), 0, "resets");
    assert_eq!(cluster.acknowledged(from).overlap, 0, "rows of two primaries");
    handed_over("frozen, killed after freeze_max, no reset", found)
}

/// The same with a device that nothing can stop: it is pinged for as long as all is fenced.
pub fn cut_off_nowayout(cluster: &mut Cluster) -> Row {
    let leader = cluster.leader();
    let load = "systemctl stop pgvigil; modprobe -r softdog; modprobe softdog nowayout=1; \
                udevadm settle; systemctl start pgvigil";
    cluster.guest(leader).run(load);
    cluster.wait_healthy("with nowayout");
    cluster.make_leader(leader);
    let nowayout = cluster.guest(leader).run(&cluster.sysfs(leader, "nowayout"));
    assert_eq!(nowayout, "1");
    cut_off(cluster)
}

/// `pgvigil watchdog calibrate` on the replica's machine: refused while PostgreSQL runs and without
/// the machine's name, then a reset, and a factor that `doctor` counts with.
pub fn calibrated(cluster: &mut Cluster) -> Row {
    let (leader, from) = (cluster.leader(), cluster.lab.writer().now());
    let number = cluster.other(leader);
    let guest = cluster.guest(number);
    let identity = Device::of(number).identity();
    let device = format!(
        "/dev/$(basename $(dirname $(grep -lx '{identity}' /sys/class/watchdog/*/identity)))"
    );
    let command = format!("pgvigil watchdog calibrate --device {device} --timeout {CALIBRATED_S}");
    let refused = |command: &str, why: &str| {
        let answer = guest.try_run(command).expect("an answer");
        assert!(answer.status != 0 && answer.output.contains(why), "{}", answer.output);
    };
    refused(&format!("{command} --yes m{number}"), "PostgreSQL runs here");
    guest.run("systemctl stop pgvigil");
    refused(&format!("echo yes | {command}"), "nothing was done");
    let (boots, begun) = (guest.boots(), Instant::now());
    guest.run(&format!("{command} --yes m{number} >/dev/null 2>&1 &"));
    guest.wait_booted(boots + 1);
    let resets = guest.resets(begun);
    assert_eq!(resets.len(), 1, "resets: {resets:?}");
    let after = resets[0].at.saturating_duration_since(begun);
    assert!(after >= Duration::from_secs(CALIBRATED_S), "{after:?}");
    let said = guest.run(&command);
    assert!(said.contains("resets within"), "{said}");
    println!("    {said}");
    let doctor = guest.try_run("pgvigil doctor /etc/pgvigil/pgvigil.yml").expect("doctor").output;
    assert!(doctor.contains("as measured here"), "{doctor}");
    guest.run("rm /var/lib/pgvigil/watchdog-calibration; systemctl restart pgvigil");
    cluster.wait_healthy("the replica is back");
    assert_eq!(cluster.leader(), leader);
    assert_eq!(cluster.lab.writer().broken_since(from, leader), Vec::<String>::new());
    let factor = said.split_whitespace().find(|word| word.starts_with("1.")).unwrap_or_default();
    Row {
        predicted: format!("{identity}: reset after {CALIBRATED_S} s, counted 1.01 times"),
        measured: format!(
            "reset {} after the command, {factor} times with what writing costs, the leader \
             undisturbed",
            seconds(after)
        ),
    }
}

/// The device counts only while its machine has a primary.
pub fn orderly(cluster: &mut Cluster) -> Row {
    let begun = Instant::now();
    let one = cluster.leader();
    assert!(cluster.is_armed(one), "armed while leading");
    cluster.make_leader(cluster.other(one));
    assert!(!cluster.is_armed(one), "disarmed after a switchover");
    let two = cluster.leader();
    configure(cluster, r#"{"pause":true}"#);
    wait_until("a device disarmed by the pause", PATIENCE, || {
        (!cluster.is_armed(two)).then_some(())
    });
    configure(cluster, r#"{"pause":null}"#);
    wait_until("an armed device", PATIENCE, || cluster.is_armed(two).then_some(()));
    cluster.guest(two).run("systemctl stop pgvigil");
    assert!(!cluster.is_armed(two), "disarmed by the stop");
    assert_eq!(cluster.wait_other_leader(two), one);
    let_pass(Duration::from_secs(u64::from(super::TTL)));
    cluster.guest(two).run("systemctl start pgvigil");
    cluster.wait_healthy("started again");
    for n in cluster.lab.numbers() {
        assert_eq!(cluster.guest(n).resets(begun).len(), 0, "resets of m{n}");
    }
    Row {
        predicted: "disarmed by each, no reset".to_owned(),
        measured: "so, seen in /sys/class/watchdog".to_owned(),
    }
}

fn configure(cluster: &Cluster, patch: &str) {
    wait_until(patch, PATIENCE, || {
        let answer = cluster.lab.ask(cluster.leader(), "PATCH", "/config", patch)?;
        (answer.status == 200).then_some(())
    });
}
