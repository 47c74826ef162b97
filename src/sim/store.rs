//! The store: linearizable, with leases that end by its own clock. Documents are held decoded;
//! their text is the business of `dcs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::cluster::{
    Cluster, FailoverRequest, Handover, HistoryEntry, Initialize, Keyed, LeaderKey, Member,
    NewestTimeline, PauseRecord, Status, SyncState,
};

use super::engine::Time;

#[derive(Clone, Debug)]
pub enum Compare {
    LeaderAbsent,
    Leader {
        lease_id: i64,
        mod_revision: i64,
    },
    LeaderRevision(i64),
    HandoverRevision(i64),
    /// 0: absent.
    SyncRevision(i64),
    Initialize(Initialize),
    FailoverRevision(i64),
    /// 0: absent.
    ConfigRevision(i64),
    /// 0: absent.
    TimelineRevision(i64),
    /// 0: absent.
    PauseRevision(i64),
    /// 0: absent.
    FailsafeRevision(i64),
}

#[derive(Clone, Debug)]
pub enum Write {
    Leader {
        name: String,
        lease_id: i64,
    },
    NoLeader,
    Member(Box<Member>),
    Initialize {
        value: Initialize,
        lease_id: i64,
    },
    Status(Status),
    Failover(FailoverRequest),
    /// Nobody's: the key goes.
    Sync(SyncState),
    History(Vec<HistoryEntry>),
    Handover(Handover),
    NoHandover,
    Timeline(NewestTimeline),
    /// The number of the settings that are in force from now on.
    Config(usize),
    /// The first settings, if nobody has written any.
    FirstConfig,
    PauseRecord(PauseRecord),
    NoPauseRecord,
    /// `None`: the key goes.
    Failsafe(Option<BTreeMap<String, String>>),
}

#[derive(Clone, Debug)]
pub enum Request {
    Read,
    Leader,
    Grant(Duration),
    KeepAlive(i64),
    Transaction { compares: Vec<Compare>, writes: Vec<Write> },
}

#[derive(Clone, Debug)]
pub enum Answer {
    Cluster(Arc<Cluster>),
    Leader {
        key: Option<LeaderKey>,
        term: u64,
        cluster_id: u64,
    },
    Granted(i64),
    /// `alive` is false when the lease is gone.
    Renewed {
        alive: bool,
        term: u64,
        cluster_id: u64,
    },
    Done {
        succeeded: bool,
        revision: i64,
    },
}

#[derive(Clone, Debug)]
struct Lease {
    ttl: Time,
    expires: Time,
}

/// What `etcdctl snapshot save` keeps.
#[derive(Clone, Debug)]
pub struct Backup {
    content: Arc<Cluster>,
    initialize_lease: i64,
    leases: BTreeMap<i64, Lease>,
}

#[derive(Clone, Debug)]
pub struct Store {
    content: Arc<Cluster>,
    initialize_lease: i64,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    /// How much faster than true time its clock runs, in parts per million.
    rate_ppm: i64,
    pub up: bool,
    /// Something changed on which a decision could depend: watchers are told.
    pub changed: bool,
}

impl Store {
    pub fn new(rate_ppm: i64) -> Store {
        let content = Cluster { cluster_id: 77, revision: 1, raft_term: 2, ..Cluster::default() };
        Store {
            content: Arc::new(content),
            initialize_lease: 0,
            leases: BTreeMap::new(),
            next_lease: 0x100,
            rate_ppm,
            up: true,
            changed: false,
        }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.content
    }

    /// The number of the settings in force.
    pub fn config(&self) -> Option<(usize, i64)> {
        let config = self.content.config.as_ref()?;
        Some((config.value.parse().ok()?, config.mod_revision))
    }

    /// The length of a lease in true time.
    fn length(&self, ttl: Duration) -> Time {
        let ns = ttl.as_nanos() as i128;
        (ns * 1_000_000 / i128::from(1_000_000 + self.rate_ppm)) as Time
    }

    /// When leases have to be looked at again.
    pub fn next_expiry(&self) -> Option<Time> {
        self.leases.values().map(|l| l.expires).min()
    }

    pub fn expire(&mut self, now: Time) {
        let gone: Vec<i64> =
            self.leases.iter().filter(|(_, l)| l.expires <= now).map(|(id, _)| *id).collect();
        for id in gone {
            self.leases.remove(&id);
            self.drop_keys_of(id);
        }
    }

    fn drop_keys_of(&mut self, id: i64) {
        let c = Arc::make_mut(&mut self.content);
        c.revision += 1;
        if c.leader.as_ref().is_some_and(|l| l.lease_id == id) {
            c.leader = None;
        }
        c.members.retain(|_, m| m.lease_id != id);
        if self.initialize_lease == id {
            c.initialize = Initialize::Absent;
            self.initialize_lease = 0;
        }
        self.changed = true;
    }

    /// Another server of the store leads now: it counts all leases from the beginning.
    pub fn change_leader(&mut self, now: Time) {
        Arc::make_mut(&mut self.content).raft_term += 1;
        for lease in self.leases.values_mut() {
            lease.expires = now + lease.ttl;
        }
    }

    pub fn backup(&self) -> Backup {
        let content = self.content.clone();
        Backup { content, initialize_lease: self.initialize_lease, leases: self.leases.clone() }
    }

    /// Started from a backup, as another cluster or with the old cluster's id.
    pub fn restore(&mut self, backup: Backup, now: Time, same_id: bool) {
        let id = self.content.cluster_id;
        self.content = backup.content;
        self.leases = backup.leases;
        self.initialize_lease = backup.initialize_lease;
        let c = Arc::make_mut(&mut self.content);
        c.cluster_id = if same_id { id } else { id + 1 };
        c.raft_term = 2;
        self.changed = true;
        self.change_leader(now);
    }

    pub fn forget_sync(&mut self) {
        let c = Arc::make_mut(&mut self.content);
        c.revision += 1;
        c.sync = None;
        self.changed = true;
    }

    /// An operator's deletion.
    pub fn delete_leader_key(&mut self) {
        let c = Arc::make_mut(&mut self.content);
        c.revision += 1;
        c.leader = None;
        self.changed = true;
    }

    pub fn handle(&mut self, request: Request, now: Time) -> Answer {
        let (term, cluster_id) = (self.content.raft_term, self.content.cluster_id);
        match request {
            Request::Read => Answer::Cluster(self.content.clone()),
            Request::Leader => {
                Answer::Leader { key: self.content.leader.clone(), term, cluster_id }
            }
            Request::Grant(ttl) => {
                self.next_lease += 1;
                let ttl = self.length(ttl);
                self.leases.insert(self.next_lease, Lease { ttl, expires: now + ttl });
                Answer::Granted(self.next_lease)
            }
            Request::KeepAlive(id) => {
                let lease = self.leases.get_mut(&id);
                let alive = lease.is_some();
                if let Some(lease) = lease {
                    lease.expires = now + lease.ttl;
                }
                Answer::Renewed { alive, term, cluster_id }
            }
            Request::Transaction { compares, writes } => {
                let succeeded = compares.iter().all(|c| self.holds(c))
                    && writes.iter().all(|w| self.lease_lives(w));
                if succeeded && !writes.is_empty() {
                    Arc::make_mut(&mut self.content).revision += 1;
                    writes.into_iter().for_each(|w| self.write(w));
                }
                Answer::Done { succeeded, revision: self.content.revision }
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let c = &self.content;
        let revision = |at: Option<i64>| at.unwrap_or(0);
        match compare {
            Compare::LeaderAbsent => c.leader.is_none(),
            Compare::Leader { lease_id, mod_revision } => c
                .leader
                .as_ref()
                .is_some_and(|l| l.lease_id == *lease_id && l.mod_revision == *mod_revision),
            Compare::LeaderRevision(r) => revision(c.leader.as_ref().map(|l| l.mod_revision)) == *r,
            Compare::HandoverRevision(r) => {
                revision(c.handover.as_ref().map(|k| k.mod_revision)) == *r
            }
            Compare::SyncRevision(r) => revision(c.sync.as_ref().map(|k| k.mod_revision)) == *r,
            Compare::Initialize(value) => c.initialize == *value,
            Compare::ConfigRevision(r) => revision(c.config.as_ref().map(|k| k.mod_revision)) == *r,
            Compare::FailoverRevision(r) => {
                revision(c.failover.as_ref().map(|k| k.mod_revision)) == *r
            }
            Compare::TimelineRevision(r) => {
                revision(c.newest_timeline.map(|k| k.mod_revision)) == *r
            }
            Compare::FailsafeRevision(r) => {
                revision(c.failsafe.as_ref().map(|k| k.mod_revision)) == *r
            }
            Compare::PauseRevision(r) => {
                revision(c.pause_record.as_ref().map(|k| k.mod_revision)) == *r
            }
        }
    }

    /// A put on a lease that is gone fails the whole transaction.
    fn lease_lives(&self, write: &Write) -> bool {
        let id = match write {
            Write::Leader { lease_id, .. } | Write::Initialize { lease_id, .. } => *lease_id,
            Write::Member(member) => member.lease_id,
            _ => 0,
        };
        id == 0 || self.leases.contains_key(&id)
    }

    fn write(&mut self, write: Write) {
        let c = Arc::make_mut(&mut self.content);
        let mod_revision = c.revision;
        let mut hint = true;
        match write {
            Write::Leader { name, lease_id } => {
                c.leader = Some(LeaderKey { name, lease_id, mod_revision });
            }
            Write::NoLeader => c.leader = None,
            Write::Member(mut member) => {
                member.mod_revision = mod_revision;
                let old = c.members.get(&member.name);
                hint = old.is_none_or(|o| {
                    (&o.state, &o.role, o.timeline)
                        != (&member.state, &member.role, member.timeline)
                        || o.checkpoint_after_promote != member.checkpoint_after_promote
                });
                c.members.insert(member.name.clone(), *member);
            }
            Write::Initialize { value, lease_id } => {
                c.initialize = value;
                self.initialize_lease = lease_id;
            }
            Write::Status(status) => {
                hint = false;
                c.status = status;
            }
            Write::Failover(value) => c.failover = Some(Keyed { value, mod_revision }),
            Write::Sync(value) if value.leader.is_none() => c.sync = None,
            Write::Sync(value) => c.sync = Some(Keyed { value, mod_revision }),
            Write::History(history) => c.history = history,
            Write::Handover(value) => c.handover = Some(Keyed { value, mod_revision }),
            Write::NoHandover => c.handover = None,
            Write::Timeline(value) => c.newest_timeline = Some(Keyed { value, mod_revision }),
            Write::Config(number) => {
                c.config = Some(Keyed { value: number.to_string(), mod_revision });
            }
            Write::FirstConfig => {
                let first = Keyed { value: "0".to_owned(), mod_revision };
                c.config = Some(c.config.take().unwrap_or(first));
            }
            Write::PauseRecord(value) => c.pause_record = Some(Keyed { value, mod_revision }),
            Write::NoPauseRecord => c.pause_record = None,
            Write::Failsafe(value) => {
                c.failsafe = value.map(|value| Keyed { value, mod_revision });
            }
        }
        self.changed |= hint;
    }
}
