//! What a written scenario does to the cluster: faults by name, and operators.

use std::time::Duration;

use crate::core::health::Illness;

use super::command::seconds;
use super::engine::Sim;
use super::operator::Refusal;
use super::postgres::Disk;
use super::world::{STORE, World, ms};

/// `Err`: no such command. The inner one: an operator's request was refused.
pub fn strike(sim: &Sim, words: &[&str]) -> Result<Refusal, String> {
    match words {
        ["kill", ..] | ["freeze", ..] | ["hang", ..] | ["stall", ..] | ["replace", ..] => {
            programs(sim, words).map(Ok)
        }
        ["crash" | "boot" | "empty" | "volume" | "slow", ..] => hosts(sim, words).map(Ok),
        ["cut" | "isolate" | "lag" | "late", ..] => network(sim, words).map(Ok),
        ["store", ..] => store(sim, words).map(Ok),
        ["clock", ..] => clocks(sim, words).map(Ok),
        _ => operators(sim, words),
    }
}

fn unknown(words: &[&str]) -> String {
    format!("'{}' is no command", words.join(" "))
}

fn member(sim: &Sim, name: &str) -> Result<usize, String> {
    sim.with(|w| w.find(name)).ok_or_else(|| format!("there is no member '{name}'"))
}

fn place(sim: &Sim, name: &str) -> Result<usize, String> {
    if name == "store" { Ok(STORE) } else { member(sim, name) }
}

fn programs(sim: &Sim, words: &[&str]) -> Result<(), String> {
    match words {
        ["kill", "agent", name] => {
            let m = member(sim, name)?;
            sim.with(|w| w.kill_agent(m, true));
        }
        ["kill", what @ ("supervisor" | "record"), name] => {
            let (m, keeps) = (member(sim, name)?, *what == "supervisor");
            sim.with(|w| {
                w.kill_supervisor(m, keeps);
                w.later(ms(150), move |sim| sim.with(|w| w.start_supervisor(m)));
            });
        }
        ["kill", what @ ("postmaster" | "backends"), name] => {
            // Of `backends` one is left, and it is out of reach.
            let (m, left) = (member(sim, name)?, *what == "backends");
            sim.with(|w| w.postmaster_dies(m, left, left));
        }
        ["freeze", "agent", name, length] => {
            let (m, length) = (member(sim, name)?, seconds(length)?);
            sim.with(|w| w.freeze_agent(m, length));
        }
        ["freeze", "supervisor", name, length] => {
            let (m, length) = (member(sim, name)?, seconds(length)?);
            sim.with(|w| w.freeze_supervisor(m, length));
        }
        ["freeze", "host", name, length] => {
            let (m, length) = (member(sim, name)?, seconds(length)?);
            sim.with(|w| w.freeze_host(m, length));
        }
        ["hang", "postgres", name, length] => {
            let (m, length) = (member(sim, name)?, seconds(length)?);
            sim.with(|w| w.hang_server(m, length));
        }
        ["stall", "supervisor", name, effects, length] => {
            let after = effects.parse().map_err(|_| unknown(words))?;
            let (m, length) = (member(sim, name)?, seconds(length)?);
            sim.with(|w| {
                if let Some(s) = &mut w.members[m].supervisor {
                    s.stall = Some((after, length));
                }
            });
        }
        ["replace", "supervisor", name] => {
            let m = member(sim, name)?;
            sim.with(|w| w.replace_supervisor(m));
        }
        _ => return Err(unknown(words)),
    }
    Ok(())
}

fn hosts(sim: &Sim, words: &[&str]) -> Result<(), String> {
    match words {
        ["crash", name] => {
            let m = member(sim, name)?;
            sim.with(|w| w.crash_host(m));
        }
        ["boot", name] => {
            let m = member(sim, name)?;
            sim.with(|w| w.boot(m));
        }
        ["empty", name] => {
            let m = member(sim, name)?;
            sim.with(|w| w.members[m].disk = Disk::Empty);
        }
        ["volume", name, how, length] => {
            let (m, length) = (member(sim, name)?, seconds(length)?);
            let illness = match *how {
                "full" => Illness::Full,
                "read-only" => Illness::ReadOnly,
                "hangs" => Illness::Hung,
                _ => return Err(unknown(words)),
            };
            sim.with(|w| w.fail_volume(m, illness, length));
        }
        ["slow", "freezes", name, length] => {
            let (m, length) = (member(sim, name)?, seconds(length)?);
            sim.with(|w| {
                w.members[m].slow_freeze = true;
                w.later(length, move |sim| sim.with(|w| w.members[m].slow_freeze = false));
            });
        }
        _ => return Err(unknown(words)),
    }
    Ok(())
}

fn network(sim: &Sim, words: &[&str]) -> Result<(), String> {
    match words {
        ["cut", a, b, length] => {
            let (a, b, length) = (place(sim, a)?, place(sim, b)?, seconds(length)?);
            sim.with(|w| w.cut(&[(a, b), (b, a)], length));
        }
        ["cut", a, ">", b, length] => {
            let (a, b, length) = (place(sim, a)?, place(sim, b)?, seconds(length)?);
            sim.with(|w| w.cut(&[(a, b)], length));
        }
        ["isolate", name, length] => {
            let (m, length) = (member(sim, name)?, seconds(length)?);
            sim.with(|w| {
                let all: Vec<(usize, usize)> =
                    (0..w.members.len()).chain([STORE]).flat_map(|o| [(m, o), (o, m)]).collect();
                w.cut(&all, length);
            });
        }
        ["late", what @ ("requests" | "answers"), name, by, length] => {
            let (m, by, length) = (member(sim, name)?, seconds(by)?, seconds(length)?);
            let requests = *what == "requests";
            let set = move |w: &mut World, by| match requests {
                true => w.members[m].requests_late = by,
                false => w.members[m].answers_late = by,
            };
            sim.with(|w| {
                set(w, by);
                w.later(length, move |sim| sim.with(|w| set(w, Duration::ZERO)));
            });
        }
        ["lag", name, state @ ("on" | "off")] => {
            let m = member(sim, name)?;
            sim.with(|w| w.members[m].receives = *state == "off");
        }
        _ => return Err(unknown(words)),
    }
    Ok(())
}

fn store(sim: &Sim, words: &[&str]) -> Result<(), String> {
    match words {
        ["store", how @ ("refuses" | "silent"), length] => {
            let length = seconds(length)?;
            sim.with(|w| {
                w.store.up = false;
                w.refuses = Some(*how == "refuses");
                w.later(length, |sim| {
                    sim.with(|w| {
                        w.refuses = None;
                        w.store_returns();
                    });
                });
            });
        }
        ["store", "elects"] => sim.with(|w| w.store.change_leader(w.now)),
        ["store", "stale", name, length] => {
            let (m, length) = (member(sim, name)?, seconds(length)?);
            sim.with(|w| {
                w.store.change_leader(w.now);
                w.members[m].stale_store_until = w.now + length.as_nanos() as u64;
            });
        }
        ["store", "backup"] => sim.with(|w| w.backup = Some(w.store.backup())),
        ["store", "restore"] => sim.with(|w| {
            if let Some(backup) = w.backup.clone() {
                w.restore_store(backup, false);
            }
        }),
        _ => return Err(unknown(words)),
    }
    Ok(())
}

fn clocks(sim: &Sim, words: &[&str]) -> Result<(), String> {
    let number = |word: &str| word.parse::<i64>().map_err(|_| unknown(words));
    match words {
        ["clock", name, "steps", by] => {
            let (m, by) = (member(sim, name)?, number(by)?);
            sim.with(|w| w.members[m].clock.wall_off_us += by * 1_000_000);
        }
        ["clock", name, "runs", ppm, length] => {
            let (m, ppm, length) = (member(sim, name)?, number(ppm)?, seconds(length)?);
            sim.with(|w| w.drift(m, ppm.clamp(-500_000, 500_000), length));
        }
        _ => return Err(unknown(words)),
    }
    Ok(())
}

fn operators(sim: &Sim, words: &[&str]) -> Result<Refusal, String> {
    let on = |name: &str, ask: fn(&mut World, usize) -> Refusal| {
        let m = member(sim, name)?;
        Ok(sim.with(|w| ask(w, m)))
    };
    match words {
        ["switchover"] => Ok(sim.with(|w| w.ask_switchover(None, None))),
        ["switchover", name] => Ok(sim.with(|w| w.ask_switchover(Some((*name).to_owned()), None))),
        ["failover", name] => Ok(sim.with(|w| w.ask_failover((*name).to_owned()))),
        ["pause"] => Ok(sim.with(|w| {
            w.configure_cluster(|s| s.paused = true);
            Ok(())
        })),
        ["resume"] => Ok(sim.with(|w| {
            w.configure_cluster(|s| s.paused = false);
            Ok(())
        })),
        ["delete", "leader", "key"] => Ok(sim.with(|w| {
            w.delete_leader_key();
            Ok(())
        })),
        ["restart", name] => on(name, World::ask_restart),
        ["reinit", name] => on(name, World::ask_reinitialize),
        ["stop", name] => on(name, |w, m| {
            w.members[m].stays_down = true;
            w.ask_stop(m)
        }),
        ["remove", name] => on(name, World::ask_removal),
        ["launch", name] => on(name, |w, m| {
            w.members[m].stays_down = false;
            w.start_supervisor(m);
            Ok(())
        }),
        _ => Err(unknown(words)),
    }
}
