//! Another member leads (or nothing is known of any): clone, rejoin, follow.

use std::time::Duration;

use super::rejoin;
use crate::core::candidates;
use crate::core::cloning::Cloning;
use crate::core::cluster::{Initialize, Member};
use crate::core::database::DataDir;
use crate::core::decide::{Outcome, Rule};
use crate::core::decision::{Action, Upstream};
use crate::core::guard::Phase;
use crate::core::settings::{BASEBACKUP, SyncMode};
use crate::core::slot_copies;
use crate::core::timeline::{self, Relation};
use crate::core::view::View;

const QUICK: Duration = Duration::from_millis(200);

/// A standby that does not stream for this long has its history compared with the leader's.
const NOT_STREAMING: Duration = Duration::from_secs(2);

/// How long a demoted member waits for the new leader before it serves readers without it.
const LEADER_READY: Duration = Duration::from_secs(5);

/// By `/sync` this member has every commit that was acknowledged, and may lead or vote by it. What
/// the leader itself has is as much; a copy of a replica or of the archive may be less.
const STILL_NAMED: &str = "waiting until /sync does not name this member any more: what is to be \
                           copied may lack commits that it had";

/// The one way to the leader key that is no race.
pub const TAKE_OVER: &str = "follow.take_over";

pub const RULES: &[Rule] = &[
    Rule {
        id: TAKE_OVER,
        meaning: "the sealed leader named us: replace its key",
        matches: take_over,
    },
    Rule { id: "follow.withdraw", meaning: "another member won the race", matches: withdraw },
    Rule {
        id: "follow.own_old_key",
        meaning: "the key carries our name but not our lease: wait until it runs out",
        matches: own_old_key,
    },
    Rule {
        id: "follow.reinitialize",
        meaning: "an operator asked for a new copy of the leader's data",
        matches: reinitialize,
    },
    Rule { id: "follow.clone", meaning: "copy the data of a running member", matches: clone },
    Rule { id: "follow.unusable", meaning: "the data directory cannot be used", matches: unusable },
    Rule {
        id: "follow.leftovers",
        meaning: "processes of a dead PostgreSQL are left",
        matches: leftovers,
    },
    Rule {
        id: "follow.half_rewound",
        meaning: "a rewind did not end well: again, or a new copy, but no start",
        matches: rejoin::half_rewound,
    },
    Rule {
        id: "follow.rejoin",
        meaning: "compare histories before following: start, rewind or copy anew",
        matches: rejoin::rejoin,
    },
    Rule {
        id: "follow.read_only",
        meaning: "no store or no leader to be seen: serve what is here, read-only",
        matches: read_only,
    },
    Rule { id: "follow.starting", meaning: "PostgreSQL does not answer yet", matches: starting },
    Rule {
        id: "follow.retarget",
        meaning: "point the standby at its present source",
        matches: retarget,
    },
    Rule {
        id: "follow.wake",
        meaning: "the leader is back: wake a standby that sleeps before it connects again",
        matches: wake,
    },
    Rule {
        id: "follow.diverged",
        meaning: "a running standby cannot stream because its history has left the leader's",
        matches: diverged,
    },
    Rule {
        id: "follow.copy_slots",
        meaning: "logical slots of the leader were fetched: restart the standby with them",
        matches: copy_slots,
    },
    Rule { id: "follow.restart", meaning: "an operator asked for a restart", matches: restart },
    Rule { id: "follow.steady", meaning: "all is well", matches: steady },
];

fn take_over(v: &View) -> Option<Outcome> {
    let cluster = v.cluster()?;
    let (note, key) = (cluster.handover.as_ref()?, cluster.leader.as_ref()?);
    let fits = note.value.to == v.name
        && note.value.leader_mod_revision == key.mod_revision
        && key.name != v.name;
    if !fits || !v.is_standby() || v.tags.nofailover {
        return None;
    }
    // The note's position is the end of the shutdown checkpoint record, after which the old
    // leader wrote nothing: whoever has it has every commit.
    if v.position() < Some(note.value.lsn) {
        return Some(
            Outcome::say(v, format!("receiving the last WAL of {}", note.value.from)).wake(QUICK),
        );
    }
    let out = Outcome::say(v, format!("taking the leader lock over from {}", note.value.from));
    if v.guard.phase != Phase::Candidate {
        return Some(out.act(Action::Campaign).wake(QUICK));
    }
    let synchronous = v.settings.synchronous_mode != SyncMode::Off;
    Some(
        out.act(Action::TakeHandover {
            note_revision: note.mod_revision,
            leader_revision: key.mod_revision,
            sync_revision: synchronous
                .then(|| cluster.sync.as_ref().map_or(0, |sync| sync.mod_revision)),
        })
        .wake(QUICK),
    )
}

fn withdraw(v: &View) -> Option<Outcome> {
    (v.guard.phase == Phase::Candidate && v.leader().is_some() && !v.holds_key())
        .then(|| Outcome::say(v, "another member took the leader lock").act(Action::Withdraw))
}

fn own_old_key(v: &View) -> Option<Outcome> {
    let key = v.leader().filter(|k| k.name == v.name)?;
    if v.holds_key() || v.server.postmaster.is_some() && v.probe().is_none() {
        return None;
    }
    // Ownership is never inferred from the name: a twin with the same name would do the same.
    let why = match v.store.failing_since {
        Some(_) => "read-only until the store answers".to_owned(),
        None => format!("waiting for the lease {:x} of an earlier run to expire", key.lease_id),
    };
    let out = Outcome::say(v, why).wake(Duration::from_secs(1));
    let startable = v.server.postmaster.is_none()
        && v.control().is_some()
        && !v.guard.populated
        && !v.server.shm_attached
        && !v.server.bootstrapping;
    Some(if startable { out.act(Action::StartStandby { upstream: None }) } else { out })
}

fn reinitialize(v: &View) -> Option<Outcome> {
    // What is removed here must be there: a leader that runs, seen not long ago.
    let source = v.cluster_within(v.settings.ttl).and_then(|_| ready_leader(v));
    if !(v.wishes.reinitialize || v.memory.reinitializing) || source.is_none() {
        return None;
    }
    if !v.memory.reinitializing {
        return Some(
            Outcome::say(v, "reinitialize in progress")
                .remember(|m| {
                    m.reinitializing = true;
                    m.cloning = Cloning::wanted(v.wishes.from_leader);
                })
                .wake(Duration::ZERO),
        );
    }
    v.server.postmaster?;
    Some(Outcome::say(v, "reinitialize: stopping PostgreSQL").act(Action::StopFast))
}

fn unusable(v: &View) -> Option<Outcome> {
    match &v.server.data_dir {
        Some(DataDir::Unusable { reason }) => {
            Some(Outcome::say(v, reason.clone()).wake(Duration::from_secs(5)))
        }
        _ => None,
    }
}

/// The leader, when its PostgreSQL runs as a primary that may be copied and followed.
pub fn ready_leader(v: &View) -> Option<&Member> {
    v.leader_member().filter(|m| {
        m.is_running() && matches!(m.role.as_str(), "primary" | "master" | "standby_leader")
    })
}

pub fn upstream_of(m: &Member) -> Upstream {
    Upstream { name: m.name.clone(), conn_url: m.conn_url.clone() }
}

fn clone(v: &View) -> Option<Outcome> {
    let empty = matches!(v.server.data_dir, Some(DataDir::Empty));
    let (cloning, others) = (&v.memory.cloning, v.leader_member());
    if !empty && (!cloning.begun || others.is_none() || v.guard.populated) {
        return None;
    }
    let initialized = matches!(v.cluster()?.initialize, Initialize::Done(_));
    let Some(leader) = ready_leader(v).filter(|_| initialized) else {
        return Some(Outcome::say(v, "waiting for leader to bootstrap").wake(QUICK * 5));
    };
    if cloning.waits(v.now) {
        return Some(
            Outcome::say(v, "waiting before the next base backup").wake(Duration::from_secs(1)),
        );
    }
    let (method, begun) = cloning.next(&v.settings, true)?;
    let source = v
        .others()
        .find(|m| m.tags.clonefrom && m.is_running() && m.name != leader.name)
        .filter(|_| !cloning.from_leader)
        .unwrap_or(leader);
    let whole = method.name == BASEBACKUP && source.name == leader.name;
    if !whole && candidates::has_every_commit(v) {
        return Some(Outcome::say(v, STILL_NAMED).wake(QUICK * 5));
    }
    if !empty && !method.keep_data {
        let reason = if v.memory.reinitializing { "reinitialize" } else { "an unfinished copy" };
        return Some(rejoin::remove(v, leader, reason));
    }
    let why = format!("trying to bootstrap from {} '{}'", word(source, leader), source.name);
    let from = Some(upstream_of(source));
    let create = Action::CreateReplica { method: method.name, from };
    Some(Outcome::say(v, why).act(create).remember(|m| m.cloning = begun))
}

fn word(source: &Member, leader: &Member) -> &'static str {
    if source.name == leader.name { "leader" } else { "replica" }
}

fn leftovers(v: &View) -> Option<Outcome> {
    if v.server.postmaster.is_some() || !(v.guard.populated || v.server.shm_attached) {
        return None;
    }
    let reason = "processes of a dead PostgreSQL are left".to_owned();
    Some(Outcome::say(v, reason.clone()).act(Action::Fence { reason }).wake(QUICK))
}

fn read_only(v: &View) -> Option<Outcome> {
    if v.server.postmaster.is_some() || v.control().is_none() || v.server.bootstrapping {
        return None;
    }
    // At a start without a store the store is given one retry_timeout to answer; after a fence
    // readers need not wait.
    let patient = v.cluster().is_none()
        && v.store.failing_since.is_none_or(|since| v.now.since(since) < v.settings.retry_timeout);
    if patient {
        return Some(Outcome::say(v, "waiting on etcd").wake(Duration::from_secs(1)));
    }
    // A new leader is about to promote: following it at once spares a second start.
    let fresh = v.server.last_exit.is_some_and(|e| v.now.since(e.at) < LEADER_READY);
    if v.leader_member().is_some() && fresh {
        return Some(Outcome::say(v, "waiting for the new leader to be ready").wake(QUICK));
    }
    let why = match v.leader_member() {
        Some(leader) => format!("starting as a secondary; the leader {} is not ready", leader.name),
        None => "starting as a secondary, read-only".to_owned(),
    };
    Some(Outcome::say(v, why).act(Action::StartStandby { upstream: source(v) }))
}

fn starting(v: &View) -> Option<Outcome> {
    v.server.postmaster?;
    v.probe().is_none().then(|| Outcome::say(v, v.server.not_ready()).wake(QUICK))
}

fn diverged(v: &View) -> Option<Outcome> {
    let since = v.memory.not_streaming_since?;
    let (probe, leader) = (v.probe()?, ready_leader(v)?);
    let theirs = leader.timeline?;
    // Nothing is stopped in a pause.
    if !probe.in_recovery
        || v.settings.paused
        || v.now.since(since) < NOT_STREAMING
        || theirs == probe.timeline
    {
        return None;
    }
    match &v.server.leader_history {
        Some((of, history)) if *of == theirs => {
            let end = probe.replay_lsn.unwrap_or_default();
            match timeline::relation(probe.timeline, end, theirs, history) {
                Relation::Same | Relation::CanFollow => None,
                Relation::Diverged { .. } if !rejoin::can_mend(v) => None,
                Relation::Diverged { fork_lsn } => Some(
                    Outcome::say(
                        v,
                        match fork_lsn {
                            Some(at) => {
                                format!("history left the leader's at {at}: stopping for pg_rewind")
                            }
                            None => {
                                "the leader does not know this timeline: stopping for pg_rewind"
                                    .to_owned()
                            }
                        },
                    )
                    .act(Action::StopFast),
                ),
            }
        }
        _ => Some(
            Outcome::say(v, "reading the leader's timeline history")
                .act(Action::FetchHistory { from: upstream_of(leader), timeline: theirs })
                .wake(QUICK * 5),
        ),
    }
}

/// The member to stream from: `replicatefrom` while it runs, else the leader. Nobody with the tag
/// `nostream`: that member recovers from the archive.
pub fn source(v: &View) -> Option<Upstream> {
    let leader = v.leader_member().filter(|_| !v.tags.nostream)?;
    let chosen = v
        .tags
        .replicatefrom
        .as_ref()
        .and_then(|name| v.others().find(|m| m.name == *name && m.is_running()));
    Some(upstream_of(chosen.unwrap_or(leader)))
}

fn retarget(v: &View) -> Option<Outcome> {
    if !v.is_standby() {
        return None;
    }
    let streams = v.probe().is_some_and(|p| !p.primary_conninfo.is_empty());
    if v.tags.nostream && streams {
        let why = "following the archive only (nostream)";
        return Some(Outcome::say(v, why).act(Action::Follow { upstream: None }).wake(QUICK * 5));
    }
    let wanted = source(v)?;
    if v.server.upstream.as_deref() == Some(wanted.conn_url.as_str()) {
        return None;
    }
    let why = format!("following a new leader ({})", wanted.name);
    Some(
        Outcome::say(v, why)
            .act(Action::Follow { upstream: Some(wanted) })
            .remember(|m| m.not_streaming_since = None),
    )
}

/// The startup process sleeps `wal_retrieve_retry_interval` after each failure; SIGHUP wakes it.
/// Once for every word of the leader, so that a standby that cannot stream is not nagged.
fn wake(v: &View) -> Option<Outcome> {
    v.memory.not_streaming_since?;
    let leader = ready_leader(v).filter(|m| m.mod_revision != v.memory.woken_for)?;
    let revision = leader.mod_revision;
    let why = format!("waking the standby: the leader {} is ready", leader.name);
    Some(Outcome::say(v, why).act(Action::Reload).remember(|m| m.woken_for = revision).wake(QUICK))
}

/// A standby reads its slots when it starts, so that this costs a restart, once in the life of a
/// slot; none in a pause, and none for what was fetched long ago.
fn copy_slots(v: &View) -> Option<Outcome> {
    let told = v.server.leader_slots.as_ref().filter(|seen| !seen.value.fetched.is_empty())?;
    let streams = v.is_standby() && v.memory.not_streaming_since.is_none();
    if v.settings.paused || !streams || v.now.since(told.at) >= slot_copies::FRESH {
        return None;
    }
    ready_leader(v)?;
    let names = told.value.fetched.join(", ");
    let why = format!("restarting with copies of the leader's logical slots ({names})");
    Some(Outcome::say(v, why).act(Action::StopFast))
}

fn restart(v: &View) -> Option<Outcome> {
    if v.memory.restarting && v.probe().is_some() {
        return Some(
            Outcome::say(v, "restarted")
                .act(Action::RestartDone)
                .remember(|m| m.restarting = false)
                .wake(Duration::ZERO),
        );
    }
    if !v.wishes.restart || v.memory.restarting || v.server.postmaster.is_none() {
        return None;
    }
    Some(
        Outcome::say(v, "restart in progress")
            .act(Action::StopFast)
            .remember(|m| m.restarting = true),
    )
}

fn steady(v: &View) -> Option<Outcome> {
    v.server.postmaster?;
    Some(match v.leader() {
        Some(key) => Outcome::say(
            v,
            format!(
                "no action. I am ({}), a secondary, and following a {}leader ({})",
                v.name,
                if v.settings.standby_cluster.is_some() { "standby " } else { "" },
                key.name
            ),
        ),
        None => Outcome::say(v, "no action; the leader is not known"),
    })
}
