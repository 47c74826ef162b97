//! Whether a read of the store is believed.
//!
//! A store that shows another cluster id or an older revision than before was restored or
//! replaced, or some endpoint of ours belongs to another one. What it says contradicts what was
//! promised under the old one: leases that are not there, a leader key that somebody else holds.
//! So it is not believed at first, and whoever leads is fenced at its deadline, as without a store.
//!
//! But not for ever: an operator who restores a store has stopped the old one, so that no lease of
//! the old one was renewed after the first answer of the new one. When the longest of them has
//! ended nobody leads by the old store any more, but for a leader whose deadline is suspended by a
//! pause, and its rules believe the new one in so far as they fence or ask it for the key. That it
//! is the same cluster of PostgreSQL, `/initialize` says; a store that says otherwise is not ours.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, Initialize};
use super::time::Boot;
use super::view::{Seen, Store};

/// A store that is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What speaks against it.
    pub why: String,
    /// Its first answer.
    pub since: Boot,
    pub cluster_id: u64,
}

impl Store {
    /// Takes a linearizable read. Reads may overtake each other: one that was sent before the last
    /// one had arrived may be older. `ttl`: as configured.
    pub fn learn(&mut self, read: Arc<Cluster>, sent_at: Boot, received_at: Boot, ttl: Duration) {
        self.failing_since = None;
        if let Some(seen) = &self.cluster {
            let old = &seen.value;
            let back = read.revision < old.revision;
            let why = if read.cluster_id != old.cluster_id {
                let (old, new) = (old.cluster_id, read.cluster_id);
                format!("the store's cluster id changed from {old:x} to {new:x}")
            } else if back && sent_at >= self.received_at {
                let (old, new) = (old.revision, read.revision);
                format!("the store's revision went back from {old} to {new}")
            } else if back {
                return;
            } else {
                String::new()
            };
            if !why.is_empty() && !self.outlives(&read, why, received_at, ttl) {
                return;
            }
        }
        if self.doubt.take().is_some() {
            // Revisions of another store say nothing in this one.
            (self.failsafe.settled, self.failsafe.promised_at) = (None, None);
        }
        self.cluster = Some(Seen { value: read, at: sent_at });
        self.received_at = received_at;
    }

    /// Whether this store has been there for so long that no lease of the old one lasts. Twice the
    /// length: clocks differ, and another member may still hold one from before `ttl` was changed.
    fn outlives(&mut self, read: &Cluster, why: String, now: Boot, ttl: Duration) -> bool {
        let known = self.doubt.as_ref().filter(|doubt| doubt.cluster_id == read.cluster_id);
        let since = known.map_or(now, |doubt| doubt.since);
        let leases = self.lease.iter().chain(&self.next_lease).map(|lease| lease.ttl);
        let longest = leases.max().unwrap_or(ttl).max(ttl);
        let ours = self.cluster.as_ref().is_some_and(|seen| {
            matches!(&read.initialize, Initialize::Done(_))
                && read.initialize == seen.value.initialize
        });
        self.doubt = Some(Doubt { why, since, cluster_id: read.cluster_id });
        ours && now.since(since) >= longest * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn read(cluster_id: u64, revision: i64, initialize: &str) -> Arc<Cluster> {
        let initialize = Initialize::Done(initialize.to_owned());
        Arc::new(Cluster { cluster_id, revision, initialize, ..Cluster::default() })
    }

    fn at(s: u64) -> Boot {
        Boot(s * 1_000_000_000)
    }

    fn learn(store: &mut Store, s: u64, read: Arc<Cluster>) {
        store.learn(read, at(s), at(s), TTL);
    }

    fn known(store: &Store) -> (u64, i64) {
        let cluster = &store.cluster.as_ref().expect("invariant: something was read").value;
        (cluster.cluster_id, cluster.revision)
    }

    #[test]
    fn another_store_is_believed_when_no_lease_of_the_old_one_lasts() {
        let mut store = Store::default();
        learn(&mut store, 0, read(1, 100, "7"));
        learn(&mut store, 500, read(2, 10, "7"));
        assert_eq!(store.doubt.as_ref().map(|doubt| doubt.since), Some(at(500)));
        learn(&mut store, 559, read(2, 11, "7"));
        assert_eq!(known(&store), (1, 100));
        learn(&mut store, 560, read(2, 12, "7"));
        assert_eq!((known(&store), store.doubt), ((2, 12), None));
    }

    #[test]
    fn so_is_an_older_revision() {
        let mut store = Store::default();
        learn(&mut store, 0, read(1, 100, "7"));
        learn(&mut store, 10, read(1, 50, "7"));
        learn(&mut store, 69, read(1, 50, "7"));
        assert_eq!(known(&store), (1, 100));
        learn(&mut store, 70, read(1, 50, "7"));
        assert_eq!(known(&store), (1, 50));
    }

    #[test]
    fn the_old_store_ends_the_doubt_and_a_third_begins_it_anew() {
        let mut store = Store::default();
        learn(&mut store, 0, read(1, 100, "7"));
        learn(&mut store, 10, read(2, 10, "7"));
        learn(&mut store, 20, read(1, 101, "7"));
        assert_eq!((known(&store), &store.doubt), ((1, 101), &None));
        learn(&mut store, 60, read(2, 10, "7"));
        learn(&mut store, 100, read(3, 10, "7"));
        learn(&mut store, 130, read(3, 10, "7"));
        assert_eq!(known(&store), (1, 101));
    }

    #[test]
    fn what_names_another_cluster_is_never_believed() {
        let mut store = Store::default();
        learn(&mut store, 0, read(1, 100, "7"));
        for s in (10..1000).step_by(10) {
            learn(&mut store, s, read(2, 10, "8"));
        }
        assert_eq!(known(&store), (1, 100));
    }

    #[test]
    fn a_read_that_was_overtaken_says_nothing() {
        let mut store = Store::default();
        store.learn(read(1, 100, "7"), at(5), at(6), TTL);
        store.learn(read(1, 99, "7"), at(5), at(7), TTL);
        assert_eq!((known(&store), store.doubt), ((1, 100), None));
    }
}
