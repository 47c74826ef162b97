//! Nobody holds the leader key: bootstrap, the race, and waiting.

use std::time::Duration;

use crate::core::candidates::{self, Verdict};
use crate::core::cluster::{Cluster, Initialize};
use crate::core::database::DataDir;
use crate::core::decide::{Outcome, Rule};
use crate::core::decision::{Action, RecordIs};
use crate::core::guard::Phase;
use crate::core::rules::pause;
use crate::core::settings::{StandbyCluster, SyncMode};
use crate::core::view::View;

const QUICK: Duration = Duration::from_millis(200);

pub const RULES: &[Rule] = &[
    Rule {
        id: "vacant.initialize",
        meaning: "an empty cluster and an empty data directory: race for the right to bootstrap",
        matches: race_initialize,
    },
    Rule { id: "vacant.initdb", meaning: "bootstrap a new cluster", matches: initdb },
    Rule {
        id: "vacant.uninitialized_replica",
        meaning: "a replica's data directory cannot start a new cluster",
        matches: uninitialized_replica,
    },
    Rule {
        id: "vacant.first_leader",
        meaning: "take the key of a cluster that is being bootstrapped here",
        matches: first_leader,
    },
    Rule {
        id: "vacant.empty",
        meaning: "nothing to start with: wait for a leader",
        matches: empty,
    },
    Rule { id: "vacant.start", meaning: "start as a standby before the race", matches: start },
    Rule { id: "vacant.starting", meaning: "PostgreSQL does not answer yet", matches: starting },
    Rule { id: "vacant.race", meaning: "take part in the leader race", matches: race },
];

/// The vacancy, as a trusted view not older than ttl shows it. An older view is no ground to act:
/// the acquiring transaction compares the key anyway, so this bounds only needless attempts.
fn vacancy(v: &View) -> Option<&Cluster> {
    v.cluster_within(v.settings.ttl).filter(|c| c.leader.is_none())
}

fn race_initialize(v: &View) -> Option<Outcome> {
    let cluster = vacancy(v)?;
    let fresh = matches!(v.server.data_dir, Some(DataDir::Empty)) || v.server.bootstrapping;
    if cluster.initialize != Initialize::Absent || !fresh || v.memory.bootstrap_won {
        return None;
    }
    if v.tags.nofailover {
        return Some(Outcome::say(v, "waiting for another member to bootstrap"));
    }
    Some(Outcome::say(v, "trying to bootstrap a new cluster").act(Action::RaceInitialize))
}

fn initdb(v: &View) -> Option<Outcome> {
    vacancy(v)?;
    if let Some(remote) = &v.settings.standby_cluster {
        return copy_remote(v, remote);
    }
    let empty = matches!(v.server.data_dir, Some(DataDir::Empty));
    (empty && v.memory.bootstrap_won)
        .then(|| Outcome::say(v, "trying to bootstrap a new cluster").act(Action::Initdb))
}

/// The first member of a standby cluster is a copy of the remote primary.
fn copy_remote(v: &View, remote: &StandbyCluster) -> Option<Outcome> {
    let cloning = &v.memory.cloning;
    let empty = matches!(v.server.data_dir, Some(DataDir::Empty));
    if !v.memory.bootstrap_won || !empty && (!cloning.begun || v.guard.populated) {
        return None;
    }
    if cloning.waits(v.now) {
        let why = "waiting before the next copy of the remote primary";
        return Some(Outcome::say(v, why).wake(Duration::from_secs(1)));
    }
    let (method, begun) = cloning.next(&v.settings, remote.upstream.is_some())?;
    if !empty && !method.keep_data {
        let reason = "an unfinished copy".to_owned();
        return Some(Outcome::say(v, reason.clone()).act(Action::RemoveData { reason }));
    }
    let create = Action::CreateReplica { method: method.name, from: remote.upstream.clone() };
    let why = "trying to bootstrap a new standby leader";
    Some(Outcome::say(v, why).act(create).remember(|m| m.cloning = begun))
}

fn uninitialized_replica(v: &View) -> Option<Outcome> {
    let absent = vacancy(v)?.initialize == Initialize::Absent;
    if !absent || v.server.bootstrapping || v.control().is_none() || !v.server.standby_signal {
        return None;
    }
    let reason =
        "No initialize key in DCS and PostgreSQL is running as replica, aborting start".to_owned();
    Some(Outcome::say(v, reason.clone()).act(Action::GiveUp { reason }))
}

fn first_leader(v: &View) -> Option<Outcome> {
    let cluster = vacancy(v)?;
    let mine = v.control()?.system_identifier.to_string();
    let ours = match &cluster.initialize {
        Initialize::Absent => true,
        Initialize::InProgress { .. } => v.memory.bootstrap_won,
        // Named, and not finished. What is left of a bootstrap that another member has overtaken
        // is no copy of that cluster.
        Initialize::Done(id) => v.server.bootstrapping && *id == mine,
    };
    ours.then(|| acquire(v, cluster, "acquiring the leader lock of a new cluster".to_owned()))
}

fn empty(v: &View) -> Option<Outcome> {
    let cluster = vacancy(v)?;
    match &v.server.data_dir {
        Some(DataDir::Empty) if matches!(cluster.initialize, Initialize::Done(_)) => {
            Some(clone_without_leader(v))
        }
        Some(DataDir::Empty) => Some(Outcome::say(v, "waiting for leader to bootstrap")),
        Some(DataDir::Unusable { reason }) => Some(Outcome::say(v, reason.clone())),
        Some(DataDir::Cluster { .. }) | None => None,
    }
}

/// A backup of the archive may be all that is left of the cluster.
fn clone_without_leader(v: &View) -> Outcome {
    let cloning = &v.memory.cloning;
    match cloning.next(&v.settings, false).filter(|_| !cloning.waits(v.now)) {
        Some((method, begun)) => Outcome::say(v, "trying to bootstrap (without leader)")
            .act(Action::CreateReplica { method: method.name, from: None })
            .remember(|m| m.cloning = begun),
        None => Outcome::say(v, "waiting for leader to bootstrap"),
    }
}

fn start(v: &View) -> Option<Outcome> {
    vacancy(v)?;
    if v.server.postmaster.is_some() || v.control().is_none() || v.server.bootstrapping {
        return None;
    }
    if v.guard.populated || v.server.shm_attached {
        let reason = "processes of a dead PostgreSQL are left".to_owned();
        return Some(Outcome::say(v, reason.clone()).act(Action::Fence { reason }).wake(QUICK));
    }
    Some(Outcome::say(v, "starting as a secondary").act(Action::StartStandby { upstream: None }))
}

fn starting(v: &View) -> Option<Outcome> {
    vacancy(v)?;
    if v.probe().is_some() {
        return None;
    }
    let why = match v.server.postmaster {
        Some(_) => v.server.not_ready(),
        // A rewind that did not end well, say.
        None => "waiting for a leader: what is in the data directory cannot be started".to_owned(),
    };
    Some(Outcome::say(v, why).wake(QUICK))
}

fn race(v: &View) -> Option<Outcome> {
    let cluster = vacancy(v)?;
    if !v.guard.fenceable && !v.settings.allow_unfenced {
        let why = "not taking part in the race: PostgreSQL cannot be fenced here \
                   (vigil.allow_unfenced permits it)";
        return Some(withdraw(v, why.to_owned()));
    }
    // Nobody led since we wrote the pause record: there is nobody to race against. Unless it is the
    // record of a backup.
    let ours = matches!(pause::permission(v), Some(RecordIs::Ours { .. }));
    if v.settings.paused && ours && candidates::forgotten(v).is_none() {
        return Some(acquire(v, cluster, "taking the leader lock of the pause again".to_owned()));
    }
    match candidates::verdict(v) {
        Verdict::Run => Some(acquire(v, cluster, "acquiring the vacant leader lock".to_owned())),
        Verdict::Ask => {
            let out = Outcome::say(v, "asking the other members for their positions");
            Some(out.act(Action::AskPeers).wake(Duration::ZERO))
        }
        Verdict::StayBack(why) => Some(withdraw(v, why)),
    }
}

fn withdraw(v: &View, why: String) -> Outcome {
    leave_race(v, Outcome::say(v, why).wake(Duration::from_secs(1)))
}

/// A candidate's device counts: whoever does not race is none.
pub fn leave_race(v: &View, out: Outcome) -> Outcome {
    if v.guard.phase == Phase::Candidate { out.act(Action::Withdraw) } else { out }
}

/// Arm first, then renew and take the key: whatever stalls in between is watched already.
fn acquire(v: &View, cluster: &Cluster, why: String) -> Outcome {
    let out = Outcome::say(v, why).wake(QUICK);
    if v.guard.phase != Phase::Candidate {
        return out.act(Action::Campaign);
    }
    let synchronous = v.settings.synchronous_mode != SyncMode::Off;
    let sync_revision =
        synchronous.then(|| cluster.sync.as_ref().map_or(0, |key| key.mod_revision));
    match pause::permission(v) {
        Some(record) => out.act(Action::AcquireLeader { sync_revision, record }),
        None => out,
    }
}
