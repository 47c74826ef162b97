//! `pgvigil sim`: a cluster of one to seven members under faults, played from a seed. The members
//! run `core::decide` and `core::guard` themselves; what is simulated is everything around them:
//! store, PostgreSQL, network, clocks, processes, operators. Same seed, same run, everywhere.

mod action;
mod agent;
mod check;
mod clock;
mod command;
pub mod defect;
mod duty;
mod ending;
mod engine;
mod fault;
mod health;
mod host;
pub mod invariant;
mod job;
mod lease;
mod operator;
mod order;
mod postgres;
mod prng;
mod promise;
mod run;
mod scenario;
mod server;
mod store;
mod strike;
mod supervisor;
mod tasks;
mod transaction;
mod watchdog;
mod world;

use std::path::Path;

pub use run::{Report, Sum, Verdict, explore, play, play_with};
pub use scenario::{Played, play as play_scenario, play_with as play_scenario_with};

/// Plays one seed and prints its story, or so many from it on and prints their sum; returns the
/// exit code: 0 all promises kept, 1 one was broken.
pub fn run_seeds(seed: u64, count: Option<u64>) -> i32 {
    match count {
        None => one(seed),
        Some(count) => many(seed, count),
    }
}

/// Plays a written scenario and prints it with its log; the exit code is 2 where it cannot be read.
pub fn run_scenario(file: &Path) -> i32 {
    let place = file.display();
    let played = match std::fs::read_to_string(file) {
        Ok(text) => play_scenario(&text),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    match played {
        Ok(played) => {
            print!("{}", played.text);
            for failure in &played.failures {
                eprintln!("{place}: {failure}");
            }
            i32::from(!played.failures.is_empty())
        }
        Err(what) => {
            eprintln!("{place}: {what}");
            2
        }
    }
}

fn one(seed: u64) -> i32 {
    let report = play(seed, true);
    for line in &report.transcript {
        println!("{line}");
    }
    println!("{report}");
    for (rule, count) in &report.rules {
        println!("  {count:>8} {rule}");
    }
    i32::from(!report.verdict.is_good())
}

fn many(base: u64, count: u64) -> i32 {
    let sum = explore(base, count, |report| {
        println!("{report}");
        println!("replay: pgvigil sim --seed {}", report.seed);
    });
    println!("{sum}");
    i32::from(sum.failed > 0)
}
