//! `make bench`: how long a client cannot write, for three faults at several ttl, and what the
//! member's own processes cost at rest. Not a test: it prints, and fails only where a scenario
//! does. `SUT=patroni` measures Patroni, `RUNS=n` repeats each fault n times.

use std::time::Duration;

use crate::cluster::{impossible, node_lost, postmaster_killed, switchover};
use crate::lab::process::{self, Cost};
use crate::lab::wait::let_pass;
use crate::lab::{Lab, Product, Settings};

type Fault = (&'static str, fn(&mut Lab));

const FAULTS: &[Fault] = &[
    ("switchover", switchover),
    ("postmaster killed", postmaster_killed),
    ("node lost", node_lost),
];

/// ttl, loop_wait, retry_timeout in seconds.
const PGVIGIL: &[(u32, u32, u32)] = &[(30, 10, 10), (10, 2, 4), (5, 1, 2)];
/// Its validator accepts no ttl below 20.
const PATRONI: &[(u32, u32, u32)] = &[(30, 10, 10), (20, 1, 3)];

const REST: Duration = Duration::from_secs(60);

#[test]
#[ignore = "a benchmark of some minutes: make bench"]
fn bench() {
    let product = Product::from_environment();
    let settings = Settings::fast(product);
    if let Some(reason) = impossible(&settings) {
        println!("bench: SKIPPED, {reason}");
        return;
    }
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3);
    let presets = match product {
        Product::Pgvigil => PGVIGIL,
        Product::Patroni => PATRONI,
    };
    println!("{product:?}: seconds without an acknowledged row, least / median / most of {runs}");
    for &(ttl, loop_wait, retry_timeout) in presets {
        let mut lab = Lab::new(Settings { ttl, loop_wait, retry_timeout, ..settings.clone() });
        lab.bootstrap();
        at_rest(&mut lab);
        let mut gaps = [const { Vec::new() }; FAULTS.len()];
        // In turn: each death of a postmaster is then the first one of its server for a while. One
        // that dies again within a minute is, on purpose, not started again at once.
        for _ in 0..runs {
            for ((_, fault), gaps) in FAULTS.iter().zip(&mut gaps) {
                gaps.push(gap(&mut lab, *fault));
            }
        }
        for ((name, _), gaps) in FAULTS.iter().zip(gaps) {
            println!("ttl {ttl:>2}  {name:<18} {}", spread(gaps));
        }
    }
}

fn gap(lab: &mut Lab, fault: fn(&mut Lab)) -> f64 {
    let from = lab.writer().now();
    fault(lab);
    lab.wait_healthy("after the fault", Duration::from_secs(120));
    lab.judge(from).gap.as_secs_f64()
}

fn spread(mut gaps: Vec<f64>) -> String {
    gaps.sort_by(f64::total_cmp);
    let at = |i: usize| gaps.get(i).copied().unwrap_or(f64::NAN);
    format!("{:.2} / {:.2} / {:.2}", at(0), at(gaps.len() / 2), at(gaps.len().saturating_sub(1)))
}

/// The leader's own processes (those that run its program), PostgreSQL not counted.
fn at_rest(lab: &mut Lab) {
    let leader = lab.wait_leader(None, Duration::from_secs(30));
    let pids = process::family(lab.member(leader).supervisor());
    let before: Vec<Option<Cost>> = pids.iter().map(|&pid| process::cost(pid)).collect();
    let_pass(REST);
    let (mut dirty, mut cpu) = (0, 0.0);
    for (&pid, before) in pids.iter().zip(before) {
        let (Some(before), Some(after)) = (before, process::cost(pid)) else {
            panic!("{} ended at rest", process::arguments(pid).join(" "));
        };
        let used = (after.cpu - before.cpu).as_secs_f64() / REST.as_secs_f64() * 100.0;
        let Cost { private_dirty_kib, rss_kib, locked_kib, .. } = after;
        println!(
            "at rest: {used:.3} % of a core, {private_dirty_kib} KiB private dirty, \
             {rss_kib} KiB resident, {locked_kib} KiB locked: {}",
            process::arguments(pid).join(" ")
        );
        dirty += private_dirty_kib;
        cpu += used;
    }
    println!("at rest, together: {cpu:.3} % of a core, {dirty} KiB private dirty");
}
