//! Failsafe mode: a leader that the store does not answer goes on as long as every other member
//! promises not to lead. Off by default (`failsafe_mode`).
//!
//! A promise is to the leader what its lease is: time in which nobody else can hold the leader key.
//! The argument, with T = the leader's ttl and s = the instant just before the first question of a
//! round was sent (the leader's CLOCK_BOOTTIME):
//!
//! 1. Who may take a vacant key? Only members named in `/failsafe`: [`bars`], and the acquiring
//!    transaction compares that key's revision, so that no list that was changed meanwhile counts.
//! 2. Who changes `/failsafe`? Only the leader, under its tenure, comparing the revision that it
//!    replaces. It asks for promises only while the store's last word on the key is its *own* last
//!    write, whose answer it saw, and it has ordered no other since ([`settled`]): then no write of
//!    ours is under way that could name somebody who was not asked. A new agent writes the key
//!    again before that. While a deadline stands on promises nothing is written, so that nobody is
//!    named who gave none; the driver sees to it for those that came in this instant.
//! 3. Every member that is named promised, after s, not to campaign for at least T of its own
//!    CLOCK_BOOTTIME, and is no candidate now ([`promise`]). Clocks that differ by less than rho
//!    make that T(1-rho) of ours: the very E of the budget, so that the deadline s + T1 holds as
//!    after a confirmation by the store.
//! 4. An agent that dies forgets its promise. So no agent campaigns within `PROMISE_MAX` of its
//!    start while `/failsafe` names others, and no promise is longer than that.
//! 5. The deadline is only ever *extended* (`Order::Extend`): the supervisor refuses it once the
//!    group is frozen. Between the deadline and a promise given later somebody may have led; while
//!    the deadlines follow each other without a gap, nobody has.
//! 6. For the same reason a leader whose key ran out meanwhile takes it again without a race
//!    ([`retakes`]): nobody else can have held it. Any other way in which the key vanished, or an
//!    other holder, is proof of loss as ever.
//! 7. Votes and positions count only if they were asked for when our own promise had ended
//!    ([`may_be_led`]): until then the leader may acknowledge, with others than who answered.
//!
//! Members that are Patroni do not keep such promises over a restart of theirs, and measure them by
//! wall-clock time: while one is registered nobody is asked, and an answer without the promised
//! time does not count. A Patroni leader that asks us is promised all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::Cluster;
use super::decision::Action;
use super::guard::Phase;
use super::time::Boot;
use super::view::View;

/// No promise is longer, and no agent campaigns earlier after its start. A leader with a longer ttl
/// is frozen without the store, as if the mode were off.
pub const PROMISE_MAX: Duration = Duration::from_secs(60);

/// What an agent knows of promises, its own and those that it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The revision that our last write of `/failsafe` gave the key.
    pub settled: Option<i64>,
    /// When the first question of the last round was sent in which everybody promised.
    pub promised_at: Option<Boot>,
    /// Who did not promise in the last round.
    pub missing: Vec<String>,
    /// Our own promise.
    pub bound: Option<Bound>,
    /// When this agent began.
    pub started_at: Boot,
}

/// Not to campaign until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub to: String,
    pub until: Boot,
}

/// The members that the leader names in `/failsafe`, all that are registered with a URL.
fn roster(cluster: &Cluster) -> BTreeMap<String, String> {
    let named = cluster.members.values().filter(|m| !m.api_url.is_empty());
    named.map(|m| (m.name.clone(), m.api_url.clone())).collect()
}

/// The key of this revision is what our last write made of it: one before it compared a revision
/// that is gone.
fn settled(v: &View, revision: i64) -> bool {
    v.store.failsafe.settled == Some(revision) && v.memory.failsafe_wrote != Some(revision)
}

/// The write that brings `/failsafe` up to date; `None`: it is. For the leader.
pub fn write(v: &View) -> Option<(Action, &'static str)> {
    let tenure = v.guard.tenure.filter(|_| v.holds_key())?;
    let cluster = v.cluster()?;
    let key = cluster.failsafe.as_ref();
    let revision = key.map_or(0, |key| key.mod_revision);
    if !v.settings.failsafe_mode {
        // Left there, it would bar members that join later.
        key?;
        let action = Action::WriteFailsafe { tenure, revision, members: None };
        return Some((action, "failsafe mode is off: removing the key /failsafe"));
    }
    let members = roster(cluster);
    let same = key.is_some_and(|key| key.value == members);
    if !members.contains_key(&v.name) || same && settled(v, revision) {
        return None;
    }
    let action = Action::WriteFailsafe { tenure, revision, members: Some(members) };
    Some((action, "naming the members in /failsafe"))
}

/// Whom this leader may ask for a promise, by name and URL; `None`: promises would prove nothing.
/// Empty: there is nobody else.
pub fn whom_to_ask(v: &View) -> Option<BTreeMap<String, String>> {
    v.guard.tenure.filter(|t| v.guard.burned != Some(*t))?;
    let cluster = v.cluster()?;
    let key = cluster.failsafe.as_ref()?;
    let ours = settled(v, key.mod_revision) && key.value.contains_key(&v.name);
    let trusted = v.store.doubt.is_none() && !cluster.has_patroni();
    let leads = v.guard.phase == Phase::Leading && v.settings.ttl <= PROMISE_MAX;
    (v.settings.failsafe_mode && ours && trusted && leads).then(|| {
        let mut others = key.value.clone();
        others.remove(&v.name);
        others
    })
}

/// The present deadline stands on promises, not on the lease.
pub fn carries(v: &View) -> bool {
    let newest = v.store.failsafe.promised_at;
    v.guard.phase == Phase::Leading
        && newest.is_some()
        && newest >= v.guard.sent_at
        && v.guard.deadline.is_some_and(|deadline| v.now < deadline)
}

/// The key ran out while promises carried the deadline: nobody else can have held it.
pub fn retakes(v: &View) -> bool {
    let vacant = v.cluster().is_some_and(|c| c.leader.is_none());
    vacant && carries(v) && whom_to_ask(v).is_some()
}

/// What a leader asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plea {
    pub name: String,
    /// `None`: a Patroni, which does not say; our own ttl then.
    pub ttl: Option<Duration>,
}

/// Why no promise is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `failsafe_mode` is not set here.
    Off,
    /// This member leads, or its server accepts writes.
    Leads,
    /// It may be about to lead.
    Campaigns,
    /// The store shows this leader, or the promise was given to it.
    Other(String),
    TooLong,
}

/// Whether this member may promise. `campaigning`: an acquiring transaction may be under way.
///
/// # Errors
/// Says why not.
pub fn promise(v: &View, plea: &Plea, campaigning: bool) -> Result<Bound, Refusal> {
    if !v.settings.failsafe_mode {
        return Err(Refusal::Off);
    }
    match v.guard.phase {
        Phase::Idle | Phase::Fenced if !v.is_primary() => {}
        Phase::Candidate => return Err(Refusal::Campaigns),
        _ => return Err(Refusal::Leads),
    }
    if campaigning {
        return Err(Refusal::Campaigns);
    }
    let seen = v.cluster_within(v.settings.ttl).and_then(|c| c.leader.as_ref());
    if let Some(key) = seen.filter(|key| key.name != plea.name) {
        return Err(Refusal::Other(key.name.clone()));
    }
    let bound = bound(v);
    if let Some(bound) = bound.filter(|bound| bound.to != plea.name) {
        return Err(Refusal::Other(bound.to.clone()));
    }
    if plea.ttl.is_some_and(|ttl| ttl > PROMISE_MAX) {
        return Err(Refusal::TooLong);
    }
    let asked = plea.ttl.unwrap_or(v.settings.ttl).max(v.settings.ttl).min(PROMISE_MAX);
    let until = v.now.plus(asked).max(bound.map_or(Boot(0), |bound| bound.until));
    Ok(Bound { to: plea.name.clone(), until })
}

/// Whether `/failsafe`, if it names anybody, lets this member take a vacant key.
pub fn admits(v: &View, name: &str) -> bool {
    let Some(cluster) = v.cluster() else { return true };
    // Patroni leaves the key when the mode is switched off, and then nobody obeys it. We would:
    // a leader that is cut off may not know yet. Ours removes it.
    let obeyed = v.settings.failsafe_mode || !cluster.has_patroni();
    let named = cluster.failsafe.as_ref().map(|key| &key.value).filter(|_| obeyed);
    named.is_none_or(|named| named.is_empty() || named.contains_key(name))
}

/// Why this member may not take a vacant key, and how long that holds at least.
pub fn bars(v: &View) -> Option<(String, Duration)> {
    if let Some(bound) = bound(v) {
        let why = format!("leaving the leader lock to {}, which leads without etcd", bound.to);
        return Some((why, bound.until.since(v.now)));
    }
    if !admits(v, &v.name) {
        let why = "following a different leader because I am not allowed to promote: I am not \
                   named in the key /failsafe, and a leader without etcd would not have asked me \
                   (if nobody named there can come back, delete that key)";
        return Some((why.to_owned(), v.settings.loop_wait));
    }
    let why = "waiting: in failsafe mode a promise of an earlier run of this member may hold";
    forgotten(v).map(|until| (why.to_owned(), until.since(v.now)))
}

/// The promise that binds this member now.
fn bound(v: &View) -> Option<&Bound> {
    v.store.failsafe.bound.as_ref().filter(|bound| v.now < bound.until)
}

/// The end of a promise of which this agent may not know.
fn forgotten(v: &View) -> Option<Boot> {
    let cluster = v.cluster()?;
    if !v.settings.failsafe_mode && cluster.has_patroni() {
        return None;
    }
    let named = &cluster.failsafe.as_ref().filter(|key| !key.value.is_empty())?.value;
    // A found primary, frozen now, was leading: its former agent is bound to nobody.
    let alone = named.len() == 1 || v.guard.phase == Phase::Frozen;
    let until = v.store.failsafe.started_at.plus(PROMISE_MAX);
    (!alone && v.now < until).then_some(until)
}

/// A leader may go on acknowledging commits by a promise of this member, though its key is gone.
/// Its deadline comes before the promise ends, as in the argument above: who asks for positions
/// after that learns all that was acknowledged.
pub fn may_be_led(v: &View) -> bool {
    bound(v).is_some() || forgotten(v).is_some()
}
