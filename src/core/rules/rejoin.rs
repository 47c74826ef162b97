//! A stopped data directory comes back to a cluster that another member leads: start, rewind, or
//! copy anew.

use std::time::Duration;

use super::follow::{ready_leader, source, upstream_of};
use crate::core::candidates::ANSWERS_FRESH;
use crate::core::cluster::Member;
use crate::core::database::{ControlState, DataDir};
use crate::core::decide::Outcome;
use crate::core::decision::Action;
use crate::core::time::Boot;
use crate::core::timeline::{self, Relation};
use crate::core::view::{View, Work};

const QUICK: Duration = Duration::from_millis(200);

/// How long the leader's history is asked for before readers are served without it.
const HISTORY_WITHIN: Duration = Duration::from_secs(30);

/// What the stopped data directory has to do before it may follow this leader.
enum Rejoin {
    Start,
    Rewind,
    /// The leader's timeline has the number of ours and is another one: pg_rewind cannot tell.
    Copy,
    NeedHistory(u32),
    Wait,
}

/// A standby's directory starts when the leader's history contains its position. A former
/// primary's may hold WAL that nobody else has: only the histories can tell, and after a crash
/// its own end is unknown, so that pg_rewind (which recovers it first) decides.
fn how_to_rejoin(v: &View, leader: &Member) -> Rejoin {
    let (Some(control), Some(theirs)) = (v.control(), leader.timeline) else {
        return Rejoin::Wait;
    };
    let was_standby = v.was_standby();
    if control.timeline == theirs {
        // One timeline has one primary. A standby never left it; a primary of this number that is
        // not the leader wrote a timeline of its own, opened by a promotion that the leader did
        // not see: numbers are given out by each server for itself.
        return if was_standby || just_copied(v) { Rejoin::Start } else { Rejoin::Copy };
    }
    let history = match &v.server.leader_history {
        Some((of, history)) if *of == theirs => history,
        _ if theirs == 1 => return Rejoin::Rewind,
        _ => return Rejoin::NeedHistory(theirs),
    };
    let crashed = !was_standby && control.state != ControlState::ShutDown;
    let end = match control.state {
        ControlState::ShutDown => {
            timeline::checkpoint_end(control.checkpoint_lsn, control.wal_segment_bytes)
        }
        _ => control.checkpoint_lsn.max(control.min_recovery_lsn),
    };
    let mine = control.timeline.max(control.min_recovery_timeline);
    match timeline::relation(mine, end, theirs, history) {
        Relation::Same | Relation::CanFollow if !crashed => Rejoin::Start,
        _ => Rejoin::Rewind,
    }
}

/// A base backup looks like a primary that crashed until it was started. The primary that ended
/// here before the copy was another one.
fn just_copied(v: &View) -> bool {
    let copied = v.job.is_some_and(|j| j.work == Work::BaseBackup && j.succeeded == Some(true));
    let before = |end: Boot| v.memory.copied_at.is_some_and(|at| end < at);
    copied && v.server.last_exit.is_none_or(|e| !e.permitted || before(e.at))
}

pub fn half_rewound(v: &View) -> Option<Outcome> {
    if !v.is_half_rewound() || !matches!(v.server.data_dir, Some(DataDir::Cluster { .. })) {
        return None;
    }
    let Some(leader) = ready_leader(v) else {
        return Some(Outcome::say(v, "half rewound: waiting for a leader").wake(QUICK));
    };
    if v.settings.use_pg_rewind && !v.memory.rewind_failed {
        let why = format!("running pg_rewind from {} again", leader.name);
        return Some(Outcome::say(v, why).act(Action::Rewind { from: upstream_of(leader) }));
    }
    if may_remove(v) {
        return Some(remove(v, leader, "pg_rewind did not end well"));
    }
    let why = "pg_rewind did not end well: pages of two histories may be mixed, so that the member \
               must be reinitialized (pgvigilctl reinit)";
    Some(Outcome::say(v, why).wake(Duration::from_secs(5)))
}

pub fn rejoin(v: &View) -> Option<Outcome> {
    if v.server.postmaster.is_some() || v.control().is_none() {
        return None;
    }
    let leader = ready_leader(v)?;
    let from = upstream_of(leader);
    match how_to_rejoin(v, leader) {
        Rejoin::Start => Some(start_standby(v, "starting as a secondary")),
        // Rights may be missing, or a password: that must not keep readers out for ever. PostgreSQL
        // itself streams nothing that does not belong to its history.
        Rejoin::NeedHistory(_) if history_overdue(v) => {
            let why = "starting as a secondary, read-only: the leader's timeline history cannot be \
                       read";
            Some(start_standby(v, why))
        }
        Rejoin::NeedHistory(timeline) => Some(
            Outcome::say(v, "reading the leader's timeline history")
                .act(Action::FetchHistory { from, timeline })
                .remember(|m| m.history_needed_since = m.history_needed_since.or(Some(v.now)))
                .wake(QUICK * 5),
        ),
        Rejoin::Wait => Some(Outcome::say(v, "waiting for the leader's timeline").wake(QUICK)),
        Rejoin::Rewind => Some(rewind_or_copy(v, leader)),
        Rejoin::Copy if may_remove(v) => {
            let reason = "the leader's timeline has the same number and is another one";
            Some(remove(v, leader, reason))
        }
        Rejoin::Copy => Some(Outcome::say(
            v,
            "the leader's timeline has the same number and is another one; \
             the member must be reinitialized (pgvigilctl reinit)",
        )),
    }
}

fn history_overdue(v: &View) -> bool {
    v.memory.history_needed_since.is_some_and(|since| v.now.since(since) > HISTORY_WITHIN)
}

fn start_standby(v: &View, why: &str) -> Outcome {
    Outcome::say(v, why).act(Action::StartStandby { upstream: source(v) }).remember(|m| {
        m.not_streaming_since = None;
        m.history_needed_since = None;
    })
}

fn rewind_or_copy(v: &View, leader: &Member) -> Outcome {
    let possible = v.settings.use_pg_rewind
        && v.control().is_some_and(|c| c.wal_log_hints || c.data_checksums);
    if possible && !v.memory.rewind_failed {
        if leader.checkpoint_after_promote == Some(false) {
            let why = "waiting for checkpoint on the new primary before pg_rewind";
            return Outcome::say(v, why).wake(QUICK);
        }
        let why = format!("running pg_rewind from {}", leader.name);
        return Outcome::say(v, why).act(Action::Rewind { from: upstream_of(leader) });
    }
    let failed = v.memory.rewind_failed && v.settings.remove_data_directory_on_rewind_failure;
    if v.settings.remove_data_directory_on_diverged_timelines || failed {
        let reason = "the history has left the leader's and pg_rewind is not possible";
        return remove(v, leader, reason);
    }
    // As Patroni: without permission to remove anything, start and keep trying to stream.
    let why = "history differs from the leader's and pg_rewind is not possible; \
               the member must be reinitialized (pgvigilctl reinit)";
    Outcome::say(v, why).act(Action::StartStandby { upstream: source(v) })
}

/// What is removed here must be there: the leader whose data is copied next answers now that its
/// server accepts writes. What the store says of it may be as old as its lease, or a backup.
pub fn remove(v: &View, leader: &Member, reason: &str) -> Outcome {
    if v.peers_asked_at.is_none_or(|at| v.now.since(at) > ANSWERS_FRESH) {
        let why = format!("{reason}: asking the leader {} before data is removed", leader.name);
        return Outcome::say(v, why).act(Action::AskPeers).wake(QUICK);
    }
    let follows = v.settings.standby_cluster.is_some();
    let why_not = match v.peers.get(&leader.name).filter(|peer| peer.reachable) {
        None => Some("does not answer"),
        Some(peer) if follows && peer.position.is_some() => None,
        Some(peer) if peer.in_recovery => Some("is no primary"),
        Some(_) => None,
    };
    if let Some(why) = why_not {
        let why = format!("{reason}: no data is removed while {} {why}", leader.name);
        return Outcome::say(v, why).wake(ANSWERS_FRESH);
    }
    let reason = reason.to_owned();
    Outcome::say(v, reason.clone()).act(Action::RemoveData { reason })
}

/// What a rewind cannot mend is copied anew where the configuration permits either removal.
fn may_remove(v: &View) -> bool {
    v.settings.remove_data_directory_on_diverged_timelines
        || v.settings.remove_data_directory_on_rewind_failure
}

/// Stopping a readable standby makes sense only if something can be done afterwards.
pub fn can_mend(v: &View) -> bool {
    let rewind = v.settings.use_pg_rewind
        && !v.memory.rewind_failed
        && v.control().is_some_and(|c| c.wal_log_hints || c.data_checksums);
    let failed = v.memory.rewind_failed && v.settings.remove_data_directory_on_rewind_failure;
    rewind || failed || v.settings.remove_data_directory_on_diverged_timelines
}
