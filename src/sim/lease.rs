//! The member's lease and the confirmation of the leader key, as in `agent::lease`.

use std::time::Duration;

use crate::core::cluster::Tenure;
use crate::core::guard::{Confirmation, Event};
use crate::core::view::OwnLease;

use super::action::{Done, Failed};
use super::agent::Ctx;
use super::order::{Order, order};
use super::store::{Answer, Request};
use super::world::ms;

/// Renews the lease, or gets a new one.
pub async fn renew(ctx: &Ctx, ttl: Duration, within: Duration) -> Result<OwnLease, Failed> {
    let lock = LeaseLock::take(ctx).await;
    let result = renew_locked(ctx, &lock, ttl, within).await;
    lock.free();
    result.map(|r| r.0)
}

async fn renew_locked(
    ctx: &Ctx,
    lock: &LeaseLock,
    ttl: Duration,
    within: Duration,
) -> Result<(OwnLease, u64, u64), Failed> {
    let sent_at = ctx.local();
    if let Some(lease) = lock.lease() {
        let answer = ctx.call(Request::KeepAlive(lease.id), within).await?;
        let Answer::Renewed { alive, term, cluster_id } = answer else {
            return Err(Failed::NotOurs);
        };
        if !alive {
            lock.set(None);
            return Err(Failed::Expired);
        }
        let lease = OwnLease { renewed_at: sent_at, ..lease };
        lock.set(Some(lease));
        return Ok((lease, term, cluster_id));
    }
    let Answer::Granted(id) = ctx.call(Request::Grant(ttl), within).await? else {
        return Err(Failed::NotOurs);
    };
    let lease = OwnLease { id, ttl, asked: ttl, renewed_at: sent_at };
    lock.set(Some(lease));
    order(ctx, Order::Capsule(lease)).await?;
    Ok((lease, 0, 0))
}

/// One full confirmation of our possession of the leader key, handed to the supervisor.
pub async fn confirm(ctx: &Ctx, within: Duration) -> Done {
    let lock = LeaseLock::take(ctx).await;
    let result = confirm_locked(ctx, &lock, within).await;
    lock.free();
    result
}

async fn confirm_locked(ctx: &Ctx, lock: &LeaseLock, within: Duration) -> Done {
    let Some(lease) = lock.lease() else { return Err(Failed::NotOurs) };
    let (lease, term, cluster) = renew_locked(ctx, lock, lease.ttl, within).await?;
    let answer = ctx.call(Request::Leader, within).await?;
    let Answer::Leader { key, term: read_term, cluster_id } = answer else {
        return Err(Failed::NotOurs);
    };
    let Some(key) = key.filter(|k| k.lease_id == lease.id) else { return Err(Failed::NotOurs) };
    if read_term != term || cluster_id != cluster {
        return Err(Failed::TermChanged);
    }
    let tenure = Tenure { lease_id: lease.id, mod_revision: key.mod_revision };
    let (sent_at, ttl) = (lease.renewed_at, lease.ttl);
    let confirmation = Confirmation { tenure, cluster_id, raft_term: term, sent_at, ttl };
    order(ctx, Order::Guard(Event::Confirm(confirmation))).await
}

/// The lease is one thing: one renewal at a time.
pub struct LeaseLock(Ctx);

impl LeaseLock {
    pub async fn take(ctx: &Ctx) -> LeaseLock {
        while ctx.agent(|a| std::mem::replace(&mut a.lease_busy, true)) {
            ctx.sim.sleep(ms(2)).await;
        }
        LeaseLock(ctx.clone())
    }

    pub fn lease(&self) -> Option<OwnLease> {
        self.0.agent(|a| a.store.lease)
    }

    pub fn set(&self, lease: Option<OwnLease>) {
        let bell = self.0.agent(|a| {
            a.store.lease = lease;
            a.bell.clone()
        });
        bell.put(&self.0.sim, ());
    }

    pub fn free(self) {
        self.0.agent(|a| a.lease_busy = false);
    }
}
