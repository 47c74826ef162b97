//! `decide`: from everything known to the one thing to do. Rules are an ordered table; the first
//! that matches wins. Order is the safety argument: fencing and lease rules precede everything,
//! then work in progress, the pause, what hangs or fails, then the leader's, the vacancy's and the
//! follower's business.

use std::time::Duration;

use super::cloning::Cloning;
use super::cluster::{Cluster, Initialize};
use super::database::ControlState;
use super::decision::{Action, Decision};
use super::failsafe;
use super::guard::Phase;
use super::health::stuck;
use super::rules::{follow, health, leader, pause, release, safety, vacant};
use super::time::Boot;
use super::view::{LastExit, Memory, Postmaster, View};

/// One row of the table.
pub struct Rule {
    /// Stable; stands in logs, in `explain` and in the documentation.
    pub id: &'static str,
    /// One sentence for people.
    pub meaning: &'static str,
    pub matches: fn(&View) -> Option<Outcome>,
}

/// What a matching rule wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub why: String,
    pub actions: Vec<Action>,
    pub memory: Memory,
    pub wake_after: Option<Duration>,
    /// The lease is not renewed any more as long as this stands.
    pub lapse: bool,
}

impl Outcome {
    /// Nothing to do but to say why.
    pub fn say(view: &View, why: impl Into<String>) -> Outcome {
        Outcome {
            why: why.into(),
            actions: Vec::new(),
            memory: view.memory.clone(),
            wake_after: None,
            lapse: false,
        }
    }

    pub fn act(mut self, action: Action) -> Outcome {
        self.actions.push(action);
        self
    }

    pub fn remember(mut self, change: impl FnOnce(&mut Memory)) -> Outcome {
        change(&mut self.memory);
        self
    }

    pub fn wake(mut self, after: Duration) -> Outcome {
        self.wake_after = Some(after);
        self
    }
}

/// All rules in their order.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    safety::RULES
        .iter()
        .chain(release::RULES)
        .chain(pause::RULES)
        .chain(health::RULES)
        .chain(leader::RULES)
        .chain(vacant::RULES)
        .chain(follow::RULES)
}

/// The decision for this view. Pure; the same view gives the same decision.
pub fn decide(view: &View) -> Decision {
    let mut view = view.clone();
    view.memory = upkeep(&view);
    for rule in rules() {
        if let Some(outcome) = (rule.matches)(&view) {
            return finish(&view, rule.id, outcome);
        }
    }
    // Before the first look at the cluster hardly any rule can tell.
    let why = if view.cluster().is_none() { "waiting on etcd" } else { "nothing to do" };
    let outcome = Outcome::say(&view, why);
    finish(&view, "none", outcome)
}

/// A server that ends right after its start is not started again sooner than this, doubled with
/// each time up to [`START_PAUSE_MAX`]: on a full disk each start costs a recovery for nothing.
const START_PAUSE: Duration = Duration::from_secs(2);
const START_PAUSE_MAX: Duration = Duration::from_secs(64);

/// Between two starts of a server that does not stay up there is a pause: a wrong parameter would
/// else be tried ten times a second. One that lived longer than the pause is started again at once,
/// and so is one that was fenced or told to end.
fn throttled(view: &View, outcome: Outcome) -> Outcome {
    let start = |a: &Action| matches!(a, Action::StartPrimary | Action::StartStandby { .. });
    if !outcome.actions.iter().any(start) {
        return outcome;
    }
    let failed = |since: Boot| {
        let ordered = |e: &LastExit| view.memory.stopped_pid == Some(e.pid);
        view.server.last_exit.is_some_and(|e| !e.clean && e.at >= since && !ordered(&e))
    };
    let begun = view.memory.started.filter(|at| failed(*at));
    let pause = START_PAUSE * (1 << view.memory.short_lives.min(5));
    match begun {
        Some(at) if view.now.since(at) < pause => {
            let why = format!("{}: waiting, it ended right after its last start", outcome.why);
            Outcome::say(view, why).wake(pause.saturating_sub(view.now.since(at)))
        }
        _ => outcome.remember(|m| {
            m.started = Some(view.now);
            let ended = view.server.last_exit.map(|exit| exit.at);
            let short = begun.zip(ended).is_some_and(|(at, end)| end.since(at) < START_PAUSE_MAX);
            m.short_lives = if short { m.short_lives.saturating_add(1) } else { 0 };
        }),
    }
}

/// One place for all ways to a vacant key, whatever rule wants it. A hand-over is none: there the
/// leader itself gives the key to this member, sealed, so that no promise is needed any more.
fn barred(view: &View, rule: &str, outcome: Outcome) -> Outcome {
    let takes = |a: &Action| matches!(a, Action::Campaign | Action::AcquireLeader { .. });
    let leads = matches!(view.guard.phase, Phase::Leading | Phase::Paused);
    if leads || rule == follow::TAKE_OVER || !outcome.actions.iter().any(takes) {
        return outcome;
    }
    match failsafe::bars(view) {
        Some((why, wait)) => Outcome::say(view, why).wake(wait.min(view.settings.loop_wait)),
        None => outcome,
    }
}

fn finish(view: &View, rule: &'static str, outcome: Outcome) -> Decision {
    let outcome = barred(view, rule, throttled(view, outcome));
    Decision {
        rule,
        why: outcome.why,
        actions: outcome.actions,
        memory: outcome.memory,
        wake_after: outcome.wake_after.unwrap_or(view.settings.loop_wait),
        // A stuck loop must not keep a lease for ever: without a new decision renewal ends.
        renew_until: if outcome.lapse { view.now } else { view.now.plus(view.settings.ttl) },
    }
}

/// The carry-over, brought up to date with what is seen now, before any rule looks at it.
fn upkeep(view: &View) -> Memory {
    let mut memory = view.memory.clone();
    let absent = view.cluster().is_some_and(|c| c.leader.is_none());
    let vacant = view.cluster().filter(|_| absent && !failsafe::may_be_led(view));
    // Between two looks at an absent key somebody may have led.
    let under = vacant.map(Cluster::lately_led);
    memory.vacant_since = match memory.vacant_since.filter(|_| memory.vacant_under == under) {
        since @ Some(_) => since.filter(|_| under.is_some()),
        None => under.map(|_| view.now),
    };
    memory.vacant_under = under;
    // The right to bootstrap hangs on the lease, which outlives an agent and the race's answer. It
    // ends with the bootstrap: who loses the data later copies it.
    match view.cluster().map(|c| &c.initialize) {
        Some(Initialize::InProgress { lease_id }) => {
            memory.bootstrap_won |= view.store.lease.is_some_and(|l| l.id == *lease_id);
        }
        Some(Initialize::Done(_)) => memory.bootstrap_won = false,
        Some(Initialize::Absent) | None => {}
    }
    memory.crashes.retain(|at| view.now.since(*at) < view.settings.primary_start_timeout);
    if view.is_primary() && view.guard.phase == Phase::Leading {
        memory.starting_since = None;
        memory.demoted_because = None;
        // Asked of the replica that it was then, and so was the copy that was to replace its data.
        memory.reinitializing = false;
        memory.cloning = Cloning::default();
    }
    let shut_down = view.control().is_some_and(|c| {
        matches!(c.state, ControlState::ShutDown | ControlState::ShutDownInRecovery)
    });
    let stopped = view.server.postmaster.is_none_or(|p| p.stopping_since.is_some());
    memory.shut_down_since = match (shut_down && stopped, memory.shut_down_since) {
        (true, since) => since.or(Some(view.now)),
        (false, _) => None,
    };
    let ends = |p: &Postmaster| p.stopping_since.is_some() || view.guard.phase == Phase::Killing;
    if let Some(told) = view.server.postmaster.filter(ends) {
        memory.stopped_pid = Some(told.pid);
    }
    if memory.switchover.is_some() && !leads_or_released(view) {
        memory.switchover = None;
    }
    // Who recovers from the archive (nostream) is not expected to stream.
    let streaming = view.probe().is_none_or(|p| {
        !p.in_recovery
            || view.tags.nostream
            || p.wal_receiver.as_ref().is_some_and(|r| r.status == "streaming")
    });
    memory.not_streaming_since = match (streaming, memory.not_streaming_since) {
        (true, _) => None,
        (false, None) => Some(view.now),
        (false, since) => since,
    };
    upkeep_of_health(view, &mut memory);
    memory
}

/// How long we lead, kill, and stand still.
fn upkeep_of_health(view: &View, memory: &mut Memory) {
    let leads = matches!(view.guard.phase, Phase::Leading | Phase::Frozen | Phase::Paused);
    memory.led_since = memory.led_since.or(Some(view.now)).filter(|_| leads);
    if view.leader_member().is_some() {
        memory.followers.clear();
    }
    if let Some(probe) = view.probe().filter(|p| leads && !p.in_recovery) {
        let senders = probe.wal_senders.iter().filter(|s| s.state == "streaming");
        memory.followers.extend(senders.map(|s| s.application_name.clone()));
    }
    let kills = view.guard.phase == Phase::Killing;
    memory.killing_since = memory.killing_since.or(Some(view.now)).filter(|_| kills);
    let key_is_ours = view.leader().is_some_and(|key| key.name == view.name);
    memory.yielding &= key_is_ours || kills;
    memory.hang_kills.retain(|at| view.now.since(*at) < health::RESTARTS_WITHIN);
    let standby = view.probe().filter(|p| p.in_recovery);
    let replayed = standby.and_then(|p| p.replay_lsn);
    // A receiver that has just started tells where its segment begins, before what is there.
    let received = standby.and_then(|p| p.receive_lsn).max(replayed);
    let held = standby.is_some_and(|p| p.replay_paused);
    let goal = received.filter(|_| !held);
    memory.replay_stuck = stuck(memory.replay_stuck, replayed, goal, view.now);
    let optime = view.leader_member().and_then(|_| view.cluster()?.status.optime);
    memory.receive_stuck = stuck(memory.receive_stuck, received, optime, view.now);
}

fn leads_or_released(view: &View) -> bool {
    matches!(view.guard.phase, Phase::Leading | Phase::Sealed) || view.burned_key().is_some()
}
