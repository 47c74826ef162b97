//! The loop: take events in, decide, have it done. It waits for nothing but events; what takes
//! time runs beside it and reports back as an event.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::api::options::Options as RestOptions;
use crate::api::restart::{self, RestartPlan};
use crate::api::snapshot::{Reply, Snapshot};
use crate::core::decide::decide;
use crate::core::decision::{Action, Decision};
use crate::core::events;
use crate::core::failsafe;
use crate::core::guard::Phase;
use crate::core::settings::SyncMode;
use crate::core::slots::SlotMemory;
use crate::core::time::Boot;
use crate::core::view::View;
use crate::link::order::Order;
use crate::link::state::State;
use crate::sys::clock;
use crate::telemetry;

use super::callbacks::Callbacks;
use super::drivers::Drivers;
use super::duties;
use super::events::Event;
use super::executor;
use super::inspect::{Inspection, inspect};
use super::lease::Standing;
use super::promises::Seeking;
use super::publish;
use super::requests;
use super::say::Told;
use super::world::World;

/// A hung disk must not hang the loop: the last inspection counts until a new one arrives.
const INSPECT_WITHIN: Duration = Duration::from_secs(1);

/// Failed batches are repeated after this, doubled each time up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// More than a batch can take with every hook and checkpoint in it at its bound.
const BATCH_MAX: Duration = Duration::from_secs(900);

/// Duties are tried again after this when one failed: none is urgent.
const DUTIES_RETRY: Duration = Duration::from_millis(500);

/// The same batch is not begun again sooner: what it did may take a moment to be seen.
const SAME_BATCH: Duration = Duration::from_millis(100);

/// Events taken in before a decision; more wait for the next turn.
const EVENTS_A_TURN: usize = 64;

pub struct Turn {
    pub world: World,
    pub drivers: Arc<Drivers>,
    pub events: mpsc::Receiver<Event>,
    pub standing: watch::Sender<Option<Standing>>,
    pub seeking: watch::Sender<Option<Arc<Seeking>>>,
    pub pace: watch::Sender<Duration>,
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    pub batch: Option<JoinHandle<()>>,
    pub batch_since: Boot,
    /// An inspection that did not end in time, and what it is of.
    pub inspecting: Option<(u64, JoinHandle<Inspection>)>,
    pub duties: Option<JoinHandle<()>>,
    pub failures: u32,
    pub not_before: Boot,
    pub duties_at: Boot,
    pub duties_not_before: Boot,
    pub said_at: Boot,
    pub reloads: u32,
    pub unwritten: Unwritten,
    pub last: Option<Decision>,
    pub explain: Vec<String>,
    pub wake_at: Boot,
    pub options: watch::Sender<Arc<RestOptions>>,
    /// Requests that wait for a restart to end.
    pub restart_waiters: Vec<RestartWaiter>,
    pub scheduled_restart: Option<RestartPlan>,
    pub slots: SlotMemory,
    pub callbacks: Callbacks,
    pub told: Told,
    /// The timeline whose first checkpoint was asked for.
    pub checkpointed: Option<u32>,
}

/// What of a changed configuration is not in PostgreSQL's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritten {
    Nothing,
    All,
    /// All but who may connect: a server that keeps us out has got that, and the rest waits for a
    /// session.
    AllButAccess,
}

/// A request that waits for a restart, and until when.
pub type RestartWaiter = (oneshot::Sender<Reply>, Boot);

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    LinkLost,
    Goodbye,
    GiveUp(String),
}

impl Turn {
    pub async fn run(mut self) -> End {
        loop {
            let sleep = self.wake_at.since(clock::boot());
            match tokio::time::timeout(sleep, self.events.recv()).await {
                Ok(Some(event)) => {
                    if let Some(end) = self.take_in(event).await {
                        return end;
                    }
                }
                Ok(None) => return End::LinkLost,
                // Time to look again.
                Err(_) => {}
            }
            if let Some(reason) = self.world.give_up.take() {
                return End::GiveUp(reason);
            }
            if self.world.goodbye {
                return End::Goodbye;
            }
            self.look().await;
        }
    }

    /// Takes in one event and those that wait behind it.
    async fn take_in(&mut self, first: Event) -> Option<End> {
        let mut event = first;
        for _ in 0..EVENTS_A_TURN {
            if matches!(event, Event::LinkLost) {
                return Some(End::LinkLost);
            }
            self.handle(event).await;
            match self.events.try_recv() {
                Ok(next) => event = next,
                Err(_) => break,
            }
        }
        None
    }

    async fn handle(&mut self, mut event: Event) {
        let before = self.world.link.clone();
        self.world.apply(&mut event, clock::wall());
        match event {
            Event::Done { failed, .. } => self.batch_ended(failed),
            Event::DutiesDone { failed, .. } => {
                self.duties = None;
                if failed {
                    self.duties_not_before = clock::boot().plus(DUTIES_RETRY);
                }
            }
            Event::Refresh => self.drivers.refresh.notify_one(),
            Event::Request(request) => {
                requests::handle(self, request);
            }
            Event::Link(state) => self.link_changed(&before, &state),
            Event::Cluster { .. } => {
                if let Some(reason) = self.world.doubt() {
                    tracing::error!("the store is not believed: {reason}");
                }
                self.take_configuration();
                // What the leader says may concern what we believe of our own stream.
                self.drivers.probe_now.notify_one();
            }
            Event::Promises { missing, .. } => {
                if !missing.is_empty() {
                    tracing::warn!("no promise not to lead from {}", missing.join(", "));
                }
            }
            Event::ClusterFailed { .. }
            | Event::Lease(_)
            | Event::Copied(_)
            | Event::Probe { .. }
            | Event::Refused { .. }
            | Event::Unreached { .. }
            | Event::Unanswered { .. }
            | Event::Unwritten { .. }
            | Event::Volumes { .. }
            | Event::LinkLost => {}
        }
    }

    fn batch_ended(&mut self, failed: Option<String>) {
        self.batch = None;
        match failed {
            None => self.failures = 0,
            Some(error) => {
                let pause = RETRY_FIRST.saturating_mul(1 << self.failures.min(6)).min(RETRY_MAX);
                self.failures = self.failures.saturating_add(1);
                self.not_before = clock::boot().plus(pause);
                tracing::warn!("{error}; trying again in {} ms", pause.as_millis());
            }
        }
        // A batch may have changed the configuration in the store.
        self.take_configuration();
    }

    fn link_changed(&mut self, before: &State, state: &State) {
        if state.reloads != self.reloads {
            self.reloads = state.reloads;
            self.reload();
            let (supervisor, reload) = (self.drivers.supervisor.clone(), state.reloads);
            tokio::spawn(async move {
                if let Err(error) = supervisor.order(Order::Reloaded { reload }).await {
                    tracing::warn!("the end of the reload could not be told: {error}");
                }
            });
        }
        // A server that came, went or may have changed its role is asked at once; the confirmations
        // of a lease say nothing about it.
        let about = |s: &State| (s.postmaster, s.phase, s.group.frozen, s.jobs.clone());
        if about(before) != about(state) {
            self.drivers.probe_now.notify_one();
        }
    }

    /// Reads the local configuration again; a bad one is refused whole, the old one stays. The
    /// certificates that it names are read again even so: they may have been renewed.
    pub fn reload(&mut self) {
        match self.drivers.reload() {
            Ok(options) => {
                self.options.send_replace(Arc::new(options));
                telemetry::start(&self.drivers.setup().local.log);
                let message_id = events::RELOADED;
                tracing::info!(message_id, "Reloaded the configuration");
            }
            Err(errors) => {
                for error in errors {
                    tracing::error!("{error}");
                }
                let message_id = events::RELOAD_REFUSED;
                let text = "the configuration was not reloaded; the old one stays in force";
                tracing::error!(message_id, "{text}");
                if let Ok(options) = RestOptions::new(&self.drivers.setup().local.restapi) {
                    self.options.send_replace(Arc::new(options));
                }
            }
        }
        self.apply_setup();
        self.unwritten = Unwritten::All;
    }

    /// Brings `/config` into force when it has changed.
    fn take_configuration(&mut self) {
        let Some(cluster) = self.world.cluster() else { return };
        let patroni = cluster.has_patroni();
        if self.drivers.take_dynamic(&cluster, patroni) {
            let before = self.world.settings.paused;
            self.apply_setup();
            self.unwritten = Unwritten::All;
            self.say_pause(before, patroni);
        }
    }

    fn apply_setup(&mut self) {
        let setup = self.drivers.setup();
        self.world.settings = setup.settings().clone();
        self.world.tags = setup.local.tags.clone();
        let drivers = self.drivers.clone();
        tokio::spawn(async move { drivers.leases.reconfigure(&drivers).await });
    }

    /// One look at the world: decide, publish, start what is to be done.
    async fn look(&mut self) {
        let now = clock::boot();
        if self.world.needs_inspection() {
            self.inspect().await;
        }
        self.finish_restarts();
        self.callbacks.look(&self.world, &self.drivers);
        if self.batch.is_some() {
            self.stand_while_busy(now);
            self.wake_at = now.plus(Duration::from_secs(1));
            publish::publish(self, now);
            return;
        }
        let view = self.world.view(now, clock::wall());
        let decision = decide(&view);
        self.say_findings(&view);
        // What failed waits; what is more urgent now does not wait with it.
        if now < self.not_before && self.last.as_ref().is_some_and(|d| d.rule == decision.rule) {
            self.wake_at = self.not_before;
            self.stand(&decision);
            publish::publish(self, now);
            return;
        }
        let again = self.batch_since.plus(SAME_BATCH);
        let same = |d: &Decision| d.rule == decision.rule && d.actions == decision.actions;
        if !decision.actions.is_empty() && now < again && self.last.as_ref().is_some_and(same) {
            self.wake_at = again;
            self.stand(&decision);
            publish::publish(self, now);
            return;
        }
        self.say_roles();
        self.say_decision(&decision);
        self.world.memory = decision.memory.clone();
        self.wake_at = now.plus(decision.wake_after);
        self.stand(&decision);
        if !decision.actions.is_empty() {
            self.start(decision.actions.clone());
        } else if let Some(files) =
            duties::configuration(self, &self.world.view(now, clock::wall()))
        {
            self.batch_since = now;
            self.batch = Some(executor::apart(duties::configure(self.drivers.clone(), files)));
        }
        self.last = Some(decision);
        self.set_pace();
        if self.duties.is_none() && now >= self.duties_not_before {
            duties::start(self, now);
        }
        publish::publish(self, now);
    }

    /// Answers those who wait for a restart, and begins one that is due.
    fn finish_restarts(&mut self) {
        let ended = !self.world.wishes.restart && !self.world.memory.restarting;
        if ended {
            for (waiter, _) in self.restart_waiters.drain(..) {
                // The client may be gone.
                let _ = waiter.send(restart::done());
            }
        }
        let now = clock::boot();
        let lost = self.world.nothing_to_start().filter(|_| self.world.link.postmaster.is_none());
        let over = |waiter: &mut RestartWaiter| lost.is_some() || now >= waiter.1;
        for (waiter, _) in self.restart_waiters.extract_if(.., over) {
            // What was not begun by now is not done later, unasked.
            self.world.wishes.restart &= self.world.memory.restarting;
            let why = self.last.as_ref().map(|decision| decision.why.as_str());
            let _ = waiter.send(match (&lost, self.world.link.postmaster) {
                (Some(reason), _) => restart::failed(reason),
                (None, Some(_)) => restart::still_starting(),
                (None, None) => restart::failed(why.unwrap_or_default()),
            });
        }
        let due = |plan: &mut RestartPlan| plan.schedule.is_some_and(|at| at <= clock::wall());
        if let Some(plan) = self.scheduled_restart.take_if(due) {
            let snapshot = self.snapshot.borrow().clone();
            if let Err(reply) = requests::begin_restart(self, &snapshot, &plan) {
                tracing::warn!("Scheduled restart: {}", reply.body);
            }
        }
    }

    async fn inspect(&mut self) {
        let epoch = self.world.inspection_epoch;
        // One at a time: on a hung disk each would hold a thread, and name resolution needs some.
        let mut job = match self.inspecting.take() {
            Some((of, job)) if of == epoch => job,
            _ => {
                let dir = self.world.data_dir_path.clone();
                tokio::task::spawn_blocking(move || inspect(&dir))
            }
        };
        match tokio::time::timeout(INSPECT_WITHIN, &mut job).await {
            Ok(Ok(inspection)) => self.world.inspection = Some(inspection),
            ended => {
                if ended.is_err() {
                    self.inspecting = Some((epoch, job));
                }
                tracing::error!(
                    "the data directory {} does not answer",
                    self.world.data_dir_path.display()
                );
            }
        }
    }

    /// The lease is renewed while a batch runs, too: a checkpoint before a switchover takes longer
    /// than a ttl. The loop turns, every action ends within a bound, and so does this.
    fn stand_while_busy(&self, now: Boot) {
        if let Some(decision) = &self.last
            && now.since(self.batch_since) < BATCH_MAX
        {
            let renew_until = now.plus(self.world.settings.ttl);
            self.stand(&Decision { renew_until, ..decision.clone() });
        }
    }

    /// The lease is renewed only as long as decisions are made.
    fn stand(&self, decision: &Decision) {
        self.seek_promises(decision, &self.world.view(clock::boot(), clock::wall()));
        let settings = &self.world.settings;
        let second = Duration::from_secs(1);
        let link = &self.world.link;
        let leads =
            matches!(link.phase, Phase::Candidate | Phase::Leading | Phase::Frozen | Phase::Paused);
        // While ttl changes the lease that is renewed still has the old length.
        let held = self.world.lease().map_or(settings.ttl, |lease| lease.ttl.min(settings.ttl));
        // Two renewals must fit before the deadline in force, which a watchdog device shortens.
        let needed = link.budget.filter(|_| leads).map(|budget| budget.k);
        let cadence = needed.unwrap_or(settings.loop_wait.min(held / 3));
        let standing = Standing {
            until: decision.renew_until,
            ttl: settings.ttl,
            cadence,
            within: settings.retry_timeout.min(held / 3).max(second),
        };
        // Without a look at the cluster the lease length that is wanted is not known.
        let known = self.world.cluster().is_some();
        self.standing.send_if_modified(|old| {
            let changed = known && *old != Some(standing);
            if changed {
                *old = Some(standing);
            }
            changed
        });
    }

    /// Promises are asked for only as long as decisions are made, too.
    fn seek_promises(&self, decision: &Decision, view: &View) {
        let seeking = failsafe::whom_to_ask(view)
            .map(|members| Arc::new(Seeking { members, until: decision.renew_until }));
        self.seeking.send_if_modified(|old| {
            let changed = *old != seeking;
            if changed {
                *old = seeking;
            }
            changed
        });
    }

    fn start(&mut self, actions: Vec<Action>) {
        let drivers = self.drivers.clone();
        let view = self.world.view(clock::boot(), clock::wall());
        self.batch_since = view.now;
        self.batch = Some(tokio::spawn(executor::carry_out(drivers, view, actions)));
    }

    /// Names were put into force, and no answer shows that yet: until then `/sync` names nobody.
    fn sync_is_young(&self) -> bool {
        let set = self.world.memory.sync_names_set;
        set.is_some_and(|at| clock::boot().since(at) < Duration::from_secs(2))
    }

    /// In synchronous mode the server's answers say who may be named.
    fn sync_lacks_names(&self) -> bool {
        let (settings, leads) = (&self.world.settings, self.world.link.phase == Phase::Leading);
        let synchronous = leads && settings.synchronous_mode != SyncMode::Off;
        self.world.cluster().filter(|_| synchronous).is_some_and(|cluster| {
            let named = cluster.sync.as_ref().map_or(0, |key| key.value.standbys.len());
            let wanted = settings.synchronous_node_count.max(1) as usize;
            named < wanted.min(cluster.members.len().saturating_sub(1))
        })
    }

    /// Probes come often while something is under way, seldom while all is well.
    fn set_pace(&self) {
        let loop_wait = self.world.settings.loop_wait;
        let steady = self.last.as_ref().is_some_and(|d| d.rule.ends_with(".steady"));
        let seldom = (loop_wait / 2).clamp(Duration::from_millis(500), Duration::from_secs(5));
        let pace = match steady && !self.sync_is_young() {
            // Each question that a hung server does not answer costs it a connection.
            _ if self.world.silent() => Duration::from_secs(5),
            true if self.sync_lacks_names() => seldom.min(Duration::from_secs(1)),
            true => seldom,
            false => Duration::from_millis(100),
        };
        self.pace.send_if_modified(|old| std::mem::replace(old, pace) != pace);
    }
}
