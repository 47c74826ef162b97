//! The local configuration as types: what the file and the variables mean for this member.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::Endpoint;
use super::etcd::EtcdSection;
use super::log::Log;
use super::reader::Reader;
use super::units::{MILLISECONDS, SECONDS};
use crate::core::budget::Grade;
use crate::core::cluster::Tags;
use crate::core::health::Limits;
pub use crate::core::settings::WatchdogMode;

/// What this member reads from its own machine.
#[derive(Clone, PartialEq)]
pub struct Local {
    pub name: String,
    pub scope: String,
    /// `/service`: one slash at the beginning, none at the end.
    pub namespace: String,
    pub restapi: RestApi,
    pub postgresql: Postgresql,
    pub bootstrap: Bootstrap,
    pub etcd: EtcdSection,
    pub tags: Tags,
    /// As written, without those that Patroni does not show: for the REST API and the member key.
    pub tag_values: BTreeMap<String, Value>,
    pub log: Log,
    pub ctl: Ctl,
    pub watchdog: Watchdog,
    pub vigil: Vigil,
}

impl Local {
    /// For requests to other members: `ctl.authentication`, else `restapi.authentication`.
    pub fn peer_credentials(&self) -> Option<&Credentials> {
        self.ctl.authentication.as_ref().or(self.restapi.authentication.as_ref())
    }

    /// The prefix of the cluster's keys: `/service/demo/`.
    pub fn prefix(&self) -> String {
        format!("{}/{}/", self.namespace, self.scope).replace("//", "/")
    }
}

impl fmt::Debug for Local {
    /// Without the sections of users, where anything may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local")
            .field("name", &self.name)
            .field("scope", &self.scope)
            .field("namespace", &self.namespace)
            .field("restapi", &self.restapi)
            .field("etcd", &self.etcd)
            .finish_non_exhaustive()
    }
}

/// A user of an HTTP interface.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestApi {
    /// Host may be empty or `*`: every address.
    pub listen: Endpoint,
    pub connect_address: Endpoint,
    pub authentication: Option<Credentials>,
    /// Hosts, addresses or networks; empty: everybody.
    pub allowlist: Vec<String>,
    pub allowlist_include_members: bool,
    pub tls: RestTls,
    /// Sent with every answer.
    pub http_extra_headers: BTreeMap<String, String>,
    /// Sent with every answer over TLS, over those of the same name above.
    pub https_extra_headers: BTreeMap<String, String>,
    /// `original`, `minimal` or `productonly`.
    pub server_tokens: String,
}

impl RestApi {
    /// What members and `/cluster` are told.
    pub fn api_url(&self) -> String {
        let scheme = if self.tls.certfile.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/patroni", self.connect_address)
    }
}

/// What the REST API presents and demands.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RestTls {
    /// Absent: plain HTTP.
    pub certfile: Option<String>,
    pub keyfile: Option<String>,
    pub keyfile_password: Option<String>,
    /// Absent: the system's authorities.
    pub cafile: Option<String>,
    /// OpenSSL's list.
    pub ciphers: Option<String>,
    pub verify_client: VerifyClient,
}

impl fmt::Debug for RestTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestTls").field("certfile", &self.certfile).finish_non_exhaustive()
    }
}

/// Whether clients of the REST API need a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyClient {
    #[default]
    None,
    /// For requests that change something.
    Optional,
    /// For every request.
    Required,
}

/// A PostgreSQL role of ours and how libpq is to connect as it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DbUser {
    pub username: String,
    pub password: Option<String>,
    /// `sslmode`, `sslrootcert`, …
    pub options: BTreeMap<String, String>,
}

impl fmt::Debug for DbUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DbUser").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq)]
pub struct Postgresql {
    /// `*` or empty: every address.
    pub listen_addresses: Vec<String>,
    pub port: u16,
    pub connect_address: Endpoint,
    pub proxy_address: Option<Endpoint>,
    pub data_dir: String,
    pub config_dir: String,
    /// Name of the main configuration file without `.conf`.
    pub config_base_name: String,
    /// Empty: found by PATH.
    pub bin_dir: String,
    pub bin_name: BTreeMap<String, String>,
    pub pgpass: String,
    pub use_unix_socket: bool,
    pub use_unix_socket_repl: bool,
    pub superuser: DbUser,
    pub replication: DbUser,
    /// The superuser unless configured.
    pub rewind: DbUser,
    /// The section's other keys, for `effective`.
    pub raw: Value,
}

impl fmt::Debug for Postgresql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgresql")
            .field("listen_addresses", &self.listen_addresses)
            .field("port", &self.port)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// What the first start of the cluster needs.
#[derive(Clone, PartialEq)]
pub struct Bootstrap {
    /// Becomes `/config`.
    pub dcs: Value,
    /// Command line options.
    pub initdb: Vec<String>,
    pub pg_hba: Vec<String>,
    /// Called with a connection string once the cluster is up.
    pub post_bootstrap: Option<String>,
    /// Instead of initdb.
    pub custom: Option<CustomBootstrap>,
}

/// `bootstrap.method` and its section.
#[derive(Clone, PartialEq)]
pub struct CustomBootstrap {
    pub method: String,
    pub command: String,
    /// Do not append `--scope` and `--datadir`.
    pub no_params: bool,
    pub keep_existing_recovery_conf: bool,
    pub recovery_conf: BTreeMap<String, String>,
    /// `--name=value` each.
    pub options: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ctl {
    pub authentication: Option<Credentials>,
    pub tls: CtlTls,
}

/// How members and pgvigilctl talk to the REST API of others.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CtlTls {
    pub insecure: bool,
    /// `ctl.cacert`, else `restapi.cafile`; absent: the system's authorities.
    pub cacert: Option<String>,
    pub certfile: Option<String>,
    pub keyfile: Option<String>,
    pub keyfile_password: Option<String>,
}

impl fmt::Debug for CtlTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CtlTls").field("certfile", &self.certfile).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchdog {
    pub mode: WatchdogMode,
    /// `None`: whichever there is.
    pub device: Option<String>,
    /// The device is a named pipe (`driver: testing`).
    pub testing: bool,
    /// Seconds; -1: half of ttl; `None`: not written, so that the timeout is computed.
    pub safety_margin_s: Option<i64>,
}

/// `vigil.watchdog`: what Patroni has no key for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VigilWatchdog {
    /// How the identity of the device begins.
    pub identity: Option<String>,
    pub grade: Option<Grade>,
    /// After a reset PostgreSQL is not started before an operator agrees.
    pub stay_down: bool,
    /// The store's; default: etcd's.
    pub election_timeout: Option<Duration>,
}

/// Our own section; what is absent may stand in `/config`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vigil {
    pub freeze_max: Option<Duration>,
    pub allow_unfenced: Option<bool>,
    /// Bound of the relative clock rate error, parts per million.
    pub rho_ppm: Option<u32>,
    pub watchdog: VigilWatchdog,
    pub health: HealthLimits,
}

/// `vigil.health`, as far as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthLimits {
    answer: Option<Duration>,
    write: Option<Duration>,
    storage: Option<Duration>,
    hand_over_every: Option<Duration>,
}

impl HealthLimits {
    fn read(section: Reader) -> HealthLimits {
        let seconds = |key: &str| {
            let number = section.integer(key, SECONDS)?;
            u64::try_from(number).ok().map(Duration::from_secs)
        };
        HealthLimits {
            answer: seconds("answer_timeout"),
            write: seconds("write_timeout"),
            storage: seconds("storage_timeout"),
            hand_over_every: seconds("hand_over_interval"),
        }
    }

    /// These go over the others, and both over the defaults.
    pub(super) fn over(self, dynamic: HealthLimits) -> Limits {
        let default = Limits::default();
        Limits {
            answer: self.answer.or(dynamic.answer).unwrap_or(default.answer),
            write: self.write.or(dynamic.write).unwrap_or(default.write),
            storage: self.storage.or(dynamic.storage).unwrap_or(default.storage),
            hand_over_every: self
                .hand_over_every
                .or(dynamic.hand_over_every)
                .unwrap_or(default.hand_over_every),
        }
    }
}

impl Vigil {
    pub(super) fn read(section: Reader) -> Vigil {
        let rho = section.value("rho").and_then(|v| v.as_f64());
        let seconds = section.integer("freeze_max", SECONDS);
        Vigil {
            freeze_max: seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs),
            allow_unfenced: section.boolean("allow_unfenced"),
            rho_ppm: rho.filter(|r| (0.0..1.0).contains(r)).map(|r| (r * 1e6).round() as u32),
            health: HealthLimits::read(section.sub("health")),
            watchdog: VigilWatchdog::read(section.sub("watchdog")),
        }
    }
}

impl VigilWatchdog {
    fn read(section: Reader) -> VigilWatchdog {
        let ms = section.integer("election_timeout", MILLISECONDS);
        VigilWatchdog {
            identity: section.text("identity"),
            stay_down: section.boolean("stay_down").unwrap_or(false),
            grade: match section.text("grade").unwrap_or_default().to_lowercase().as_str() {
                "a" => Some(Grade::A),
                "b" => Some(Grade::B),
                _ => None,
            },
            election_timeout: ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
        }
    }
}
