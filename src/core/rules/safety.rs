//! First of all: fencing, proof of loss, identity, work that is under way.

use std::time::Duration;

use crate::core::candidates::ANSWERS_FRESH;
use crate::core::cloning::Cloning;
use crate::core::cluster::Initialize;
use crate::core::database::ControlState;
use crate::core::decide::{Outcome, Rule};
use crate::core::decision::Action;
use crate::core::failsafe;
use crate::core::guard::Phase;
use crate::core::health::Illness;
use crate::core::rules::pause;
use crate::core::settings::SyncMode;
use crate::core::view::{PeerAnswer, View, Work};

/// A kill that takes longer than this waits for something that nobody knows the end of; the exit
/// of processes with much memory takes part of it.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

pub const RULES: &[Rule] = &[
    Rule {
        id: "failsafe.retake",
        meaning: "the key ran out while every member's promise kept it for us: take it again",
        matches: retake,
    },
    Rule {
        id: "safety.lost",
        meaning: "the store proves that the leader key is not ours: fence at once",
        matches: lost,
    },
    Rule {
        id: "safety.found",
        meaning: "a server runs that this supervisor did not start: take it over",
        matches: found,
    },
    Rule {
        id: "safety.found_primary",
        meaning: "a primary was found running: frozen until the leader lock is ours, or killed",
        matches: found_primary,
    },
    Rule {
        id: "safety.frozen",
        meaning: "the lease could not be confirmed in time: frozen until it is, or killed",
        matches: frozen,
    },
    Rule {
        id: "safety.killing",
        meaning: "processes of PostgreSQL are being killed",
        matches: killing,
    },
    Rule {
        id: "safety.unpermitted",
        meaning: "PostgreSQL accepts writes although nobody permitted it: fence",
        matches: unpermitted,
    },
    Rule {
        id: "safety.identity",
        meaning: "the data directory belongs to another cluster",
        matches: identity,
    },
    Rule { id: "work.running", meaning: "a job works on the data directory", matches: running },
    Rule { id: "work.ended", meaning: "a job on the data directory has ended", matches: ended },
];

/// A trusted linearizable read whose revision is not older than our acquiring transaction, and
/// which does not show our tenure, is proof: the key is gone or another's. An error is not.
fn proven_lost(v: &View) -> bool {
    let (Some(tenure), Some(cluster)) = (v.guard.tenure, v.cluster()) else {
        return false;
    };
    v.store.doubt.is_none()
        && cluster.revision >= tenure.mod_revision
        && !v.holds_key()
        && v.moved().is_none()
        && v.guard.burned != Some(tenure)
}

/// Nobody led in between (`core::failsafe`, 6); the supervisor's deadline runs on.
fn retake(v: &View) -> Option<Outcome> {
    if !failsafe::retakes(v) {
        return None;
    }
    let record = pause::permission(v)?;
    let synchronous = v.settings.synchronous_mode != SyncMode::Off;
    let sync = v.cluster()?.sync.as_ref();
    let sync_revision = synchronous.then(|| sync.map_or(0, |key| key.mod_revision));
    Some(
        Outcome::say(v, "acquired session lock as a leader")
            .act(Action::AcquireLeader { sync_revision, record })
            .wake(Duration::from_millis(100)),
    )
}

fn lost(v: &View) -> Option<Outcome> {
    if !matches!(v.guard.phase, Phase::Leading | Phase::Frozen) || !proven_lost(v) {
        return None;
    }
    let tenure = v.guard.tenure?;
    let why = match v.leader() {
        Some(key) => format!("demoting self because {} holds the leader lock", key.name),
        None => "demoting self because the leader lock is gone".to_owned(),
    };
    Some(
        Outcome::say(v, why.clone())
            .act(Action::LeaseLost { tenure })
            .remember(|m| m.demoted_because = Some(why)),
    )
}

fn found(v: &View) -> Option<Outcome> {
    if v.server.postmaster.is_some() {
        return None;
    }
    let pid = v.server.running_pid?;
    if v.cluster().is_none() && v.store.failing_since.is_none() {
        return Some(Outcome::say(v, "waiting on etcd").wake(Duration::from_millis(300)));
    }
    // A promotion may have been ordered that the server, frozen, has not carried out yet: it would
    // be thawed as a standby and accept writes a moment later. While the key bears our name one may
    // even be ordered just now.
    let promotable = v.leader().is_none_or(|key| key.name == v.name);
    // What pg_control says of a running server is what it is.
    let standby = !promotable
        && !v.server.promoting
        && v.server.standby_signal
        && v.control().is_some_and(|c| c.state == ControlState::InArchiveRecovery);
    let why = format!("adopting the running postmaster {pid}");
    Some(Outcome::say(v, why).act(Action::Adopt { pid, standby }))
}

/// Nobody knows whether its commits are still its own to make: that is decided by the store. It
/// has every commit that it ever acknowledged, so that it may take a vacant key without a race on
/// positions, unless somebody has been promoted since.
fn found_primary(v: &View) -> Option<Outcome> {
    if v.guard.phase != Phase::Frozen || v.guard.tenure.is_some() {
        return None;
    }
    let fence = |why: &str| {
        let reason = why.to_owned();
        Some(Outcome::say(v, why).act(Action::Fence { reason }))
    };
    let wait = |why: &str| Some(Outcome::say(v, why).wake(Duration::from_millis(300)));
    if v.server.postmaster.is_none() {
        return fence("processes of a dead PostgreSQL were found");
    }
    let Some(cluster) = v.cluster_within(v.settings.ttl) else {
        return wait("a primary was found running: frozen until the store answers");
    };
    match &cluster.leader {
        Some(key) if took_over(v, key.mod_revision) => {
            return Some(
                Outcome::say(v, "the leader lock is ours: confirming it")
                    .act(Action::ConfirmOwn)
                    .wake(Duration::from_millis(300)),
            );
        }
        Some(key) if key.name == v.name => {
            return wait("a primary was found running: frozen until its earlier lease has expired");
        }
        Some(_) => return fence("a primary was found running, but another member leads"),
        None => {}
    }
    // It may have been promoted, or only look like a standby; a standby races on its position.
    if v.was_standby() {
        return fence("what was found running is no primary for certain: it is started anew");
    }
    let barred = v.tags.nofailover
        || cluster.sync.as_ref().is_some_and(|s| {
            v.settings.synchronous_mode != SyncMode::Off && !s.value.contains(&v.name)
        });
    if barred {
        return fence("a primary was found running that may not lead");
    }
    let Some(record) = pause::permission(v) else {
        return fence("a primary was found running, but another member led when it was paused");
    };
    if v.peers_asked_at.is_none_or(|at| v.now.since(at) > ANSWERS_FRESH) {
        return Some(Outcome::say(v, "asking the other members").act(Action::AskPeers));
    }
    let mine = v.control().map_or(0, |c| c.timeline);
    // Who was promoted since may be gone as well; the history names the timeline that was left.
    if cluster.history.iter().any(|h| h.timeline >= mine) {
        return fence("a primary was found running, but its timeline was left by another member");
    }
    let promoted = |p: &PeerAnswer| {
        p.reachable && (!p.in_recovery || p.timeline.is_some_and(|theirs| theirs > mine))
    };
    if v.peers.values().any(promoted) {
        return fence("a primary was found running, but another member was promoted since");
    }
    let synchronous = v.settings.synchronous_mode != SyncMode::Off;
    let sync_revision = synchronous.then(|| cluster.sync.as_ref().map_or(0, |s| s.mod_revision));
    Some(
        Outcome::say(v, "acquired session lock as a leader")
            .act(Action::AcquireLeader { sync_revision, record })
            .wake(Duration::from_millis(300)),
    )
}

/// The key that was taken for the primary that was found carries our living lease, which nobody
/// else attaches; what its first confirmation lacked, a watchdog device that counts, comes now. Not
/// a key whose leader has named another one: that one may replace it at any instant.
fn took_over(v: &View, key_revision: i64) -> bool {
    let named = v.cluster().and_then(|cluster| cluster.handover.as_ref());
    v.store.failing_since.is_none()
        && v.reclaimable().is_some()
        && named.is_none_or(|note| note.value.leader_mod_revision != key_revision)
}

fn frozen(v: &View) -> Option<Outcome> {
    // It cannot be stopped in good order: that takes a server that runs.
    if v.guard.phase == Phase::Frozen && v.wishes.stop {
        let reason = "asked to stop while PostgreSQL is frozen".to_owned();
        return Some(Outcome::say(v, reason.clone()).act(Action::Fence { reason }));
    }
    (v.guard.phase == Phase::Frozen).then(|| {
        Outcome::say(v, "frozen because the leader lease could not be confirmed in time")
            .wake(Duration::from_millis(500))
    })
}

fn killing(v: &View) -> Option<Outcome> {
    if v.guard.phase != Phase::Killing {
        return None;
    }
    let out = Outcome::say(v, "fenced; waiting until no process of PostgreSQL is left");
    // What hangs in the kernel (state D) dies when its disk answers, maybe never. It is fenced:
    // SIGKILL is pending, it executes no instruction of its own any more. But "empty" cannot be
    // proven, so that the key is not given up; it runs out with its lease.
    let since = v.memory.killing_since.unwrap_or(v.now);
    // Where a volume is known to hang there is less to wait for.
    let hangs = v.health.volume.is_some_and(|ailing| ailing.illness == Illness::Hung);
    let within = if hangs { KILLED_WITHIN / 5 } else { KILLED_WITHIN };
    if v.now.since(since) < within {
        return Some(out.wake(within.saturating_sub(v.now.since(since))));
    }
    let why = "fenced; processes of PostgreSQL cannot be killed (is a disk hung?): the lease is \
               left to expire";
    Some(Outcome { why: why.to_owned(), lapse: true, ..out })
}

fn unpermitted(v: &View) -> Option<Outcome> {
    let held = matches!(v.guard.phase, Phase::Leading | Phase::Paused | Phase::Sealed);
    if held || !v.is_primary() {
        return None;
    }
    let reason = "PostgreSQL accepts writes without the leader lease".to_owned();
    Some(
        Outcome::say(v, reason.clone())
            .act(Action::Fence { reason: reason.clone() })
            .remember(|m| m.demoted_because = Some(reason)),
    )
}

fn identity(v: &View) -> Option<Outcome> {
    let Some(Initialize::Done(expected)) = v.cluster().map(|c| &c.initialize) else {
        return None;
    };
    let mine = v.control()?.system_identifier.to_string();
    // Who holds the key did not lose its data because somebody wrote `/initialize`: it goes on and
    // says so (`leader.steady`).
    if mine == *expected || v.holds_key() {
        return None;
    }
    if v.server.bootstrapping {
        return overtaken(v, expected);
    }
    let reason = format!(
        "system ID mismatch, node {} belongs to a different cluster: {expected} != {mine}",
        v.name
    );
    if v.server.postmaster.is_some() {
        return Some(Outcome::say(v, reason).act(Action::StopFast));
    }
    Some(Outcome::say(v, reason.clone()).act(Action::GiveUp { reason }))
}

/// Another member has bootstrapped while our own attempt was interrupted. Nobody relies on what
/// that left; it is kept beside its place, which is free for a copy.
fn overtaken(v: &View, cluster: &str) -> Option<Outcome> {
    if v.job.is_some_and(|job| job.succeeded.is_none()) {
        return None;
    }
    let out = Outcome::say(v, format!("cluster {cluster} was bootstrapped instead of ours"));
    if v.server.postmaster.is_some() {
        return Some(out.act(Action::StopFast));
    }
    if v.guard.populated || v.server.shm_attached {
        return Some(out.wake(Duration::from_millis(100)));
    }
    Some(out.act(Action::AbortBootstrap))
}

fn running(v: &View) -> Option<Outcome> {
    let job = v.job.filter(|j| j.succeeded.is_none())?;
    if v.wishes.stop {
        let out = Outcome::say(v, "stopping: cancelling the running job");
        if v.memory.cancelled == job.id {
            return Some(out);
        }
        return Some(out.act(Action::CancelWork).remember(|m| m.cancelled = job.id));
    }
    if v.wishes.reinitialize {
        return Some(Outcome::say(v, "reinitialize by force").act(Action::CancelWork));
    }
    let what = match job.work {
        Work::Initdb => "trying to bootstrap a new cluster",
        Work::BaseBackup => "creating replica",
        Work::Rewind => "running pg_rewind",
    };
    Some(Outcome::say(v, what))
}

fn ended(v: &View) -> Option<Outcome> {
    let job = v.job.filter(|j| j.id != v.memory.job_done)?;
    let succeeded = job.succeeded?;
    // A new agent sees the jobs of earlier ones: what they began may be long finished, and a
    // cluster that is initialized, or a server that runs, needs no part of a bootstrap.
    let initialized = v.cluster().map(|c| matches!(c.initialize, Initialize::Done(_)));
    if job.work == Work::Initdb {
        initialized?;
    }
    let stale =
        v.server.postmaster.is_some() || initialized == Some(true) && !v.server.bootstrapping;
    let why = match job.work {
        // A new agent sees the jobs of earlier ones.
        Work::Initdb if stale => {
            "an earlier initdb has ended, and its cluster is in use".to_owned()
        }
        work => describe(v, work, succeeded),
    };
    let out = Outcome::say(v, why).remember(|m| m.job_done = job.id).wake(Duration::ZERO);
    Some(match (job.work, succeeded) {
        (Work::Initdb, _) if stale => out,
        (Work::BaseBackup, false) if v.server.postmaster.is_some() => out,
        (Work::Initdb, true) => out.act(Action::PrepareBootstrap),
        (Work::Initdb, false) => {
            out.act(Action::AbortBootstrap).remember(|m| m.bootstrap_won = false)
        }
        (Work::BaseBackup, true) => out.remember(|m| {
            m.copied_at = m.cloning.begun.then_some(v.now);
            m.cloning = Cloning::succeeded(v.now);
            m.rewind_failed = false;
            m.reinitializing = false;
        }),
        (Work::BaseBackup, false) => {
            let has_source = v.leader_member().is_some();
            // A new agent sees jobs of earlier ones: a whole cluster may have come since, and
            // what no copy of this agent's was to fill is not removed.
            let begun = v.memory.cloning.begun || v.control().is_none();
            out.remember(|m| {
                m.cloning = m.cloning.failed(&v.settings, has_source, v.now);
                m.cloning.begun = begun;
            })
        }
        (Work::Rewind, true) => out.act(Action::RewindDone).remember(|m| m.rewind_failed = false),
        (Work::Rewind, false) => out.remember(|m| m.rewind_failed = true),
    })
}

fn describe(v: &View, work: Work, succeeded: bool) -> String {
    let method = v.memory.cloning.method(&v.settings);
    match (work, succeeded) {
        (Work::Initdb, true) => "initdb is done",
        (Work::Initdb, false) => "initdb failed",
        (Work::BaseBackup, true) => return format!("replica has been created using {method}"),
        (Work::BaseBackup, false) => return format!("creating a replica using {method} failed"),
        (Work::Rewind, true) => "pg_rewind is done",
        (Work::Rewind, false) => "pg_rewind failed",
    }
    .to_owned()
}
