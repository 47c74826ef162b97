//! The business of the member that holds the leader key.

use std::time::Duration;

use crate::core::candidates;
use crate::core::cluster::Initialize;
use crate::core::decide::{Outcome, Rule};
use crate::core::decision::Action;
use crate::core::failsafe;
use crate::core::guard::Phase;
use crate::core::numbering::{self, Numbering};
use crate::core::rules::{health, standby};
use crate::core::sync;
use crate::core::time::Boot;
use crate::core::view::{LastExit, Switchover, View};

/// Deaths of the postmaster within `primary_start_timeout` after which a healthy candidate gets
/// the key instead of another restart in place.
const CRASHES_MAX: usize = 3;

/// A promotion that has not begun to show by then is asked for once more.
const PROMOTE_AGAIN: Duration = Duration::from_secs(10);

pub const RULES: &[Rule] = &[
    Rule {
        id: "leader.reclaim",
        meaning: "the leader key carries our living lease: arm, confirm and go on with it",
        matches: reclaim,
    },
    Rule {
        id: "leader.bootstrap_failed",
        meaning: "a new cluster cannot be finished: stop, give the keys up, set the data aside",
        matches: bootstrap_failed,
    },
    Rule {
        id: "leader.moved",
        meaning: "we moved the leader key to another lease: confirm it there",
        matches: moved,
    },
    Rule {
        id: "leader.relet",
        meaning: "ttl was changed: move the leader key to a lease of the new length",
        matches: relet,
    },
    Rule {
        id: "leader.leftovers",
        meaning: "the postmaster is dead but its children live: wait until they are killed",
        matches: leftovers,
    },
    standby::DEMOTE,
    standby::START,
    standby::ADOPT,
    standby::FOLLOW,
    standby::RESTART,
    standby::SWITCHOVER,
    standby::STEADY,
    Rule {
        id: "leader.hand_over",
        meaning: "the primary keeps dying or lost its data: give the key to a healthy candidate",
        matches: hand_over,
    },
    Rule {
        id: "leader.start",
        meaning: "start PostgreSQL as primary under the confirmed lease",
        matches: start,
    },
    Rule { id: "leader.starting", meaning: "PostgreSQL does not answer yet", matches: starting },
    Rule { id: "leader.promote", meaning: "promote under the confirmed lease", matches: promote },
    Rule {
        id: "leader.finish_bootstrap",
        meaning: "the new cluster runs: create roles, publish configuration and identifier",
        matches: finish_bootstrap,
    },
    Rule {
        id: "leader.adopt",
        meaning: "an existing server becomes a new cluster: publish its identifier",
        matches: adopt,
    },
    Rule {
        id: "leader.timeline",
        meaning: "the store knows no timeline as new as ours: write its number",
        matches: new_timeline,
    },
    Rule {
        id: "leader.keep_data",
        meaning: "a new copy was asked of the replica that this leader was: the request is dropped",
        matches: keep_data,
    },
    Rule { id: "leader.restart", meaning: "an operator asked for a restart", matches: restart },
    Rule {
        id: "leader.failsafe",
        meaning: "etcd does not answer and every member promised not to lead: go on",
        matches: promised,
    },
    Rule {
        id: "leader.failsafe_key",
        meaning: "bring the key /failsafe up to date",
        matches: failsafe_key,
    },
    Rule {
        id: "leader.switchover",
        meaning: "an operator asked for another leader and a candidate is ready",
        matches: switchover,
    },
    Rule {
        id: "leader.sync",
        meaning: "bring /sync and synchronous_standby_names one step closer to what is wanted",
        matches: synchronous,
    },
    Rule { id: "leader.steady", meaning: "all is well", matches: steady },
];

/// This member holds the leader key, as far as anybody can know.
pub(super) fn leading(v: &View) -> bool {
    let held = match v.guard.phase {
        Phase::Leading => true,
        // Without a store the last that was seen of the key counts.
        Phase::Paused => v.cluster().is_none() || v.holds_key(),
        _ => false,
    };
    held && v.guard.burned != v.guard.tenure
}

/// The lease id, which nobody else knows, proves possession; the name would not.
fn reclaim(v: &View) -> Option<Outcome> {
    // A view from before the store fell silent says nothing about the key now.
    v.reclaimable().filter(|_| v.store.failing_since.is_none())?;
    let out = Outcome::say(v, "the leader lock is still ours: confirming it").wake(QUICK);
    Some(match v.guard.phase {
        Phase::Candidate => out.act(Action::ConfirmOwn),
        Phase::Idle | Phase::Fenced => out.act(Action::Campaign),
        _ => return None,
    })
}

/// A new cluster holds nothing that anybody relies on yet, so that it is not tried for ever.
fn bootstrap_failed(v: &View) -> Option<Outcome> {
    let stillborn = v.server.bootstrapping && dead(v) && v.memory.crashes.len() >= CRASHES_MAX - 1;
    if !v.memory.bootstrap_failed && !stillborn {
        return None;
    }
    let out = Outcome::say(v, "removing the initialize key after a failed attempt to bootstrap")
        .remember(|m| m.bootstrap_failed = true);
    if v.server.postmaster.is_some() {
        return Some(out.act(Action::StopFast).wake(QUICK));
    }
    if v.guard.populated || v.server.shm_attached {
        return Some(out.wake(QUICK));
    }
    match v.guard.tenure.filter(|_| leading(v)) {
        Some(tenure) => Some(out.act(Action::Release { tenure }).wake(Duration::ZERO)),
        None => Some(out.act(Action::AbortBootstrap)),
    }
}

fn moved(v: &View) -> Option<Outcome> {
    v.moved().filter(|_| v.guard.phase == Phase::Leading)?;
    Some(
        Outcome::say(v, "the leader lock has moved to another lease: confirming it")
            .act(Action::ConfirmOwn)
            .wake(QUICK),
    )
}

/// Not in a pause: the deadline that would change is suspended.
fn relet(v: &View) -> Option<Outcome> {
    let tenure = v.guard.tenure.filter(|_| v.guard.phase == Phase::Leading && v.holds_key())?;
    let lease = v.store.lease.filter(|lease| lease.id == tenure.lease_id)?;
    let ttl = v.settings.ttl;
    if v.guard.burned == Some(tenure) || (lease.asked == ttl && v.store.next_lease.is_none()) {
        return None;
    }
    let why = format!("moving the leader lock to a lease of {} s", ttl.as_secs());
    Some(Outcome::say(v, why).act(Action::ReletLease { tenure, ttl }).wake(Duration::ZERO))
}

/// The postmaster died under us; a demotion was not ordered.
fn dead(v: &View) -> bool {
    leading(v) && v.server.postmaster.is_none()
}

fn leftovers(v: &View) -> Option<Outcome> {
    if !dead(v) || !(v.guard.populated || v.server.shm_attached) {
        return None;
    }
    // Backends of a dead postmaster go on, commit and acknowledge, rightly so under the lease;
    // but a new postmaster refuses to start beside them. The supervisor kills them.
    Some(Outcome::say(v, "the postmaster is dead, its children are being killed").wake(SOON))
}

const QUICK: Duration = Duration::from_millis(100);
/// A new agent holds the lease of the old one, but has not read `/sync` yet.
const BLIND: &str = "waiting for etcd before PostgreSQL accepts writes";
const SOON: Duration = Duration::from_millis(20);

fn hand_over(v: &View) -> Option<Outcome> {
    // The end that a restart means is clean; what follows may not be.
    let intended = v.memory.restarting && v.server.last_exit.is_none_or(|e| e.clean);
    let nothing = nothing_to_start(v);
    if !dead(v) || (intended && nothing.is_none()) {
        return None;
    }
    // Its volume would end the next start, too, and the next.
    let decided = v.memory.switchover.is_some() || health::may_hand_over(v);
    let ailing = v.health.volume.is_some() && decided;
    let at_once = v.settings.primary_start_timeout.is_zero() || ailing || nothing.is_some();
    if !at_once && !overdue(v) && v.memory.crashes.len() < CRASHES_MAX {
        return None;
    }
    let fresh = v.settings.loop_wait.max(candidates::ANSWERS_FRESH);
    if v.peers_asked_at.is_none_or(|at| v.now.since(at) > fresh) {
        return Some(Outcome::say(v, "asking for a healthy candidate").act(Action::AskPeers));
    }
    candidates::successor(v, None)?;
    let tenure = v.guard.tenure?;
    let because = nothing.unwrap_or("PostgreSQL does not stay up");
    let why = format!("demoting self because {because} and a candidate is healthy");
    Some(Outcome::say(v, why.clone()).act(Action::Release { tenure }).remember(|m| {
        m.demoted_because = Some(why);
        // There is no note for the candidate to wait for.
        m.switchover = None;
    }))
}

/// Why no start can bring the server back: its data directory is lost. initdb's is not there yet.
fn nothing_to_start(v: &View) -> Option<&str> {
    v.server.data_dir.as_ref().filter(|_| !v.server.bootstrapping)?.lost()
}

fn start(v: &View) -> Option<Outcome> {
    if !dead(v) || v.settings.standby_cluster.is_some() {
        return None;
    }
    if let Some(reason) = nothing_to_start(v) {
        return Some(Outcome::say(v, format!("PostgreSQL cannot be started: {reason}")));
    }
    v.control()?;
    // Started as a primary it would go on on the old leader's timeline, which may have gone on
    // elsewhere: one number for two histories. Only a promotion makes a new one.
    if v.was_standby() {
        let why = "starting as a secondary, to be promoted";
        return Some(Outcome::say(v, why).act(Action::StartStandby { upstream: None }));
    }
    if !v.may_permit() {
        return Some(
            Outcome::say(v, "waiting for a fresh lease before PostgreSQL is started").wake(QUICK),
        );
    }
    if v.cluster().is_none() {
        return Some(Outcome::say(v, BLIND).wake(QUICK));
    }
    if let Some(step) = sync::before_writable(v, v.guard.tenure?, false) {
        let why = "making sure of /sync before PostgreSQL is started";
        return Some(sync_step(Outcome::say(v, why), v, step).wake(QUICK));
    }
    let intended = |e: &LastExit| v.memory.restarting && e.clean;
    let crashed = v.server.last_exit.filter(|e| e.permitted && !intended(e));
    let why = if crashed.is_some() {
        "doing crash recovery in a single node"
    } else {
        "starting as primary"
    };
    Some(Outcome::say(v, why).act(Action::StartPrimary).remember(|m| {
        m.starting_since = m.starting_since.or(Some(v.now));
        m.sync_names = None;
        // A start that failed before a server came of it is decided again, and is no crash.
        if let Some(exit) = crashed.filter(|exit| !m.crashes.contains(&exit.at)) {
            m.crashes.push(exit.at);
        }
    }))
}

fn starting(v: &View) -> Option<Outcome> {
    if !leading(v) || v.probe().is_some() {
        return None;
    }
    v.server.postmaster?;
    let out = Outcome::say(v, v.server.not_ready()).wake(QUICK);
    // One that refuses us has started, and may serve others.
    if !overdue(v) || v.server.refused.is_some() {
        return Some(out);
    }
    // Recovery of much WAL may be worth more than a failover that is not possible.
    let fresh = v.settings.loop_wait.max(candidates::ANSWERS_FRESH);
    if v.peers_asked_at.is_none_or(|at| v.now.since(at) > fresh) {
        return Some(out.act(Action::AskPeers));
    }
    match candidates::successor(v, None) {
        Some(to) => {
            let why = format!("PostgreSQL did not start in time and {to} is healthy: stopping it");
            Some(Outcome::say(v, why).act(Action::StopImmediate))
        }
        None => Some(out),
    }
}

/// `primary_start_timeout` has passed since the primary's start was begun.
fn overdue(v: &View) -> bool {
    let limit = v.settings.primary_start_timeout;
    let since = v.memory.starting_since.filter(|_| !limit.is_zero() && !v.server.bootstrapping);
    since.is_some_and(|since| v.now.since(since) > limit)
}

fn promote(v: &View) -> Option<Outcome> {
    if !leading(v) || !v.is_standby() || v.settings.standby_cluster.is_some() {
        return None;
    }
    // A promotion that could not even begin (no room for its signal file) is asked for again; to
    // one that still replays this says nothing new.
    let asked = v.memory.promotion_asked.is_some_and(|at| v.now.since(at) < PROMOTE_AGAIN);
    if asked && v.server.postmaster.is_some_and(|p| p.permitted) {
        return Some(Outcome::say(v, "waiting for the promotion to end").wake(QUICK));
    }
    if !v.may_permit() {
        return Some(Outcome::say(v, "waiting for a fresh lease before promotion").wake(QUICK));
    }
    if v.cluster().is_none() {
        return Some(Outcome::say(v, BLIND).wake(QUICK));
    }
    let out = Outcome::say(v, "promoted self to leader by acquiring session lock");
    // Nobody else may win from an old list of synchronous standbys once we accept writes: /sync
    // names only us before the permit.
    if let Some(step) = sync::before_writable(v, v.guard.tenure?, true) {
        return Some(sync_step(out, v, step).wake(Duration::ZERO));
    }
    // A promotion that was ordered before is not given another number. The permit alone does not
    // say that it was: what a supervisor finds running has one.
    let permitted = v.server.postmaster.is_some_and(|p| p.permitted);
    let taken = match numbering::before_promotion(v)? {
        _ if permitted && v.memory.promotion_asked.is_some() => Vec::new(),
        Numbering::Write(action) => return Some(out.act(action).wake(Duration::ZERO)),
        Numbering::Skip(taken) => taken,
    };
    Some(out.act(Action::Promote { taken }).wake(QUICK).remember(|m| {
        m.promotion_asked = Some(v.now);
        m.sync_names = None;
    }))
}

fn sync_step(out: Outcome, v: &View, action: Action) -> Outcome {
    out.remember(|m| sync::remember(&action, v.now, m)).act(action)
}

fn running(v: &View) -> bool {
    leading(v) && v.is_primary()
}

fn finish_bootstrap(v: &View) -> Option<Outcome> {
    (running(v) && v.server.bootstrapping)
        .then(|| Outcome::say(v, "initialized a new cluster").act(Action::FinishBootstrap))
}

fn adopt(v: &View) -> Option<Outcome> {
    let unnamed = !matches!(v.cluster()?.initialize, Initialize::Done(_));
    (running(v) && unnamed)
        .then(|| Outcome::say(v, "acquired session lock as a leader").act(Action::AdoptInitialize))
}

fn new_timeline(v: &View) -> Option<Outcome> {
    if !running(v) {
        return None;
    }
    let action = numbering::catch_up(v)?;
    Some(Outcome::say(v, "writing the number of this timeline").act(action).wake(Duration::ZERO))
}

/// Kept, the request would cost the data of this member whenever it is a replica again.
fn keep_data(v: &View) -> Option<Outcome> {
    (running(v) && v.wishes.reinitialize).then(|| {
        Outcome::say(v, "not reinitialized: this member leads now")
            .act(Action::DropReinitialize)
            .wake(Duration::ZERO)
    })
}

fn restart(v: &View) -> Option<Outcome> {
    if !running(v) {
        return None;
    }
    // While it stops or starts, earlier rules match: here the new postmaster answers.
    if v.memory.restarting {
        return Some(
            Outcome::say(v, "restarted")
                .act(Action::RestartDone)
                .remember(|m| m.restarting = false)
                .wake(Duration::ZERO),
        );
    }
    if !v.wishes.restart {
        return None;
    }
    Some(
        Outcome::say(v, "restart in progress")
            .act(Action::Checkpoint)
            .act(Action::StopFast)
            .remember(|m| m.restarting = true),
    )
}

/// What needs the store waits.
fn promised(v: &View) -> Option<Outcome> {
    let why = "continue to run as a leader because failsafe mode is enabled and all members are \
               accessible";
    (running(v) && failsafe::carries(v)).then(|| Outcome::say(v, why).wake(QUICK * 10))
}

fn failsafe_key(v: &View) -> Option<Outcome> {
    let (action, why) = failsafe::write(v).filter(|_| running(v))?;
    let compared = v.cluster()?.failsafe.as_ref().map_or(0, |key| key.mod_revision);
    let out = Outcome::say(v, why).act(action).wake(QUICK);
    Some(out.remember(|m| m.failsafe_wrote = Some(compared)))
}

fn switchover(v: &View) -> Option<Outcome> {
    if !running(v) {
        return None;
    }
    if let Some(s) = &v.memory.switchover {
        return Some(Outcome::say(v, format!("switchover to {}", s.to)).act(Action::StopFast));
    }
    let key = v.cluster()?.failover.as_ref().filter(|f| !f.value.is_empty())?;
    let clear = |why: String| {
        Some(Outcome::say(v, why).act(Action::ClearFailover { revision: key.mod_revision }))
    };
    let asked = &key.value;
    if let Some(at) = asked.scheduled_at {
        let late_us = v.wall.0.saturating_sub(at.0);
        let slack_us = i64::try_from(v.settings.loop_wait.as_micros()).unwrap_or(i64::MAX);
        if late_us < 0 {
            return None;
        }
        if late_us > slack_us.saturating_mul(3) / 2 {
            return clear("dropping a stale scheduled switchover".to_owned());
        }
    }
    if asked.leader.as_ref().is_some_and(|l| *l != v.name) {
        return clear(format!(
            "dropping a switchover request: its leader {} is not the leader",
            asked.leader.as_deref().unwrap_or_default()
        ));
    }
    if asked.candidate.as_ref() == Some(&v.name) {
        return clear("dropping a switchover request: its candidate leads already".to_owned());
    }
    // Answers to the race that we won tell where the others stood under the leader before.
    let outdated = |at: Boot| {
        v.now.since(at) > candidates::ANSWERS_FRESH || Some(at) < v.memory.promotion_asked
    };
    if v.peers_asked_at.is_none_or(outdated) {
        return Some(Outcome::say(v, "looking for a candidate").act(Action::AskPeers).wake(QUICK));
    }
    match candidates::successor(v, asked.candidate.as_deref()) {
        Some(to) => Some(
            Outcome::say(v, format!("switchover to {to}: stopping PostgreSQL"))
                .act(Action::Checkpoint)
                .act(Action::StopFast)
                .remember(|m| m.switchover = Some(Switchover { to, since: v.now })),
        ),
        None => clear("no healthy candidate for the switchover was found".to_owned()),
    }
}

fn synchronous(v: &View) -> Option<Outcome> {
    if !running(v) {
        return None;
    }
    let step = sync::step(v)?;
    Some(sync_step(Outcome::say(v, step.why), v, step.action).wake(QUICK))
}

fn steady(v: &View) -> Option<Outcome> {
    if !leading(v) {
        return None;
    }
    let settling = v.memory.sync_names_set.is_some_and(|at| v.now.since(at) < QUICK * 20);
    let mut why = format!("no action. I am ({}), the leader with the lock", v.name);
    if let (Some(Initialize::Done(id)), Some(control)) =
        (v.cluster().map(|c| &c.initialize), v.control())
        && *id != control.system_identifier.to_string()
    {
        let mine = control.system_identifier;
        why += &format!("; the key /initialize was changed to {id}: put {mine} back");
    }
    let out = Outcome::say(v, why);
    Some(if settling { out.wake(QUICK) } else { out })
}
