//! The agent's loop around `core::decide`: what it knows, how it learns, when it looks. It follows
//! `agent::{turn, world, lease, reader, prober}`, whose drivers are replaced here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::cluster::Member as MemberDocument;
use crate::core::database::{DataDir, Probe};
use crate::core::decide::decide;
use crate::core::decision::Action;
use crate::core::failsafe;
use crate::core::guard::{Device, Phase};
use crate::core::settings::Settings;
use crate::core::time::Boot;
use crate::core::timeline::History;
use crate::core::view::{
    DataJob, GuardView, Memory, PeerAnswer, Postmaster, Seen, Server, Store, View, Wishes,
};

use super::action;
use super::duty;
use super::engine::{Sim, Slot};
use super::health::Found;
use super::promise::{self, Seeking};
use super::store::{Answer, Request};
use super::tasks;
use super::world::{Host, World, ms};

/// The same actions for the same reason are not begun again sooner.
const REPEAT_AFTER: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Default)]
pub struct Inspection {
    pub data_dir: Option<DataDir>,
    pub standby_signal: bool,
    pub bootstrapping: bool,
    pub promoting: bool,
    pub half_rewound: bool,
    pub stay_down: bool,
    pub shm_attached: bool,
    pub running_pid: Option<i32>,
}

#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub until: Boot,
    pub ttl: Duration,
    pub cadence: Duration,
    pub within: Duration,
}

#[derive(Default)]
pub struct Agent {
    pub generation: u32,
    pub frozen: bool,
    /// What is in force here, and the revision of `/config` that said so.
    pub settings: Settings,
    pub config_revision: i64,
    /// When this agent learned of the present pause.
    pub paused_since: Boot,
    pub store: Store,
    pub inspection: Option<Inspection>,
    pub probe: Option<(i32, Seen<Arc<Probe>>)>,
    pub upstream: Option<String>,
    pub leader_history: Option<(u32, History)>,
    pub stopping: Option<(i32, Boot)>,
    pub peers: BTreeMap<String, PeerAnswer>,
    pub peers_asked_at: Option<Boot>,
    pub wishes: Wishes,
    pub memory: Memory,
    pub written: Option<MemberDocument>,
    pub history_written: u32,
    pub busy: bool,
    pub on_duty: bool,
    pub failures: u32,
    /// What was started last, by which rule, and when.
    pub batch: Option<(&'static str, Vec<Action>, Boot)>,
    pub not_before: Boot,
    pub duties_at: Boot,
    pub rule: &'static str,
    pub why: String,
    pub wake_at: Boot,
    pub standing: Option<Standing>,
    pub seeking: Option<Seeking>,
    pub found: Found,
    pub pace: Duration,
    pub lease_busy: bool,
    /// Pid, permit and phase as seen last.
    link: (Option<i32>, bool, Phase),
    pub bell: Slot<()>,
    pub keeper: Slot<()>,
    pub reader: Slot<()>,
    pub prober: Slot<()>,
    pub seeker: Slot<()>,
}

/// What a task of an agent holds.
#[derive(Clone)]
pub struct Ctx {
    pub sim: Sim,
    pub m: usize,
}

impl Ctx {
    pub fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        self.sim.with(f)
    }

    /// Tasks run only while their agent is there.
    pub fn agent<T>(&self, f: impl FnOnce(&mut Agent) -> T) -> T {
        let m = self.m;
        self.sim.with(|w| f(w.members[m].agent.as_mut().expect("invariant: tasks have an agent")))
    }

    pub fn local(&self) -> Boot {
        self.with(|w| w.local(self.m))
    }

    pub async fn call(&self, request: Request, within: Duration) -> Result<Answer, CallError> {
        let slot = Slot::default();
        self.with(|w| w.request(self.m, request, slot.clone()));
        match slot.take(&self.sim, within).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(())) => Err(CallError::Refused),
            None => Err(CallError::Timeout),
        }
    }

    pub async fn read(&self, within: Duration) -> Result<(), CallError> {
        let sent_at = self.local();
        match self.call(Request::Read, within).await {
            Ok(Answer::Cluster(cluster)) => {
                let received_at = self.local();
                self.agent(|a| a.store.learn(cluster, sent_at, received_at, a.settings.ttl));
                self.with(|w| w.take_configuration(self.m));
                Ok(())
            }
            Ok(_) => Err(CallError::Refused),
            Err(error) => Err(error),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// Nobody knows whether it was done.
    Timeout,
    Refused,
}

impl Agent {
    /// The control file still names the timeline from before the promotion.
    fn awaits_checkpoint(&self) -> bool {
        let dir = self.inspection.as_ref().and_then(|i| i.data_dir.as_ref());
        match (&self.probe, dir) {
            (Some((_, seen)), Some(DataDir::Cluster { control, .. })) => {
                !seen.value.in_recovery && control.timeline < seen.value.timeline
            }
            _ => false,
        }
    }
}

impl World {
    pub fn start_agent(&mut self, m: usize) {
        let member = &mut self.members[m];
        if member.supervisor.is_none() || member.agent.is_some() || member.host == Host::Down {
            return;
        }
        if member.host == Host::Frozen || member.supervisor.as_ref().is_some_and(|s| s.frozen) {
            // Started when the supervisor gets to it.
            return self.later(ms(500), move |sim| sim.with(|w| w.start_agent(m)));
        }
        member.generations += 1;
        let (generation, pace) = (member.generations, ms(100));
        let held = member.supervisor.as_ref().map(|s| s.capsule.recalled()).unwrap_or_default();
        let settings = member.cached.clone();
        let mut agent = Agent { generation, pace, settings, ..Agent::default() };
        (agent.store.lease, agent.store.next_lease) = (held.lease, held.next);
        agent.store.failsafe = self.recall(m);
        self.members[m].agent = Some(agent);
        self.configure(m);
        self.later(ms(20), move |sim| {
            let there = sim
                .with(|w| w.members[m].agent.as_ref().is_some_and(|a| a.generation == generation));
            if there {
                let ctx = Ctx { sim: sim.clone(), m };
                sim.spawn(m, turn(ctx.clone()));
                sim.spawn(m, tasks::read(ctx.clone()));
                sim.spawn(m, tasks::probe(ctx.clone()));
                sim.spawn(m, tasks::keep(ctx.clone()));
                sim.spawn(m, promise::keep(ctx));
            }
        });
    }

    /// The agent dies; the supervisor starts another one.
    pub fn kill_agent(&mut self, m: usize, again: bool) {
        if self.members[m].agent.take().is_none() {
            return;
        }
        self.later(Duration::ZERO, move |sim| sim.kill_tasks(m));
        if again {
            let delay = self.some_ms(50, 1500);
            self.later(delay, move |sim| sim.with(|w| w.start_agent(m)));
        }
    }

    pub fn tell_agent(&mut self, m: usize) {
        if let Some(agent) = &self.members[m].agent {
            let (bell, prober) = (agent.bell.clone(), agent.prober.clone());
            self.ring(&bell, Duration::from_micros(300));
            self.ring(&prober, Duration::from_micros(300));
        }
    }

    /// What the last read says of `/config` comes into force, and is kept for the next start.
    fn take_configuration(&mut self, m: usize) {
        let Some(a) = self.members[m].agent.as_ref() else { return };
        let Some(config) = a.store.cluster.as_ref().and_then(|c| c.value.config.as_ref()) else {
            return;
        };
        let number: usize = config.value.parse().unwrap_or_default();
        let revision = config.mod_revision;
        if revision == a.config_revision {
            return;
        }
        let settings = self.configs[number].clone();
        self.members[m].cached = settings.clone();
        let now = self.local(m);
        if let Some(a) = self.agent(m) {
            if settings.paused && !a.settings.paused {
                a.paused_since = now;
            }
            (a.settings, a.config_revision) = (settings, revision);
        }
    }

    /// The supervisor's newest state reaches the agent.
    fn sync_link(&mut self, m: usize) {
        let Some(s) = &self.members[m].supervisor else { return };
        let pid = s.postmaster.map(|(pid, _)| pid);
        let link = (pid, s.shown.permitted(), s.shown.phase());
        let stop = s.stop_requested;
        let Some(a) = self.agent(m) else { return };
        if a.stopping.is_some_and(|(of, _)| Some(of) != pid) {
            a.stopping = None;
        }
        if a.probe.as_ref().is_some_and(|(of, _)| Some(*of) != pid) {
            a.probe = None;
        }
        if (link.0, link.1) != (a.link.0, a.link.1) && link.2 != a.link.2 {
            a.probe = None;
        }
        a.wishes.stop = stop;
        a.link = link;
    }

    pub fn inspect(&self, m: usize) -> Inspection {
        let member = &self.members[m];
        let dir = member.disk.dir();
        Inspection {
            data_dir: Some(member.disk.inspect(&self.wal)),
            standby_signal: dir.is_some_and(|d| d.standby_signal),
            bootstrapping: dir.is_some_and(|d| d.bootstrapping),
            promoting: dir.is_some_and(|d| d.promoting),
            half_rewound: dir.is_some_and(|d| d.half_rewound),
            stay_down: member.held,
            shm_attached: member.server.is_some(),
            running_pid: member.server.as_ref().filter(|s| !s.orphaned).map(|s| s.pid),
        }
    }

    pub fn view(&mut self, m: usize) -> View {
        self.sync_link(m);
        let (now, wall) = (self.local(m), self.wall(m));
        let member = &self.members[m];
        let a = member.agent.as_ref().expect("invariant: an agent looks");
        let i = a.inspection.clone().unwrap_or_default();
        let server = Server {
            data_dir: i.data_dir,
            standby_signal: i.standby_signal,
            bootstrapping: i.bootstrapping,
            promoting: i.promoting,
            half_rewound: i.half_rewound,
            stay_down: i.stay_down,
            shm_attached: i.shm_attached,
            running_pid: i.running_pid,
            postmaster: member.supervisor.as_ref().and_then(|s| {
                let (pid, started_at) = s.postmaster?;
                let stopping_since = a.stopping.filter(|(of, _)| *of == pid).map(|(_, at)| at);
                let permitted = s.shown.permitted();
                Some(Postmaster { pid, started_at, permitted, stopping_since })
            }),
            last_exit: member.supervisor.as_ref().and_then(|s| s.last_exit),
            probe: a.probe.as_ref().map(|(_, seen)| seen.clone()),
            refused: None,
            unreached: None,
            upstream: a.upstream.clone(),
            leader_history: a.leader_history.clone(),
            leader_slots: None,
        };
        View {
            now,
            wall,
            name: member.name.clone(),
            tags: member.tags.clone(),
            settings: a.settings.clone(),
            store: a.store.clone(),
            guard: self.guard_view(m),
            server,
            health: self.health(m),
            job: self.data_job(m),
            peers: a.peers.clone(),
            peers_asked_at: a.peers_asked_at,
            wishes: a.wishes.clone(),
            memory: a.memory.clone(),
        }
    }

    fn guard_view(&self, m: usize) -> GuardView {
        let Some(s) = &self.members[m].supervisor else { return GuardView::default() };
        let lease = s.shown.lease();
        GuardView {
            phase: s.shown.phase(),
            tenure: lease.map(|l| l.tenure),
            sent_at: lease.map(|l| l.sent_at),
            deadline: s.shown.deadline(),
            burned: s.shown.burned(),
            fresh: s.shown.budget().map_or(Duration::ZERO, |b| b.g),
            fenceable: true,
            populated: s.shown.group().populated,
            stop_requested: s.stop_requested,
            awaits_device: s.shown.device() == Device::Arming,
        }
    }

    fn data_job(&self, m: usize) -> Option<DataJob> {
        let jobs = &self.members[m].supervisor.as_ref()?.jobs;
        jobs.iter()
            .map(|j| DataJob { id: j.id, work: j.work, succeeded: j.succeeded })
            .max_by_key(|j| (j.succeeded.is_none(), j.id))
    }
}

/// The loop.
async fn turn(ctx: Ctx) {
    loop {
        let (bell, sleep) = ctx.with(|w| {
            let now = w.local(ctx.m);
            let a = w.members[ctx.m].agent.as_ref().expect("invariant: an agent looks");
            (a.bell.clone(), a.wake_at.since(now))
        });
        let _ = bell.take(&ctx.sim, sleep.max(Duration::from_micros(100))).await;
        look(&ctx);
    }
}

/// One look at the world.
fn look(ctx: &Ctx) {
    let m = ctx.m;
    let actions = ctx.with(|w| {
        w.sync_link(m);
        let now = w.local(m);
        let inspection = w.inspect(m);
        let no_server = w.members[m].supervisor.as_ref().is_none_or(|s| s.postmaster.is_none());
        let a = w.members[m].agent.as_mut()?;
        let awaits_checkpoint = a.awaits_checkpoint();
        if a.inspection.is_none() || no_server || a.stopping.is_some() || awaits_checkpoint {
            a.inspection = Some(inspection);
        }
        if a.busy {
            a.wake_at = now.plus(Duration::from_secs(1));
            let ttl = a.settings.ttl;
            w.stand(m, now.plus(ttl));
            return None;
        }
        let mut view = w.view(m);
        w.distort(&mut view);
        let decision = decide(&view);
        w.checks.decided(m, w.now, &decision);
        let a = w.members[m].agent.as_ref()?;
        if a.rule != decision.rule || a.why != decision.why {
            w.check_fixed_point(&view, &decision);
        }
        let a = w.members[m].agent.as_mut()?;
        // What failed waits, and so does what was done just now; what is more urgent does not.
        let again = a.batch.as_ref().filter(|b| (b.0, &b.1) == (decision.rule, &decision.actions));
        let repeat = again.map_or(Boot(0), |(_, _, at)| at.plus(REPEAT_AFTER));
        let held = if a.rule == decision.rule { repeat.max(a.not_before) } else { Boot(0) };
        if now < held {
            a.wake_at = held;
            w.stand(m, decision.renew_until);
            return None;
        }
        if !decision.actions.is_empty() {
            a.batch = Some((decision.rule, decision.actions.clone(), now));
        }
        let news = a.rule != decision.rule || a.why != decision.why;
        a.rule = decision.rule;
        a.why.clone_from(&decision.why);
        a.memory = decision.memory.clone();
        view.memory = decision.memory;
        a.wake_at = now.plus(decision.wake_after);
        if news {
            let code = decision.rule.bytes().fold(7, |h: u64, b| h * 31 % 65_521 + u64::from(b));
            w.say(Some(m), || format!("{}: {}", decision.rule, decision.why), code);
        }
        w.stand(m, decision.renew_until);
        w.seek(m, &view, decision.renew_until);
        Some((view, decision.actions))
    });
    let Some((view, actions)) = actions else { return };
    if !actions.is_empty() {
        ctx.agent(|a| a.busy = true);
        ctx.sim.spawn(m, action::carry_out(ctx.clone(), view.clone(), actions));
    }
    duty::start(ctx, &view);
}

impl World {
    /// Promises are asked for only as long as decisions are made, too.
    fn seek(&mut self, m: usize, view: &View, until: Boot) {
        let seeking = failsafe::whom_to_ask(view)
            .map(|members| Seeking { members: members.into_keys().collect(), until });
        let Some(a) = self.agent(m) else { return };
        if a.seeking != seeking {
            a.seeking = seeking;
            let bell = a.seeker.clone();
            self.ring(&bell, Duration::ZERO);
        }
    }

    /// The lease is renewed only as long as decisions are made.
    fn stand(&mut self, m: usize, until: Boot) {
        let phase = self.shown_phase(m);
        let budget = self.members[m].supervisor.as_ref().and_then(|s| s.shown.budget());
        let Some(a) = self.members[m].agent.as_mut() else { return };
        let (ttl, loop_wait) = (a.settings.ttl, a.settings.loop_wait);
        // While ttl changes the lease that is renewed still has the old length.
        let held = a.store.lease.map_or(ttl, |lease| lease.ttl.min(ttl));
        let retry_timeout = a.settings.retry_timeout;
        let leads =
            matches!(phase, Phase::Candidate | Phase::Leading | Phase::Frozen | Phase::Paused);
        let second = Duration::from_secs(1);
        let needed = budget.filter(|_| leads).map(|budget| budget.k);
        let cadence = needed.unwrap_or(loop_wait.min(held / 3));
        let within = retry_timeout.min(held / 3).max(second);
        if a.store.cluster.is_some() {
            let first = a.standing.is_none();
            a.standing = Some(Standing { until, ttl, cadence, within });
            let keeper = a.keeper.clone();
            if first {
                self.ring(&keeper, Duration::ZERO);
            }
        }
        let Some(a) = self.members[m].agent.as_mut() else { return };
        let steady = a.rule.ends_with(".steady");
        let pace = if steady { (loop_wait / 2).clamp(ms(500), second * 5) } else { ms(100) };
        if std::mem::replace(&mut a.pace, pace) != pace {
            let prober = a.prober.clone();
            self.ring(&prober, Duration::ZERO);
        }
    }
}
