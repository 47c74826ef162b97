//! Who may lead next: Patroni's rules (PATRONI: leader race), over answers that were asked for.

use std::time::Duration;

use super::cluster::Member;
use super::lsn::Lsn;
use super::settings::SyncMode;
use super::view::{PeerAnswer, View, position};
use super::{failsafe, health, numbering};

/// What a member without a leader should do about the vacancy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take part.
    Run,
    /// The others must be asked first.
    Ask,
    /// Stay back, for this reason.
    StayBack(String),
}

/// Peers' answers count not longer than this after they were asked. A peer that hangs takes 2 s of
/// it: with less, one silent member would have the others asked for ever.
pub const ANSWERS_FRESH: Duration = Duration::from_secs(5);

/// How long the others leave the vacant key to the chosen candidate: it may have reasons of its own
/// to stay back (not in /sync, not fenceable), and nobody else clears the request.
const CHOSEN_WAIT: Duration = Duration::from_secs(10);

const THEY_FIRST: &str = "a failover to me was asked for, but /sync does not name me: waiting for \
                          those that have every commit";
const NOT_ALLOWED: &str = "following a different leader because I am not allowed to promote";
const NOT_HEALTHIEST: &str = "following a different leader because i am not the healthiest node";

/// May this standby take the vacant key?
pub fn verdict(v: &View) -> Verdict {
    if v.tags.nofailover {
        return Verdict::StayBack(NOT_ALLOWED.to_owned());
    }
    let Some(cluster) = v.cluster() else {
        return Verdict::StayBack("the cluster is not known".to_owned());
    };
    // A plan for tomorrow chooses nobody today.
    let request = cluster.failover.as_ref().map(|f| &f.value);
    let request = request.filter(|r| r.scheduled_at.is_none_or(|when| when <= v.wall));
    let wanted = request.and_then(|r| r.candidate.as_deref());
    let chosen = wanted == Some(&v.name);
    // A failover forces; a switchover whose leader died before it does not.
    let forced = chosen && request.is_some_and(|r| r.leader.is_none());
    if !forced && let Some(why) = sync_is_old(v) {
        return Verdict::StayBack(why);
    }
    if !forced && !named_in_sync(v, &v.name) {
        return Verdict::StayBack(NOT_ALLOWED.to_owned());
    }
    if !forced && lags(v, cluster.status.optime) {
        return Verdict::StayBack(NOT_HEALTHIEST.to_owned());
    }
    let newest = cluster.history.last().map_or(0, |h| h.timeline + 1);
    if v.settings.check_timeline && !forced && v.probe().is_some_and(|p| p.timeline < newest) {
        return Verdict::StayBack("my timeline is older than the cluster's".to_owned());
    }
    // Also where nobody is left to ask: what somebody said once is no vote.
    if !asked_now(v) {
        return Verdict::Ask;
    }
    if !forced && !health::fit(&v.health) && somebody_fit(v, cluster.status.optime) {
        let why: Vec<String> = health::findings(v).iter().map(|f| f.what.clone()).collect();
        let why = why.join("; ");
        return Verdict::StayBack(format!("leaving the leader lock to a healthier member: {why}"));
    }
    match among_peers(v, wanted, chosen) {
        Verdict::Run => covered(v, forced),
        verdict => verdict,
    }
}

/// The last answers are young, and were asked for since nobody can lead any more.
fn asked_now(v: &View) -> bool {
    let counts = |at| Some(at) >= v.memory.vacant_since && v.now.since(at) <= ANSWERS_FRESH;
    v.peers_asked_at.is_some_and(counts)
}

/// The answers that count. Nobody is asked when nobody else is registered; then there are none,
/// whatever was answered at another time.
fn answers(v: &View) -> impl Iterator<Item = (&String, &PeerAnswer)> {
    v.peers.iter().filter(|_| asked_now(v))
}

/// The key has been vacant for longer than this.
fn vacant_for(v: &View, wait: Duration) -> bool {
    v.memory.vacant_since.is_some_and(|at| v.now.since(at) > wait)
}

/// What `/sync` says of us, last: an operator's word stands above it, once everybody who has every
/// commit for certain had time to take the key.
fn covered(v: &View, forced: bool) -> Verdict {
    let named = named_in_sync(v, &v.name);
    match voted(v) {
        Verdict::Run if named => Verdict::Run,
        _ if forced && vacant_for(v, CHOSEN_WAIT * 2) => Verdict::Run,
        _ if !named => Verdict::StayBack(THEY_FIRST.to_owned()),
        verdict => verdict,
    }
}

/// Why `/sync` cannot say who may lead.
fn sync_is_old(v: &View) -> Option<String> {
    let key = v.cluster()?.sync.as_ref().filter(|key| key.value.leader.is_some());
    key.filter(|_| v.settings.synchronous_mode != SyncMode::Off)?;
    let timeline = forgotten(v)?;
    Some(format!(
        "etcd does not know timeline {timeline}: it was restored from an older backup, and its key \
         /sync may not name who has every commit; compare `pgvigilctl list`, then: \
         pgvigilctl failover --candidate NAME --force"
    ))
}

/// A timeline on which somebody stands and of which the store knows nothing. Each number is in the
/// store before the promotion (`core::numbering`), so that the store was restored from a backup
/// that is older than that promotion, and so is what it says of leaders and of `/sync`.
pub fn forgotten(v: &View) -> Option<u32> {
    let known = numbering::known(v.cluster()?)?;
    let answers = v.peers.values().filter(|peer| peer.reachable).filter_map(|peer| peer.timeline);
    let newest = answers.chain(v.probe().map(|probe| probe.timeline)).max();
    newest.filter(|newest| *newest > known)
}

/// A member that may lead and, as far as we can see, will: who is unfit is passed over by the
/// others, so that nobody would lead if nobody else could.
fn somebody_fit(v: &View, optime: Option<Lsn>) -> bool {
    answers(v).any(|(name, peer)| {
        let able = peer.reachable && peer.in_recovery && eligible(peer) && admitted(v, name);
        able && near(v, optime, peer)
    })
}

/// Not too far behind the last leader to lead.
fn near(v: &View, optime: Option<Lsn>, peer: &PeerAnswer) -> bool {
    match (optime, peer.position) {
        (Some(optime), Some(at)) => {
            optime.bytes_after(at) <= v.settings.maximum_lag_on_failover_bytes
        }
        _ => true,
    }
}

fn lags(v: &View, optime: Option<Lsn>) -> bool {
    let (Some(optime), Some(mine)) = (optime, v.position()) else {
        return false;
    };
    optime.bytes_after(mine) > v.settings.maximum_lag_on_failover_bytes
}

fn among_peers(v: &View, wanted: Option<&str>, chosen: bool) -> Verdict {
    let mine = v.position().unwrap_or_default();
    let timeline = v.probe().map_or(0, |p| p.timeline);
    let voters = quorum(v) > 0;
    let optime = v.cluster().and_then(|cluster| cluster.status.optime);
    let waited = vacant_for(v, CHOSEN_WAIT);
    for (name, peer) in answers(v).filter(|(_, p)| p.reachable) {
        if !peer.in_recovery {
            return Verdict::StayBack(format!("{NOT_HEALTHIEST} ({name} is a primary)"));
        }
        if !admitted(v, name) {
            // It may not lead: to wait for it, however far it is, would be to wait for ever.
            continue;
        }
        if wanted == Some(name) && eligible(peer) && !waited {
            return Verdict::StayBack(format!("waiting for the chosen candidate {name}"));
        }
        if !eligible(peer) || chosen || !near(v, optime, peer) {
            continue;
        }
        let theirs = (peer.timeline.unwrap_or(0), peer.position.unwrap_or_default());
        // Voters stand on one history, of which a standby without a stream may know the older
        // timeline only: were that to count, two could wait for each other.
        let theirs = if voters { (timeline, theirs.1) } else { theirs };
        let better = theirs > (timeline, mine)
            || (theirs == (timeline, mine) && peer.failover_priority > v.tags.failover_priority);
        if better {
            return Verdict::StayBack(NOT_HEALTHIEST.to_owned());
        }
    }
    Verdict::Run
}

fn voted(v: &View) -> Verdict {
    let quorum = quorum(v);
    let votes = votes(v, v.position().unwrap_or_default());
    if votes < quorum {
        let why = format!("{NOT_HEALTHIEST} ({votes} of {quorum} voters are not ahead of me)");
        return Verdict::StayBack(why);
    }
    Verdict::Run
}

/// How many of the others that `/sync` names must be seen not to be ahead of us, whatever the mode
/// is just now: the key says how far its voters can be trusted (`core::sync`). Its leader itself
/// has everything.
fn quorum(v: &View) -> u32 {
    let sync = v.cluster().and_then(|c| c.sync.as_ref()).map(|key| &key.value);
    let voter = sync.filter(|sync| sync.leader.as_deref().is_some_and(|leader| leader != v.name));
    voter.filter(|_| v.settings.synchronous_mode != SyncMode::Off).map_or(0, |sync| sync.quorum)
}

/// Those that `/sync` names and whose servers have answered that they are not ahead, asked since
/// nobody can lead any more (`Memory::vacant_since`). Nothing is acknowledged since then, so a vote
/// cannot be overtaken. What was known of a server that hangs, from before, is no vote: it may have
/// got more since.
fn votes(v: &View, mine: Lsn) -> u32 {
    let voter = |name: &str| {
        v.cluster().and_then(|c| c.sync.as_ref()).is_some_and(|key| key.value.contains(name))
    };
    let votes = answers(v).filter(|(name, peer)| {
        let behind = peer.position.is_some_and(|theirs| theirs <= mine);
        peer.reachable && peer.in_recovery && peer.fresh && behind && voter(name)
    });
    u32::try_from(votes.count()).unwrap_or(u32::MAX)
}

/// In synchronous mode only those whom `/sync` names have every acknowledged commit.
fn named_in_sync(v: &View, name: &str) -> bool {
    let sync = v.cluster().and_then(|c| c.sync.as_ref()).map(|key| &key.value);
    v.settings.synchronous_mode == SyncMode::Off
        || sync.is_none_or(|sync| sync.leader.is_none() || sync.contains(name))
}

/// `/sync` says so of this member. (With nobody's name it says nothing of anybody.)
pub fn has_every_commit(v: &View) -> bool {
    let sync = v.cluster().and_then(|c| c.sync.as_ref()).map(|key| &key.value);
    v.settings.synchronous_mode != SyncMode::Off && sync.is_some_and(|sync| sync.contains(&v.name))
}

/// The store lets this member take the key.
fn admitted(v: &View, name: &str) -> bool {
    named_in_sync(v, name) && failsafe::admits(v, name)
}

fn eligible(peer: &PeerAnswer) -> bool {
    !peer.nofailover && !peer.watchdog_failed && !peer.unfit
}

/// Another member as the next leader, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidacy {
    pub name: String,
    /// Bytes of WAL that it lacked of the leader's published position, by its own document.
    pub behind_bytes: Option<u64>,
    /// Why it could not lead now, all reasons; empty: it could.
    pub obstacles: Vec<String>,
}

/// Every other member, with the very conditions of [`verdict`] and [`successor`]. Answers count
/// while they are young; else the documents in the store do.
pub fn overview(v: &View) -> Vec<Candidacy> {
    let asked = v.peers_asked_at.is_some_and(|at| v.now.since(at) <= v.settings.loop_wait);
    v.others()
        .map(|member| {
            let answer = v.peers.get(&member.name).filter(|_| asked);
            let optime = v.cluster().and_then(|c| c.status.optime);
            let position = answer.and_then(|peer| peer.position).or(member.xlog_location);
            let behind_bytes = optime.zip(position).map(|(theirs, at)| theirs.bytes_after(at));
            let obstacles = obstacles(v, member, answer, behind_bytes);
            Candidacy { name: member.name.clone(), behind_bytes, obstacles }
        })
        .collect()
}

fn obstacles(
    v: &View,
    member: &Member,
    answer: Option<&PeerAnswer>,
    behind_bytes: Option<u64>,
) -> Vec<String> {
    if v.leader().is_some_and(|key| key.name == member.name) {
        return vec!["it leads".to_owned()];
    }
    let mut all = Vec::new();
    if !member.is_running() {
        all.push(format!("its PostgreSQL is not running but \"{}\"", member.state));
    }
    if member.tags.nofailover {
        all.push("it has the tag nofailover, or failover_priority 0".to_owned());
    }
    let sync = v.cluster().and_then(|c| c.sync.as_ref()).map(|key| &key.value);
    if v.settings.synchronous_mode != SyncMode::Off
        && !sync.is_some_and(|s| s.contains(&member.name))
    {
        all.push("it is not a synchronous standby".to_owned());
    }
    let most = v.settings.maximum_lag_on_failover_bytes;
    match behind_bytes {
        Some(bytes) if bytes > most => all
            .push(format!("it lacks {bytes} bytes of WAL, and maximum_lag_on_failover is {most}")),
        Some(_) => {}
        None => all.push("its position is not known".to_owned()),
    }
    match answer {
        Some(peer) if !peer.reachable => all.push("it did not answer".to_owned()),
        Some(peer) if peer.watchdog_failed => all.push("its watchdog failed".to_owned()),
        Some(peer) if peer.unfit => {
            all.push("its volume fails or its PostgreSQL does not answer".to_owned());
        }
        Some(_) | None => {}
    }
    all
}

/// The best member to hand the key to: reachable, a standby, allowed, within the lag limit and,
/// in synchronous mode, named in `/sync`. `None`: nobody.
pub fn successor(v: &View, wanted: Option<&str>) -> Option<String> {
    let cluster = v.cluster()?;
    let mine = match v.probe() {
        Some(probe) => position(probe),
        None => v.control().map(|c| c.checkpoint_lsn),
    };
    let sync = cluster.sync.as_ref().map(|s| &s.value).filter(|s| s.leader.is_some());
    let synchronous = v.settings.synchronous_mode != SyncMode::Off;
    // A diverged former primary may be "ahead": only positions of our own history compare. A
    // standby that lost us right after our promotion names the timeline before, until its next
    // restart point; that it streamed from us says the same.
    let timeline = v.probe().map(|p| p.timeline).or_else(|| v.control().map(|c| c.timeline));
    v.peers
        .iter()
        .filter(|(name, peer)| peer.timeline >= timeline || v.memory.followers.contains(*name))
        .filter(|(name, _)| wanted.is_none_or(|w| w == *name))
        .filter(|(_, peer)| peer.reachable && peer.in_recovery && eligible(peer))
        .filter(|(name, _)| !synchronous || sync.is_some_and(|s| s.contains(name)))
        .filter(|(_, peer)| {
            let behind = mine.unwrap_or_default().bytes_after(peer.position.unwrap_or_default());
            behind <= v.settings.maximum_lag_on_failover_bytes
        })
        .max_by_key(|(_, peer)| (peer.position, peer.failover_priority))
        .map(|(name, _)| name.clone())
}
