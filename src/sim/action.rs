//! The executor: the actions of one decision, in order, over simulated drivers. It follows
//! `agent::{executor, store, lease, bootstrap, peers}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::cluster::{Initialize, NewestTimeline};
use crate::core::decision::{Action, Upstream};
use crate::core::guard::Event;
use crate::core::health;
use crate::core::sync;
use crate::core::view::{PeerAnswer, View, Work, position};

use super::agent::{CallError, Ctx};
use super::check::PausedAct;
use super::defect::Defect;
use super::lease::{armed, confirm, relet, renew};
use super::order::{Order, order};
use super::store::{Compare, Write};
use super::transaction::{commit, under, write_store};
use super::world::{Host, World, ms};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    Store(CallError),
    Refused(&'static str),
    Expired,
    TermChanged,
    NotOurs,
    Precondition(&'static str),
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Failed {
        Failed::Store(error)
    }
}

pub type Done = Result<(), Failed>;

/// Runs the batch and reports its end.
pub async fn carry_out(ctx: Ctx, view: View, actions: Vec<Action>) {
    let mut failed = None;
    for action in actions {
        let name = label(&action);
        if let Err(error) = act(&ctx, &view, action).await {
            failed = Some((name, error));
            break;
        }
    }
    let m = ctx.m;
    ctx.with(|w| {
        let now = w.local(m);
        let Some(a) = w.agent(m) else { return };
        a.busy = false;
        match failed {
            None => a.failures = 0,
            Some((name, error)) => {
                let pause = ms(100).saturating_mul(1 << a.failures.min(6)).min(ms(5000));
                a.failures = a.failures.saturating_add(1);
                a.not_before = now.plus(pause);
                w.say(Some(m), || format!("{name} failed: {error:?}"), 3000);
            }
        }
    });
    let bell = ctx.agent(|a| a.bell.clone());
    bell.put(&ctx.sim, ());
}

pub fn label(action: &Action) -> String {
    let text = format!("{action:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

async fn act(ctx: &Ctx, v: &View, action: Action) -> Done {
    match action {
        Action::AskPeers => ask_peers(ctx, v).await,
        Action::Campaign => {
            order(ctx, Order::Guard(Event::Campaign)).await?;
            armed(ctx).await
        }
        Action::ConfirmOwn => confirm(ctx, v.settings.retry_timeout).await,
        Action::Pause { tenure, .. } => order(ctx, Order::Guard(Event::Pause(tenure))).await,
        Action::Resume => resume(ctx, v).await,
        Action::ReletLease { tenure, ttl } => {
            let moved = relet(ctx, tenure, ttl, v.settings.retry_timeout).await;
            ctx.read(v.settings.retry_timeout).await?;
            moved
        }
        Action::DropReinitialize => {
            ctx.agent(|a| a.wishes.reinitialize = false);
            Ok(())
        }
        Action::GiveUp { .. } => give_up(ctx),
        Action::RestartDone => {
            ctx.agent(|a| a.wishes.restart = false);
            Ok(())
        }
        Action::StartStandby { upstream } => {
            set_promoting(ctx, false);
            follow(ctx, upstream, Order::StartStandby).await
        }
        Action::StartPrimary => {
            configure(ctx, Some(sync::names_of_key(v).unwrap_or_default()), None);
            set_promoting(ctx, false);
            order(ctx, Order::StartPrimary).await
        }
        Action::Promote { taken } => promote(ctx, v, &taken).await,
        Action::Follow { upstream } => follow(ctx, upstream, Order::Reload).await,
        Action::Checkpoint => {
            let pause = ctx.with(|w| w.some_ms(10, 500));
            ctx.sim.sleep(pause).await;
            Ok(())
        }
        Action::SetSyncNames { names } => {
            configure(ctx, Some(names), None);
            order(ctx, Order::Reload).await
        }
        Action::FetchHistory { from, timeline } => fetch_history(ctx, &from, timeline).await,
        Action::Initdb => order(ctx, Order::Run(Work::Initdb, None)).await,
        Action::CreateReplica { from, .. } => {
            order(ctx, Order::Run(Work::BaseBackup, from.map(|u| u.name))).await?;
            ctx.agent(|a| a.wishes.reinitialize = false);
            Ok(())
        }
        Action::Rewind { from } => order(ctx, Order::Run(Work::Rewind, Some(from.name))).await,
        Action::RemoveData { .. } => remove_data(ctx, v),
        plain => act_by_order(ctx, v, plain).await,
    }
}

/// What is one order to the supervisor.
async fn act_by_order(ctx: &Ctx, v: &View, action: Action) -> Done {
    match action {
        Action::Withdraw => order(ctx, Order::Guard(Event::Withdraw)).await,
        Action::Adopt { pid, standby } => order(ctx, Order::Adopt(pid, standby)).await,
        Action::Reload => order(ctx, Order::Reload).await,
        Action::LeaseLost { tenure } => order(ctx, Order::Guard(Event::LeaseLost(tenure))).await,
        Action::Fence { .. } => order(ctx, Order::Guard(Event::Fence)).await,
        Action::Sealed => order(ctx, Order::Guard(Event::Sealed)).await,
        Action::Release { tenure } => order(ctx, Order::Guard(Event::Release(tenure))).await,
        Action::CancelWork => order(ctx, Order::Cancel).await,
        Action::StopFast => stop(ctx, v, Order::Fast).await,
        Action::StopImmediate => stop(ctx, v, Order::Immediate).await,
        Action::Goodbye => order(ctx, Order::Goodbye).await,
        Action::Leave => order(ctx, Order::Leave).await,
        bootstrap => act_bootstrap(ctx, v, bootstrap).await,
    }
}

/// It exits with 1; the supervisor tries again.
fn give_up(ctx: &Ctx) -> Done {
    let m = ctx.m;
    ctx.with(|w| w.later(ms(1), move |sim| sim.with(|w| w.kill_agent(m, true))));
    Ok(())
}

async fn follow(ctx: &Ctx, upstream: Option<Upstream>, told: Order) -> Done {
    configure(ctx, None, Some(&upstream));
    ctx.agent(|a| a.upstream = None);
    order(ctx, told).await?;
    ctx.agent(|a| a.upstream = upstream.map(|u| u.conn_url));
    Ok(())
}

async fn act_bootstrap(ctx: &Ctx, v: &View, action: Action) -> Done {
    match action {
        Action::RewindDone => {
            ctx.with(|w| {
                if let Some(dir) = w.members[ctx.m].disk.dir_mut() {
                    dir.half_rewound = false;
                }
            });
            ctx.agent(|a| a.inspection = None);
            Ok(())
        }
        Action::PrepareBootstrap => {
            ctx.with(|w| {
                if let Some(dir) = w.members[ctx.m].disk.dir_mut() {
                    dir.bootstrapping = true;
                }
            });
            ctx.agent(|a| a.inspection = None);
            Ok(())
        }
        Action::RaceInitialize => {
            let lease = renew(ctx, v.settings.ttl, v.settings.retry_timeout).await?;
            let value = Initialize::InProgress { lease_id: lease.id };
            let write = Write::Initialize { value, lease_id: lease.id };
            let nobody = Compare::Initialize(Initialize::Absent);
            if commit(ctx, v, vec![nobody], vec![write]).await? {
                ctx.agent(|a| a.memory.bootstrap_won = true);
            }
            Ok(ctx.read(v.settings.retry_timeout).await?)
        }
        Action::AbortBootstrap => {
            ctx.with(|w| w.members[ctx.m].disk = super::postgres::Disk::Empty);
            let write = Write::Initialize { value: Initialize::Absent, lease_id: 0 };
            let own = v.store.lease.map_or(0, |lease| lease.id);
            let ours = Compare::Initialize(Initialize::InProgress { lease_id: own });
            commit(ctx, v, vec![ours], vec![write]).await?;
            // A real agent exits, and the next one reads before it decides.
            Ok(ctx.read(v.settings.retry_timeout).await?)
        }
        Action::FinishBootstrap | Action::AdoptInitialize => finish_bootstrap(ctx, v).await,
        write => {
            let result = write_store(ctx, v, write).await;
            // Whatever happened: look before deciding again.
            ctx.read(v.settings.retry_timeout).await?;
            result
        }
    }
}

async fn finish_bootstrap(ctx: &Ctx, v: &View) -> Done {
    let (Some(control), Some(tenure)) = (v.control(), v.guard.tenure) else {
        return Err(Failed::Precondition("neither identifier nor tenure is known"));
    };
    let value = Initialize::Done(control.system_identifier.to_string());
    let leader_mod_revision = tenure.mod_revision;
    let newest = NewestTimeline { number: control.timeline, leader_mod_revision };
    let found = v.cluster().map(|c| c.initialize.clone()).unwrap_or_default();
    if matches!(found, Initialize::Done(_)) && found != value {
        return Err(Failed::Precondition("another cluster's identifier is there"));
    }
    let writes =
        vec![Write::Initialize { value, lease_id: 0 }, Write::Timeline(newest), Write::FirstConfig];
    let compares = vec![under(tenure), Compare::Initialize(found)];
    if !commit(ctx, v, compares, writes).await? {
        return Err(Failed::Precondition("the keys changed during the bootstrap"));
    }
    ctx.with(|w| {
        if let Some(dir) = w.members[ctx.m].disk.dir_mut() {
            dir.bootstrapping = false;
        }
    });
    ctx.agent(|a| a.inspection = None);
    Ok(ctx.read(v.settings.retry_timeout).await?)
}

async fn promote(ctx: &Ctx, v: &View, taken: &[u32]) -> Done {
    ctx.with(|w| {
        let unnumbered = w.flawed(Defect::TimelineUnnumbered);
        if let Some(dir) = w.members[ctx.m].disk.dir_mut().filter(|_| !unnumbered) {
            dir.known_timeline = taken.iter().fold(dir.known_timeline, |a, b| a.max(*b));
        }
    });
    configure(ctx, Some(sync::names_of_key(v).unwrap_or_default()), None);
    order(ctx, Order::Reload).await?;
    set_promoting(ctx, true);
    order(ctx, Order::Promote).await
}

/// The supervisor freezes what is resumed without fresh proof: then it had better stay paused.
async fn resume(ctx: &Ctx, v: &View) -> Done {
    confirm(ctx, v.settings.retry_timeout).await?;
    let now = ctx.local();
    let sent_at = ctx.with(|w| {
        let guard = &w.members[ctx.m].supervisor.as_ref()?.shown;
        guard.lease().map(|lease| lease.sent_at)
    });
    if sent_at.is_none_or(|at| now.since(at) > v.guard.fresh / 2) {
        return Err(Failed::Precondition("the confirmation of the lease took too long"));
    }
    order(ctx, Order::Guard(Event::Resume)).await
}

async fn stop(ctx: &Ctx, v: &View, how: Order) -> Done {
    let Some(postmaster) = v.server.postmaster else { return Ok(()) };
    // One that goes on was judged when it began.
    if postmaster.stopping_since.is_none() {
        ctx.with(|w| w.check_paused(ctx.m, PausedAct::Stop, w.phase(ctx.m)));
    }
    order(ctx, how).await?;
    let (pid, at) = (postmaster.pid, ctx.local());
    ctx.agent(|a| a.stopping = a.stopping.filter(|(of, _)| *of == pid).or(Some((pid, at))));
    Ok(())
}

/// Writes the configuration files.
fn configure(ctx: &Ctx, names: Option<String>, upstream: Option<&Option<Upstream>>) {
    ctx.with(|w| {
        let to = upstream.map(|u| u.as_ref().and_then(|u| w.find(&u.name)));
        if let Some(dir) = w.members[ctx.m].disk.dir_mut() {
            // A standby's configuration names no synchronous standbys.
            dir.sync_names = names.unwrap_or_default();
            dir.upstream = to.unwrap_or(None);
        }
    });
}

fn set_promoting(ctx: &Ctx, promoting: bool) {
    ctx.with(|w| {
        if let Some(dir) = w.members[ctx.m].disk.dir_mut() {
            dir.promoting = promoting;
        }
    });
}

async fn ask_peers(ctx: &Ctx, v: &View) -> Done {
    let asked_at = ctx.local();
    let names: Vec<String> = v.others().map(|m| m.name.clone()).collect();
    let slow = ctx.with(|w| {
        names.iter().any(|n| {
            let hangs = |p: usize| {
                w.members[p].host == Host::Frozen
                    || w.members[p].host == Host::Down
                    || w.agent_frozen(p)
            };
            w.find(n).is_none_or(|p| hangs(p) || !w.reaches(ctx.m, p) || !w.reaches(p, ctx.m))
        })
    });
    let pause = if slow { ms(2000) } else { ctx.with(World::delay).min(ms(2000)) };
    // The first answers are as old as the last one is late.
    let answers: BTreeMap<String, PeerAnswer> =
        ctx.with(|w| names.into_iter().map(|n| (n.clone(), w.peer_answer(ctx.m, &n))).collect());
    ctx.sim.sleep(pause).await;
    ctx.with(|w| {
        if let Some(a) = w.agent(ctx.m) {
            a.peers = answers;
            a.peers_asked_at = Some(asked_at);
        }
    });
    Ok(())
}

impl World {
    /// `GET /patroni` of another member: it asks its server first, and tells what it knew last when
    /// that does not answer.
    fn peer_answer(&self, m: usize, name: &str) -> PeerAnswer {
        let Some(p) = self.find(name) else { return PeerAnswer::default() };
        let reachable = self.reaches(m, p) && self.reaches(p, m) && !self.agent_frozen(p);
        let Some(agent) = self.members[p].agent.as_ref().filter(|_| reachable) else {
            return PeerAnswer::default();
        };
        let fresh = self.probe(p).filter(|_| self.server_moves(p)).map(Arc::new);
        let alive = fresh.is_some();
        let probe = fresh.or_else(|| agent.probe.as_ref().map(|(_, seen)| seen.value.clone()));
        PeerAnswer {
            unfit: !health::fit(&self.health(p)),
            reachable: true,
            in_recovery: probe.as_ref().is_none_or(|p| p.in_recovery),
            position: probe.as_ref().and_then(|p| position(p)),
            fresh: alive && probe.as_ref().is_some_and(|p| p.knows_its_end()),
            timeline: probe.as_ref().map(|p| p.timeline),
            nofailover: probe.is_none() || self.members[p].tags.nofailover,
            failover_priority: self.members[p].tags.failover_priority,
            watchdog_failed: false,
            vigil: true,
        }
    }
}

async fn fetch_history(ctx: &Ctx, from: &Upstream, timeline: u32) -> Done {
    let pause = ctx.with(World::delay).min(ms(3000));
    ctx.sim.sleep(pause).await;
    ctx.with(|w| {
        let failed = Failed::Precondition("the leader does not answer");
        let u = w.find(&from.name).ok_or(failed)?;
        let answers = w.reaches(ctx.m, u)
            && w.reaches(u, ctx.m)
            && w.server_moves(u)
            && w.members[u].server.as_ref().is_some_and(|s| s.ready);
        let branch = w.members[u].disk.dir().filter(|_| answers).ok_or(failed)?.end.branch;
        if w.wal.number(branch) != timeline {
            return Err(Failed::Precondition("the leader is on another timeline"));
        }
        let history = w.wal.history(branch);
        if history.0.is_empty() {
            return Err(Failed::Precondition("no history file of this timeline"));
        }
        if let Some(a) = w.agent(ctx.m) {
            a.leader_history = Some((timeline, history));
        }
        Ok(())
    })
}

fn remove_data(ctx: &Ctx, v: &View) -> Done {
    if v.server.postmaster.is_some() || v.guard.populated {
        return Err(Failed::Precondition("the data directory is in use"));
    }
    ctx.with(|w| {
        w.check_removal(ctx.m);
        w.members[ctx.m].disk = super::postgres::Disk::Empty;
    });
    ctx.agent(|a| a.wishes.reinitialize = false);
    Ok(())
}
