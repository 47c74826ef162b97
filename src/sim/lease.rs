//! The member's leases and the confirmation of the leader key, as in `agent::lease`.

use std::time::Duration;

use crate::core::cluster::Tenure;
use crate::core::guard::{Confirmation, Device, Event, Phase};
use crate::core::time::Boot;
use crate::core::view::OwnLease;

use super::action::{Done, Failed};
use super::agent::Ctx;
use super::defect::Defect;
use super::order::{Order, order};
use super::store::{Answer, Request, Write};
use super::transaction::under;
use super::world::ms;

/// Our leases. `next` is there while the leader key moves to a lease of another length.
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

    /// What a later agent reads from the capsule: nobody knows what was asked for.
    pub fn recalled(self) -> Held {
        let same = |l: OwnLease| OwnLease { asked: l.ttl, ..l };
        Held { lease: self.lease.map(same), next: self.next.map(same) }
    }
}

/// Renews the lease, or gets a new one if there is none or it has another length.
pub async fn renew(ctx: &Ctx, ttl: Duration, within: Duration) -> Result<OwnLease, Failed> {
    let lock = LeaseLock::take(ctx).await;
    let result = renew_idle(ctx, &lock, ttl, within).await;
    lock.free();
    result
}

async fn renew_idle(
    ctx: &Ctx,
    lock: &LeaseLock,
    ttl: Duration,
    within: Duration,
) -> Result<OwnLease, Failed> {
    let idle = ctx.with(|w| matches!(w.shown_phase(ctx.m), Phase::Idle | Phase::Fenced));
    match lock.held().lease {
        Some(lease) if lease.asked == ttl || !idle => {
            renew_held(ctx, lock, within).await.map(|evidence| evidence.0)
        }
        _ => {
            let lease = grant(ctx, ttl, within).await?;
            hold(ctx, lock, lease).await?;
            Ok(lease)
        }
    }
}

/// The renewed lease, raft term and cluster id of the answer.
async fn renew_held(
    ctx: &Ctx,
    lock: &LeaseLock,
    within: Duration,
) -> Result<(OwnLease, u64, u64), Failed> {
    let held = lock.held();
    let lease = held.lease.ok_or(Failed::NotOurs)?;
    let sent_at = ctx.local();
    let answer = ctx.call(Request::KeepAlive(lease.id), within).await?;
    let Answer::Renewed { alive, term, cluster_id } = answer else { return Err(Failed::NotOurs) };
    if !alive {
        lock.set(Held { lease: None, ..held });
        return Err(Failed::Expired);
    }
    let lease = OwnLease { renewed_at: sent_at, ..lease };
    lock.set(Held { lease: Some(lease), ..held });
    Ok((lease, term, cluster_id))
}

async fn grant(ctx: &Ctx, asked: Duration, within: Duration) -> Result<OwnLease, Failed> {
    let renewed_at: Boot = ctx.local();
    let Answer::Granted(id) = ctx.call(Request::Grant(asked), within).await? else {
        return Err(Failed::NotOurs);
    };
    Ok(OwnLease { id, ttl: asked, asked, renewed_at })
}

/// From here on this lease is the one: its length is in force before it is used.
async fn hold(ctx: &Ctx, lock: &LeaseLock, lease: OwnLease) -> Done {
    let new = Held { lease: Some(lease), next: None };
    order(ctx, Order::Capsule(new)).await?;
    order(ctx, Order::Retune(lease.ttl)).await?;
    lock.set(new);
    Ok(())
}

async fn remember(ctx: &Ctx, lock: &LeaseLock, new: Held) -> Done {
    order(ctx, Order::Capsule(new)).await?;
    lock.set(new);
    Ok(())
}

/// One full confirmation of our possession of the leader key, handed to the supervisor.
pub async fn confirm(ctx: &Ctx, within: Duration) -> Done {
    let lock = LeaseLock::take(ctx).await;
    let result = confirm_held(ctx, &lock, within).await;
    lock.free();
    result
}

async fn confirm_held(ctx: &Ctx, lock: &LeaseLock, within: Duration) -> Done {
    let next_at = match lock.held().next {
        Some(_) => settle(ctx, lock, within).await?,
        None => None,
    };
    let (mut lease, term, cluster) = renew_held(ctx, lock, within).await?;
    if ctx.with(|w| w.flawed(Defect::DoesNotRead))
        && let Some(known) = ctx.with(|w| w.lease_of(ctx.m))
    {
        let confirmation = Confirmation { sent_at: lease.renewed_at, ..known };
        return order(ctx, Order::Guard(Event::Confirm(confirmation))).await;
    }
    let answer = ctx.call(Request::Leader, within).await?;
    let Answer::Leader { key, term: read_term, cluster_id } = answer else {
        return Err(Failed::NotOurs);
    };
    let Some(key) = key.filter(|k| k.lease_id == lease.id) else { return Err(Failed::NotOurs) };
    if read_term != term || cluster_id != cluster {
        return Err(Failed::TermChanged);
    }
    if ctx.with(|w| w.flawed(Defect::CountsFromAnswer)) {
        lease.renewed_at = ctx.local();
    }
    let tenure = Tenure { lease_id: lease.id, mod_revision: key.mod_revision };
    let sent_at = next_at.map_or(lease.renewed_at, |at| at.min(lease.renewed_at));
    let (ttl, next) = (lease.ttl, lock.held().next.map(|next| next.id));
    let confirmation = Confirmation { tenure, cluster_id, raft_term: term, sent_at, ttl, next };
    order(ctx, Order::Guard(Event::Confirm(confirmation))).await
}

/// Moves the leader key of this tenure to a lease of another length: shrink first, grow last.
pub async fn relet(ctx: &Ctx, tenure: Tenure, ttl: Duration, within: Duration) -> Done {
    let lock = LeaseLock::take(ctx).await;
    let result = relet_held(ctx, &lock, tenure, ttl, within).await;
    lock.free();
    result
}

async fn relet_held(
    ctx: &Ctx,
    lock: &LeaseLock,
    tenure: Tenure,
    ttl: Duration,
    within: Duration,
) -> Done {
    let held = lock.held();
    let old = held.lease.filter(|l| l.id == tenure.lease_id).ok_or(Failed::NotOurs)?;
    let next = match held.next {
        Some(next) => next,
        None => grant(ctx, ttl, within).await?,
    };
    remember(ctx, lock, Held { lease: Some(old), next: Some(next) }).await?;
    confirm_held(ctx, lock, within).await?;
    if next.ttl < old.ttl {
        order(ctx, Order::Retune(next.ttl)).await?;
        shorten_device(ctx, lock, within).await?;
    }
    let name = ctx.with(|w| w.members[ctx.m].name.clone());
    let writes = vec![Write::Leader { name, lease_id: next.id }];
    let compares = vec![under(tenure)];
    ctx.call(Request::Transaction { compares, writes }, within).await?;
    confirm_held(ctx, lock, within).await
}

/// The device takes a timeout with a ping, and a ping needs a confirmation.
async fn shorten_device(ctx: &Ctx, lock: &LeaseLock, within: Duration) -> Done {
    let longer = || {
        ctx.with(|w| {
            let wanted = w.members[ctx.m].supervisor.as_ref()?.shown.budget()?.watch?.set;
            Some(w.members[ctx.m].dog.timeout > wanted)
        })
    };
    for _ in 0..3 {
        if longer() != Some(true) {
            return Ok(());
        }
        confirm_held(ctx, lock, within).await?;
        ctx.sim.sleep(ms(20)).await;
    }
    if longer() == Some(true) {
        Err(Failed::Precondition("the device is too slow"))
    } else {
        Ok(())
    }
}

/// The device counts before the lease is renewed that the acquiring transaction rests on.
pub async fn armed(ctx: &Ctx) -> Done {
    let arming = || {
        ctx.with(|w| {
            let s = w.members[ctx.m].supervisor.as_ref();
            s.is_some_and(|s| s.shown.device() == Device::Arming)
        })
    };
    for _ in 0..100 {
        if !arming() {
            return Ok(());
        }
        ctx.sim.sleep(ms(5)).await;
    }
    Err(Failed::Precondition("the watchdog device is not armed"))
}

/// Which of the two leases does the leader key carry?
async fn settle(ctx: &Ctx, lock: &LeaseLock, within: Duration) -> Result<Option<Boot>, Failed> {
    let Some(next) = lock.held().next else { return Ok(None) };
    let sent_at = ctx.local();
    let answer = ctx.call(Request::KeepAlive(next.id), within).await?;
    let Answer::Renewed { alive, .. } = answer else { return Err(Failed::NotOurs) };
    let Answer::Leader { key, .. } = ctx.call(Request::Leader, within).await? else {
        return Err(Failed::NotOurs);
    };
    if key.is_some_and(|key| key.lease_id == next.id) {
        hold(ctx, lock, next).await?;
    } else if !alive {
        let kept = Held { next: None, ..lock.held() };
        remember(ctx, lock, kept).await?;
    }
    Ok(lock.held().next.filter(|_| alive).map(|_| sent_at))
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

    pub fn held(&self) -> Held {
        self.0.agent(|a| Held { lease: a.store.lease, next: a.store.next_lease })
    }

    pub fn set(&self, held: Held) {
        let bell = self.0.agent(|a| {
            a.store.lease = held.lease;
            a.store.next_lease = held.next;
            a.bell.clone()
        });
        bell.put(&self.0.sim, ());
    }

    pub fn free(self) {
        self.0.agent(|a| a.lease_busy = false);
    }
}
