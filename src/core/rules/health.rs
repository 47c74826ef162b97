//! A server that is there and does not answer, and volumes that fail it. Everything here has an
//! end: the key goes to a healthy candidate, or the server is restarted, a few times an hour.

use std::time::Duration;

use crate::core::candidates;
use crate::core::decide::{Outcome, Rule};
use crate::core::decision::Action;
use crate::core::guard::Phase;
use crate::core::health::{self, Illness, PATIENCE};
use crate::core::view::{Postmaster, Switchover, View};

pub const RULES: &[Rule] = &[
    Rule {
        id: "health.yield",
        meaning: "PostgreSQL hung and was killed, and a candidate is healthy: give the key up",
        matches: give_up,
    },
    Rule {
        id: "health.volume",
        meaning: "the primary's volume hangs, is full or read-only, and a candidate is healthy: \
                  hand over",
        matches: volume,
    },
    Rule {
        id: "health.hung",
        meaning: "the primary does not answer or cannot write: hand over, or kill and start it",
        matches: hung,
    },
    Rule {
        id: "health.standby",
        meaning: "a standby does not answer: kill and start it",
        matches: standby,
    },
    Rule {
        id: "health.watchdog",
        meaning: "the required watchdog device fails, and a candidate is healthy: hand over",
        matches: watchdog,
    },
];

/// Kills of a hung server within [`RESTARTS_WITHIN`] after which it is only shown.
const RESTARTS_MAX: usize = 3;
pub const RESTARTS_WITHIN: Duration = Duration::from_secs(3600);

const QUICK: Duration = Duration::from_millis(100);

/// A server that runs and was not told to stop; nothing is done during a pause.
fn runs(v: &View) -> Option<Postmaster> {
    v.server.postmaster.filter(|p| p.stopping_since.is_none() && !v.settings.paused)
}

fn leads(v: &View) -> bool {
    v.guard.phase == Phase::Leading && v.guard.burned != v.guard.tenure
}

/// Not soon after the last one, whoever handed over: this leadership must have lasted as long.
pub fn may_hand_over(v: &View) -> bool {
    let every = v.settings.health.hand_over_every;
    let led = v.memory.led_since.is_some_and(|at| v.now.since(at) >= every);
    led && may_try_again(v)
}

/// Not soon after this member tried it last.
fn may_try_again(v: &View) -> bool {
    let every = v.settings.health.hand_over_every;
    v.memory.gave_up_at.is_none_or(|at| v.now.since(at) >= every)
}

/// Restarts are what is left where nobody can take over, and they cost a recovery each.
fn restarts_left(v: &View) -> bool {
    v.memory.hang_kills.len() < RESTARTS_MAX
}

/// A healthy candidate by answers that are not old; `Err`: ask first.
fn candidate(v: &View, why: &str) -> Result<Option<String>, Box<Outcome>> {
    let fresh = v.settings.loop_wait.max(candidates::ANSWERS_FRESH);
    if v.peers_asked_at.is_none_or(|at| v.now.since(at) > fresh) {
        let why = format!("{why}; asking for a healthy candidate");
        return Err(Box::new(Outcome::say(v, why).act(Action::AskPeers)));
    }
    Ok(candidates::successor(v, None))
}

/// After the kill the key still carries our living lease: it is burned, then deleted. Without a
/// candidate the key is confirmed and PostgreSQL started again (`leader.reclaim`).
fn give_up(v: &View) -> Option<Outcome> {
    let tenure = v.reclaimable().filter(|_| v.store.failing_since.is_none())?;
    let killed = matches!(v.guard.phase, Phase::Idle | Phase::Fenced) && !v.guard.populated;
    if !v.memory.yielding || !killed {
        return None;
    }
    let (why, out) = match candidates::successor(v, None) {
        Some(to) => {
            let why = format!("giving the leader lock up: {to} is healthy");
            (why.clone(), Outcome::say(v, why).act(Action::Release { tenure }))
        }
        None => {
            let why = "no candidate is left: starting PostgreSQL again".to_owned();
            (why.clone(), Outcome::say(v, why))
        }
    };
    let demoted = v.memory.demoted_because.clone().or(Some(why));
    Some(
        out.remember(|m| {
            m.yielding = false;
            m.demoted_because = demoted;
        })
        .wake(Duration::ZERO),
    )
}

/// A restart would help no volume: without a candidate it is only shown.
fn volume(v: &View) -> Option<Outcome> {
    runs(v)?;
    let limit = v.settings.health.storage;
    let ailing = v.health.volume.filter(|a| health::exceeds(a.lasting, limit))?;
    if !leads(v) || !may_hand_over(v) {
        return None;
    }
    let to = match candidate(v, &ailing.to_string()) {
        Ok(found) => found?,
        Err(ask) => return Some(*ask),
    };
    let why = format!("demoting self because {ailing} and {to} is healthy");
    let out = Outcome::say(v, why.clone()).wake(QUICK).remember(|m| {
        m.gave_up_at = Some(v.now);
        m.demoted_because = Some(why.clone());
    });
    Some(match ailing.illness {
        // Nothing that writes ends by itself. What cannot be killed either keeps the member in
        // Killing: its renewal ends, and the lease runs out.
        Illness::Hung => {
            out.act(Action::Fence { reason: why.clone() }).remember(|m| m.yielding = true)
        }
        // A switchover loses nothing: clients go first, then the candidate receives the rest.
        // Where the shutdown checkpoint cannot be written PostgreSQL ends by itself, and
        // `leader.hand_over` gives the key up.
        Illness::Full | Illness::ReadOnly | Illness::Failing(_) => out
            .act(Action::StopFast)
            .remember(|m| m.switchover = Some(Switchover { to, since: v.now })),
    })
}

/// What was required is lost: a machine that hangs now is fenced by nothing, or is reset although
/// nothing hangs, one timeout after the last ping that went through. One ping that fails is none:
/// the next renewal brings another, a tenth of `ttl` later. Nobody passes the key around: whose
/// device failed is no candidate; and because that is forgotten with the next change of the budget,
/// each member does it once in `hand_over_interval`, also where the candidate did not take the key.
/// How long it has led does not matter: the reset does not wait for that.
fn watchdog(v: &View) -> Option<Outcome> {
    runs(v)?;
    if !leads(v) || v.health.unwatched < v.settings.ttl / 7 || !may_try_again(v) {
        return None;
    }
    let why = "the required watchdog device fails";
    let to = match candidate(v, why) {
        Ok(found) => found?,
        Err(ask) => return Some(*ask),
    };
    let why = format!("demoting self because {why} and {to} is healthy");
    let out = Outcome::say(v, why.clone()).act(Action::StopFast).wake(QUICK);
    Some(out.remember(|m| {
        m.gave_up_at = Some(v.now);
        m.demoted_because = Some(why);
        m.switchover = Some(Switchover { to, since: v.now });
    }))
}

fn hangs_on_volume(v: &View) -> bool {
    v.health.volume.is_some_and(|a| a.illness == Illness::Hung)
}

fn hung(v: &View) -> Option<Outcome> {
    runs(v)?;
    let why = health::silence(v, 1)?;
    // Whoever waits for a volume is the volume's rule's.
    if !leads(v) || hangs_on_volume(v) {
        return None;
    }
    let found = if may_hand_over(v) {
        match candidate(v, &why) {
            Ok(found) => found,
            Err(ask) => return Some(*ask),
        }
    } else {
        None
    };
    if let Some(to) = found {
        let why = format!("demoting self because {why} and {to} is healthy");
        return Some(kill(v, why).remember(|m| {
            m.yielding = true;
            m.gave_up_at = Some(v.now);
        }));
    }
    restart(v)
}

fn standby(v: &View) -> Option<Outcome> {
    runs(v)?;
    if v.guard.phase != Phase::Idle || hangs_on_volume(v) || v.health.unanswered.is_zero() {
        return None;
    }
    restart(v)
}

/// Where nobody takes over: what works of the server is not lightly thrown away.
fn restart(v: &View) -> Option<Outcome> {
    let why = health::silence(v, PATIENCE).filter(|_| restarts_left(v))?;
    Some(kill(v, format!("restarting: {why}")).remember(|m| m.hang_kills.push(v.now)))
}

/// Only SIGKILL to all of them ends a postmaster that does not answer, and its backends.
fn kill(v: &View, why: String) -> Outcome {
    Outcome::say(v, why.clone())
        .act(Action::Fence { reason: why.clone() })
        .remember(|m| m.demoted_because = Some(why))
        .wake(QUICK)
}
