//! Carries out the actions of one decision, in order, and reports what it found out. Every action
//! is idempotent, carries its own precondition and ends within a bound; what takes long is a job
//! of the supervisor, whose end arrives as an event.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::core::database::DataDir;
use crate::core::decision::{Action, Upstream};
use crate::core::error::chain;
use crate::core::events;
use crate::core::sync;
use crate::core::view::{View, Work};
use crate::dcs::DcsError;
use crate::link::order::{Command, Job, JobKind, Order, PgSignal};
use crate::postgres::datadir::{self, DataDirError};
use crate::postgres::durable::{self, FileError};
use crate::postgres::history;
use crate::postgres::session::{Session, SessionError};
use crate::sys::clock;

use super::disk::{DiskHangs, on_disk};
use super::drivers::Drivers;
use super::events::{Event, Fact};
use super::inspect::{promotion_marker, rewind_marker};
use super::lease::LeaseError;
use super::orders::OrderError;
use super::server::{self, ServerError};
use super::sql::{self, LeaderError};
use super::{bootstrap, hooks, peers, replica, slots, store, volume};

/// A checkpoint before a planned stop shortens the stop; one that takes longer is not waited for.
const BEFORE_STOP: Duration = Duration::from_secs(60);

/// A BMC may take seconds; a driver of the kernel none.
const ARMED_WITHIN: Duration = Duration::from_secs(3);

/// Nobody waits for the one after a promotion but those who want to rewind.
pub const AFTER_PROMOTION: Duration = Duration::from_secs(3600);

/// Reading the leader's history is one round trip.
const LEADER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(transparent)]
    Store(#[from] DcsError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Sql(#[from] SessionError),
    #[error(transparent)]
    Leader(#[from] LeaderError),
    #[error(transparent)]
    Disk(#[from] DiskHangs),
    #[error("{0}")]
    Precondition(String),
}

/// Runs work that touches the data volume on a thread of its own: a disk that hangs must not take
/// one of the threads by which the lease is renewed.
pub fn apart<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(work))
}

/// Runs the batch; its end is always reported, also after a panic in a driver.
pub async fn carry_out(drivers: Arc<Drivers>, view: View, actions: Vec<Action>) {
    let events = drivers.events.clone();
    let work = apart(async move {
        let mut facts = Vec::new();
        for action in actions {
            let name = label(&action);
            if let Err(error) = act(&drivers, &view, action, &mut facts).await {
                return (facts, Some(format!("{name}: {}", chain(&error))));
            }
        }
        (facts, None)
    });
    let (facts, failed) = match work.await {
        Ok(ended) => ended,
        Err(error) => (Vec::new(), Some(format!("internal error: {error}"))),
    };
    report(&events, Event::Done { facts, failed }).await;
}

async fn report(events: &mpsc::Sender<Event>, event: Event) {
    // The loop is gone only when the agent ends.
    let _ = events.send(event).await;
}

/// The action's name for messages, without its contents.
fn label(action: &Action) -> String {
    let text = format!("{action:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

async fn act(
    d: &Drivers,
    v: &View,
    action: Action,
    facts: &mut Vec<Fact>,
) -> Result<(), ActionError> {
    match action {
        Action::AskPeers => facts.push(peers::ask(d, v).await),
        Action::Campaign => {
            order(d, Order::Campaign).await?;
            armed(d).await?;
        }
        Action::Withdraw => order(d, Order::Withdraw).await?,
        Action::Pause { tenure, revision } => {
            order(d, Order::Pause { tenure, revision }).await?;
        }
        Action::Resume => resume(d, v).await?,
        Action::ConfirmOwn => d.leases.confirm(v.settings.retry_timeout).await?,
        Action::ReletLease { tenure, ttl } => {
            let moved = d.leases.relet(tenure, &v.name, ttl, v.settings.retry_timeout).await;
            // Whatever happened: look before deciding again.
            facts.push(d.cluster_fact().await?);
            moved?;
        }
        Action::LeaseLost { tenure } => order(d, Order::LeaseLost { tenure }).await?,
        Action::Fence { reason } => order(d, Order::Fence { reason }).await?,
        Action::Sealed => order(d, Order::Sealed).await?,
        Action::Release { tenure } => order(d, Order::Release { tenure }).await?,
        Action::CancelWork => cancel(d, v).await?,
        Action::StopFast => stop(d, v, PgSignal::FastStop, facts).await?,
        Action::StopImmediate => stop(d, v, PgSignal::ImmediateStop, facts).await?,
        Action::Goodbye => end(d, Order::Goodbye { failed: false }, facts).await?,
        Action::Leave => end(d, Order::Leave, facts).await?,
        Action::GiveUp { reason } => facts.push(Fact::GiveUp(reason)),
        Action::Adopt { pid, standby } => order(d, Order::Adopt { pid, standby }).await?,
        Action::RestartDone => facts.push(Fact::RestartDone),
        Action::DropReinitialize => facts.push(Fact::ReinitializeBegun),
        Action::StartStandby { upstream } => start_standby(d, v, upstream, facts).await?,
        Action::StartPrimary => start_primary(d, v).await?,
        Action::Promote { taken } => promote(d, v, &taken).await?,
        Action::Follow { upstream } => follow(d, v, upstream, facts).await?,
        Action::Reload => order(d, Order::Signal(PgSignal::Reload)).await?,
        Action::Checkpoint => checkpoint(d, BEFORE_STOP).await,
        Action::SetSyncNames { names } => set_sync_names(d, &names).await?,
        Action::FetchHistory { from, timeline } => fetch_history(d, &from, timeline, facts).await?,
        Action::Initdb => bootstrap::initdb(d).await?,
        Action::PrepareBootstrap => {
            bootstrap::prepare(d)?;
            facts.push(Fact::Inspect);
        }
        Action::RaceInitialize => bootstrap::race(d, facts).await?,
        Action::AbortBootstrap => bootstrap::abort(d, v, facts).await?,
        Action::FinishBootstrap => bootstrap::finish(d, v, facts).await?,
        Action::AdoptInitialize => bootstrap::adopt(d, v, facts).await?,
        Action::CreateReplica { method, from } => {
            let command = replica::create(&d.setup(), &method, from.as_ref())?;
            run_data_job(d, Work::BaseBackup, command).await?;
            facts.push(Fact::ReinitializeBegun);
        }
        Action::Rewind { from } => rewind(d, v, &from).await?,
        Action::RewindDone => {
            let mark = rewind_marker(&d.setup().data_dir());
            on_disk(move || durable::remove(&mark)).await??;
            facts.push(Fact::Inspect);
        }
        Action::RemoveData { reason } => remove_data(d, v, &reason, facts).await?,
        write => store::write(d, v, write, facts).await?,
    }
    Ok(())
}

async fn order(d: &Drivers, order: Order) -> Result<(), ActionError> {
    d.supervisor.order(order).await?;
    Ok(())
}

/// The supervisor ends, and this agent with it.
async fn end(d: &Drivers, last: Order, facts: &mut Vec<Fact>) -> Result<(), ActionError> {
    hooks::finish_callback(d).await;
    // Before: the supervisor ends us with itself.
    volume::stop(&d.setup());
    d.forget_configuration();
    order(d, last).await?;
    facts.push(Fact::SaidGoodbye);
    Ok(())
}

/// The watchdog device counts before the lease is renewed that the acquiring transaction rests
/// on; the supervisor would refuse that lease's confirmation otherwise.
async fn armed(d: &Drivers) -> Result<(), ActionError> {
    let mut states = d.supervisor.states();
    let settled = states.wait_for(|state| !state.awaits_device());
    let settled = tokio::time::timeout(ARMED_WITHIN, settled).await;
    let state = match settled {
        Ok(Ok(state)) => state.clone(),
        Ok(Err(_)) | Err(_) => d.supervisor.state(),
    };
    // In automatic mode the next confirmation brings the budget without a device into force.
    if state.awaits_device() || (state.lacks_device() && state.watchdog.required) {
        let why = match state.watchdog.trouble.as_str() {
            "" => "no answer",
            why => why,
        };
        return Err(ActionError::Precondition(format!("the watchdog device is not armed: {why}")));
    }
    Ok(())
}

/// The supervisor freezes what is resumed without fresh proof: then it had better stay paused.
async fn resume(d: &Drivers, v: &View) -> Result<(), ActionError> {
    d.leases.confirm(v.settings.retry_timeout).await?;
    let sent_at = d.supervisor.state().sent_at;
    if sent_at.is_none_or(|at| clock::boot().since(at) > v.guard.fresh / 2) {
        let text = "the confirmation of the lease took too long".to_owned();
        return Err(ActionError::Precondition(text));
    }
    order(d, Order::Resume).await
}

async fn cancel(d: &Drivers, v: &View) -> Result<(), ActionError> {
    match v.job {
        Some(job) => order(d, Order::CancelJob { id: job.id }).await,
        None => Ok(()),
    }
}

async fn stop(
    d: &Drivers,
    v: &View,
    signal: PgSignal,
    facts: &mut Vec<Fact>,
) -> Result<(), ActionError> {
    let Some(postmaster) = v.server.postmaster else { return Ok(()) };
    if postmaster.stopping_since.is_none() {
        hooks::before_stop(d).await;
    }
    order(d, Order::Signal(signal)).await?;
    facts.push(Fact::StopAsked { pid: postmaster.pid, at: clock::boot() });
    Ok(())
}

/// A job on the data directory; its end is seen in the supervisor's state.
pub async fn run_data_job(d: &Drivers, work: Work, command: Command) -> Result<(), ActionError> {
    let id = d.next_job(Some(work));
    order(d, Order::RunJob(Job { id, kind: JobKind::Data, command })).await
}

/// Marked before it begins: until it ends well nothing is started from the directory.
async fn rewind(d: &Drivers, v: &View, from: &Upstream) -> Result<(), ActionError> {
    // What was copied of the leader's slots was for the data that were here.
    drop(d.slot_copies.take());
    let Some(DataDir::Cluster { version, .. }) = v.server.data_dir else {
        return Err(ActionError::Precondition("there is nothing to rewind".to_owned()));
    };
    let (setup, from) = (d.setup(), from.clone());
    let command = on_disk(move || {
        server::set_role(&setup, true)?;
        let command = server::rewind(&setup, &from, version)?;
        durable::write(&rewind_marker(&setup.data_dir()), b"", None)?;
        Ok::<_, ActionError>(command)
    })
    .await??;
    run_data_job(d, Work::Rewind, command).await
}

async fn start_standby(
    d: &Drivers,
    v: &View,
    upstream: Option<Upstream>,
    facts: &mut Vec<Fact>,
) -> Result<(), ActionError> {
    let setup = d.setup();
    let newest = v.control().map(|c| c.timeline.max(c.min_recovery_timeline));
    let from = upstream.clone();
    let (copies, control) = (d.slot_copies.take(), v.control().cloned());
    let command = on_disk(move || {
        slots::install(&setup, &copies, control.as_ref());
        if let Some(newest) = newest {
            history::forget(&setup.data_dir(), newest)?;
        }
        server::write_configuration(&setup, false, from.as_ref(), None)?;
        server::set_role(&setup, false)?;
        Ok::<_, ActionError>(server::postmaster(&setup, false)?)
    })
    .await??;
    // Until it is done nobody knows what the server follows: a silent supervisor may do it later.
    facts.push(Fact::Upstream(None));
    order(d, Order::StartStandby(command)).await?;
    facts.push(Fact::Upstream(upstream.map(|u| u.conn_url)));
    Ok(())
}

async fn start_primary(d: &Drivers, v: &View) -> Result<(), ActionError> {
    let setup = d.setup();
    // The names in force before a crash stay in force after it: a restart must not open a window
    // in which commits are acknowledged without the standby that /sync still names.
    let names = sync::names_of_key(v);
    let command = on_disk(move || {
        server::write_configuration(&setup, true, None, names.as_deref())?;
        server::set_role(&setup, true)?;
        server::postmaster(&setup, true)
    })
    .await??;
    order(d, Order::StartPrimary(command)).await
}

async fn promote(d: &Drivers, v: &View, taken: &[u32]) -> Result<(), ActionError> {
    hooks::pre_promote(d).await?;
    let setup = d.setup();
    // /sync names nobody but us now (the rule saw to it): only strict mode has names in force.
    let names = sync::names_of_key(v);
    let (files, taken) = (setup.clone(), taken.to_vec());
    on_disk(move || {
        skip_timelines(&files.data_dir(), &taken)?;
        Ok::<_, ActionError>(server::write_configuration(&files, true, None, names.as_deref())?)
    })
    .await??;
    order(d, Order::Signal(PgSignal::Reload)).await?;
    let marker = promotion_marker(&setup.data_dir());
    on_disk(move || durable::mark(&marker)).await??;
    order(d, Order::Promote(server::promote(&setup)?)).await
}

fn skip_timelines(data_dir: &Path, taken: &[u32]) -> Result<(), ActionError> {
    let written = history::take(data_dir, taken)?;
    if !written.is_empty() {
        // Recovery from an archive to the latest timeline probes numbers without a gap, too.
        tracing::warn!(
            "timelines {written:?} were given to promotions that this member never saw; the next \
             one skips them. If WAL is archived and the archive has no history file of them, copy \
             theirs there from {}/pg_wal",
            data_dir.display()
        );
    }
    Ok(())
}

async fn follow(
    d: &Drivers,
    v: &View,
    upstream: Option<Upstream>,
    facts: &mut Vec<Fact>,
) -> Result<(), ActionError> {
    let (setup, from) = (d.setup(), upstream.clone());
    let write = move || server::write_configuration(&setup, false, from.as_ref(), None);
    facts.push(Fact::Upstream(None));
    on_disk(write).await??;
    // Also when nothing had to be written: that may have been done by one that ended before this.
    order(d, Order::Signal(PgSignal::Reload)).await?;
    facts.push(Fact::Upstream(upstream.map(|u| u.conn_url)));
    // Who was started without a leader, and is told of one now, has only finished its start.
    if v.server.upstream.is_some() {
        let role = if v.holds_key() { "standby_leader" } else { "replica" };
        hooks::callback(d, "on_reload", role).await;
    }
    Ok(())
}

pub async fn checkpoint(d: &Drivers, within: Duration) {
    let work = async {
        let target = sql::local_target(&d.setup(), Duration::ZERO);
        let mut session = Session::connect(&target, LEADER_WITHIN).await?;
        session.checkpoint(within).await
    };
    // It only makes something that follows shorter.
    if let Err(error) = work.await {
        tracing::warn!("the checkpoint failed: {}", chain(&error));
    }
}

async fn set_sync_names(d: &Drivers, names: &str) -> Result<(), ActionError> {
    let (setup, names) = (d.setup(), names.to_owned());
    on_disk(move || server::write_configuration(&setup, true, None, Some(&names))).await??;
    order(d, Order::Signal(PgSignal::Reload)).await
}

async fn fetch_history(
    d: &Drivers,
    from: &Upstream,
    timeline: u32,
    facts: &mut Vec<Fact>,
) -> Result<(), ActionError> {
    let mut session = sql::leader(&d.setup(), from, LEADER_WITHIN).await?;
    let leader = session.leader(LEADER_WITHIN).await?;
    if leader.timeline != timeline {
        let (name, there) = (&from.name, leader.timeline);
        let text = format!("{name} is on timeline {there}, its member key says {timeline}");
        return Err(ActionError::Precondition(text));
    }
    match leader.history {
        Some(history) => facts.push(Fact::History { timeline, history }),
        None => {
            let text = format!("{} has no history file of timeline {timeline}", from.name);
            return Err(ActionError::Precondition(text));
        }
    }
    Ok(())
}

async fn remove_data(
    d: &Drivers,
    v: &View,
    reason: &str,
    facts: &mut Vec<Fact>,
) -> Result<(), ActionError> {
    drop(d.slot_copies.take());
    let dir = d.setup().data_dir();
    if v.server.postmaster.is_some() || v.guard.populated {
        let text = "the data directory is in use".to_owned();
        return Err(ActionError::Precondition(text));
    }
    let message_id = events::DATA_REMOVED;
    tracing::warn!(message_id, "Removing data directory: {} ({reason})", dir.display());
    let removal = tokio::task::spawn_blocking(move || datadir::remove_contents(&dir)).await;
    removal.map_err(|e| ActionError::Precondition(e.to_string()))??;
    durable::remove(&rewind_marker(&d.setup().data_dir()))?;
    facts.push(Fact::ReinitializeBegun);
    Ok(())
}
