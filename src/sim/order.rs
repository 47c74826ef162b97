//! The agent's orders on their way to the supervisor, and what it does about them.

use std::time::Duration;

use crate::core::guard::Event;
use crate::core::view::Work;

use super::action::{Done, Failed};
use super::agent::Ctx;
use super::check::PausedAct;
use super::defect::Defect;
use super::engine::Slot;
use super::job;
use super::lease::Held;
use super::world::{Host, World, ms};

const HANDLED_WITHIN: Duration = Duration::from_secs(2);

/// To the supervisor.
#[derive(Clone, Debug)]
pub enum Order {
    Guard(Event),
    StartStandby,
    StartPrimary,
    Promote,
    Reload,
    Fast,
    Immediate,
    Run(Work, Option<String>),
    Cancel,
    Adopt(i32, bool),
    Capsule(Held),
    Retune(Duration),
    Goodbye,
    Leave,
}

pub async fn order(ctx: &Ctx, order: Order) -> Done {
    let slot: Slot<Result<(), &'static str>> = Slot::default();
    let (m, there) = (ctx.m, slot.clone());
    ctx.with(|w| {
        w.later(Duration::from_micros(200), move |sim| {
            sim.with(|w| deliver(w, m, order, there));
        });
    });
    match slot.take(&ctx.sim, HANDLED_WITHIN).await {
        Some(Ok(())) => Ok(()),
        Some(Err(reason)) => Err(Failed::Refused(reason)),
        None => Err(Failed::Refused("the supervisor is silent")),
    }
}

fn deliver(w: &mut World, m: usize, order: Order, slot: Slot<Result<(), &'static str>>) {
    let up = w.members[m].host == Host::Up;
    let Some(s) = &mut w.members[m].supervisor else { return };
    if s.frozen || !up {
        // It stays in the socket; a new generation's supervisor never sees it.
        s.backlog.push(Box::new(move |sim| sim.with(|w| deliver(w, m, order, slot))));
        return;
    }
    let answer = w.obey(m, order);
    let tell = move |w: &mut World| {
        // The state that answers an order is news to the agent, and a reason to probe.
        w.tell_agent(m);
        w.later(Duration::from_micros(100), move |sim| slot.put(sim, answer));
    };
    match &mut w.members[m].supervisor {
        // It stalled in the middle.
        Some(s) if s.frozen => s.backlog.push(Box::new(move |sim| sim.with(tell))),
        _ => tell(w),
    }
}

impl World {
    fn obey_stop(&mut self, m: usize, order: &Order) -> Result<(), &'static str> {
        if self.members[m].supervisor.as_ref().is_none_or(|s| s.postmaster.is_none()) {
            return Err("no postmaster");
        }
        self.decide(m, Event::StopSignal).map_err(|r| r.0)?;
        match order {
            Order::Fast => self.stop_fast(m),
            _ => self.stop_immediate(m),
        }
        Ok(())
    }

    fn obey(&mut self, m: usize, order: Order) -> Result<(), &'static str> {
        match order {
            Order::Guard(event) => self.decide(m, event).map_err(|r| r.0),
            Order::StartStandby => {
                let before = self.phase(m);
                self.decide(m, Event::StartStandby).map_err(|r| r.0)?;
                self.check_paused(m, PausedAct::Start, before);
                self.and_then(m, |w, m| w.start_server(m, false));
                Ok(())
            }
            Order::StartPrimary => {
                let before = self.phase(m);
                self.permitted(m, Event::StartPrimary)?;
                self.check_paused(m, PausedAct::Start, before);
                self.check_permit(m);
                self.and_then(m, |w, m| w.start_server(m, true));
                Ok(())
            }
            Order::Promote => {
                let before = self.phase(m);
                self.permitted(m, Event::Promote)?;
                self.check_paused(m, PausedAct::Promote, before);
                self.check_permit(m);
                self.and_then(m, World::promote_server);
                Ok(())
            }
            Order::Reload => {
                self.reload(m);
                Ok(())
            }
            Order::Fast | Order::Immediate => self.obey_stop(m, &order),
            Order::Run(work, from) => job::run(self, m, work, from),
            Order::Cancel => {
                job::cancel(self, m);
                Ok(())
            }
            Order::Adopt(pid, standby) => self.adopt(m, pid, standby),
            Order::Capsule(held) => {
                if let Some(s) = &mut self.members[m].supervisor {
                    s.capsule = held;
                }
                Ok(())
            }
            Order::Retune(ttl) => {
                let budget = self.budget(m, ttl).map_err(|_| "too tight")?;
                self.decide(m, Event::Retune(budget)).map_err(|r| r.0)
            }
            Order::Leave => {
                self.decide(m, Event::Leave).map_err(|r| r.0)?;
                self.later(ms(1), move |sim| sim.with(|w| w.leave(m)));
                Ok(())
            }
            Order::Goodbye => {
                self.decide(m, Event::Goodbye).map_err(|r| r.0)?;
                self.later(ms(1), move |sim| sim.with(|w| w.goodbye(m)));
                Ok(())
            }
        }
    }

    fn permitted(&mut self, m: usize, event: Event) -> Result<(), &'static str> {
        let answer = self.decide(m, event).map_err(|r| r.0);
        if self.flawed(Defect::PermitsAlways) { Ok(()) } else { answer }
    }

    fn adopt(&mut self, m: usize, pid: i32, standby: bool) -> Result<(), &'static str> {
        if self.members[m].server.as_ref().is_none_or(|s| s.pid != pid) {
            return Err("no such process");
        }
        let now = self.local(m);
        if let Some(s) = &mut self.members[m].supervisor {
            s.postmaster = Some((pid, now));
        }
        let standby = standby || self.flawed(Defect::AdoptsAsStandby);
        self.decide(m, Event::Adopted { standby }).map_err(|r| r.0)
    }

    /// SIGHUP: the written configuration comes into force.
    fn reload(&mut self, m: usize) {
        let delay = self.some_ms(1, 50);
        self.later(delay, move |sim| {
            sim.with(|w| {
                let member = &mut w.members[m];
                let (Some(server), Some(dir)) = (&mut member.server, member.disk.dir()) else {
                    return;
                };
                if server.recovery {
                    if server.upstream != dir.upstream {
                        server.upstream = dir.upstream;
                        server.streaming = false;
                    }
                } else {
                    server.sync_names.clone_from(&dir.sync_names);
                }
                w.acknowledge(m);
            });
        });
    }
}
