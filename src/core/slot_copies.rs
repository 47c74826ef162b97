//! Logical slots on standbys, so that their consumers go on after a failover.
//!
//! PostgreSQL keeps a logical slot on the server where it was made. From 11 on a standby can hold a
//! copy of the file in which the leader keeps it, read at the standby's start, and move it on as
//! the leader's consumer reads (PATRONI: the same, with the same restart). Slots that were made
//! with `failover` (17) are PostgreSQL's own to copy.
//!
//! What makes a copy of use:
//!
//! * Its position is one that this standby has replayed, and the WAL from there on is still here
//!   after the restart: the leader's last checkpoint, which the standby's stop goes back to at the
//!   most, is not past it.
//! * Nothing that it needs of the catalogs is gone. The standby tells the leader what it needs
//!   (`hot_standby_feedback`), which keeps it from then on. What was removed before that, the
//!   leader's own slot did not need any more: the copy is proven once it has come to where the
//!   leader's slot stood when the leader was first seen to keep rows for this standby.

use std::collections::BTreeMap;
use std::time::Duration;

use super::database::Slot;
use super::decision::Upstream;
use super::lsn::Lsn;
use super::rules::follow;
use super::slots::{CAN_ADVANCE, SlotKind, slot_name};
use super::time::Boot;
use super::view::View;

/// What was fetched from the leader is used at once or not at all.
pub const FRESH: Duration = Duration::from_secs(60);

/// A copy that did not stay is tried again after this, doubled each time: it costs a restart.
const AGAIN: Duration = Duration::from_secs(600);
const DOUBLINGS_MAX: u32 = 7;

/// What the leader is to be asked about its logical slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub leader: Upstream,
    /// The physical slot through which the leader hears what we need.
    pub own_slot: String,
    /// To be copied.
    pub copy: Vec<String>,
    /// Copies that are not proven yet.
    pub prove: Vec<String>,
    pub replayed: Lsn,
}

/// What the leader said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderSlots {
    /// Their states were fetched: a restart would bring them here.
    pub fetched: Vec<String>,
    /// The leader keeps catalog rows for us; its slots need them from these transactions on.
    pub needs: BTreeMap<String, u32>,
}

/// What is remembered between rounds. Losing it costs a restart, or a warning too many.
#[derive(Clone, Debug, Default)]
pub struct CopyMemory {
    /// When a slot was fetched last, and how often.
    tried: BTreeMap<String, (Boot, u32)>,
    /// Copies of this server, and from which transaction on the leader's slot needed rows when it
    /// was first seen to keep them for us.
    unproven: BTreeMap<String, Option<u32>>,
    pid: Option<i32>,
}

/// What a round tells of copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proofs {
    pub proven: Vec<String>,
    /// Not proven when this server was promoted.
    pub doubtful: Vec<String>,
}

/// The logical slots that this member has as a standby.
pub fn wanted(v: &View) -> BTreeMap<String, SlotKind> {
    let able = v.probe().is_some_and(|p| p.server_version >= CAN_ADVANCE);
    // Who never leads is nobody's next leader.
    let never = v.tags.nofailover || v.tags.nostream || v.settings.standby_cluster.is_some();
    if !able || never {
        return BTreeMap::new();
    }
    let slots = v.settings.slots.iter().filter(|slot| slot.kind != SlotKind::Physical);
    slots.map(|slot| (slot.name.clone(), slot.kind.clone())).collect()
}

impl CopyMemory {
    /// What is to be asked now, if the slots that this standby lacks, or cannot be sure of, are the
    /// leader's.
    pub fn question(&mut self, v: &View) -> Option<Question> {
        let (probe, leader) = (v.probe()?, follow::ready_leader(v)?);
        let wanted = wanted(v);
        let known =
            |name: &&String| v.cluster().is_some_and(|c| c.status.slots.contains_key(*name));
        let here = |name: &str| probe.slots.iter().any(|slot| slot.name == name);
        self.tried.retain(|name, _| wanted.contains_key(name) && !here(name));
        let fetched = v.server.leader_slots.as_ref();
        let waiting = fetched
            .is_some_and(|seen| !seen.value.fetched.is_empty() && v.now.since(seen.at) < FRESH);
        let streams = v.is_standby() && v.memory.not_streaming_since.is_none();
        let may_copy = streams && !v.settings.paused && !waiting;
        let missing = wanted.keys().filter(known).filter(|name| !here(name) && may_copy);
        let copy: Vec<String> = missing.filter(|name| self.may_try(name, v.now)).cloned().collect();
        let prove: Vec<String> =
            self.unproven.iter().filter(|(_, of)| of.is_none()).map(|(n, _)| n.clone()).collect();
        (!copy.is_empty() || !prove.is_empty()).then(|| Question {
            leader: follow::upstream_of(leader),
            own_slot: slot_on_leader(v, &leader.name),
            copy,
            prove,
            replayed: probe.replay_lsn.unwrap_or_default(),
        })
    }

    fn may_try(&self, name: &str, now: Boot) -> bool {
        self.tried.get(name).is_none_or(|(at, times)| {
            now.since(*at) >= AGAIN * (1 << times.saturating_sub(1).min(DOUBLINGS_MAX))
        })
    }

    /// These are about to be copied.
    fn note_fetched(&mut self, v: &View) {
        let Some(seen) = &v.server.leader_slots else { return };
        for name in &seen.value.fetched {
            let tried = self.tried.entry(name.clone()).or_insert((Boot(0), 0));
            if tried.0 < seen.at {
                *tried = (seen.at, tried.1.saturating_add(1));
            }
        }
    }

    /// Looks how far the copies are.
    pub fn look(&mut self, v: &View) -> Proofs {
        self.note_fetched(v);
        let mut proofs = Proofs::default();
        let Some(probe) = v.probe() else { return proofs };
        let pid = v.server.postmaster.map(|p| p.pid);
        let wanted = wanted(v);
        if !probe.in_recovery {
            // Promoted; a server that was started as a primary has slots of its own.
            let unproven = std::mem::take(&mut self.unproven);
            if self.pid == pid {
                proofs.doubtful = unproven.into_keys().collect();
            }
            self.pid = pid;
            return proofs;
        }
        let mine = |slot: &&Slot| slot.kind == "logical" && wanted.contains_key(&slot.name);
        if self.pid != pid {
            self.pid = pid;
            self.unproven =
                probe.slots.iter().filter(mine).map(|slot| (slot.name.clone(), None)).collect();
        }
        let needs = v.server.leader_slots.as_ref().map(|seen| &seen.value.needs);
        self.unproven.retain(|name, from| {
            let Some(slot) = probe.slots.iter().find(|slot| slot.name == *name) else {
                return false;
            };
            *from = from.or_else(|| needs?.get(name).copied());
            let proven = from.zip(slot.catalog_xmin).is_some_and(|(from, at)| is_from(at, from));
            if proven {
                proofs.proven.push(name.clone());
            }
            !proven
        });
        proofs
    }
}

/// Transaction numbers wrap around (PostgreSQL: TransactionIdFollowsOrEquals).
fn is_from(xid: u32, from: u32) -> bool {
    xid.wrapping_sub(from).cast_signed() >= 0
}

/// Who streams from another standby is heard through the slot of the first one in the chain.
fn slot_on_leader(v: &View, leader: &str) -> String {
    let (mut name, mut from) = (&v.name, v.tags.replicatefrom.as_ref());
    for _ in v.others() {
        let Some(member) = v.others().find(|m| Some(&m.name) == from && m.is_running()) else {
            break;
        };
        if member.name == leader {
            break;
        }
        (name, from) = (&member.name, member.tags.replicatefrom.as_ref());
    }
    slot_name(name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::decide_tests::{view, with_cluster};
    use super::super::slots::PermanentSlot;
    use super::super::view::Seen;
    use super::*;

    fn logical(name: &str, catalog_xmin: u32) -> Slot {
        Slot {
            name: name.into(),
            kind: "logical".into(),
            catalog_xmin: Some(catalog_xmin),
            ..Slot::default()
        }
    }

    fn standby(slots: Vec<Slot>) -> View {
        let mut v = view("beta", false);
        let kind = SlotKind::Logical { database: "d".into(), plugin: "p".into() };
        v.settings.slots = vec![PermanentSlot { name: "logi".into(), kind }];
        with_cluster(&mut v, |c| c.status.slots.extend([("logi".to_owned(), Lsn(50))]));
        with_slots(&mut v, slots);
        v
    }

    fn with_slots(v: &mut View, slots: Vec<Slot>) {
        let seen = v.server.probe.as_mut().expect("a probe");
        let mut probe = (*seen.value).clone();
        (probe.slots, probe.server_version) = (slots, 150_000);
        seen.value = Arc::new(probe);
    }

    fn told(v: &mut View, fetched: &[&str], needs: &[(&str, u32)]) {
        let value = LeaderSlots {
            fetched: fetched.iter().map(|name| (*name).to_owned()).collect(),
            needs: needs.iter().map(|(name, xid)| ((*name).to_owned(), *xid)).collect(),
        };
        v.server.leader_slots = Some(Seen { value, at: v.now });
    }

    #[test]
    fn a_missing_slot_is_asked_for_and_not_again_soon() {
        let mut v = standby(Vec::new());
        let mut memory = CopyMemory::default();
        let asked = memory.question(&v).expect("a question");
        assert_eq!((asked.copy, asked.own_slot.as_str()), (vec!["logi".to_owned()], "beta"));
        v.settings.paused = true;
        assert_eq!(memory.question(&v), None, "a restart in a pause");
        v.settings.paused = false;
        told(&mut v, &["logi"], &[]);
        memory.look(&v);
        assert_eq!(memory.question(&v), None, "it is here already");
        // The restart did not bring it.
        v.server.leader_slots = None;
        v.now = v.now.plus(AGAIN / 2);
        assert_eq!(memory.question(&v), None);
        v.now = v.now.plus(AGAIN / 2);
        assert!(memory.question(&v).is_some());
        v.tags.nofailover = true;
        assert_eq!(memory.question(&v), None, "who never leads");
    }

    #[test]
    fn a_copy_is_proven_where_the_leaders_slot_stood() {
        let mut v = standby(vec![logical("logi", 7)]);
        let mut memory = CopyMemory::default();
        assert_eq!(memory.look(&v), Proofs::default());
        assert_eq!(memory.question(&v).expect("a question").prove, ["logi"]);
        told(&mut v, &[], &[("logi", 9)]);
        assert_eq!(memory.look(&v), Proofs::default());
        // Later the leader's slot is further: what counts is where it stood then.
        told(&mut v, &[], &[("logi", 20)]);
        assert_eq!(memory.question(&v), None);
        with_slots(&mut v, vec![logical("logi", 9)]);
        assert_eq!(memory.look(&v).proven, ["logi"]);
        assert_eq!(memory.look(&v), Proofs::default());
    }

    #[test]
    fn a_promotion_before_that_is_told() {
        let mut v = standby(vec![logical("logi", 7)]);
        let mut memory = CopyMemory::default();
        memory.look(&v);
        let seen = v.server.probe.as_mut().expect("a probe");
        let mut probe = (*seen.value).clone();
        probe.in_recovery = false;
        seen.value = Arc::new(probe);
        assert_eq!(memory.look(&v).doubtful, ["logi"]);
        assert_eq!(memory.look(&v), Proofs::default());
    }

    #[test]
    fn a_chain_is_heard_through_its_first_standby() {
        let mut v = standby(Vec::new());
        v.tags.replicatefrom = Some("gamma".into());
        assert_eq!(slot_on_leader(&v, "alpha"), "gamma");
        v.tags.replicatefrom = Some("alpha".into());
        assert_eq!(slot_on_leader(&v, "alpha"), "beta");
        assert!(is_from(3, u32::MAX - 3) && is_from(3, 3) && !is_from(3, 4));
    }
}
