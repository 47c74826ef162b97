//! Numbers of timelines: no two promotions are given the same one.
//!
//! PostgreSQL gives a new timeline the first number for which it finds no history file. Two
//! members of which neither saw the other's promotion (the second wins while the first is gone with
//! all who followed it) would give one number to two histories. Then a standby of the first streams
//! from the second without an error and holds pages of both, and pg_rewind sees nothing to do.
//!
//! So `vigil/timeline` holds the greatest number that was given out. It is raised under the tenure
//! before the promotion, and every acquiring transaction compares its revision: who gets the key
//! knows of every earlier promotion, and a transaction that the store carries out late, after
//! somebody else was promoted, fails. So does one after somebody else had the key, because each
//! writes it again, unchanged. The promoted member makes PostgreSQL skip the numbers that it never
//! saw (`Action::Promote`). Patroni does not write the key: of its promotions only what the
//! members' documents say is known.

use super::cluster::Cluster;
use super::decision::Action;
use super::view::View;

/// A number further ahead than this is taken for a document that somebody spoiled: each number
/// skipped costs a file.
const AHEAD_MAX: u32 = 100;

/// What precedes a promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// The new number is not in the store yet.
    Write(Action),
    /// It is: these lie between the newest timeline that this server knows and the new one.
    Skip(Vec<u32>),
}

/// The next step towards a promotion with a number of its own. `None` without a tenure or a server
/// that answers.
pub fn before_promotion(v: &View) -> Option<Numbering> {
    let (tenure, mine) = (v.guard.tenure?, newest_here(v)?);
    let key = v.cluster()?.newest_timeline;
    let reserved = key.map(|k| k.value).filter(|newest| {
        newest.leader_mod_revision == tenure.mod_revision
            && newest.number > mine
            && newest.number <= mine.saturating_add(AHEAD_MAX)
    });
    if let Some(newest) = reserved {
        return Some(Numbering::Skip((mine + 1..newest.number).collect()));
    }
    let given = newest_given(v).filter(|number| *number <= mine.saturating_add(AHEAD_MAX - 1));
    let number = mine.max(given.unwrap_or(mine)).saturating_add(1);
    let revision = key.map_or(0, |k| k.mod_revision);
    Some(Numbering::Write(Action::WriteTimeline { tenure, revision, number }))
}

/// A running primary whose timeline is newer than the store says: PostgreSQL found a number in the
/// archive that nobody here knew, or the cluster was not ours when it was promoted, or is new. Or a
/// member that says so: somebody promoted it by hand while there was a leader. That is no sign of a
/// promotion that the store forgot, and must not look like one later (`candidates::forgotten`).
pub fn catch_up(v: &View) -> Option<Action> {
    let (tenure, mine) = (v.guard.tenure?, v.probe()?.timeline);
    let cluster = v.cluster()?;
    let told = cluster.members.values().filter_map(|member| member.timeline);
    let number = told.filter(|told| *told <= mine.saturating_add(AHEAD_MAX)).fold(mine, u32::max);
    let key = cluster.newest_timeline;
    let known = key.map_or(0, |k| k.value.number);
    let revision = key.map_or(0, |k| k.mod_revision);
    (number > known).then_some(Action::WriteTimeline { tenure, revision, number })
}

/// The greatest number that this store knows of. `None`: promotions that nobody wrote here are
/// possible, by a Patroni or before the first leader that is a pgvigil.
pub fn known(cluster: &Cluster) -> Option<u32> {
    let given = cluster.newest_timeline.filter(|_| !cluster.has_patroni())?.value.number;
    let left = cluster.history.last().map_or(0, |entry| entry.timeline);
    Some(given.max(left.saturating_add(1)))
}

fn newest_here(v: &View) -> Option<u32> {
    let in_files = v.control().map_or(0, |c| c.timeline.max(c.min_recovery_timeline));
    Some(v.probe()?.timeline.max(in_files))
}

fn newest_given(v: &View) -> Option<u32> {
    let cluster = v.cluster()?;
    let written = cluster.newest_timeline.map(|k| k.value.number);
    cluster.members.values().filter_map(|m| m.timeline).chain(written).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::cluster::{Keyed, NewestTimeline, Tenure};
    use crate::core::decide::decide;
    use crate::core::decide_tests::{TENURE, leader, replica};
    use crate::core::guard::Phase;

    /// Beta on timeline 1, leader since just now and to be promoted.
    fn promoted() -> View {
        let mut v = replica();
        v.guard = leader().guard;
        v.edit(|c| c.leader.as_mut().expect("a leader").name = "beta".into());
        v.store.lease = leader().store.lease;
        assert_eq!(v.guard.phase, Phase::Leading);
        v
    }

    fn given(v: &mut View, number: u32, leader_mod_revision: i64) {
        let value = NewestTimeline { number, leader_mod_revision };
        v.edit(|c| c.newest_timeline = Some(Keyed { value, mod_revision: 50 }));
    }

    fn write(revision: i64, number: u32) -> Vec<Action> {
        vec![Action::WriteTimeline { tenure: TENURE, revision, number }]
    }

    #[test]
    fn a_promotion_has_its_number_in_the_store_first() {
        let Tenure { mod_revision: ours, .. } = TENURE;
        let mut v = promoted();
        v.edit(|c| c.newest_timeline = None);
        assert_eq!(decide(&v).actions, write(0, 2));
        // (what the store holds, by whom, what is done)
        let promote = |taken: &[u32]| vec![Action::Promote { taken: taken.to_vec() }];
        let cases = [
            (1, 3, write(50, 2)),
            (2, 3, write(50, 3)),
            (2, ours, promote(&[])),
            (4, ours, promote(&[2, 3])),
            // Of an earlier promotion under this tenure: it ended, and its timeline is here.
            (1, ours, write(50, 2)),
            // Nobody gave out so many.
            (4_000_000_000, 3, write(50, 2)),
        ];
        for (number, by, want) in cases {
            given(&mut v, number, by);
            assert_eq!(decide(&v).actions, want, "{number} by {by}");
        }
        // A Patroni's promotion stands in its document only.
        v.edit(|c| c.newest_timeline = None);
        v.edit(|c| c.members.get_mut("gamma").expect("gamma").timeline = Some(7));
        assert_eq!(decide(&v).actions, write(0, 8));
    }

    #[test]
    fn a_newer_timeline_than_the_store_knows_is_written_there() {
        let mut v = leader();
        let mut probe = (*v.server.probe.as_ref().expect("answers").value).clone();
        probe.timeline = 3;
        v.server.probe.as_mut().expect("answers").value = probe.into();
        given(&mut v, 2, 3);
        let d = decide(&v);
        assert_eq!((d.rule, d.actions), ("leader.timeline", write(50, 3)));
        given(&mut v, 3, 3);
        assert_eq!(decide(&v).rule, "leader.steady");
        // In a new cluster, too: a backup of its store shows that it is older than a promotion.
        v.edit(|c| c.newest_timeline = None);
        assert_eq!(decide(&v).actions, write(0, 3));
        // A standby that somebody promoted by hand, while there is a leader.
        given(&mut v, 3, 3);
        v.edit(|c| c.members.get_mut("gamma").expect("gamma").timeline = Some(4));
        assert_eq!(decide(&v).actions, write(50, 4));
        v.edit(|c| c.members.get_mut("gamma").expect("gamma").timeline = Some(4_000_000_000));
        assert_eq!(decide(&v).rule, "leader.steady");
    }
}
