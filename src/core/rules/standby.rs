//! The leader of a standby cluster: it holds the leader key and follows another cluster's primary.
//! It never accepts writes, so that nothing of it is ever fenced: the guard fences only what was
//! permitted to. These rules stand in the leader's table before those that start or promote a
//! primary; both of them refuse in a standby cluster, too.

use std::time::Duration;

use super::leader::leading;
use crate::core::candidates;
use crate::core::cluster::Initialize;
use crate::core::decide::{Outcome, Rule};
use crate::core::decision::Action;
use crate::core::settings::StandbyCluster;
use crate::core::view::View;

const QUICK: Duration = Duration::from_millis(200);

pub const DEMOTE: Rule = Rule {
    id: "standby.demote",
    meaning: "the cluster has become a standby cluster: stop the primary",
    matches: demote,
};
pub const START: Rule = Rule {
    id: "standby.start",
    meaning: "start PostgreSQL as a standby of the remote primary",
    matches: start,
};
pub const ADOPT: Rule = Rule {
    id: "standby.adopt",
    meaning: "a copy of the remote primary becomes a new cluster: publish its identifier",
    matches: adopt,
};
pub const FOLLOW: Rule = Rule {
    id: "standby.follow",
    meaning: "point the standby leader at the remote primary",
    matches: follow,
};
pub const RESTART: Rule = Rule {
    id: "standby.restart",
    meaning: "an operator asked for a restart of the standby leader",
    matches: restart,
};
pub const SWITCHOVER: Rule = Rule {
    id: "standby.switchover",
    meaning: "an operator asked for another standby leader",
    matches: switchover,
};
pub const STEADY: Rule =
    Rule { id: "standby.steady", meaning: "all is well with the standby leader", matches: steady };

fn leads(v: &View) -> Option<&StandbyCluster> {
    v.settings.standby_cluster.as_ref().filter(|_| leading(v))
}

/// Under the key, which stays: nobody else takes it while the server stops.
fn demote(v: &View) -> Option<Outcome> {
    leads(v)?;
    v.is_primary().then(|| {
        Outcome::say(v, "demoting self because the cluster is a standby cluster")
            .act(Action::Checkpoint)
            .act(Action::StopFast)
    })
}

fn start(v: &View) -> Option<Outcome> {
    let remote = leads(v)?;
    let left = v.guard.populated || v.server.shm_attached;
    if v.server.postmaster.is_some() || left || v.control().is_none() {
        return None;
    }
    let upstream = remote.upstream.clone();
    Some(Outcome::say(v, "starting as a standby leader").act(Action::StartStandby { upstream }))
}

fn adopt(v: &View) -> Option<Outcome> {
    leads(v)?;
    let unnamed = !matches!(v.cluster()?.initialize, Initialize::Done(_));
    (unnamed && v.is_standby()).then(|| {
        Outcome::say(v, "bootstrapped from the remote primary").act(Action::AdoptInitialize)
    })
}

fn follow(v: &View) -> Option<Outcome> {
    let upstream = leads(v)?.upstream.clone();
    let wanted = upstream.as_ref().map(|u| u.conn_url.as_str());
    if !v.is_standby() || v.server.upstream.as_deref() == wanted {
        return None;
    }
    let why = "following the remote primary";
    Some(Outcome::say(v, why).act(Action::Follow { upstream }).wake(QUICK))
}

fn restart(v: &View) -> Option<Outcome> {
    leads(v)?;
    if !v.is_standby() {
        return None;
    }
    if v.memory.restarting {
        let out = Outcome::say(v, "restarted").act(Action::RestartDone);
        return Some(out.remember(|m| m.restarting = false).wake(Duration::ZERO));
    }
    v.wishes.restart.then(|| {
        Outcome::say(v, "restart in progress")
            .act(Action::StopFast)
            .remember(|m| m.restarting = true)
    })
}

/// The key goes at once: this server was never permitted to accept writes, so that it need not be
/// stopped before another one leads.
fn switchover(v: &View) -> Option<Outcome> {
    leads(v)?;
    let key = v.cluster()?.failover.as_ref().filter(|f| !f.value.is_empty())?;
    let asked = &key.value;
    if !v.is_standby() || asked.scheduled_at.is_some_and(|at| at > v.wall) {
        return None;
    }
    let clear = |why: &str| {
        Some(Outcome::say(v, why).act(Action::ClearFailover { revision: key.mod_revision }))
    };
    if asked.candidate.as_ref() == Some(&v.name) {
        return clear("dropping a switchover request: its candidate leads already");
    }
    if asked.leader.as_ref().is_some_and(|leader| *leader != v.name) {
        return clear("dropping a switchover request: its leader is not the leader");
    }
    if v.peers_asked_at.is_none_or(|at| v.now.since(at) > candidates::ANSWERS_FRESH) {
        return Some(Outcome::say(v, "looking for a candidate").act(Action::AskPeers).wake(QUICK));
    }
    let Some(to) = candidates::successor(v, asked.candidate.as_deref()) else {
        return clear("no healthy candidate for the switchover was found");
    };
    let tenure = v.guard.tenure?;
    let why = format!("switchover to {to}: giving the leader lock up");
    Some(Outcome::say(v, why).act(Action::Release { tenure }).wake(Duration::ZERO))
}

fn steady(v: &View) -> Option<Outcome> {
    leads(v)?;
    v.is_standby().then(|| {
        Outcome::say(v, format!("no action. I am ({}), the standby leader with the lock", v.name))
    })
}
