//! What an agent does beside its loop: it reads the store, asks its server, renews its lease. As
//! `agent::{reader, prober, lease}`.

use std::sync::Arc;

use crate::core::budget;
use crate::core::view::Seen;

use super::action;
use super::agent::Ctx;
use super::lease;
use super::world::ms;

pub async fn read(ctx: Ctx) {
    loop {
        let within = ctx.agent(|a| a.settings.retry_timeout);
        let pause = match ctx.read(within).await {
            Ok(()) => ctx.agent(|a| a.settings.loop_wait),
            Err(_) => {
                let now = ctx.local();
                ctx.agent(|a| {
                    a.store.failing_since = a.store.failing_since.or(Some(now));
                });
                ms(500)
            }
        };
        let (bell, reader) = ctx.agent(|a| (a.bell.clone(), a.reader.clone()));
        bell.put(&ctx.sim, ());
        let _ = reader.take(&ctx.sim, pause).await;
    }
}

pub async fn probe(ctx: Ctx) {
    loop {
        let asked_at = ctx.local();
        let (pid, answers) = ctx.with(|w| {
            w.look_at_health(ctx.m);
            let s = w.members[ctx.m].supervisor.as_ref();
            let pid = s.and_then(|s| s.postmaster).map(|(pid, _)| pid);
            (pid, w.server_moves(ctx.m))
        });
        if let Some(pid) = pid.filter(|_| answers) {
            ctx.sim.sleep(ms(1)).await;
            let answer = ctx.with(|w| w.probe(ctx.m));
            let now = ctx.with(|w| {
                let s = w.members[ctx.m].supervisor.as_ref();
                s.and_then(|s| s.postmaster).map(|(pid, _)| pid)
            });
            if let Some(probe) = answer
                && now == Some(pid)
            {
                let bell = ctx.agent(|a| {
                    a.probe = Some((pid, Seen { value: Arc::new(probe), at: asked_at }));
                    a.bell.clone()
                });
                bell.put(&ctx.sim, ());
            }
        }
        let (pace, bell) = ctx.agent(|a| (a.pace, a.prober.clone()));
        let _ = bell.take(&ctx.sim, pace).await;
    }
}

/// The standing order to renew.
pub async fn keep(ctx: Ctx) {
    loop {
        let (standing, bell) = ctx.agent(|a| (a.standing, a.keeper.clone()));
        let now = ctx.local();
        let Some(standing) = standing.filter(|s| now < s.until) else {
            let _ = bell.take(&ctx.sim, ms(500)).await;
            continue;
        };
        let begun = ctx.local();
        let tenure = ctx.with(|w| {
            let guard = &w.members[ctx.m].supervisor.as_ref()?.shown;
            guard.lease().map(|l| l.tenure).filter(|t| guard.burned() != Some(*t))
        });
        let result = match tenure {
            Some(_) => lease::confirm(&ctx, standing.within).await,
            None => lease::renew(&ctx, standing.ttl, standing.within).await.map(drop),
        };
        let pause = match result {
            Ok(()) => budget::pause(standing.cadence, ctx.local().since(begun)),
            Err(action::Failed::TermChanged) => ms(1),
            Err(action::Failed::NotOurs) => {
                let reader = ctx.agent(|a| a.reader.clone());
                reader.put(&ctx.sim, ());
                standing.cadence
            }
            Err(_) => standing.cadence.min(ms(300)),
        };
        ctx.sim.sleep(pause).await;
    }
}
