//! The doers that actions, duties and requests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::auth::Credentials;
use crate::api::client::Client;
use crate::api::options::Options as RestOptions;
use crate::api::snapshot::Snapshot;
use crate::config::{self, Effective, Local, Role};
use crate::core::budget::ELECTION;
use crate::core::cluster::{Cluster, Initialize};
use crate::core::error::chain;
use crate::core::settings::Settings;
use crate::core::time::Boot;
use crate::core::view::Work;
use crate::dcs::{Dcs, DcsError};
use crate::discovery;
use crate::link::order::{Configure, Watchdog};
use crate::postgres::{control, files};
use crate::sys::clock;
use crate::tls::TlsError;
use crate::watchdog::discover::Choice;
use crate::watchdog::held;
use crate::watchdog::record::Reset;

use super::events::{Event, Fact};
use super::lease::Leases;
use super::orders::Supervisor;
use super::slots::Copies;
use super::world::job_id;
use super::{accepted, server};

/// Configuration in force.
#[derive(Debug)]
pub struct Setup {
    pub local: Arc<Local>,
    /// `/config`, or `bootstrap.dcs` as long as there is none.
    pub dynamic: Value,
    pub primary: Effective,
    pub replica: Effective,
    pub standby_leader: Effective,
}

impl Setup {
    pub fn new(local: Arc<Local>, dynamic: Value, patroni_members: bool) -> Setup {
        let floor = if patroni_members { config::PATRONI_TTL_FLOOR_S } else { config::TTL_FLOOR_S };
        let (primary, warnings) = config::effective(&local, &dynamic, Role::Primary, floor);
        let (replica, _) = config::effective(&local, &dynamic, Role::Replica, floor);
        let (standby_leader, _) = config::effective(&local, &dynamic, Role::StandbyLeader, floor);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Setup { local, dynamic, primary, replica, standby_leader }
    }

    /// How the watchdog device is to be used.
    pub fn watchdog(&self) -> Watchdog {
        let (asked, finer) = (&self.local.watchdog, &self.local.vigil.watchdog);
        Watchdog {
            mode: asked.mode,
            grade: finer.grade,
            margin_s: asked.safety_margin_s,
            election: finer.election_timeout.unwrap_or(ELECTION),
        }
    }

    /// The supervisor's share; paths and the length of leases as it was told them.
    pub fn configure(&self, told: &Configure) -> Configure {
        Configure {
            rho_ppm: self.primary.rho_ppm,
            freeze_max: self.settings().freeze_max,
            watchdog: self.watchdog(),
            ..told.clone()
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.primary.settings
    }

    pub fn role(&self, primary: bool) -> &Effective {
        if primary { &self.primary } else { &self.replica }
    }

    pub fn data_dir(&self) -> PathBuf {
        PathBuf::from(&self.local.postgresql.data_dir)
    }
}

/// Where the local configuration comes from: read again on reload, with the variables of the start.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub path: Option<PathBuf>,
    pub environment: BTreeMap<String, String>,
}

/// The watchdog device to hold; `None`: none. It is opened when the service starts, by whoever
/// starts it, and kept.
pub fn device(local: &Local) -> Option<held::Options> {
    let (asked, identity) = (&local.watchdog, local.vigil.watchdog.identity.clone());
    (asked.mode != config::WatchdogMode::Off).then(|| held::Options {
        choice: Choice { device: asked.device.as_ref().map(PathBuf::from), identity },
        testing: asked.testing,
    })
}

pub struct Drivers {
    origin: Origin,
    /// What reset this machine while it was primary, the last time; set once, at the start.
    pub last_reset: OnceLock<Reset>,
    pub dcs: Dcs,
    pub events: mpsc::Sender<Event>,
    pub supervisor: Supervisor,
    pub leases: Arc<Leases>,
    /// Read the cluster now.
    pub refresh: Notify,
    /// Ask PostgreSQL now.
    pub probe_now: Arc<Notify>,
    /// What was published last.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    setup: Mutex<(Arc<Setup>, i64, bool)>,
    pub slot_copies: Copies,
    /// When the first question was sent of the last promises that a deadline was to stand on.
    pub promised: tokio::sync::Mutex<Option<Boot>>,
    peers: Mutex<Client>,
    jobs: AtomicU32,
    /// The newest callback's job, and the newest `on_reload`'s.
    pub callbacks: [AtomicU64; 2],
    /// The call of the newest callback, and the job that came of it.
    call: Mutex<Option<JoinHandle<Option<u64>>>>,
    /// mod_revision of the `/config` that was cached last.
    cached: Mutex<i64>,
}

impl Drivers {
    pub fn new(
        origin: Origin,
        dcs: Dcs,
        supervisor: Supervisor,
        leases: Arc<Leases>,
        events: mpsc::Sender<Event>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        setup: Setup,
    ) -> Result<Arc<Drivers>, TlsError> {
        Ok(Arc::new(Drivers {
            peers: Mutex::new(peer_client(&setup.local)?),
            origin,
            dcs,
            supervisor,
            leases,
            events,
            snapshots,
            refresh: Notify::new(),
            slot_copies: Copies::default(),
            promised: Default::default(),
            probe_now: Arc::default(),
            setup: Mutex::new((Arc::new(setup), 0, false)),
            jobs: AtomicU32::new(0),
            callbacks: Default::default(),
            call: Mutex::default(),
            cached: Mutex::new(0),
            last_reset: OnceLock::new(),
        }))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, (Arc<Setup>, i64, bool)> {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn setup(&self) -> Arc<Setup> {
        self.locked().0.clone()
    }

    /// Takes `/config` into force; false when nothing changed. Text that is no JSON object is
    /// refused and the old one stays.
    pub fn take_dynamic(self: &Arc<Self>, cluster: &Cluster, patroni_members: bool) -> bool {
        let Some(stored) = &cluster.config else { return false };
        let mut slot = self.locked();
        // When the last Patroni goes, or the first one comes, the same text means other times.
        let same_floor = slot.2 == patroni_members;
        if slot.1 == stored.mod_revision && same_floor {
            return false;
        }
        let known = slot.1;
        slot.1 = stored.mod_revision;
        slot.2 = patroni_members;
        let Some(dynamic) = serde_json::from_str(&stored.value).ok().filter(Value::is_object)
        else {
            tracing::error!("the key /config holds no JSON object; the old configuration stays");
            return false;
        };
        if slot.0.dynamic == dynamic && known != 0 && same_floor {
            return false;
        }
        slot.0 = Arc::new(Setup::new(slot.0.local.clone(), dynamic, patroni_members));
        let (dir, dynamic) = (slot.0.data_dir(), slot.0.dynamic.clone());
        drop(slot);
        let (drivers, initialize) = (self.clone(), cluster.initialize.clone());
        let revision = stored.mod_revision;
        tokio::task::spawn_blocking(move || {
            if belongs(&dir, &initialize) {
                drivers.cache(&dir, &dynamic, revision);
            }
        });
        true
    }

    /// Keeps `/config` for a start without the store. Off the loop, which waits for no disk; of two
    /// that come late the newer stays.
    fn cache(&self, dir: &Path, dynamic: &Value, revision: i64) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if revision < *cached {
            return;
        }
        match files::write_dynamic(dir, dynamic) {
            Ok(_) => *cached = revision,
            Err(error) => {
                tracing::warn!(%error, "the dynamic configuration could not be cached");
            }
        }
    }

    /// Reads the local configuration again; on errors nothing changes. A new agent must be able to
    /// start with what is accepted here.
    pub fn reload(&self) -> Result<RestOptions, Vec<String>> {
        let path = self.origin.path.as_deref();
        let loaded = config::load(path, &self.origin.environment)
            .map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let refuse = |error: &dyn std::error::Error| vec![chain(error)];
        let local = Arc::new(loaded.local);
        let peers = peer_client(&local).map_err(|e| refuse(&e))?;
        let options = RestOptions::new(&local.restapi).map_err(|e| refuse(&e))?;
        Dcs::new(discovery::options(&local.etcd, local.prefix())).map_err(|e| refuse(&e))?;
        // The loop alone changes it. It is not held here: others need it, and a disk may hang.
        let (old, _, patroni) = self.locked().clone();
        accepted::same_member(&old.local, &local)?;
        let warning = other_device(&old.local, &local);
        let setup = Setup::new(local, old.dynamic.clone(), patroni);
        server::check_binaries(&setup).map_err(|e| refuse(&e))?;
        warning.into_iter().for_each(|warning| tracing::warn!("{warning}"));
        self.locked().0 = Arc::new(setup);
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
        accepted::keep(path, &loaded.merged);
        Ok(options)
    }

    /// At the orderly end.
    pub fn forget_configuration(&self) {
        accepted::forget(self.origin.path.as_deref());
    }

    pub fn keep_call(&self, call: JoinHandle<Option<u64>>) {
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }

    pub fn take_call(&self) -> Option<JoinHandle<Option<u64>>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn next_job(&self, work: Option<Work>) -> u64 {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed) + 1;
        job_id(self.supervisor.generation(), work, number)
    }

    /// A fresh look at the whole cluster.
    pub async fn read_cluster(&self) -> Result<(Box<Cluster>, Boot, Boot), DcsError> {
        let sent_at = clock::boot();
        let within = self.setup().settings().retry_timeout;
        let cluster = self.dcs.read(within).await?;
        Ok((Box::new(cluster), sent_at, clock::boot()))
    }

    /// What the loop must know before it decides again after a write.
    pub async fn cluster_fact(&self) -> Result<Fact, DcsError> {
        let (cluster, sent_at, received_at) = self.read_cluster().await?;
        Ok(Fact::Cluster { cluster, sent_at, received_at })
    }

    /// For requests to other members.
    pub fn peers(&self) -> Client {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A device cannot be changed under a running supervisor: said, so that nobody counts on it.
fn other_device(old: &Local, new: &Local) -> Option<String> {
    let (old, new) = (device(old), device(new));
    // A device that is held and not wanted is not armed: that takes effect at once.
    (new.is_some() && old != new).then(|| {
        "watchdog.mode, device, driver and vigil.watchdog.identity: another device than the one \
         of the start is opened only when the service is restarted"
            .to_owned()
    })
}

/// Who we are to other members.
/// Reads the files that `ctl` names.
pub(super) fn peer_client(local: &Local) -> Result<Client, TlsError> {
    let known = local.peer_credentials();
    let credentials =
        known.map(|c| Credentials { username: c.username.clone(), password: c.password.clone() });
    Client::new(credentials, &local.ctl.tls)
}

/// What is cached in a data directory is of the cluster that it belongs to.
fn belongs(data_dir: &Path, initialize: &Initialize) -> bool {
    let Ok(control) = control::read(data_dir) else { return false };
    match initialize {
        Initialize::Done(expected) => control.system_identifier.to_string() == *expected,
        Initialize::Absent | Initialize::InProgress { .. } => true,
    }
}
