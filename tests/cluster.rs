//! Scenarios with real PostgreSQL and real etcd: a fault each, and what must hold afterwards.
//!
//! One cluster serves a list of scenarios, healed in between. In each, rows acknowledged by two
//! primaries at overlapping times are an error, and so is a lost row in synchronous mode; without
//! it the loss is printed. `SCENARIO=name` runs only those whose name contains it, `SUT=patroni`
//! puts Patroni under the test that it can pass, `LAB_LOGS=DIR` keeps the logs of a failed run.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::judge::Verdict;
use crate::lab::process::{can_make_control_groups, lives, signal};
use crate::lab::wait::{let_pass, wait_until};
use crate::lab::{self, Lab, Means, Product, Settings, pypi};

pub type Scenario = (&'static str, fn(&mut Lab));

/// The faults that must be survived by either means of fencing.
const FAULTS: &[Scenario] = &[
    ("switchover", switchover),
    ("postmaster killed", postmaster_killed),
    ("orderly stop", orderly_stop),
    ("agent killed", agent_killed),
    ("agent stopped", agent_stopped),
    ("agent stopped until fenced", agent_held),
    ("supervisor killed", supervisor_killed),
    ("supervisor killed and not restarted", supervisor_gone),
    ("node lost", node_lost),
    ("primary isolated, rewound", primary_isolated),
    ("etcd leader killed", etcd_leader_killed),
    ("ttl changed", ttl_changed),
];

const SYNCHRONOUS: &[Scenario] = &[
    ("switchover", switchover),
    ("postmaster killed", postmaster_killed),
    ("agent stopped until fenced", agent_held),
    ("supervisor killed and not restarted", supervisor_gone),
    ("node lost", node_lost),
    ("primary isolated, rewound", primary_isolated),
];

const ETCD_DOWN: &[Scenario] =
    &[("etcd down for 20 s", etcd_down_20_s), ("etcd down for 120 s", etcd_down_120_s)];

const FAILSAFE: &[Scenario] = &[
    ("failsafe, etcd down", failsafe_without_etcd),
    ("failsafe, leader cut off from etcd", failsafe_cut_off),
    ("failsafe, a member does not answer", failsafe_incomplete),
];

const PAUSE: &[Scenario] = &[
    ("etcd down in a pause", paused_without_etcd),
    ("isolated in a pause", paused_isolated),
    ("switchover and restart in a pause", paused_operator),
    ("paused leader lost", paused_leader_lost),
];

const REPLICAS: &[Scenario] = &[
    ("agent killed during a base backup", agent_killed_in_basebackup),
    ("rewind impossible, cloned again", rewind_impossible),
    ("promotions that nobody saw", unseen_promotions),
];

/// On another version of PostgreSQL.
const NEWER: &[Scenario] = &[
    ("switchover", switchover),
    ("postmaster killed", postmaster_killed),
    ("primary isolated, rewound", primary_isolated),
];

/// What Patroni passes, too: the proof of the laboratory.
const PLAIN: &[Scenario] = &[("switchover", switchover), ("postmaster killed", postmaster_killed)];

/// `SUT=patroni cargo test --test tests laboratory`; pgvigil is under all the tests below.
#[test]
fn laboratory() {
    if Product::from_environment() == Product::Patroni {
        run("Patroni", Settings::fast(Product::Patroni), PLAIN);
    }
}

#[test]
fn faults_with_a_control_group() {
    run("control group", Settings::default(), FAULTS);
}

#[test]
fn faults_without_a_control_group() {
    run("descent", Settings { means: Means::Descent, ..Settings::default() }, FAULTS);
}

#[test]
fn faults_in_synchronous_mode() {
    run("synchronous", Settings { synchronous: true, ..Settings::default() }, SYNCHRONOUS);
}

#[test]
fn postgresql_18() {
    let directory = lab::directory();
    let product = Product::from_environment();
    match pypi::postgresql_18(directory.path()) {
        Ok(bin_dir) => run("PostgreSQL 18", Settings { bin_dir, ..Settings::fast(product) }, NEWER),
        Err(reason) => println!("PostgreSQL 18: SKIPPED, {reason}"),
    }
}

#[test]
fn etcd_down() {
    run("etcd down", Settings::default(), ETCD_DOWN);
}

#[test]
fn failsafe() {
    // Longer than usual: three rounds of questions shall fit before the deadline of a busy machine.
    let times = Settings { ttl: 15, loop_wait: 2, retry_timeout: 4, ..Settings::default() };
    run("failsafe", times, FAILSAFE);
}

#[test]
fn pause() {
    run("pause", Settings::default(), PAUSE);
}

#[test]
fn replicas() {
    run("replicas", Settings::default(), REPLICAS);
}

pub fn run(cluster: &str, settings: Settings, scenarios: &[Scenario]) {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let scenarios: Vec<_> = scenarios.iter().filter(|(name, _)| name.contains(&wanted)).collect();
    if scenarios.is_empty() {
        return;
    }
    if let Some(reason) = impossible(&settings) {
        println!("{cluster}: SKIPPED, {reason}");
        return;
    }
    let Settings { ttl, means, synchronous, .. } = settings;
    let mut lab = Lab::new(settings);
    lab.bootstrap();
    println!("{cluster}: 3 members, ttl {ttl}, synchronous: {synchronous}");
    check_means(&lab, means);
    for (name, scenario) in scenarios {
        run_one(&mut lab, cluster, name, *scenario);
    }
}

pub fn run_one(lab: &mut Lab, cluster: &str, name: &str, scenario: impl FnOnce(&mut Lab)) {
    let before = leader(lab);
    let from = lab.writer().now();
    println!("{cluster}: {name} …");
    scenario(lab);
    lab.network.heal();
    let after = lab.wait_healthy(name, Duration::from_secs(90));
    let verdict = lab.judge(from);
    let after = after.leader().expect("a healthy view").number;
    let (gap, took) = (verdict.gap.as_secs_f64(), (lab.writer().now() - from).as_secs());
    let Verdict { acked, lost, overlap, .. } = verdict;
    println!("{cluster}: {name}: m{before} -> m{after}, no writes for {gap:.2} s, {took} s in all");
    println!("    {acked} rows acknowledged, {lost} of them lost, {overlap} by a second primary");
    assert!(verdict.acked > 0, "{name}: nothing was written");
    assert_eq!(verdict.overlap, 0, "{name}: rows acknowledged by two primaries");
    assert!(verdict.lost == 0 || !lab.settings.synchronous, "{name}: acknowledged rows lost");
}

/// Why this machine cannot run the scenarios.
pub fn impossible(settings: &Settings) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    if !settings.bin_dir.exists() {
        return Some(format!("no PostgreSQL in {}", settings.bin_dir.display()));
    }
    (settings.means == Means::ControlGroup && !can_make_control_groups())
        .then(|| "no control group of version 2 can be made here".to_owned())
}

/// The member itself says by which means it would fence.
fn check_means(lab: &Lab, wanted: Means) {
    if lab.settings.product == Product::Patroni {
        return;
    }
    let document = lab.get(leader(lab), "/patroni").expect("/patroni").json();
    let means = document["vigil"]["fenced_by"].as_str().unwrap_or("?").to_owned();
    println!("fencing means in force: {means}");
    let expected = match wanted {
        Means::ControlGroup => "control group",
        Means::Descent => "process by process",
    };
    assert_eq!(means, expected, "the fencing means that the leader reports");
}

pub fn leader(lab: &Lab) -> u8 {
    lab.wait_leader(None, Duration::from_secs(30))
}

fn another(lab: &Lab, than: u8) -> u8 {
    lab.numbers().find(|&n| n != than).expect("a second member")
}

/// Longer than any lease that was granted before now can last.
fn past_the_lease(lab: &Lab) -> Duration {
    Duration::from_secs(u64::from(lab.settings.ttl) + 2)
}

pub fn switchover(lab: &mut Lab) {
    let from = leader(lab);
    // In synchronous mode only the synchronous standby may take over.
    let view = lab.view(from).expect("a view");
    let synchronous = view.members.iter().find(|line| line.role == "sync_standby");
    let to = synchronous.map_or_else(|| another(lab, from), |line| line.number);
    let body = format!(r#"{{"leader":"m{from}","candidate":"m{to}"}}"#);
    let answer = lab.ask(from, "POST", "/switchover", &body);
    let view = lab.wait_healthy("switchover", Duration::from_secs(60));
    assert_eq!(view.leader().map(|leader| leader.number), Some(to), "{answer:?}");
}

pub fn postmaster_killed(lab: &mut Lab) {
    let leader = leader(lab);
    let old = lab.member(leader).postmaster();
    lab.member(leader).signal_postmaster(Signal::SIGKILL);
    let member = lab.member(leader);
    wait_until("another postmaster", Duration::from_secs(60), || {
        member.postmaster().filter(|_| member.postmaster() != old)
    });
    lab.wait_written();
}

/// `systemctl stop` on the leader: another one takes over without waiting for the lease.
fn orderly_stop(lab: &mut Lab) {
    let old = leader(lab);
    let status = lab.member(old).stop(Duration::from_secs(30));
    assert!(status.success(), "{status}");
    let new = lab.wait_leader(Some(old), Duration::from_secs(10));
    assert_eq!(lab.wait_written(), new);
    lab.member(old).start();
}

fn agent_killed(lab: &mut Lab) {
    let leader = leader(lab);
    let from = lab.writer().now();
    let postmaster = lab.member(leader).postmaster();
    let agent = lab.member(leader).agent().expect("an agent");
    signal(agent, Signal::SIGKILL);
    let member = lab.member(leader);
    wait_until("another agent", Duration::from_secs(10), || member.agent().filter(|&a| a != agent));
    let_pass(past_the_lease(lab));
    assert_untouched(lab, leader, postmaster, from);
}

/// PostgreSQL did not notice: same leader, same postmaster, no pause in the writes, no connection
/// lost.
pub fn assert_untouched(lab: &mut Lab, leader: u8, postmaster: Option<i32>, from: Duration) {
    assert_eq!(lab.wait_leader(None, Duration::from_secs(10)), leader);
    assert_eq!(lab.member(leader).postmaster(), postmaster, "the postmaster");
    assert_eq!(lab.writer().broken_since(from, leader), Vec::<String>::new());
    let gap = lab.judge(from).gap;
    assert!(gap < Duration::from_secs(1), "no writes for {gap:?}");
}

/// Stopped once: either it is replaced in time and nothing happens, or the member is fenced.
fn agent_stopped(lab: &mut Lab) {
    let leader = leader(lab);
    let agent = lab.member(leader).agent().expect("an agent");
    signal(agent, Signal::SIGSTOP);
    let_pass(past_the_lease(lab));
    lab.wait_written();
    if lives(agent) {
        signal(agent, Signal::SIGCONT);
    }
}

/// Every agent that the supervisor starts is stopped, too, until another member leads.
fn agent_held(lab: &mut Lab) {
    let old = leader(lab);
    let mut held = Vec::new();
    wait_until("another leader", Duration::from_secs(60), || {
        if let Some(agent) = lab.member(old).agent()
            && !held.contains(&agent)
        {
            signal(agent, Signal::SIGSTOP);
            held.push(agent);
        }
        let other = another(lab, old);
        lab.view(other)?.leader().map(|line| line.number).filter(|&n| n != old)
    });
    assert_ne!(lab.wait_written(), old, "the writer of the first row after the failover");
    held.into_iter().for_each(|agent| signal(agent, Signal::SIGCONT));
}

/// Restarted at once, as systemd would.
fn supervisor_killed(lab: &mut Lab) {
    let leader = leader(lab);
    let from = lab.writer().now();
    let postmaster = lab.member(leader).postmaster();
    lab.member(leader).kill_supervisor();
    lab.member(leader).start();
    let_pass(past_the_lease(lab));
    assert_untouched(lab, leader, postmaster, from);
}

/// Nobody restarts it: the sentinel fences.
fn supervisor_gone(lab: &mut Lab) {
    let old = leader(lab);
    lab.member(old).kill_supervisor();
    let new = lab.wait_leader(Some(old), Duration::from_secs(60));
    assert_eq!(lab.wait_written(), new, "the writer of the first row after the failover");
    lab.member(old).start();
}

pub fn node_lost(lab: &mut Lab) {
    let old = leader(lab);
    lab.lose(old);
    let new = lab.wait_leader(Some(old), Duration::from_secs(60));
    assert_eq!(lab.wait_written(), new);
    lab.give_back(old);
}

/// Its clients still reach it, so it acknowledges rows until it is fenced; these diverge.
fn primary_isolated(lab: &mut Lab) {
    let old = leader(lab);
    let rewinds = count_rewinds(lab, old);
    lab.isolate(old);
    let new = lab.wait_leader(Some(old), Duration::from_secs(60));
    assert_eq!(lab.wait_written(), new);
    lab.network.heal();
    lab.wait_healthy("the old primary follows", Duration::from_secs(90));
    if !lab.settings.synchronous {
        assert!(count_rewinds(lab, old) > rewinds, "no pg_rewind in the log of m{old}");
    }
}

fn count_rewinds(lab: &mut Lab, member: u8) -> usize {
    lab.member(member).log().matches("pg_rewind").count()
}

fn etcd_leader_killed(lab: &mut Lab) {
    let (leader, from) = (leader(lab), lab.writer().now());
    let postmaster = lab.member(leader).postmaster();
    let etcd = lab.etcd_leader();
    lab.kill_etcd(etcd);
    let_pass(past_the_lease(lab));
    assert_untouched(lab, leader, postmaster, from);
    lab.start_etcd(etcd);
}

fn etcd_down_for(lab: &mut Lab, time: Duration, meanwhile: fn(&mut Lab, u8)) -> (u8, Duration) {
    let (leader, from) = (leader(lab), lab.writer().now());
    let all = 1..=lab.settings.etcds;
    all.clone().for_each(|n| lab.kill_etcd(n));
    let_pass(past_the_lease(lab));
    let silent = lab.writer().newest().expect("a row").acked;
    meanwhile(lab, leader);
    let_pass((from + time).saturating_sub(lab.writer().now()));
    let newest = lab.writer().newest().expect("a row").acked;
    assert_eq!(newest, silent, "a row was acknowledged past the lease");
    all.for_each(|n| lab.start_etcd(n));
    lab.wait_written();
    (leader, from)
}

/// Frozen and thawed: no connection is lost.
fn etcd_down_20_s(lab: &mut Lab) {
    let postmasters: Vec<_> = lab.numbers().map(|n| lab.member(n).postmaster()).collect();
    let (old, from) = etcd_down_for(lab, Duration::from_secs(20), |_, _| {});
    assert_eq!(leader(lab), old);
    assert_eq!(lab.writer().broken_since(from, old), Vec::<String>::new());
    let now: Vec<_> = lab.numbers().map(|n| lab.member(n).postmaster()).collect();
    assert_eq!(now, postmasters, "the postmasters");
}

/// Longer than the freeze may last: the former primary serves reads until etcd is back.
fn etcd_down_120_s(lab: &mut Lab) {
    etcd_down_for(lab, Duration::from_secs(120), |lab, leader| {
        wait_until("read-only service", Duration::from_secs(60), || {
            let answer = lab.query(leader, "SELECT pg_is_in_recovery()").ok()?;
            (answer == [[Some("t".to_owned())]]).then_some(())
        });
    });
}

/// The leader; the store names all members for it to ask.
fn failsafe_leader(lab: &Lab) -> u8 {
    configure(lab, r#"{"failsafe_mode":true}"#);
    let leader = leader(lab);
    wait_until("/failsafe", Duration::from_secs(30), || {
        let answer = lab.get(leader, "/failsafe")?;
        let named = answer.json().as_object().map(|members| members.len());
        (named == Some(usize::from(lab.settings.members))).then_some(())
    });
    leader
}

fn in_failsafe(lab: &Lab, member: u8) -> bool {
    let document = lab.get(member, "/patroni").map(|answer| answer.json()).unwrap_or_default();
    document["failsafe_mode_is_active"] == true
}

fn failsafe_without_etcd(lab: &mut Lab) {
    let leader = failsafe_leader(lab);
    let (from, postmaster) = (lab.writer().now(), lab.member(leader).postmaster());
    (1..=lab.settings.etcds).for_each(|n| lab.kill_etcd(n));
    for _ in 0..3 {
        let_pass(past_the_lease(lab));
        assert_eq!(lab.wait_written(), leader);
        assert!(lab.numbers().all(|n| in_failsafe(lab, n)), "failsafe_mode_is_active");
        assert_eq!(lab.get(leader, "/primary").map(|answer| answer.status), Some(200));
    }
    (1..=lab.settings.etcds).for_each(|n| lab.start_etcd(n));
    lab.wait_healthy("etcd is back", Duration::from_secs(60));
    assert_untouched(lab, leader, postmaster, from);
}

/// The others see the key vanish and leave it to whom they promised.
fn failsafe_cut_off(lab: &mut Lab) {
    use crate::lab::net::Host;
    let leader = failsafe_leader(lab);
    let (from, postmaster) = (lab.writer().now(), lab.member(leader).postmaster());
    for etcd in 1..=lab.settings.etcds {
        lab.network.cut(Host::Member(leader), Host::Etcd(etcd));
    }
    let other = another(lab, leader);
    wait_until("the key vanishes", Duration::from_secs(30), || {
        lab.view(other)?.leader().is_none().then_some(())
    });
    let_pass(past_the_lease(lab));
    assert_eq!(lab.wait_written(), leader);
    lab.network.heal();
    lab.wait_healthy("the leader has its key again", Duration::from_secs(60));
    assert_untouched(lab, leader, postmaster, from);
}

/// One promise is missing: the leader is fenced in time, and goes on when etcd is back.
fn failsafe_incomplete(lab: &mut Lab) {
    let leader = failsafe_leader(lab);
    let silent = another(lab, leader);
    lab.isolate(silent);
    (1..=lab.settings.etcds).for_each(|n| lab.kill_etcd(n));
    wait_phase(lab, leader, "frozen");
    let newest = lab.writer().newest().expect("a row").acked;
    let_pass(past_the_lease(lab));
    assert_eq!(lab.writer().newest().expect("a row").acked, newest, "a row past the lease");
    lab.network.heal();
    (1..=lab.settings.etcds).for_each(|n| lab.start_etcd(n));
    lab.wait_healthy("all are back", Duration::from_secs(90));
    configure(lab, r#"{"failsafe_mode":null}"#);
    wait_until("no /failsafe", Duration::from_secs(30), || {
        (lab.get(leader, "/failsafe")?.status == 502).then_some(())
    });
}

fn agent_killed_in_basebackup(lab: &mut Lab) {
    let replica = another(lab, leader(lab));
    let answer = lab.ask(replica, "POST", "/reinitialize", r#"{"force":true}"#);
    assert_eq!(answer.map(|answer| answer.status), Some(200));
    wait_until("pg_basebackup", Duration::from_secs(30), || {
        let host = crate::lab::net::Host::Member(replica);
        lab.network.job(host, "pg_basebackup")
    });
    signal(lab.member(replica).agent().expect("an agent"), Signal::SIGKILL);
}

/// The old primary diverged and lost its WAL: only a new base backup can help.
fn rewind_impossible(lab: &mut Lab) {
    let old = leader(lab);
    lab.isolate(old);
    let new = lab.wait_leader(Some(old), Duration::from_secs(60));
    assert_eq!(lab.wait_written(), new);
    lab.lose(old);
    lab.network.heal();
    let wal = lab.member(old).data_directory().join("pg_wal");
    for entry in std::fs::read_dir(wal).expect("pg_wal").flatten() {
        if entry.file_name().len() == 24 {
            std::fs::remove_file(entry.path()).expect("removing WAL");
        }
    }
    lab.give_back(old);
}

/// Numbers that the store says were given out are skipped by the server that is promoted next, by
/// those who follow it, and by the one that is rewound over the gap.
fn unseen_promotions(lab: &mut Lab) {
    const UNSEEN: u32 = 3;
    let timeline = |lab: &mut Lab| {
        let leader = leader(lab);
        // The control file may be older than the promotion.
        let sql = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
        let rows = wait_until(sql, Duration::from_secs(30), || lab.query(leader, sql).ok());
        let digits = rows[0][0].as_deref().expect("a file name").to_owned();
        u32::from_str_radix(&digits, 16).expect("hexadecimal digits")
    };
    let before = timeline(lab);
    let document = format!(r#"{{"number":{},"leader_mod_revision":1}}"#, before + UNSEEN);
    lab.put("vigil/timeline", &document);
    switchover(lab);
    assert_eq!(timeline(lab), before + UNSEEN + 1);
    primary_isolated(lab);
    assert_eq!(timeline(lab), before + UNSEEN + 2);
}

/// Changes `/config`; by any member that answers.
pub fn configure(lab: &Lab, patch: &str) {
    wait_until(patch, Duration::from_secs(30), || {
        let answer = |n| lab.ask(n, "PATCH", "/config", patch);
        lab.numbers().find_map(|n| answer(n).filter(|answer| answer.status == 200))
    });
}

fn wait_phase(lab: &Lab, member: u8, wanted: &str) {
    wait_until(wanted, Duration::from_secs(30), || {
        let document = lab.get(member, "/patroni")?.json();
        (document["vigil"]["phase"] == wanted).then_some(())
    });
}

/// The leader, its deadline suspended.
fn pause_leader(lab: &Lab) -> u8 {
    let leader = leader(lab);
    configure(lab, r#"{"pause":true}"#);
    wait_phase(lab, leader, "paused");
    leader
}

fn resume(lab: &Lab, leader: u8) {
    configure(lab, r#"{"pause":null}"#);
    wait_phase(lab, leader, "leading");
}

/// What users pause for; afterwards all is as before, failover included.
fn paused_without_etcd(lab: &mut Lab) {
    let leader = pause_leader(lab);
    let (from, postmaster) = (lab.writer().now(), lab.member(leader).postmaster());
    let all = 1..=lab.settings.etcds;
    all.clone().for_each(|n| lab.kill_etcd(n));
    let_pass(Duration::from_secs(20));
    assert_eq!(lab.wait_written(), leader);
    all.for_each(|n| lab.start_etcd(n));
    lab.wait_healthy("etcd is back", Duration::from_secs(60));
    resume(lab, leader);
    assert_untouched(lab, leader, postmaster, from);
    node_lost(lab);
}

/// The lease runs out, nobody takes the key, and its owner takes it again.
fn paused_isolated(lab: &mut Lab) {
    let leader = pause_leader(lab);
    let (from, postmaster) = (lab.writer().now(), lab.member(leader).postmaster());
    lab.isolate(leader);
    let_pass(past_the_lease(lab) * 2);
    let other = lab.view(another(lab, leader)).expect("a view");
    assert_eq!(other.leader(), None, "nobody leads");
    lab.network.heal();
    lab.wait_healthy("the key is taken again", Duration::from_secs(30));
    resume(lab, leader);
    assert_untouched(lab, leader, postmaster, from);
    wait_caught_up(lab, leader);
}

/// A connection that was cut "streams" for as long as TCP waits before it sends again.
pub fn wait_caught_up(lab: &Lab, leader: u8) {
    let newest = lab.writer().newest().expect("a row").seq;
    for replica in lab.numbers().filter(|&n| n != leader) {
        let sql = format!("SELECT 1 FROM written WHERE seq = {newest}");
        wait_until("the newest row on the replicas", Duration::from_secs(60), || {
            lab.query(replica, &sql).ok().filter(|rows| !rows.is_empty())
        });
    }
}

fn paused_operator(lab: &mut Lab) {
    let from = lab.writer().now();
    let old = pause_leader(lab);
    switchover(lab);
    let new = leader(lab);
    assert_ne!(new, old);
    wait_phase(lab, new, "paused");
    let answer = lab.ask(new, "POST", "/restart", "{}");
    assert_eq!(answer.map(|answer| answer.status), Some(200));
    wait_phase(lab, new, "paused");
    // The service is stopped and started: PostgreSQL goes on, and nobody else leads in between.
    let (stopped, postmaster) = (lab.writer().now(), lab.member(new).postmaster());
    assert!(lab.member(new).stop(Duration::from_secs(30)).success());
    let_pass(past_the_lease(lab));
    lab.member(new).start();
    wait_phase(lab, new, "paused");
    lab.wait_healthy("started again", Duration::from_secs(60));
    assert_untouched(lab, new, postmaster, stopped);
    // An administrator's own stop is respected.
    lab.member(new).signal_postmaster(Signal::SIGINT);
    let_pass(Duration::from_secs(5));
    assert_eq!(lab.member(new).postmaster(), None, "it was started");
    let answer = lab.ask(new, "POST", "/restart", "{}");
    assert_eq!(answer.map(|answer| answer.status), Some(200));
    assert_eq!(lab.wait_written(), new);
    resume(lab, new);
    assert_eq!(lab.judge(from).lost, 0, "nobody crashed");
}

/// Only an operator can know that a paused leader does not go on somewhere.
fn paused_leader_lost(lab: &mut Lab) {
    let old = pause_leader(lab);
    lab.lose(old);
    let other = another(lab, old);
    configure(lab, r#"{"pause":null}"#);
    let_pass(past_the_lease(lab) * 2);
    assert_eq!(lab.view(other).expect("a view").leader(), None, "nobody leads");
    let why = lab.get(other, "/patroni").expect("/patroni").json()["vigil"]["why"].to_string();
    assert!(why.contains("pgvigilctl failover"), "{why}");
    let body = format!(r#"{{"candidate":"m{other}"}}"#);
    let answer = lab.ask(other, "POST", "/failover", &body);
    assert_eq!(lab.wait_leader(Some(old), Duration::from_secs(30)), other, "{answer:?}");
    assert_eq!(lab.wait_written(), other);
    lab.give_back(old);
}

/// The leader key moves to a lease of the new length, there and back, and each is in force.
fn ttl_changed(lab: &mut Lab) {
    let (leader, from) = (leader(lab), lab.writer().now());
    let postmaster = lab.member(leader).postmaster();
    let short = lab.settings.ttl;
    for ttl in [4 * short, short] {
        configure(lab, &format!(r#"{{"ttl":{ttl}}}"#));
        let margin = |n| lab.get(n, "/patroni")?.json()["vigil"]["deadline_in_ms"].as_u64();
        wait_until("the deadline of the new lease", Duration::from_secs(10), || {
            let long = margin(leader)? > u64::from(short) * 1000;
            (long == (ttl > short)).then_some(())
        });
        // The old leases run out.
        let_pass(past_the_lease(lab));
        lab.wait_healthy("after the change", Duration::from_secs(10));
    }
    assert_untouched(lab, leader, postmaster, from);
}
