//! The member's lease: granted once, renewed on our own cadence while the last decision permits,
//! and turned into confirmations for the supervisor while we hold the leader key.
//!
//! A confirmation is: a keepalive sent at `s` was answered with TTL > 0, and a linearizable read
//! *after it* shows the leader key with our tenure, under the raft term of the keepalive's answer
//! (a leader of the store that was paused answers keepalives from memory; a read under the same
//! term proves that it had not been replaced). All deadlines count from `s`. One keepalive is
//! outstanding at a time: the mutex below.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};

use crate::core::budget;
use crate::core::cluster::Tenure;
use crate::core::events;
use crate::core::guard::Phase;
use crate::core::time::Boot;
use crate::core::view::OwnLease;
use crate::dcs::{Dcs, DcsError, Key, Renewed, Write};
use crate::link::order::{Configure, Confirmation, Order};
use crate::link::state::State;
use crate::sys::clock;

use super::drivers::Drivers;
use super::events::Event;
use super::jitter::{Jitter, Lateness};
use super::orders::{OrderError, Supervisor};
use super::store::under;

/// How long the watchdog device may take for a new timeout, and how often it is told.
const SHORTENED_WITHIN: Duration = Duration::from_millis(500);
const SHORTENED_TRIES: usize = 3;

/// What the last decision permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Renew no longer than until here.
    pub until: Boot,
    pub ttl: Duration,
    /// From one renewal to the next.
    pub cadence: Duration,
    /// All endpoints of the store must fit into this.
    pub within: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error(transparent)]
    Store(#[from] DcsError),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error("the lease has expired")]
    Expired,
    #[error("the store's leader changed during the renewal")]
    TermChanged,
    #[error("the leader key is not ours")]
    NotOurs,
    #[error("the watchdog device did not take the shorter timeout")]
    Device,
}

pub struct Leases {
    dcs: Dcs,
    supervisor: Supervisor,
    held: Mutex<Held>,
    events: mpsc::Sender<Event>,
    jitter: std::sync::Mutex<Jitter>,
    /// The last confirmation was older than G.
    slow: AtomicBool,
    /// What the supervisor was told of the configuration.
    told: Mutex<Configure>,
}

/// Our leases. `next` is there while the leader key moves to a lease of another length, until a
/// linearizable read shows which of the two it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub lease: Option<OwnLease>,
    pub next: Option<OwnLease>,
}

impl Held {
    /// No deadline may count on more than the shorter one.
    pub fn ttl(&self) -> Option<Duration> {
        self.lease.iter().chain(&self.next).map(|lease| lease.ttl).min()
    }
}

/// A renewal of the own lease that was answered.
struct Evidence {
    lease: OwnLease,
    raft_term: u64,
    cluster_id: u64,
}

impl Leases {
    /// `known`: what the capsule of an earlier agent names.
    pub fn new(
        dcs: Dcs,
        supervisor: Supervisor,
        known: Held,
        told: Configure,
        events: mpsc::Sender<Event>,
    ) -> Arc<Leases> {
        let (held, told, jitter) = (Mutex::new(known), Mutex::new(told), Default::default());
        let slow = AtomicBool::new(false);
        Arc::new(Leases { dcs, supervisor, held, events, jitter, slow, told })
    }

    /// Tells the supervisor what changed in its share of the configuration. With the length of the
    /// lease that is held, under its lock: no other length comes into force in between.
    pub async fn reconfigure(&self, drivers: &Drivers) {
        let held = self.held.lock().await;
        let mut told = self.told.lock().await;
        // Read here: of two that waited the later one finds nothing left to do.
        let new = drivers.setup().configure(&told);
        if *told == new {
            return;
        }
        let ttl = held.ttl().or_else(|| Some(self.supervisor.state().budget?.ttl));
        let order = Configure { ttl: ttl.unwrap_or(new.ttl), ..new.clone() };
        match self.supervisor.order(Order::Configure(order)).await {
            Ok(_) => {
                tracing::info!("the times of the fence and the use of the watchdog device changed")
            }
            Err(error) => tracing::error!(
                "watchdog, vigil.watchdog, vigil.rho, vigil.freeze_max: {error}; what was in force \
                 stays, and an agent that starts anew would refuse this configuration"
            ),
        }
        *told = new;
    }

    /// How much later than this pause after one another confirmed renewals were sent.
    pub fn lateness(&self, cadence: Duration) -> Option<Lateness> {
        self.jitter.lock().unwrap_or_else(PoisonError::into_inner).lateness(cadence)
    }

    /// Renews the lease, or gets a new one if there is none, and returns it. One of another
    /// length than `ttl` is replaced as long as the leader key cannot hang on it.
    pub async fn renew(&self, ttl: Duration, within: Duration) -> Result<OwnLease, LeaseError> {
        let mut held = self.held.lock().await;
        // Read under the lock: who campaigns gets the lease through it, after the order.
        let idle = matches!(self.supervisor.state().phase, Phase::Idle | Phase::Fenced);
        match held.lease {
            Some(lease) if lease.asked == ttl || !idle => {
                Ok(self.renew_held(&mut held, within).await?.lease)
            }
            // The old one is left to expire: its keys are written anew on the new one.
            _ => {
                let lease = self.grant(ttl, within).await?;
                self.hold(&mut held, lease).await?;
                Ok(lease)
            }
        }
    }

    async fn renew_held(&self, held: &mut Held, within: Duration) -> Result<Evidence, LeaseError> {
        let lease = held.lease.ok_or(LeaseError::NotOurs)?;
        match self.dcs.keep_alive(lease.id, within).await? {
            Some(renewed) => {
                let lease = OwnLease { renewed_at: renewed.sent_at, ..lease };
                held.lease = Some(lease);
                self.publish(*held).await;
                let Renewed { raft_term, cluster_id, .. } = renewed;
                Ok(Evidence { lease, raft_term, cluster_id })
            }
            None => {
                held.lease = None;
                self.publish(*held).await;
                Err(LeaseError::Expired)
            }
        }
    }

    /// The store may grant more than was asked for, which is then not counted on.
    async fn grant(&self, asked: Duration, within: Duration) -> Result<OwnLease, LeaseError> {
        let granted = self.dcs.grant(asked, within).await?;
        let ttl = granted.ttl.min(asked);
        Ok(OwnLease { id: granted.id, ttl, asked, renewed_at: granted.sent_at })
    }

    /// From here on this lease is the one: its length is in force in the supervisor before it is
    /// used.
    async fn hold(&self, held: &mut Held, lease: OwnLease) -> Result<(), LeaseError> {
        let new = Held { lease: Some(lease), next: None };
        self.supervisor.order(Order::Capsule(encode_capsule(&new))).await?;
        self.supervisor.order(Order::Retune { ttl: lease.ttl }).await?;
        *held = new;
        self.publish(new).await;
        Ok(())
    }

    /// Kept for the next agent before anything hangs on it.
    async fn remember(&self, held: &mut Held, new: Held) -> Result<(), LeaseError> {
        self.supervisor.order(Order::Capsule(encode_capsule(&new))).await?;
        *held = new;
        self.publish(new).await;
        Ok(())
    }

    /// One full confirmation of our possession of the leader key, handed to the supervisor.
    /// Nobody but us knows the lease's id: a key that carries it was written by us.
    pub async fn confirm(&self, within: Duration) -> Result<(), LeaseError> {
        let mut held = self.held.lock().await;
        self.confirm_held(&mut held, within).await
    }

    async fn confirm_held(&self, held: &mut Held, within: Duration) -> Result<(), LeaseError> {
        let next_at = match held.next {
            Some(_) => self.settle(held, within).await?,
            None => None,
        };
        let Evidence { lease, raft_term, cluster_id } = self.renew_held(held, within).await?;
        let read = self.dcs.leader(within).await?;
        let key = read.key.filter(|key| key.lease_id == lease.id).ok_or(LeaseError::NotOurs)?;
        if read.raft_term != raft_term || read.cluster_id != cluster_id {
            return Err(LeaseError::TermChanged);
        }
        let tenure = Tenure { lease_id: lease.id, mod_revision: key.mod_revision };
        // While the key may move to the other lease at any instant, both are needed.
        let sent_at = next_at.map_or(lease.renewed_at, |at| at.min(lease.renewed_at));
        let (ttl, next) = (lease.ttl, held.next.map(|next| next.id));
        let confirmation = Confirmation { tenure, cluster_id, raft_term, sent_at, ttl, next };
        self.supervisor.order(Order::Confirm(confirmation)).await?;
        self.tell_slowness(clock::boot().since(sent_at));
        self.jitter.lock().unwrap_or_else(PoisonError::into_inner).sent(sent_at);
        Ok(())
    }

    /// Says once when confirmations get too old to permit anything, and when they no longer are.
    fn tell_slowness(&self, age: Duration) {
        let g = self.supervisor.state().budget.map_or(Duration::MAX, |budget| budget.g);
        let slow = age > g;
        match (self.slow.swap(slow, Ordering::Relaxed), slow) {
            (false, true) => tracing::warn!(
                "etcd took {age:.1?} to confirm the leader lease: PostgreSQL goes on, but nothing \
                 is promoted, started as primary or thawed by an answer that takes more than {g:?}"
            ),
            (true, false) => tracing::info!("etcd confirms the leader lease in time again"),
            _ => {}
        }
    }

    /// Moves the leader key of this tenure to a lease of another length: shrink first, grow last.
    /// No confirmation of the old lease can come in between, for they need the lock. After a lost
    /// answer the transaction is repeated with the same lease, since a late one may still be done.
    pub async fn relet(
        &self,
        tenure: Tenure,
        name: &str,
        ttl: Duration,
        within: Duration,
    ) -> Result<(), LeaseError> {
        let mut held = self.held.lock().await;
        let old = held.lease.filter(|l| l.id == tenure.lease_id).ok_or(LeaseError::NotOurs)?;
        let next = match held.next {
            Some(next) => next,
            None => self.grant(ttl, within).await?,
        };
        let both = Held { lease: Some(old), next: Some(next) };
        self.remember(&mut held, both).await?;
        // The supervisor knows where the key goes before it goes there: else it would not believe
        // what comes of it to a group that froze meanwhile. And a shorter deadline counts from the
        // last confirmation: an old one freezes at once.
        self.confirm_held(&mut held, within).await?;
        if next.ttl < old.ttl {
            self.supervisor.order(Order::Retune { ttl: next.ttl }).await?;
            self.shorten_device(&mut held, within).await?;
        }
        let write = Write::Put(Key::Leader, name.to_owned(), next.id);
        self.dcs.commit(&under(tenure), &[write], within).await?;
        self.confirm_held(&mut held, within).await
    }

    /// The watchdog device takes a timeout with a ping, and a ping needs a confirmation: one of the
    /// old lease, before the key hangs on the shorter one.
    async fn shorten_device(&self, held: &mut Held, within: Duration) -> Result<(), LeaseError> {
        let longer = |state: &State| {
            let wanted = state.budget.and_then(|budget| budget.watch).map(|watch| watch.set);
            state.watchdog.armed && wanted.is_some_and(|wanted| state.watchdog.timeout > wanted)
        };
        let mut states = self.supervisor.states();
        // A confirmation gives no ping while the one before it has not returned.
        for _ in 0..SHORTENED_TRIES {
            if !longer(&self.supervisor.state()) {
                return Ok(());
            }
            self.confirm_held(held, within).await?;
            let shortened = states.wait_for(|state| !longer(state));
            let _ = tokio::time::timeout(SHORTENED_WITHIN, shortened).await;
        }
        if longer(&self.supervisor.state()) { Err(LeaseError::Device) } else { Ok(()) }
    }

    /// Which of the two leases does the leader key carry? The longer one comes into force here,
    /// right before its confirmation. Not known yet: when the renewal of the next one was sent.
    async fn settle(&self, held: &mut Held, within: Duration) -> Result<Option<Boot>, LeaseError> {
        let Some(next) = held.next else { return Ok(None) };
        let alive = self.dcs.keep_alive(next.id, within).await?;
        let carried = self.dcs.leader(within).await?.key.map(|key| key.lease_id);
        if carried == Some(next.id) {
            self.hold(held, next).await?;
        } else if alive.is_none() {
            // No transaction can attach it any more, however late.
            let kept = Held { next: None, ..*held };
            self.remember(held, kept).await?;
        }
        Ok(held.next.and(alive).map(|renewed| renewed.sent_at))
    }

    async fn publish(&self, held: Held) {
        // A closed channel means that the loop has ended; then nobody needs to know.
        let _ = self.events.send(Event::Lease(held)).await;
    }

    /// The standing order: renews (and confirms, while there is a tenure) until told otherwise.
    pub async fn keep(self: Arc<Self>, mut standing: watch::Receiver<Option<Standing>>) {
        loop {
            let Some(now) = *standing.borrow_and_update() else {
                if standing.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if clock::boot() >= now.until {
                // No decision for a whole ttl: the loop is stuck, the lease must not live on.
                if standing.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let pause = self.round(&now).await;
            tokio::time::sleep(pause).await;
        }
    }

    async fn round(&self, standing: &Standing) -> Duration {
        let begun = clock::boot();
        let state = self.supervisor.state();
        let tenure = state.tenure.filter(|t| state.burned != Some(*t));
        let result = match tenure {
            Some(_) => self.confirm(standing.within).await,
            None => {
                self.jitter.lock().unwrap_or_else(PoisonError::into_inner).interrupted();
                self.renew(standing.ttl, standing.within).await.map(drop)
            }
        };
        match result {
            Ok(()) => budget::pause(standing.cadence, clock::boot().since(begun)),
            Err(LeaseError::TermChanged) => Duration::ZERO,
            Err(LeaseError::NotOurs) => {
                let message_id = events::LEASE_UNCONFIRMED;
                tracing::warn!(message_id, "the leader key is not on our lease");
                // Proof is the loop's business: it reads the whole cluster and decides.
                let _ = self.events.send(Event::Refresh).await;
                standing.cadence
            }
            Err(error) => {
                let message_id = events::LEASE_UNCONFIRMED;
                tracing::warn!(message_id, %error, "the lease could not be renewed");
                standing.cadence.min(Duration::from_millis(300))
            }
        }
    }
}

/// Of each lease id, ttl and last renewal, little endian: what the next agent needs to go on.
fn encode_capsule(held: &Held) -> Vec<u8> {
    let ms = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let words = |l: &OwnLease| [l.id.cast_unsigned(), ms(l.ttl), l.renewed_at.0];
    held.lease.iter().chain(&held.next).flat_map(words).flat_map(u64::to_le_bytes).collect()
}

/// The leases of an earlier agent; anything but the exact form is ignored.
pub fn decode_capsule(bytes: &[u8]) -> Held {
    let words: Vec<u64> =
        bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let lease = |words: &[u64; 3]| {
        let ttl = Duration::from_millis(words[1]);
        let renewed_at = Boot(words[2]);
        OwnLease { id: words[0].cast_signed(), ttl, asked: ttl, renewed_at }
    };
    match (bytes.len(), words.as_chunks().0) {
        (24, [only]) => Held { lease: Some(lease(only)), next: None },
        (48, [held, next]) => Held { lease: Some(lease(held)), next: Some(lease(next)) },
        _ => Held::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capsule_holds_one_lease_or_two() {
        let lease = |id, seconds| {
            let ttl = Duration::from_secs(seconds);
            Some(OwnLease { id, ttl, asked: ttl, renewed_at: Boot(9) })
        };
        let one = Held { lease: lease(-1, 30), next: None };
        let two = Held { next: lease(i64::MAX, 5), ..one };
        for held in [Held::default(), one, two] {
            let mut bytes = encode_capsule(&held);
            assert_eq!(decode_capsule(&bytes), held);
            bytes.push(0);
            assert_eq!(decode_capsule(&bytes), Held::default());
        }
        assert_eq!(two.ttl(), Some(Duration::from_secs(5)));
    }
}
