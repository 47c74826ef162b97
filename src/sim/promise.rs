//! Failsafe mode: promises sought, given and remembered. It follows `agent::promises`.

use std::time::Duration;

use crate::core::budget::Budget;
use crate::core::cluster::Tenure;
use crate::core::decision::Action;
use crate::core::failsafe::{self, Bound, Known, Plea};
use crate::core::guard::{Event, Phase};
use crate::core::time::Boot;

use super::agent::{Agent, Ctx};
use super::defect::Defect;
use super::engine::Slot;
use super::order::{Order, order};
use super::world::{World, ms};

/// A round that failed is repeated after this.
const AGAIN: Duration = Duration::from_millis(500);

/// Whom the last decision permits to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeking {
    pub members: Vec<String>,
    pub until: Boot,
}

/// What an agent leaves to the next one, in memory that a reboot empties.
#[derive(Clone, Debug)]
pub struct Note {
    started_at: Boot,
    bound: Option<Bound>,
}

/// The standing order: while the store does not confirm the lease, promises are sought.
pub async fn keep(ctx: Ctx) {
    loop {
        let (seeking, bell) = ctx.agent(|a| (a.seeking.clone(), a.seeker.clone()));
        let now = ctx.local();
        let led = ctx.with(|w| {
            let guard = &w.members[ctx.m].supervisor.as_ref()?.shown;
            guard.lease().zip(guard.budget()).filter(|_| guard.phase() == Phase::Leading)
        });
        let pause = match (seeking.filter(|s| now < s.until), led) {
            (Some(seeking), Some((lease, budget))) => {
                match lease.sent_at.plus(budget.ttl / 3).since(now) {
                    Duration::ZERO => round(&ctx, seeking.members, lease.tenure, budget).await,
                    early => early.min(AGAIN),
                }
            }
            _ => AGAIN,
        };
        let _ = bell.take(&ctx.sim, pause.max(ms(1))).await;
    }
}

/// Asks all of them at once. All deadlines count from before the first question.
async fn round(ctx: &Ctx, members: Vec<String>, tenure: Tenure, budget: Budget) -> Duration {
    let asked_at = ctx.local();
    let within = (budget.ttl / 10).clamp(AGAIN, AGAIN * 4);
    let end = ctx.sim.now() + within.as_nanos() as u64;
    let mut asked = Vec::new();
    for name in &members {
        let slot = Slot::default();
        ctx.with(|w| w.plead(ctx.m, name, budget.ttl, slot.clone()));
        asked.push((name.clone(), slot));
    }
    let mut missing = Vec::new();
    for (name, slot) in asked {
        let left = Duration::from_nanos(end.saturating_sub(ctx.sim.now()));
        if slot.take(&ctx.sim, left).await.is_none() {
            missing.push(name);
        }
    }
    let mut complete = missing.is_empty();
    let bell = ctx.agent(|a| {
        complete &= a.seeking.as_ref().is_some_and(|seeking| seeking.members == members);
        a.store.failsafe.missing = missing;
        if complete {
            a.store.failsafe.promised_at = Some(asked_at);
        }
        a.bell.clone()
    });
    bell.put(&ctx.sim, ());
    let extended =
        complete && order(ctx, Order::Guard(Event::Extend(tenure, asked_at))).await.is_ok();
    if extended { Duration::ZERO } else { AGAIN }
}

impl Agent {
    /// An acquiring transaction may be under way.
    fn campaigns(&self) -> bool {
        let batch = self.batch.as_ref().filter(|_| self.busy);
        batch.is_some_and(|(_, actions, _)| actions.iter().any(Action::may_acquire))
    }
}

impl World {
    /// What an agent that begins now is bound by.
    pub fn recall(&mut self, m: usize) -> Known {
        if self.flawed(Defect::ForgetsPromises) {
            return Known::default();
        }
        let now = self.local(m);
        let member = &mut self.members[m];
        let note = member.note.clone().unwrap_or(Note { started_at: now, bound: None });
        if member.cached.failsafe_mode {
            member.note = Some(note.clone());
        }
        Known { started_at: note.started_at, bound: note.bound, ..Known::default() }
    }

    /// `POST /failsafe`; the slot is filled by a promise.
    fn plead(&mut self, m: usize, name: &str, ttl: Duration, slot: Slot<()>) {
        let Some(p) = self.find(name).filter(|p| self.reaches(m, *p)) else { return };
        if self.prng.per_mille(self.loss) {
            return;
        }
        let plea = Plea { name: self.members[m].name.clone(), ttl: Some(ttl) };
        let delay = self.delay();
        self.later(delay, move |sim| sim.with(|w| w.asked(m, p, &plea, slot)));
    }

    fn asked(&mut self, m: usize, p: usize, plea: &Plea, slot: Slot<()>) {
        if self.agent_frozen(p) || self.members[p].agent.is_none() {
            return;
        }
        let (now, view) = (self.local(p), self.view(p));
        let Some(agent) = self.agent(p) else { return };
        let campaigns = agent.campaigns();
        let Ok(bound) = failsafe::promise(&view, plea, campaigns) else { return };
        let started_at = agent.store.failsafe.started_at;
        agent.store.failsafe.bound = Some(bound.clone());
        let enough = plea.ttl.is_some_and(|ttl| bound.until.since(now) >= ttl);
        self.members[p].note = Some(Note { started_at, bound: Some(bound) });
        self.checks.exercise("promises");
        if enough && self.reaches(p, m) && !self.prng.per_mille(self.loss) {
            let delay = self.delay();
            self.later(delay, move |sim| slot.put(sim, ()));
        }
    }
}
