//! Pause: the operators decide. The leader's deadline is suspended, under a record in the store
//! that keeps everybody from taking a vacant key; nothing that stopped is started, nobody is
//! promoted unless an operator names it.

use std::time::Duration;

use crate::core::cluster::{Cluster, Keyed, PauseRecord};
use crate::core::database::DataDir;
use crate::core::decide::{Outcome, Rule};
use crate::core::decision::{Action, RecordIs};
use crate::core::guard::Phase;
use crate::core::view::View;

use super::vacant::leave_race;

const QUICK: Duration = Duration::from_millis(200);

pub const RULES: &[Rule] = &[
    Rule {
        id: "pause.overruled",
        meaning: "another member leads although our deadline is suspended: an operator forced it",
        matches: overruled,
    },
    Rule {
        id: "pause.retake",
        meaning: "the lease ran out during the pause; the record kept the key for us: take it",
        matches: retake,
    },
    Rule {
        id: "pause.resume",
        meaning: "the reason for the pause is gone: confirm the lease, then the deadline runs",
        matches: resume,
    },
    Rule {
        id: "pause.remove_record",
        meaning: "the deadline runs again: remove the pause record",
        matches: remove_record,
    },
    Rule {
        id: "pause.begin",
        meaning: "write the pause record, read it back under our key, suspend the deadline",
        matches: begin,
    },
    Rule {
        id: "pause.not_running",
        meaning: "PostgreSQL ended while paused: it is left so, and the key is released",
        matches: not_running,
    },
    Rule {
        id: "pause.disconnected",
        meaning: "no store to be seen: while paused the primary goes on",
        matches: disconnected,
    },
    Rule {
        id: "pause.own_record",
        meaning: "our record of an earlier run: no primary runs here, so it may go",
        matches: own_record,
    },
    Rule {
        id: "pause.vacant",
        meaning: "the pause, or a paused leader's record, forbids to take the vacant key",
        matches: vacant,
    },
];

/// What an acquiring transaction has to compare; `None`: the record forbids it.
pub fn permission(v: &View) -> Option<RecordIs> {
    let Some(key) = &v.cluster()?.pause_record else { return Some(RecordIs::Absent) };
    let (record, revision) = (&key.value, key.mod_revision);
    if forced(v) || (record.stopped && (named(v) || !v.settings.paused)) {
        return Some(RecordIs::Overruled { revision });
    }
    (record.leader == v.name).then_some(RecordIs::Ours { revision })
}

/// An operator named this member, and the time has come.
fn named(v: &View) -> bool {
    let request = v.cluster().and_then(|c| c.failover.as_ref());
    asked(v) && request.is_some_and(|f| f.value.candidate.as_deref() == Some(&v.name))
}

/// ... for a failover: only that says that the leader of the record is down. A switchover asks a
/// leader that lives.
fn forced(v: &View) -> bool {
    let request = v.cluster().and_then(|c| c.failover.as_ref());
    named(v) && request.is_some_and(|f| f.value.leader.is_none())
}

fn own(v: &View) -> Option<&Keyed<PauseRecord>> {
    v.cluster()?.pause_record.as_ref().filter(|key| key.value.leader == v.name)
}

/// ... under which a deadline may be suspended. A request to remove it may still be under way,
/// from the end of a pause before, and be carried out when nobody here can see that; all of them
/// compare the record's revision. So it is one that was written after the last of these was sent,
/// and by this agent, since another's requests are not known. A write that comes late leaves a
/// record, too.
fn settled(v: &View) -> Option<&Keyed<PauseRecord>> {
    let floor = v.memory.record_floor?;
    own(v).filter(|key| !key.value.stopped && key.mod_revision > floor)
}

/// An operator asked for another leader, and the time has come.
fn asked(v: &View) -> bool {
    v.cluster()
        .and_then(|c| c.failover.as_ref())
        .is_some_and(|f| !f.value.is_empty() && f.value.scheduled_at.is_none_or(|at| v.wall >= at))
}

/// Whether this leader's deadline is to be suspended. Not beside a Patroni, which would take a
/// vacant key whatever our record says.
fn wanted(v: &View) -> bool {
    v.settings.paused
        && !v.cluster().is_some_and(Cluster::has_patroni)
        && !asked(v)
        && v.memory.switchover.is_none()
        && !v.wishes.stop
}

/// What a young and trusted view shows in the place of the key of a suspended tenure. Whether it
/// is as new as that tenure does not matter: the deadline was suspended by somebody who had read
/// the record, so that one in which the record is missing was read later, or comes from a backup.
fn suspended_and_lost(v: &View) -> Option<&Cluster> {
    v.guard.tenure.filter(|_| v.guard.phase == Phase::Paused && !v.holds_key())?;
    v.cluster_within(v.settings.ttl)
}

fn overruled(v: &View) -> Option<Outcome> {
    let cluster = suspended_and_lost(v)?;
    let reason = match &cluster.leader {
        Some(key) if key.name == v.name => return None,
        Some(key) => format!("demoting self because {} holds the leader lock", key.name),
        None if own(v).is_none() => "demoting self because the pause record was removed".to_owned(),
        None => return None,
    };
    Some(
        Outcome::say(v, reason.clone())
            .act(Action::Fence { reason: reason.clone() })
            .remember(|m| m.demoted_because = Some(reason)),
    )
}

/// Nobody led in between: the record stood all the time, and the transaction compares it.
fn retake(v: &View) -> Option<Outcome> {
    let cluster = suspended_and_lost(v)?;
    Some(match &cluster.leader {
        None => {
            let revision = own(v)?.mod_revision;
            let record = RecordIs::Ours { revision };
            Outcome::say(v, "acquired session lock as a leader")
                .act(Action::AcquireLeader { sync_revision: None, record })
                .wake(QUICK)
        }
        Some(_) if v.moved().is_some() => {
            Outcome::say(v, "the leader lock is still ours: confirming it").act(Action::ConfirmOwn)
        }
        Some(_) => {
            Outcome::say(v, "waiting for the lease of an earlier run to expire").wake(QUICK * 5)
        }
    })
}

fn resume(v: &View) -> Option<Outcome> {
    if v.guard.phase != Phase::Paused || !v.holds_key() {
        return None;
    }
    v.cluster_within(v.settings.ttl)?;
    let why = match own(v) {
        None => "the pause record is gone: the lease is confirmed before it is written again",
        Some(_) if !wanted(v) => "the pause ends: confirming the lease",
        Some(_) if v.wishes.restart => "a restart was asked for: confirming the lease",
        Some(_) => return None,
    };
    Some(Outcome::say(v, why).act(Action::Resume).wake(Duration::ZERO))
}

fn remove_record(v: &View) -> Option<Outcome> {
    let tenure = v.guard.tenure.filter(|_| v.guard.phase == Phase::Leading && v.holds_key())?;
    let revision = v.cluster()?.pause_record.as_ref()?.mod_revision;
    // While the record is there nobody else takes the key: the device counts first.
    (!wanted(v) && !v.guard.awaits_device).then(|| {
        Outcome::say(v, "the pause is over: removing its record")
            .act(Action::RemovePauseRecord { tenure: Some(tenure), revision })
            .remember(|m| m.record_floor = Some(revision))
            .wake(Duration::ZERO)
    })
}

/// Suspended only under a record that one linearizable read shows together with our own key.
fn begin(v: &View) -> Option<Outcome> {
    let tenure = v.guard.tenure.filter(|_| v.guard.phase == Phase::Leading && v.holds_key())?;
    let busy = v.wishes.restart || v.memory.restarting || v.server.bootstrapping;
    let stopping = v.server.postmaster.is_some_and(|p| p.stopping_since.is_some());
    if !wanted(v) || busy || stopping || !v.is_primary() || v.guard.burned == Some(tenure) {
        return None;
    }
    Some(match settled(v) {
        Some(key) => Outcome::say(v, "the deadline of the lease is suspended")
            .act(Action::Pause { tenure, revision: key.mod_revision })
            .wake(Duration::ZERO),
        None => {
            let record =
                PauseRecord { leader: v.name.clone(), since: Some(v.wall), stopped: false };
            let seen = v.cluster()?.pause_record.as_ref().map_or(0, |key| key.mod_revision);
            Outcome::say(v, "writing the pause record")
                .act(Action::WritePauseRecord { tenure, record })
                .remember(|m| m.record_floor = m.record_floor.max(Some(seen)))
                .wake(Duration::ZERO)
        }
    })
}

fn not_running(v: &View) -> Option<Outcome> {
    let exit = v.server.last_exit.filter(|_| v.server.postmaster.is_none())?;
    let ours = v.memory.stopped_pid == Some(exit.pid) || v.guard.phase == Phase::Fenced;
    let here = matches!(v.server.data_dir, Some(DataDir::Cluster { .. }));
    if !v.settings.paused || ours || !here || v.memory.restarting {
        return None;
    }
    if v.guard.populated || v.server.shm_attached {
        return Some(Outcome::say(v, "the processes of a dead PostgreSQL end").wake(QUICK));
    }
    if v.wishes.restart {
        return Some(
            Outcome::say(v, "restart in progress")
                .remember(|m| m.restarting = true)
                .wake(Duration::ZERO),
        );
    }
    let tenure = v.guard.tenure.filter(|t| v.guard.burned != Some(*t));
    Some(match tenure {
        Some(tenure) => Outcome::say(v, "removed leader lock because postgres is not running")
            .act(Action::Release { tenure })
            .wake(Duration::ZERO),
        None => Outcome::say(v, "postgres is not running"),
    })
}

fn disconnected(v: &View) -> Option<Outcome> {
    let silent = v.guard.phase == Phase::Paused && v.store.failing_since.is_some();
    (silent && v.is_primary()).then(|| Outcome::say(v, "DCS is not accessible"))
}

fn own_record(v: &View) -> Option<Outcome> {
    let vacant = v.cluster_within(v.settings.ttl)?.leader.is_none();
    let revision = own(v)?.mod_revision;
    let idle = matches!(v.guard.phase, Phase::Idle | Phase::Candidate | Phase::Fenced);
    if v.settings.paused || !vacant || !idle || v.is_primary() {
        return None;
    }
    Some(
        Outcome::say(v, "removing the pause record of an earlier run: no primary runs here")
            .act(Action::RemovePauseRecord { tenure: None, revision })
            .remember(|m| m.record_floor = Some(revision))
            .wake(Duration::ZERO),
    )
}

fn vacant(v: &View) -> Option<Outcome> {
    let cluster = v.cluster_within(v.settings.ttl)?;
    let idle = cluster.leader.is_none() && v.is_standby();
    if !idle || forced(v) {
        return None;
    }
    let leader = match &cluster.pause_record {
        Some(key) if key.value.leader == v.name => return None,
        Some(key) if !key.value.stopped => &key.value.leader,
        _ if named(v) => return None,
        _ if v.settings.paused => {
            return Some(leave_race(v, Outcome::say(v, "no action, the cluster has no leader")));
        }
        _ => return None,
    };
    let (why, me) = ("waiting: the cluster was paused when leader", &v.name);
    let out = Outcome::say(
        v,
        format!(
            "{why} {leader} was lost, and its PostgreSQL may still accept writes; if {leader} is \
             down for certain: pgvigilctl failover --candidate {me} --force"
        ),
    );
    Some(leave_race(v, out))
}
