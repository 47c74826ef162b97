//! Replication slots: which ones this server is to have, how far, and which ones go.
//!
//! A slot keeps WAL until somebody has read it, so that both a missing one and a forgotten one do
//! harm: without it a standby that was away must be copied anew, a forgotten one fills the disk.
//! The rules (PATRONI: `slots`, `ignore_slots`, `member_slots_ttl`):
//!
//! * The leader has a physical slot for each member that streams from it, as long as that is
//!   registered and `member_slots_ttl` longer, and the permanent ones.
//! * A standby has the physical ones of them, too, moved on to where `/status` says that they are
//!   on the leader, so that nobody's WAL is gone after a failover; and copies of the logical ones
//!   ([`slot_copies`]).
//! * Any other slot that nobody uses goes after `member_slots_ttl`, unless `ignore_slots` names
//!   it; nothing goes during a pause.

use std::collections::{BTreeMap, BTreeSet};

use super::database::Slot;
use super::lsn::Lsn;
use super::slot_copies::{self, CopyMemory, Proofs, Question};
use super::time::Boot;
use super::view::View;

/// PostgreSQL's limit (NAMEDATALEN - 1).
const NAME_MAX: usize = 63;

/// The physical slot of a member, by Patroni's rule: lower case; `-` and `.` become `_`; any
/// other character outside `[a-z0-9_]` becomes `u` and its code point in at least four decimal
/// digits; at most 63 characters. Different members may end up with the same name.
pub fn slot_name(member: &str) -> String {
    let mut name = String::new();
    for c in member.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => name.push(c),
            '-' | '.' => name.push('_'),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    name.truncate(NAME_MAX);
    name
}

/// Whether PostgreSQL accepts this as the name of a slot.
pub fn is_valid(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// What a slot is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SlotKind {
    Physical,
    Logical { database: String, plugin: String },
}

/// A slot of the configuration's `slots`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PermanentSlot {
    pub name: String,
    pub kind: SlotKind,
}

/// An entry of `ignore_slots`: a slot that has all of what is given here is another program's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlotPattern {
    pub name: Option<String>,
    /// `physical` or `logical`.
    pub kind: Option<String>,
    pub database: Option<String>,
    pub plugin: Option<String>,
}

impl SlotPattern {
    fn matches(&self, slot: &Slot) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        is(&self.name, Some(&slot.name))
            && is(&self.kind, Some(&slot.kind))
            && is(&self.database, slot.database.as_deref())
            && is(&self.plugin, slot.plugin.as_deref())
    }
}

/// What one round does about slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotWork {
    pub create: Vec<PermanentSlot>,
    /// Slots of a standby that the leader's are ahead of.
    pub advance: Vec<Advance>,
    pub drop: Vec<String>,
    pub question: Option<Question>,
    pub proofs: Proofs,
}

/// A slot to be moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    pub name: String,
    /// Of a logical slot: from there alone it can be moved.
    pub database: Option<String>,
    pub to: Lsn,
}

/// What is remembered between rounds. Losing it only keeps slots longer.
#[derive(Clone, Debug, Default)]
pub struct SlotMemory {
    /// Slots of members, and when the member was registered last.
    members: BTreeMap<String, Boot>,
    /// Other slots, and since when they are of no use.
    idle: BTreeMap<String, Boot>,
    copies: CopyMemory,
}

/// PostgreSQL can move a slot on since 11.
pub const CAN_ADVANCE: u32 = 110_000;

impl SlotMemory {
    /// Members' slots that are kept, for `/status`: the next leader knows them from there.
    pub fn retained(&self, v: &View) -> Vec<String> {
        let fresh = |seen: &Boot| v.now.since(*seen) <= v.settings.member_slots_ttl;
        let kept = self.members.iter().filter(|(name, seen)| {
            fresh(seen) && !v.settings.slots.iter().any(|slot| slot.name == **name)
        });
        kept.map(|(name, _)| name.clone()).collect()
    }

    /// What is to be done now. `due`: the round of `loop_wait`; only what a replica waits for is
    /// done in others.
    pub fn plan(&mut self, v: &View, due: bool) -> SlotWork {
        let (Some(probe), Some(cluster)) = (v.probe(), v.cluster()) else {
            return SlotWork::default();
        };
        if !v.settings.use_slots {
            return SlotWork::default();
        }
        for name in &cluster.status.retain_slots {
            self.members.entry(name.clone()).or_insert(v.now);
        }
        for member in cluster.members.keys() {
            self.members.insert(slot_name(member), v.now);
        }
        // The leader of a standby cluster streams to the others as a primary does.
        let standby = v.settings.standby_cluster.is_some();
        let leading = (v.is_primary() || standby) && v.holds_key();
        if !leading && !probe.in_recovery {
            // A primary that does not see its key just now keeps what its replicas need.
            return SlotWork::default();
        }
        let wanted = if leading { self.of_leader(v) } else { self.of_standby(v) };
        let present = |name: &str| probe.slots.iter().find(|slot| slot.name == name);
        let create = wanted.iter().filter(|(name, kind)| {
            let members = self.members.contains_key(*name) && **kind == SlotKind::Physical;
            let here = v.is_primary() || **kind == SlotKind::Physical;
            here && (due || members && leading) && present(name).is_none()
        });
        let create = create
            .map(|(name, kind)| PermanentSlot { name: name.clone(), kind: kind.clone() })
            .collect();
        let advance = if leading || !due { Vec::new() } else { advance(v, &wanted) };
        let drop = if due { self.useless(v, &wanted, leading) } else { Vec::new() };
        let proofs = self.copies.look(v);
        let question = if leading || !due { None } else { self.copies.question(v) };
        SlotWork { create, advance, drop, question, proofs }
    }

    fn of_leader(&self, v: &View) -> BTreeMap<String, SlotKind> {
        let own = slot_name(&v.name);
        let mut wanted: BTreeMap<String, SlotKind> =
            v.settings.slots.iter().map(|slot| (slot.name.clone(), slot.kind.clone())).collect();
        // Members' names come first: without its slot a member is cut off.
        let registered: BTreeSet<String> = v.others().map(|m| slot_name(&m.name)).collect();
        let runs = |name: &String| v.others().any(|m| m.name == *name && m.is_running());
        for member in v.others().filter(|m| !m.tags.nostream) {
            let elsewhere = member
                .tags
                .replicatefrom
                .as_ref()
                .is_some_and(|from| *from != v.name && runs(from));
            if !elsewhere {
                wanted.insert(slot_name(&member.name), SlotKind::Physical);
            }
        }
        for (name, seen) in &self.members {
            let kept = v.now.since(*seen) <= v.settings.member_slots_ttl;
            if kept && !registered.contains(name) {
                wanted.insert(name.clone(), SlotKind::Physical);
            }
        }
        if wanted.get(&own) == Some(&SlotKind::Physical) {
            wanted.remove(&own);
        }
        wanted
    }

    fn of_standby(&self, v: &View) -> BTreeMap<String, SlotKind> {
        let (own, can_advance) =
            (slot_name(&v.name), v.probe().is_some_and(|p| p.server_version >= CAN_ADVANCE));
        let below = v.others().filter(|m| m.tags.replicatefrom.as_ref() == Some(&v.name));
        let mut wanted: BTreeMap<String, SlotKind> =
            below.map(|m| (slot_name(&m.name), SlotKind::Physical)).collect();
        // Who never leads is nobody's next source.
        if v.tags.nofailover || v.tags.nostream || !can_advance {
            return wanted;
        }
        let permanent = |name: &String| {
            let mut slots = v.settings.slots.iter();
            slots.any(|slot| slot.name == *name && slot.kind == SlotKind::Physical)
        };
        let known = v.cluster().into_iter().flat_map(|c| c.status.slots.keys());
        for name in known.filter(|name| self.members.contains_key(*name) || permanent(name)) {
            wanted.insert(name.clone(), SlotKind::Physical);
        }
        wanted.remove(&own);
        wanted.extend(slot_copies::wanted(v));
        wanted
    }

    /// Slots that go now.
    fn useless(
        &mut self,
        v: &View,
        wanted: &BTreeMap<String, SlotKind>,
        leading: bool,
    ) -> Vec<String> {
        let Some(probe) = v.probe() else { return Vec::new() };
        let mut drop = Vec::new();
        let mut idle = BTreeMap::new();
        for slot in &probe.slots {
            let foreign = v.settings.ignore_slots.iter().any(|pattern| pattern.matches(slot));
            let other = wanted.get(&slot.name).is_some_and(|kind| !is_of(slot, kind));
            if foreign || slot.active || wanted.contains_key(&slot.name) && !(leading && other) {
                continue;
            }
            let since = self.idle.get(&slot.name).copied().unwrap_or(v.now);
            let over = v.now.since(since) >= v.settings.member_slots_ttl;
            if !v.settings.paused && (over || other || self.members.contains_key(&slot.name)) {
                drop.push(slot.name.clone());
            }
            idle.insert(slot.name.clone(), since);
        }
        self.idle = idle;
        // What is remembered of members stays bounded.
        let ttl = v.settings.member_slots_ttl;
        self.members.retain(|name, seen| {
            v.now.since(*seen) <= ttl || probe.slots.iter().any(|slot| slot.name == *name)
        });
        drop
    }
}

fn advance(v: &View, wanted: &BTreeMap<String, SlotKind>) -> Vec<Advance> {
    let (Some(probe), Some(cluster)) = (v.probe(), v.cluster()) else { return Vec::new() };
    let ours =
        |slot: &&Slot| !slot.active && wanted.get(&slot.name).is_some_and(|kind| is_of(slot, kind));
    let moved = probe.slots.iter().filter(ours).filter_map(|slot| {
        // Not past what is here: the slot would then say that it needs nothing.
        let to = (*cluster.status.slots.get(&slot.name)?).min(probe.replay_lsn?);
        let at = slot.confirmed_flush_lsn.or(slot.restart_lsn)?;
        let (name, database) = (slot.name.clone(), slot.database.clone());
        (at < to).then_some(Advance { name, database, to })
    });
    moved.collect()
}

fn is_of(slot: &Slot, kind: &SlotKind) -> bool {
    match kind {
        SlotKind::Physical => slot.kind == "physical",
        SlotKind::Logical { database, plugin } => {
            slot.kind == "logical"
                && slot.database.as_deref() == Some(database)
                && slot.plugin.as_deref() == Some(plugin)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::decide_tests::{view, with_cluster};
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn slot(name: &str, kind: &str) -> Slot {
        Slot { name: name.into(), kind: kind.into(), restart_lsn: Some(Lsn(10)), ..Slot::default() }
    }

    fn with_slots(v: &mut View, slots: Vec<Slot>) {
        let seen = v.server.probe.as_mut().expect("a probe");
        let mut probe = (*seen.value).clone();
        (probe.slots, probe.server_version) = (slots, 150_000);
        seen.value = Arc::new(probe);
    }

    fn names(work: &SlotWork) -> Vec<&str> {
        work.create.iter().map(|slot| slot.name.as_str()).collect()
    }

    #[test]
    fn a_leader_has_slots_for_members_and_permanent_ones() {
        let mut v = view("alpha", true);
        let logical = SlotKind::Logical { database: "d".into(), plugin: "pgoutput".into() };
        v.settings.slots = vec![
            PermanentSlot { name: "alpha".into(), kind: SlotKind::Physical },
            PermanentSlot { name: "logi".into(), kind: logical },
            PermanentSlot { name: "phys".into(), kind: SlotKind::Physical },
        ];
        let mut memory = SlotMemory::default();
        assert_eq!(names(&memory.plan(&v, true)), ["beta", "gamma", "logi", "phys"]);
        assert_eq!(names(&memory.plan(&v, false)), ["beta", "gamma"]);
        with_cluster(&mut v, |c| {
            c.members.get_mut("gamma").expect("gamma").tags.replicatefrom = Some("beta".into());
        });
        assert_eq!(names(&memory.plan(&v, true)), ["beta", "logi", "phys"]);
        let mut other = slot("logi", "logical");
        (other.database, other.plugin) = (Some("d".into()), Some("test_decoding".into()));
        with_slots(&mut v, vec![other]);
        assert_eq!(memory.plan(&v, true).drop, ["logi"], "it is not the one that is configured");
    }

    #[test]
    fn a_slot_goes_when_its_member_has_been_away_long_enough() {
        let mut v = view("alpha", true);
        let mut memory = SlotMemory::default();
        with_slots(&mut v, vec![slot("beta", "physical"), slot("gamma", "physical")]);
        memory.plan(&v, true);
        with_cluster(&mut v, |c| {
            c.members.remove("gamma");
            c.status.retain_slots = vec!["delta".into()];
        });
        v.now = v.now.plus(Duration::from_secs(1800));
        let work = memory.plan(&v, true);
        assert_eq!(names(&work), ["delta"]);
        assert_eq!(work.drop, Vec::<String>::new());
        assert_eq!(memory.retained(&v), ["alpha", "beta", "delta", "gamma"]);
        v.now = v.now.plus(Duration::from_secs(1));
        assert_eq!(memory.plan(&v, true).drop, ["gamma"]);
        v.settings.paused = true;
        assert_eq!(memory.plan(&v, true).drop, Vec::<String>::new());
    }

    #[test]
    fn an_unknown_slot_has_the_same_time_unless_it_is_ignored_or_used() {
        let mut v = view("alpha", true);
        let mut memory = SlotMemory::default();
        let used = Slot { active: true, ..slot("used", "physical") };
        with_slots(&mut v, vec![used, slot("other", "logical"), slot("theirs", "logical")]);
        let theirs = SlotPattern { name: Some("theirs".into()), ..SlotPattern::default() };
        v.settings.ignore_slots = vec![theirs];
        assert_eq!(memory.plan(&v, true).drop, Vec::<String>::new());
        v.now = v.now.plus(Duration::from_secs(1800));
        assert_eq!(memory.plan(&v, true).drop, ["other"]);
    }

    #[test]
    fn a_standby_keeps_the_leaders_physical_slots_and_moves_them_on() {
        let mut v = view("beta", false);
        v.settings.slots = vec![PermanentSlot { name: "phys".into(), kind: SlotKind::Physical }];
        with_slots(&mut v, vec![slot("gamma", "physical"), slot("alpha", "physical")]);
        with_cluster(&mut v, |c| {
            let known = [("alpha", 9), ("beta", 50), ("gamma", 500), ("phys", 20), ("x", 1)];
            c.status.slots = known.map(|(name, lsn)| (name.to_owned(), Lsn(lsn))).into();
        });
        let mut memory = SlotMemory::default();
        let work = memory.plan(&v, true);
        assert_eq!(names(&work), ["phys"]);
        assert_eq!(
            work.advance,
            [Advance { name: "gamma".into(), database: None, to: Lsn(100) }],
            "no further than replayed"
        );
        assert_eq!(work.drop, Vec::<String>::new());
        v.tags.nofailover = true;
        assert_eq!(memory.plan(&v, true).drop, ["gamma", "alpha"]);
    }

    #[test]
    fn follows_patronis_rule() {
        let cases = [
            ("alpha", "alpha"),
            ("PG-node.1", "pg_node_1"),
            ("a b", "au0032b"),
            ("é", "u0233"),
            ("😀", "u128512"),
        ];
        for (member, want) in cases {
            assert_eq!(slot_name(member), want);
            assert!(is_valid(&slot_name(member)));
        }
        assert_eq!(slot_name(&"x".repeat(80)).len(), 63);
        assert!(!is_valid("") && !is_valid("A") && !is_valid(&"x".repeat(64)));
    }
}
