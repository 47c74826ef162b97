//! Synchronous standbys: the order of writes that keeps `/sync` and `synchronous_standby_names`
//! intersecting at every instant, for one standby, for several, and for a quorum.
//!
//! The promise: *every acknowledged commit is on everybody who can win a race under the key*. The
//! key (voters V, quorum q) says who can: the leader itself, or a voter that is at least as
//! advanced as q other voters. The names (k of S) say for whom commits wait.
//! [`SyncNames::covers`] is the arithmetic of the two. In the mode `on`, k is all of S, V is S and
//! q is 0; in the mode `quorum`, V is S and q is |S| − k. The promise is kept by writing in this
//! order, each step only after the one before is seen:
//!
//! 1. *Tighten the key*, until it is covered by the names in force and by those that are to come.
//!    Tighter means that whoever wins under the new key would have won under the old one, or is
//!    ahead of one that would: any q'+1 of V' hold at least q+1 of V, that is q' − |V' \ V| >= q.
//!    So it needs no look at positions: what was true of the old key is true of the new one.
//! 2. *Set the names.* While the server takes them up some of its processes go by the old ones;
//!    the key is covered by both.
//! 3. *Loosen the key*, once the new names are in force and k of S have flushed past the primary's
//!    flush position read after that: a commit that was acknowledged under whatever other names
//!    was flushed here before, hence is on k of S like all that follow.
//!
//! All voters stand on the leader's own history (they streamed from it when they were chosen, and
//! a new leader begins with an empty key), so their positions compare by LSN alone.

use std::cmp::Reverse;
use std::time::Duration;

use super::cluster::{Member, SyncState, Tenure};
use super::database::{Probe, WalSender};
use super::decision::Action;
use super::settings::SyncMode;
use super::sync_names::{self, Kind, SyncNames};
use super::time::Boot;
use super::view::{Memory, View};

/// How long a server may take to bring a reloaded parameter into force before it is told again.
const SETTLE: Duration = Duration::from_secs(1);

/// Longer than a woken process takes to be scheduled and to read its files.
const WOKEN: Duration = Duration::from_millis(300);

const TO_NOBODY: &str = "assigning synchronous standby status to nobody";

/// The next single step and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub why: String,
    pub action: Action,
}

/// What the carry-over must know of a step that is being taken at `now`.
pub fn remember(action: &Action, now: Boot, memory: &mut Memory) {
    match action {
        Action::WriteSync { revision, .. } => memory.sync_wrote = Some(*revision),
        Action::SetSyncNames { names } => {
            memory.sync_names = Some(names.clone());
            memory.sync_names_set = Some(now);
        }
        _ => {}
    }
}

/// No earlier write of `/sync` under this tenure can still be on its way: it would compare a
/// revision that is gone. Unknown (a new agent, an answer that was lost) counts as no.
fn settled(v: &View, revision: i64) -> bool {
    v.memory.sync_wrote.is_some_and(|compared| compared != revision)
}

/// The key that lets nobody but this member win.
fn nobody(v: &View) -> SyncState {
    SyncState { leader: Some(v.name.clone()), standbys: Vec::new(), quorum: 0 }
}

/// What must be written to `/sync` before a server may accept writes: it names us, and it stays
/// what it is, so that the names can be taken from it.
pub fn before_writable(v: &View, tenure: Tenure, alone: bool) -> Option<Action> {
    let key = v.cluster()?.sync.as_ref();
    if v.settings.synchronous_mode == SyncMode::Off && key.is_none_or(|k| k.value.leader.is_none())
    {
        return None;
    }
    let revision = key.map_or(0, |k| k.mod_revision);
    let ours = key.map(|k| &k.value).filter(|s| s.leader.as_deref() == Some(&v.name));
    let kept = ours.filter(|s| !alone && names_for(v, s).is_some()).cloned();
    let state = kept.unwrap_or_else(|| nobody(v));
    let done = ours == Some(&state) && settled(v, revision);
    (!done).then_some(Action::WriteSync { tenure, revision, state })
}

/// `synchronous_standby_names` that go with the `/sync` key that names us leader, for a server
/// that is about to accept writes. `None`: none are to be in force.
pub fn names_of_key(v: &View) -> Option<String> {
    let key = &v.cluster()?.sync.as_ref()?.value;
    let ours = key.leader.as_deref() == Some(&v.name);
    ours.then(|| names_for(v, key).or_else(|| for_nobody(v)))?.map(|names| names.text())
}

/// The weakest names that cover this key. `None` if nobody can win under it but its leader.
fn names_for(v: &View, key: &SyncState) -> Option<SyncNames> {
    let voters = u32::try_from(key.standbys.len()).unwrap_or(u32::MAX);
    let count = voters.checked_sub(key.quorum).filter(|count| *count > 0)?;
    let any = v.settings.synchronous_mode == SyncMode::Quorum || key.quorum > 0;
    let kind = if any { Kind::Any } else { Kind::First };
    Some(SyncNames { kind, count, names: key.standbys.clone() })
}

/// The names when no standby is there: in strict mode commits wait for whoever comes.
fn for_nobody(v: &View) -> Option<SyncNames> {
    let quorum = v.settings.synchronous_mode == SyncMode::Quorum;
    let kind = if quorum { Kind::Any } else { Kind::First };
    let any = SyncNames { kind, count: 1, names: vec!["*".to_owned()] };
    v.settings.synchronous_mode_strict.then_some(any)
}

/// What the pair is to become.
struct Target {
    key: SyncState,
    names: Option<SyncNames>,
}

impl Target {
    fn new(v: &View, chosen: Vec<String>) -> Target {
        let most = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
        let count = most.min(v.settings.synchronous_node_count.max(1));
        let key = SyncState { standbys: chosen, quorum: most - count, ..nobody(v) };
        let names = names_for(v, &key).or_else(|| for_nobody(v));
        Target { key, names }
    }

    fn text(&self) -> String {
        self.names.as_ref().map(SyncNames::text).unwrap_or_default()
    }
}

/// What brings the pair one step closer to what is wanted; `None` when nothing is to do.
pub fn step(v: &View) -> Option<Step> {
    let probe = v.probe()?;
    let tenure = v.guard.tenure?;
    let key = v.cluster()?.sync.as_ref();
    let revision = key.map_or(0, |k| k.mod_revision);
    let state = key.map(|k| k.value.clone()).unwrap_or_default();
    if v.settings.synchronous_mode == SyncMode::Off {
        return switched_off(v, probe, &state, revision);
    }
    let write = |why: String, state: SyncState| {
        Some(Step { why, action: Action::WriteSync { tenure, revision, state } })
    };
    if state.leader.as_deref() != Some(&v.name) {
        return write(TO_NOBODY.to_owned(), nobody(v));
    }
    let in_force = sync_names::parse(&probe.synchronous_standby_names);
    // Whatever took the names back, commits are acknowledged without those standbys now.
    if !covered(&state, in_force.as_ref()) {
        let why = "synchronous_standby_names were changed, assigning to nobody";
        return write(why.to_owned(), nobody(v));
    }
    let target = Target::new(v, choose(v, probe, &state, in_force.as_ref()));
    let plain = v.settings.synchronous_mode != SyncMode::Quorum;
    let tight = tightened(&state, in_force.as_ref(), &target, plain);
    if tight != state {
        return write(assigning(&tight), tight);
    }
    let names = target.text();
    let ordered = v.memory.sync_names.as_deref() == Some(names.as_str());
    if !ordered || probe.synchronous_standby_names != names {
        // The names of a server whose key may still grow behind our back do not change.
        if !settled(v, revision) {
            return write("making sure of the synchronous standby status".to_owned(), state);
        }
        // Just set, and not asked since: the server reads its files when it gets to it.
        if ordered && v.memory.sync_names_set.is_some_and(|at| v.now.since(at) < SETTLE) {
            return None;
        }
        let why = format!("setting synchronous_standby_names to '{names}'");
        return Some(Step { why, action: Action::SetSyncNames { names } });
    }
    if state != target.key && caught_up(v, probe, target.names.as_ref()?) {
        return write(assigning(&target.key), target.key);
    }
    None
}

fn assigning(key: &SyncState) -> String {
    if key.standbys.is_empty() {
        return TO_NOBODY.to_owned();
    }
    let among = if key.quorum > 0 { format!(", quorum {}", key.quorum) } else { String::new() };
    format!("assigning synchronous standby status to {}{among}", key.standbys.join(", "))
}

fn covered(key: &SyncState, names: Option<&SyncNames>) -> bool {
    key.standbys.is_empty() || names.is_some_and(|names| names.covers(key))
}

/// Step 1: the key itself if it is covered by both names, else the tighter one under which the
/// most members may be missing and somebody can still win. None such: nobody. `plain`: without a
/// quorum, as Patroni members read the key in the mode `on`.
fn tightened(
    key: &SyncState,
    in_force: Option<&SyncNames>,
    target: &Target,
    plain: bool,
) -> SyncState {
    if covered(key, target.names.as_ref()) && !(plain && key.quorum > 0) {
        return key.clone();
    }
    let mut best = (0, SyncState { standbys: Vec::new(), quorum: 0, ..key.clone() });
    let (Some(now), Some(then)) = (in_force, &target.names) else { return best.1 };
    if now.is_any() || then.is_any() {
        return best.1;
    }
    let wanted = |name: &&String| target.key.standbys.contains(name);
    let common: Vec<String> = key.standbys.iter().filter(wanted).cloned().collect();
    for standbys in [common, target.key.standbys.clone(), key.standbys.clone()] {
        let voters = u32::try_from(standbys.len()).unwrap_or(u32::MAX);
        let added = standbys.iter().filter(|name| !key.standbys.contains(name)).count();
        let quorum = (key.quorum + u32::try_from(added).unwrap_or(u32::MAX))
            .max(now.union(&standbys).saturating_sub(now.count))
            .max(then.union(&standbys).saturating_sub(then.count));
        let missing = voters.saturating_sub(quorum);
        if missing > best.0 && !(plain && quorum > 0) {
            best = (missing, SyncState { standbys, quorum, ..key.clone() });
        }
    }
    best.1
}

fn switched_off(v: &View, probe: &Probe, state: &SyncState, revision: i64) -> Option<Step> {
    let tenure = v.guard.tenure?;
    let why = "disabling synchronous replication".to_owned();
    if state.leader.is_some() {
        let state = SyncState::default();
        return Some(Step { why, action: Action::WriteSync { tenure, revision, state } });
    }
    // Names that an operator set by hand stay; only a value of ours is taken back.
    let members = &v.cluster()?.members;
    let known = |names: SyncNames| names.names.iter().all(|name| members.contains_key(name));
    sync_names::parse(&probe.synchronous_standby_names)
        .is_some_and(known)
        .then(|| Step { why, action: Action::SetSyncNames { names: String::new() } })
}

/// In the mode `on` as many as are wanted, in the mode `quorum` all that may. First those that can
/// be promoted, then greater `sync_priority`, then those that are named already, then the most
/// advanced. A voter that cannot be promoted only makes the quorum harder to reach: it is one only
/// while there are not enough others.
fn choose(v: &View, probe: &Probe, key: &SyncState, in_force: Option<&SyncNames>) -> Vec<String> {
    let named = |name: &String| {
        key.standbys.contains(name) || in_force.is_some_and(|names| names.names.contains(name))
    };
    let mut able: Vec<(&Member, &WalSender)> = probe
        .wal_senders
        .iter()
        .filter(|w| w.state == "streaming" && !lags(v, probe, w))
        .filter_map(|w| Some((member(v, &w.application_name)?, w)))
        .collect();
    able.sort_by_key(|(member, w)| {
        let priority = Reverse(member.tags.sync_priority);
        let name = &w.application_name;
        (!promotable(member), priority, !named(name), Reverse(w.flush_lsn), name.clone())
    });
    let mut chosen: Vec<String> = Vec::new();
    for (member, _) in able {
        let enough = chosen.len() as u64 >= u64::from(v.settings.synchronous_node_count.max(1));
        let wanted = v.settings.synchronous_mode == SyncMode::Quorum && promotable(member);
        if (wanted || !enough) && !chosen.contains(&member.name) {
            chosen.push(member.name.clone());
        }
    }
    chosen.sort();
    chosen
}

fn promotable(member: &Member) -> bool {
    !member.tags.nofailover
}

/// The member, if it may be a synchronous standby at all.
fn member<'a>(v: &'a View, name: &str) -> Option<&'a Member> {
    let member = v.cluster()?.members.get(name)?;
    let able = member.name != v.name && member.is_running() && !member.tags.nosync;
    (able && member.tags.sync_priority > 0).then_some(member)
}

/// More than `maximum_lag_on_syncnode` behind the most advanced standby, or behind the primary if
/// there is no other (PATRONI: dynamic configuration).
fn lags(v: &View, probe: &Probe, sender: &WalSender) -> bool {
    let Some(most) =
        u64::try_from(v.settings.maximum_lag_on_syncnode_bytes).ok().filter(|m| *m > 0)
    else {
        return false;
    };
    let first = match probe.wal_senders.len() {
        0 | 1 => probe.flush_lsn,
        _ => probe.wal_senders.iter().filter_map(|w| w.flush_lsn).max(),
    };
    first.unwrap_or_default().bytes_after(sender.flush_lsn.unwrap_or_default()) > most
}

/// As many as the names ask for have flushed past the primary's flush position. Both positions are
/// of one answer that already showed the new names in force. (The insert position would not do:
/// after a switch of WAL files it stands behind a page header that nobody flushes until the next
/// record.)
///
/// "In force" needs a second look: a commit waits only once the *checkpointer* has told so in
/// shared memory (SyncRepUpdateSyncStandbysDefined), and a checkpointer that syncs files reads no
/// configuration for seconds, while our own session shows the new names already. One that is seen
/// in its main loop well after the reload has read it: the signal would have woken it.
fn caught_up(v: &View, probe: &Probe, names: &SyncNames) -> bool {
    let asked_at = v.server.probe.as_ref().map(|seen| seen.at);
    let read = match (v.memory.sync_names_set, asked_at) {
        (Some(set), Some(asked)) => asked.since(set) >= WOKEN,
        (None, _) => true,
        (Some(_), None) => false,
    };
    if !(read && probe.checkpointer_idle && probe.flush_lsn.is_some()) {
        return false;
    }
    let arrived = |name: &&String| {
        probe.wal_senders.iter().any(|w| {
            w.application_name == **name
                && matches!(w.sync_state.as_str(), "sync" | "quorum")
                && w.flush_lsn >= probe.flush_lsn
        })
    };
    names.names.iter().filter(arrived).count() as u64 >= u64::from(names.count)
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
