//! A snapshot at an instant: what of it is still true, and the words that Patroni has for it.

use crate::core::cluster::Cluster;
use crate::core::database::Probe;
use crate::core::guard::Phase;
use crate::core::lsn::Lsn;
use crate::core::settings::SyncMode;
use crate::core::time::Boot;

use super::snapshot::Snapshot;

/// The answers of one request are all taken from one of these.
pub struct View<'a> {
    pub snapshot: &'a Snapshot,
    pub now: Boot,
    /// The last answer of PostgreSQL, if the postmaster lives and the answer is fresh.
    pub probe: Option<&'a Probe>,
    /// The store's view, if it is not older than `ttl`.
    pub cluster: Option<&'a Cluster>,
}

impl<'a> View<'a> {
    pub fn new(snapshot: &'a Snapshot, now: Boot) -> View<'a> {
        let queried = matches!(snapshot.state.as_str(), "running" | "restarting" | "starting");
        let probe = match &snapshot.probe {
            Some((probe, at))
                if queried
                    && snapshot.postmaster_alive
                    && now.since(*at) <= snapshot.probe_fresh =>
            {
                Some(&**probe)
            }
            _ => None,
        };
        let current = now.since(snapshot.cluster_at) <= snapshot.settings.ttl;
        let cluster = snapshot.cluster.as_deref().filter(|_| current);
        View { snapshot, now, probe, cluster }
    }

    /// Whether this member may call itself leader now: by its own lease, never by the store's
    /// view. A pause is the exception: the deadline is suspended and nobody takes the key while
    /// the pause record exists, so the server's role decides, unless another is seen to lead.
    pub fn leads(&self) -> bool {
        let leased = self.snapshot.leader_until.is_some_and(|until| self.now < until);
        match self.snapshot.phase {
            Phase::Leading => leased,
            Phase::Paused => {
                let leader = self.cluster.and_then(|c| c.leader.as_ref());
                leader.is_none_or(|key| key.name == self.snapshot.name)
            }
            Phase::Idle
            | Phase::Candidate
            | Phase::Frozen
            | Phase::Killing
            | Phase::Fenced
            | Phase::Sealed => false,
        }
    }

    /// The leader, and PostgreSQL said just now that it accepts writes.
    pub fn is_primary(&self) -> bool {
        self.leads() && !self.snapshot.standby_cluster && self.probe.is_some_and(|p| !p.in_recovery)
    }

    /// The leader of a cluster that follows another one.
    pub fn is_standby_leader(&self) -> bool {
        self.leads() && self.snapshot.standby_cluster && self.probe.is_some_and(|p| p.in_recovery)
    }

    /// Patroni's state word; `unknown` when the server should run but does not answer.
    pub fn state(&self) -> &'a str {
        match (self.probe, self.snapshot.state.as_str()) {
            (None, "running") => "unknown",
            (_, state) => state,
        }
    }

    /// Patroni's role word, from the server itself when it answers.
    pub fn role(&self) -> &'a str {
        match self.probe {
            Some(probe) if !probe.in_recovery => "primary",
            Some(_) if !self.snapshot.standby_cluster => "replica",
            _ => &self.snapshot.role,
        }
    }

    /// Runs, answers, and is a replica by its own word.
    pub fn is_running_replica(&self) -> bool {
        self.probe.is_some() && self.role() == "replica" && self.state() == "running"
    }

    /// Listed in `/sync` as a standby, in the mode that `wanted` says.
    pub fn is_sync(&self, wanted: SyncMode) -> bool {
        self.snapshot.settings.synchronous_mode == wanted
            && self.probe.is_some()
            && self.role() == "replica"
            && self.cluster.is_some_and(|c| is_sync_standby(c, &self.snapshot.name))
    }

    pub fn replication_state(&self) -> Option<&'static str> {
        let probe = self.probe.filter(|p| p.in_recovery)?;
        if probe.wal_receiver.as_ref().is_some_and(|r| r.status == "streaming") {
            return Some("streaming");
        }
        self.snapshot.restore_command.then_some("in archive recovery")
    }

    /// What this replica has received, else replayed; zero on a primary.
    pub fn received(&self) -> Lsn {
        let Some(probe) = self.probe.filter(|p| p.in_recovery) else { return Lsn(0) };
        let written = probe.wal_receiver.as_ref().and_then(|r| r.written_lsn);
        written.or(probe.receive_lsn).or(probe.replay_lsn).unwrap_or_default()
    }

    /// What this replica has replayed; zero on a primary.
    pub fn replayed(&self) -> Lsn {
        let probe = self.probe.filter(|p| p.in_recovery);
        probe.and_then(|p| p.replay_lsn).unwrap_or_default()
    }

    /// The leader's position as far as known here; zero when nothing is known.
    pub fn leader_position(&self) -> Lsn {
        let published = self.cluster.and_then(|c| c.status.optime).unwrap_or_default();
        published.max(self.latest_end().unwrap_or_default())
    }

    /// The end of the sender's log as its last message told the WAL receiver.
    pub fn latest_end(&self) -> Option<Lsn> {
        self.probe?.wal_receiver.as_ref()?.latest_end_lsn
    }

    pub fn is_unlocked(&self) -> bool {
        self.cluster.is_none_or(|c| c.leader.as_ref().is_none_or(|l| l.name.is_empty()))
    }
}

/// Whether `/sync` names this member as a standby. PostgreSQL compares names without case.
pub fn is_sync_standby(cluster: &Cluster, name: &str) -> bool {
    let sync = cluster.sync.as_ref().map(|s| &s.value);
    sync.is_some_and(|s| s.standbys.iter().any(|standby| standby.eq_ignore_ascii_case(name)))
}
