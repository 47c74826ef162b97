//! From the command line to the running loop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::api::options::Options as RestOptions;
use crate::api::server::{self as rest, Shared};
use crate::api::snapshot::Snapshot;
use crate::config::{Endpoint, Local};
use crate::core::error::chain;
use crate::core::slots::SlotMemory;
use crate::core::time::Boot;
use crate::dcs::Dcs;
use crate::discovery;
use crate::link::AgentEnd;
use crate::link::order::{Configure, Order};
use crate::link::state::State;
use crate::postgres::durable::{self, FileError, at};
use crate::postgres::files;
use crate::sys::{clock, process};

use super::callbacks::Callbacks;
use super::drivers::{Drivers, Origin, Setup, peer_client};
use super::events::Event;
use super::lease::{Leases, decode_capsule};
use super::orders::{Supervisor, only_handled};
use super::say::Told;
use super::turn::{End, Turn, Unwritten};
use super::world::World;
use super::{
    accepted, health, late_device, preflight, prober, progress, promises, reader, reset, server,
    twin, volume,
};

/// The exit code that tells the supervisor not to try again (EX_CONFIG of sysexits.h).
pub const CONFIGURATION_REFUSED: i32 = 78;

/// Events that may wait; senders wait beyond that.
const EVENTS_MAX: usize = 256;

/// Commands from HTTP that may wait.
const REQUESTS_MAX: usize = 64;

/// Between two looks whether the REST API can have its address.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);

const STACK_BYTES: usize = 512 * 1024;

/// Systemd kills what does not say a word for three of these.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Runs an agent until it is told to end; the exit code.
pub fn run(config_path: Option<PathBuf>, environment: BTreeMap<String, String>) -> i32 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the agent cannot start its threads: {error}");
            return 1;
        }
    };
    let code = runtime.block_on(live(Origin { path: config_path, environment }));
    // Tasks that hang in the kernel must not hold the exit up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn live(origin: Origin) -> i32 {
    let (end, generation) = match AgentEnd::from_env() {
        Ok(found) => found,
        Err(error) => {
            eprintln!("no link to a supervisor: {error}");
            return 1;
        }
    };
    let parent = process::parent();
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    let (states, state) = watch::channel(Arc::new(State::default()));
    let end = Arc::new(end);
    tokio::spawn(receive(end.clone(), states, events.clone()));
    let supervisor = Supervisor::new(end, generation, state);
    let prepared = match prepare(origin, supervisor, events).await {
        Ok(prepared) => prepared,
        Err(why) => {
            why.into_iter().for_each(|why| tracing::error!("{why}"));
            return CONFIGURATION_REFUSED;
        }
    };
    let (supervisor, setup) = (prepared.drivers.supervisor.clone(), prepared.drivers.setup());
    let end = assemble(prepared, inbox).run().await;
    if matches!(end, End::GiveUp(_)) {
        volume::stop(&setup);
    }
    ended(&supervisor, parent, end).await
}

async fn ended(supervisor: &Supervisor, parent: i32, end: End) -> i32 {
    match end {
        End::Goodbye => 0,
        End::LinkLost => {
            // A process that dies closes its files first, and then loses its children.
            tokio::time::sleep(Duration::from_millis(10)).await;
            match process::parent() == parent {
                true => tracing::info!("the supervisor goes on with another program and agent"),
                false => tracing::error!("the supervisor is gone"),
            }
            1
        }
        End::GiveUp(reason) => {
            tracing::error!("{reason}");
            // Refused while something runs: then the next agent looks again.
            if let Err(error) = supervisor.order(Order::Goodbye { failed: true }).await {
                tracing::error!("{error}");
            }
            1
        }
    }
}

/// Passes states on: to the loop first, so that whoever waits for the handling of an order finds
/// that the loop knows of it. A state that says no more than that, after each heartbeat, does not
/// wake the loop.
async fn receive(
    end: Arc<AgentEnd>,
    states: watch::Sender<Arc<State>>,
    events: mpsc::Sender<Event>,
) {
    loop {
        match end.recv().await {
            Ok(state) => {
                let state = Arc::new(state);
                let told = only_handled(&state, &states.borrow());
                if !told && events.send(Event::Link(state.clone())).await.is_err() {
                    return;
                }
                states.send_replace(state);
            }
            Err(error) => {
                if error.kind() != std::io::ErrorKind::UnexpectedEof {
                    tracing::warn!("link: {error}");
                }
                let _ = events.send(Event::LinkLost).await;
                return;
            }
        }
    }
}

struct Prepared {
    drivers: Arc<Drivers>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// `None`: there is no address for it yet.
    listener: Option<tokio::net::TcpListener>,
    options: Arc<RestOptions>,
}

/// What of a configuration can refuse to be run by, beside its text.
struct Usable {
    dcs: Dcs,
    setup: Setup,
    postgres_path: String,
    options: RestOptions,
}

fn usable(local: Arc<Local>) -> Result<Usable, String> {
    let dcs = Dcs::new(discovery::options(&local.etcd, local.prefix())).map_err(|e| chain(&e))?;
    let dynamic = match files::read_dynamic(Path::new(&local.postgresql.data_dir)) {
        Ok(Some(cached)) => cached,
        Ok(None) => local.bootstrap.dcs.clone(),
        Err(error) => {
            tracing::warn!("the cached dynamic configuration is not usable: {error}");
            local.bootstrap.dcs.clone()
        }
    };
    let dynamic = if dynamic.is_object() { dynamic } else { Value::Object(Default::default()) };
    let setup = Setup::new(local, dynamic, false);
    let postgres_path = server::check_binaries(&setup).map_err(|e| chain(&e))?;
    preflight::check(&setup).map_err(|e| chain(&e))?;
    peer_client(&setup.local).map_err(|e| chain(&e))?;
    let options = RestOptions::new(&setup.local.restapi).map_err(|e| chain(&e))?;
    Ok(Usable { dcs, setup, postgres_path, options })
}

/// Everything that can refuse to start does so here, before the supervisor runs anything. An error
/// without a text was told.
async fn prepare(
    origin: Origin,
    supervisor: Supervisor,
    events: mpsc::Sender<Event>,
) -> Result<Prepared, Option<String>> {
    let refuse = |error: &dyn std::error::Error| Some(chain(error));
    // An order's answer carries the first state; before that there is no capsule to read, and an
    // agent without its lease would let the primary freeze.
    let first = supervisor.order(Order::Heartbeat { status: "starting".to_owned(), ready: false });
    let first = first.await.map_err(|error| {
        eprintln!("{}", chain(&error));
        None
    })?;
    let configured = decode_capsule(&first.capsule).ttl();
    let goes_on = configured.is_some() || first.budget.is_some();
    let accepted = accepted::load(&origin, goes_on, usable).ok_or(None)?;
    let Usable { dcs, setup, postgres_path, options } = accepted.checked;
    if configured.is_none() {
        twin::refuse(&dcs, &setup).await.map_err(Some)?;
    }
    let listen = &setup.local.restapi.listen;
    // The port of an agent that just died is free in a moment; another program's is not.
    let listener = match bind(&listen.host, listen.port).await {
        Err(error) if !goes_on => return Err(refuse(&error)),
        listener => listener.inspect_err(|error| tracing::error!("{}", chain(error))).ok(),
    };
    let told = Configure {
        data_dir: canonical(&setup.data_dir()).map_err(|e| refuse(&e))?,
        // The lease that a former agent left keeps its length.
        ttl: configured.unwrap_or(setup.settings().ttl),
        rho_ppm: setup.primary.rho_ppm,
        freeze_max: setup.settings().freeze_max,
        postgres_path,
        watchdog: setup.watchdog(),
    };
    let configure = Order::Configure(told.clone());
    let state = supervisor.order(configure).await.map_err(|e| refuse(&e))?;
    let listener = match listener {
        // Only here nothing can refuse it any more.
        Some(listener) => {
            accepted::keep(origin.path.as_deref(), &accepted.merged);
            Some(listener)
        }
        None => where_it_was(&origin).await,
    };
    // A supervisor that was started anew may find the capsule only by the data directory's name.
    let known = decode_capsule(&state.capsule);
    if let Some(ttl) = known.ttl().filter(|_| configured.is_none()) {
        supervisor.order(Order::Retune { ttl }).await.map_err(|e| refuse(&e))?;
    }
    // This agent has read the configuration; systemd waits for what the one before did not tell.
    if state.reloads > 0 {
        let reload = state.reloads;
        supervisor.order(Order::Reloaded { reload }).await.map_err(|e| refuse(&e))?;
    }
    let leases = Leases::new(dcs.clone(), supervisor.clone(), known, told, events.clone());
    let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let stay_down = setup.local.vigil.watchdog.stay_down;
    let last_reset = reset::look(&setup.data_dir(), &state, stay_down);
    let drivers = Drivers::new(origin, dcs, supervisor, leases, events, snapshots, setup)
        .map_err(|e| refuse(&e))?;
    match last_reset {
        Ok(reset) => reset.into_iter().for_each(|reset| drop(drivers.last_reset.set(reset))),
        Err(error) => tracing::warn!("the record of the watchdog device: {error}"),
    }
    Ok(Prepared { drivers, snapshot, listener, options: Arc::new(options) })
}

/// The path without symbolic links; the directory itself may not be there yet. Those above it are
/// made: before the first cluster of a version Debian has no /var/lib/postgresql/15.
fn canonical(path: &Path) -> Result<String, FileError> {
    durable::make_parents(path)?;
    let real = path.canonicalize().or_else(|error| {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(error);
        };
        Ok(parent.canonicalize()?.join(name))
    });
    Ok(real.map_err(at("find", path))?.display().to_string())
}

async fn bind(host: &str, port: u16) -> Result<tokio::net::TcpListener, rest::BindError> {
    for _ in 0..20 {
        if let Ok(listener) = rest::bind(host, port).await {
            return Ok(listener);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rest::bind(host, port).await
}

/// As a reload that has the REST API listen where it cannot.
async fn where_it_was(origin: &Origin) -> Option<tokio::net::TcpListener> {
    let kept = accepted::kept(origin.path.as_deref())?;
    let listen = kept.local.restapi.listen;
    let listener = rest::bind(&listen.host, listen.port).await.ok()?;
    tracing::error!("the REST API stays at {}:{}", listen.host, listen.port);
    Some(listener)
}

/// Serves the REST API, where it has no address as soon as it can: the member's lease does not
/// depend on it.
async fn serve(
    drivers: Arc<Drivers>,
    listener: Option<tokio::net::TcpListener>,
    shared: Arc<Shared>,
) {
    let listener = match listener {
        Some(listener) => listener,
        None => {
            tracing::error!("there is no REST API until restapi.listen can be had");
            late(&drivers).await
        }
    };
    rest::serve(listener, shared).await;
}

async fn late(drivers: &Drivers) -> tokio::net::TcpListener {
    loop {
        tokio::time::sleep(LISTEN_AGAIN).await;
        let listen = drivers.setup().local.restapi.listen.clone();
        if let Ok(listener) = rest::bind(&listen.host, listen.port).await {
            tracing::info!("the REST API listens on {}:{}", listen.host, listen.port);
            return listener;
        }
    }
}

fn assemble(prepared: Prepared, inbox: mpsc::Receiver<Event>) -> Turn {
    let Prepared { drivers, snapshot, listener, options } = prepared;
    let setup = drivers.setup();
    let (standing, standing_seen) = watch::channel(None);
    let (seeking, seeking_seen) = watch::channel(None);
    let (pace, pace_seen) = watch::channel(Duration::from_millis(100));
    let (requests, mut commands) = mpsc::channel(REQUESTS_MAX);
    let (options, options_seen) = watch::channel(options);
    let look = drivers.probe_now.clone();
    let (address, moves) = watch::channel(SocketAddr::from(([0; 4], 0)));
    // Where it listens now: a reload may come before that task does.
    let listen = setup.local.restapi.listen.clone();
    tokio::spawn(follow_listen(drivers.clone(), listen, options_seen.clone(), address));
    let snapshots = snapshot.subscribe();
    let shared = Shared { snapshot: snapshots, requests, options: options_seen, look, moves };
    tokio::spawn(serve(drivers.clone(), listener, Arc::new(shared)));
    let events = drivers.events.clone();
    tokio::spawn(async move {
        while let Some(request) = commands.recv().await {
            if events.send(Event::Request(request)).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(drivers.leases.clone().keep(standing_seen));
    tokio::spawn(promises::keep(drivers.clone(), seeking_seen));
    tokio::spawn(reader::run(drivers.clone(), drivers.events.clone()));
    tokio::spawn(prober::run(drivers.clone(), pace_seen, drivers.events.clone()));
    tokio::spawn(progress::run(drivers.clone()));
    tokio::spawn(health::answers(drivers.clone()));
    tokio::spawn(health::writes(drivers.clone()));
    tokio::spawn(volume::watch(drivers.clone()));
    tokio::spawn(reset::run(drivers.clone()));
    tokio::spawn(late_device::run(drivers.clone()));
    tokio::spawn(heartbeat(drivers.clone(), snapshot.subscribe()));
    let link = drivers.supervisor.state();
    let reloads = link.reloads;
    let world = World::new(&setup, link);
    Turn {
        world,
        drivers,
        events: inbox,
        standing,
        seeking,
        pace,
        snapshot,
        options,
        batch: None,
        batch_since: Boot(0),
        inspecting: None,
        duties: None,
        failures: 0,
        not_before: Boot(0),
        duties_at: Boot(0),
        duties_not_before: Boot(0),
        said_at: Boot(0),
        reloads,
        unwritten: Unwritten::Nothing,
        last: None,
        explain: Vec::new(),
        wake_at: clock::boot(),
        restart_waiters: Vec::new(),
        scheduled_restart: None,
        slots: SlotMemory::default(),
        callbacks: Callbacks::default(),
        told: Told::default(),
        checkpointed: None,
    }
}

/// Tells the REST API when a reload has it listen elsewhere.
async fn follow_listen(
    drivers: Arc<Drivers>,
    mut listen: Endpoint,
    mut reloads: watch::Receiver<Arc<RestOptions>>,
    address: watch::Sender<SocketAddr>,
) {
    while reloads.changed().await.is_ok() {
        let wanted = drivers.setup().local.restapi.listen.clone();
        if wanted == listen {
            continue;
        }
        match rest::resolve(&wanted.host, wanted.port).await {
            Ok(found) => drop(address.send_replace(found)),
            Err(error) => tracing::error!("{}; the REST API stays where it is", chain(&error)),
        }
        listen = wanted;
    }
}

/// The supervisor replaces an agent that is silent; systemd shows the sentence.
async fn heartbeat(drivers: Arc<Drivers>, snapshot: watch::Receiver<Arc<Snapshot>>) {
    loop {
        let status = {
            let s = snapshot.borrow();
            let timeline = s.probe.as_ref().map(|(p, _)| format!(", timeline {}", p.timeline));
            let margin = s.leader_until.map(|until| until.since(clock::boot()).as_secs());
            let margin = margin.map(|s| format!(", lease confirmed for {s} s"));
            let paused = if s.settings.paused { "PAUSE: " } else { "" };
            let [timeline, margin] = [timeline, margin].map(Option::unwrap_or_default);
            match s.why.is_empty() {
                true => "starting".to_owned(),
                false => format!("{} {}{timeline}{margin}: {paused}{}", s.role, s.state, s.why),
            }
        };
        let beat = Order::Heartbeat { status, ready: true };
        if let Err(error) = drivers.supervisor.order(beat).await {
            tracing::warn!("heartbeat: {error}");
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}
