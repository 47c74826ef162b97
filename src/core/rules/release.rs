//! Orderly stop, and what happens to a leader key whose tenure was given up.

use std::time::Duration;

use crate::core::database::ControlState;
use crate::core::decide::{Outcome, Rule};
use crate::core::decision::Action;
use crate::core::guard::Phase;
use crate::core::health::{self, PATIENCE};
use crate::core::lsn::Lsn;
use crate::core::time::Boot;
use crate::core::timeline::checkpoint_end;
use crate::core::view::View;

/// How long the sealed leader leaves its key to the candidate of its note before it deletes it.
/// A candidate needs one watch event and one transaction; deleting opens the ordinary race.
const HANDOVER_WAIT: Duration = Duration::from_secs(2);

/// How long walsenders may go on after the shutdown checkpoint before they are cut off: one whose
/// replica is gone would hold the stop until wal_sender_timeout.
const WALSENDER_WAIT: Duration = Duration::from_secs(1);

/// How long a server that is shut down goes on sending its last WAL to who may lead next.
const LAST_WAL_WAIT: Duration = Duration::from_secs(10);

/// The same once the server has ended: nothing is sent any more, only looked at.
const LAST_LOOK_WAIT: Duration = Duration::from_secs(1);

/// Between two questions for positions.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Between two signals to a server that does not obey.
const QUIT_EVERY: Duration = Duration::from_secs(1);

const SOON: Duration = Duration::from_millis(50);

pub const RULES: &[Rule] = &[
    Rule {
        id: "release.key",
        meaning: "the tenure was given up and its key still stands: leave it to the successor, \
                  or delete it",
        matches: key,
    },
    Rule {
        id: "stop.sealed",
        meaning: "the shutdown checkpoint is written: hand the key over",
        matches: sealed,
    },
    Rule {
        id: "stop.leave",
        meaning: "paused: exit, PostgreSQL goes on and is adopted at the next start",
        matches: leave,
    },
    Rule { id: "stop.waiting", meaning: "PostgreSQL is stopping", matches: waiting },
    Rule { id: "stop.begin", meaning: "stop PostgreSQL in good order", matches: begin },
    Rule { id: "stop.done", meaning: "nothing of PostgreSQL is left: exit", matches: done },
    Rule {
        id: "stop.after_reset",
        meaning: "the machine was reset while it was primary, and `stay_down` asks for an operator",
        matches: after_reset,
    },
];

fn key(v: &View) -> Option<Outcome> {
    let tenure = v.burned_key().filter(|_| !nobody_to_tell(v))?;
    let waits = v.memory.switchover.as_ref().is_some_and(|s| {
        let vigil = v.cluster().and_then(|c| c.members.get(&s.to)).is_some_and(|m| m.vigil);
        let since = v.memory.handover_since.unwrap_or(v.now);
        vigil && v.now.since(since) < HANDOVER_WAIT
    });
    if waits {
        return Some(
            Outcome::say(v, "waiting for the candidate to take the leader lock over")
                .remember(|m| m.handover_since = m.handover_since.or(Some(v.now)))
                .wake(HANDOVER_WAIT),
        );
    }
    Some(
        Outcome::say(v, "releasing the leader lock")
            .act(Action::DeleteLeader { tenure })
            .remember(|m| m.handover_since = None),
    )
}

/// A stop that is complete does not wait for a store that has been silent for longer than any
/// request waits: nothing of ours acknowledges any more, and the key ends with its lease.
fn nobody_to_tell(v: &View) -> bool {
    let left = v.server.postmaster.is_some() || v.guard.populated || v.server.shm_attached;
    let silent = v.store.failing_since.map(|since| v.now.since(since));
    v.wishes.stop && !left && silent.is_some_and(|for_| for_ > v.settings.retry_timeout)
}

/// The end of a demotion that we ordered: a stop for good or a switchover.
fn demoting(v: &View) -> bool {
    v.wishes.stop || v.memory.switchover.is_some()
}

fn sealed(v: &View) -> Option<Outcome> {
    if !demoting(v) || v.guard.phase != Phase::Leading || v.guard.burned == v.guard.tenure {
        return None;
    }
    let tenure = v.guard.tenure?;
    let control = v.control().filter(|c| c.state == ControlState::ShutDown)?;
    // The checkpoint record may be an older shutdown's while the server is only starting; a
    // server that is stopping wrote InProduction before it began.
    let since = v.memory.shut_down_since?;
    if v.server.postmaster.is_none() && (v.guard.populated || v.server.shm_attached) {
        return Some(Outcome::say(v, "waiting until no process of PostgreSQL is left").wake(SOON));
    }
    let lsn = checkpoint_end(control.checkpoint_lsn, control.wal_segment_bytes);
    if !received(v, lsn, since) {
        match last_wal(v, since) {
            Some(out) => return Some(out),
            None if v.wishes.stop => {}
            None => return Some(abandon(v)),
        }
    }
    let mut out = Outcome::say(v, "PostgreSQL is shut down; giving the leader lock up");
    if v.server.postmaster.is_some() {
        out = out.act(Action::Sealed);
    }
    // Burned before the note: from the note on the candidate may take the key at any instant, and
    // an agent that began anew in between would start this server again under the old lease.
    out = out.act(Action::WriteShutdownStatus { tenure, lsn }).act(Action::Release { tenure });
    if let Some(s) = &v.memory.switchover {
        out = out.act(Action::WriteHandover { tenure, to: s.to.clone(), lsn });
    }
    Some(out.remember(|m| m.handover_since = Some(v.now)).wake(Duration::ZERO))
}

/// Whether who may lead next has the WAL up to its end: the candidate of a switchover, any member
/// when we stop for good. Without others there is nobody to wait for.
fn received(v: &View, lsn: Lsn, since: Boot) -> bool {
    let wanted = v.memory.switchover.as_ref().map(|s| &s.to);
    if wanted.is_none() && v.others().next().is_none() {
        return true;
    }
    v.peers_asked_at.is_some_and(|at| at >= since)
        && v.peers.iter().any(|(name, peer)| {
            wanted.is_none_or(|w| w == name) && peer.reachable && peer.position >= Some(lsn)
        })
}

/// Ask on, as long as there is hope.
fn last_wal(v: &View, since: Boot) -> Option<Outcome> {
    let limit = if v.server.postmaster.is_some() { LAST_WAL_WAIT } else { LAST_LOOK_WAIT };
    let begun = match (v.server.postmaster, v.server.last_exit) {
        (None, Some(exit)) => since.max(exit.at),
        _ => since,
    };
    if v.now.since(begun) > limit {
        return None;
    }
    let out = Outcome::say(v, "waiting until the last WAL has been received").wake(ASK_AGAIN);
    let asked = v.peers_asked_at.is_some_and(|at| at >= since && v.now.since(at) < ASK_AGAIN);
    Some(if asked { out } else { out.act(Action::AskPeers) })
}

/// The candidate lacks commits that were acknowledged: the old leader starts again.
fn abandon(v: &View) -> Outcome {
    let to = v.memory.switchover.as_ref().map(|s| s.to.clone()).unwrap_or_default();
    let out =
        Outcome::say(v, format!("abandoning the switchover: {to} has not received the last WAL"));
    if v.server.postmaster.is_some() {
        return out.act(Action::StopImmediate).wake(SOON);
    }
    let request = v.cluster().and_then(|c| c.failover.as_ref()).filter(|f| !f.value.is_empty());
    let out = match request {
        Some(request) => out.act(Action::ClearFailover { revision: request.mod_revision }),
        None => out,
    };
    out.remember(|m| m.switchover = None).wake(Duration::ZERO)
}

/// As Patroni: whoever paused the cluster and stops the service means the service. Not where no
/// record covers a primary (a pause with Patroni members, or one that is not in force yet).
fn leave(v: &View) -> Option<Outcome> {
    let stopping = v.server.postmaster?.stopping_since.is_some() || v.memory.switchover.is_some();
    let covered = match v.guard.phase {
        Phase::Paused => true,
        Phase::Idle => v.is_standby(),
        _ => false,
    };
    (v.wishes.stop && v.settings.paused && covered && !stopping).then(|| {
        Outcome::say(v, "Leader key is not deleted and Postgresql is not stopped due paused state")
            .act(Action::Leave)
    })
}

fn waiting(v: &View) -> Option<Outcome> {
    let postmaster = v.server.postmaster?;
    let since = postmaster.stopping_since?;
    let out = Outcome::say(v, "stopping PostgreSQL").wake(Duration::from_millis(200));
    let cut_off = v.memory.shut_down_since.is_some_and(|at| v.now.since(at) > WALSENDER_WAIT);
    let limit = v.settings.primary_stop_timeout;
    let overdue = limit > Duration::ZERO && postmaster.permitted && v.now.since(since) > limit;
    let overdue = overdue || cut_off;
    // One that is stopped or spins takes no signal but SIGKILL.
    if let Some(why) = health::silence(v, PATIENCE) {
        let why = format!("{why} while it should stop");
        return Some(Outcome::say(v, why.clone()).act(Action::Fence { reason: why }).wake(SOON));
    }
    // One that hangs or is frozen takes the signal later: it is repeated, but not at once.
    let told = v.memory.quit_at.is_some_and(|at| at >= since && v.now.since(at) < QUIT_EVERY);
    if overdue && !told {
        return Some(out.act(Action::StopImmediate).remember(|m| m.quit_at = Some(v.now)));
    }
    Some(out)
}

fn begin(v: &View) -> Option<Outcome> {
    (v.wishes.stop && v.server.postmaster.is_some())
        .then(|| Outcome::say(v, "stopping PostgreSQL").act(Action::StopFast))
}

fn done(v: &View) -> Option<Outcome> {
    if !v.wishes.stop || v.server.postmaster.is_some() {
        return None;
    }
    if v.guard.populated {
        let reason = "processes of a stopped PostgreSQL are left".to_owned();
        return Some(Outcome::say(v, reason.clone()).act(Action::Fence { reason }));
    }
    if v.server.shm_attached {
        // A backend that left the control group may still acknowledge: no signal of ours finds it.
        let why =
            "a process of a dead PostgreSQL is outside the control group: waiting for its end";
        return Some(Outcome::say(v, why).wake(SOON * 4));
    }
    let tenure = v.guard.tenure.filter(|t| v.guard.burned != Some(*t));
    // A fence ended the tenure before the key.
    let given_up = tenure.filter(|_| v.holds_key()).or(v.reclaimable());
    match given_up.filter(|_| !nobody_to_tell(v)) {
        // Crashed rather than shut down: nothing acknowledges any more, the key may go.
        Some(tenure) => {
            Some(Outcome::say(v, "giving the leader lock up").act(Action::Release { tenure }))
        }
        None => Some(Outcome::say(v, "stopped").act(Action::Goodbye)),
    }
}

/// Until `pgvigil watchdog release` removes the mark.
fn after_reset(v: &View) -> Option<Outcome> {
    let idle = matches!(v.guard.phase, Phase::Idle | Phase::Fenced);
    let empty = v.server.postmaster.is_none() && v.server.running_pid.is_none();
    (v.server.stay_down && idle && empty).then(|| {
        Outcome::say(v, "staying down after a reset until `pgvigil watchdog release` is called")
            .wake(Duration::from_secs(1))
    })
}
