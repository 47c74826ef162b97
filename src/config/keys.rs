//! The tables: every key that a configuration may have, and those that we cannot honour yet.

use super::units::{BYTES, MILLISECONDS, SECONDS};

/// What a key may hold.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string; a number is taken as written if it prints that way.
    Text,
    Bool,
    Int {
        min: i64,
        max: i64,
    },
    /// A number in `base` units, or with a unit of its own (`30min`, `16MB`).
    Quantity {
        base: &'static str,
        min: i64,
    },
    /// A fraction between 0 and 1.
    Fraction,
    OneOf(&'static [&'static str]),
    /// `host:port`.
    Address,
    TextList,
    /// A list, or one string with commas.
    TextOrList,
    /// Name to scalar.
    TextMap,
    /// Options of a tool: a list of names and one-entry mappings, or a mapping.
    Options,
    /// Name to mapping.
    Mapping,
    Section(&'static [Key]),
    /// A section in which users have keys of their own.
    Open(&'static [Key]),
    Any,
}

/// A key of a section.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

use Kind::{
    Address, Any, Bool, Fraction, Int, Mapping, OneOf, Open, Options, Quantity, Section, Text,
    TextList, TextMap, TextOrList,
};

const fn at_least(min: i64) -> Kind {
    Int { min, max: i64::MAX }
}

const fn seconds(min: i64) -> Kind {
    Quantity { base: SECONDS, min }
}

const fn bytes(min: i64) -> Kind {
    Quantity { base: BYTES, min }
}

/// The configuration file and its variables.
pub const LOCAL: &[Key] = &[
    key("name", Text),
    key("scope", Text),
    key("namespace", Text),
    key("thread_pool_size", at_least(5)),
    key("thread_stack_size", bytes(65_536)),
    key("log", Section(LOG)),
    key("watchdog", Section(WATCHDOG)),
    key("ctl", Section(CTL)),
    key("restapi", Section(RESTAPI)),
    key("postgresql", Section(POSTGRESQL)),
    key("bootstrap", Section(BOOTSTRAP)),
    key("tags", Open(TAGS)),
    key("etcd3", Section(ETCD)),
    key("etcd", Section(ETCD)),
    key("consul", Any),
    key("zookeeper", Any),
    key("exhibitor", Any),
    key("kubernetes", Any),
    key("raft", Any),
    key("citus", Any),
    key("vigil", Section(VIGIL_LOCAL)),
];

const LEVELS: &[&str] = &["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"];

const LOG: &[Key] = &[
    key("type", OneOf(&["plain", "json"])),
    key("level", OneOf(LEVELS)),
    key("traceback_level", OneOf(LEVELS)),
    key("format", Any),
    key("dateformat", Text),
    key("static_fields", TextMap),
    key("max_queue_size", at_least(0)),
    key("dir", Text),
    key("mode", Int { min: 0, max: 511 }),
    key("file_num", at_least(0)),
    key("file_size", at_least(0)),
    key("loggers", TextMap),
    key("deduplicate_heartbeat_logs", Bool),
];

const WATCHDOG: &[Key] = &[
    key("mode", OneOf(&["off", "automatic", "required"])),
    key("device", Text),
    key("safety_margin", at_least(-1)),
    key("driver", OneOf(&["default", "testing"])),
];

const CREDENTIALS: &[Key] = &[key("username", Text), key("password", Text)];

const CTL: &[Key] = &[
    key("auth", Text),
    key("authentication", Section(CREDENTIALS)),
    key("insecure", Bool),
    key("cacert", Text),
    key("certfile", Text),
    key("keyfile", Text),
    key("keyfile_password", Text),
];

const RESTAPI: &[Key] = &[
    // The oldest spelling of authentication: `user:password`.
    key("auth", Text),
    key("listen", Address),
    key("connect_address", Address),
    key("authentication", Section(CREDENTIALS)),
    key("certfile", Text),
    key("keyfile", Text),
    key("keyfile_password", Text),
    key("cafile", Text),
    key("ciphers", Text),
    key("verify_client", OneOf(&["none", "optional", "required"])),
    key("allowlist", TextList),
    key("allowlist_include_members", Bool),
    key("http_extra_headers", TextMap),
    key("https_extra_headers", TextMap),
    key("request_queue_size", Int { min: 0, max: 4096 }),
    key("thread_pool_size", at_least(5)),
    key("server_tokens", OneOf(&["original", "minimal", "productonly"])),
];

const TAGS: &[Key] = &[
    key("nofailover", Bool),
    key("failover_priority", at_least(i64::MIN)),
    key("nosync", Bool),
    key("sync_priority", at_least(i64::MIN)),
    key("noloadbalance", Bool),
    key("clonefrom", Bool),
    key("replicatefrom", Text),
    key("nostream", Bool),
];

const ETCD: &[Key] = &[
    key("host", Text),
    key("hosts", TextOrList),
    key("port", Int { min: 1, max: 65_535 }),
    key("url", Text),
    key("proxy", Text),
    key("srv", Text),
    key("srv_suffix", Text),
    key("discovery_srv", Text),
    key("srv_domain", Text),
    key("use_proxies", Bool),
    key("protocol", OneOf(&["http", "https"])),
    key("username", Text),
    key("password", Text),
    key("cacert", Text),
    key("cert", Text),
    key("key", Text),
];

/// What both sources may hold.
const VIGIL: &[Key] = &[
    key("freeze_max", seconds(0)),
    key("allow_unfenced", Bool),
    key("rho", Fraction),
    key("health", Section(HEALTH)),
];

const VIGIL_LOCAL: &[Key] = &[
    key("freeze_max", seconds(0)),
    key("allow_unfenced", Bool),
    key("rho", Fraction),
    key("health", Section(HEALTH)),
    key("watchdog", Section(VIGIL_WATCHDOG)),
];

const VIGIL_WATCHDOG: &[Key] = &[
    key("identity", Text),
    key("grade", OneOf(&["a", "b"])),
    key("stay_down", Bool),
    key("election_timeout", Quantity { base: MILLISECONDS, min: 1 }),
];

const HEALTH: &[Key] = &[
    key("answer_timeout", seconds(0)),
    key("write_timeout", seconds(0)),
    key("storage_timeout", seconds(0)),
    key("hand_over_interval", seconds(0)),
];

const BOOTSTRAP: &[Key] = &[
    key("dcs", Section(DYNAMIC)),
    key("method", Text),
    key("initdb", Options),
    key("pg_hba", TextList),
    key("post_bootstrap", Text),
    key("post_init", Text),
    key("users", Any),
];

/// What libpq may be told for a user of ours, beside its name and password.
pub const LIBPQ: &[&str] = &[
    "sslmode",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "gssencmode",
    "channel_binding",
    "sslnegotiation",
];

const USER: &[Key] = &[
    key("username", Text),
    key("password", Text),
    key("sslmode", Text),
    key("sslcert", Text),
    key("sslkey", Text),
    key("sslpassword", Text),
    key("sslrootcert", Text),
    key("sslcrl", Text),
    key("sslcrldir", Text),
    key("gssencmode", Text),
    key("channel_binding", Text),
    key("sslnegotiation", Text),
    // Seen in old tutorials beside `postgresql.replication`; without effect in Patroni, too.
    key("network", Text),
];

const AUTHENTICATION: &[Key] = &[
    key("superuser", Section(USER)),
    key("replication", Section(USER)),
    key("rewind", Section(USER)),
];

/// The programs that `bin_name` can rename.
const BIN_NAME: &[Key] = &[
    key("pg_ctl", Text),
    key("initdb", Text),
    key("pg_controldata", Text),
    key("pg_basebackup", Text),
    key("postgres", Text),
    key("pg_isready", Text),
    key("pg_rewind", Text),
];

/// The events that call a user's script.
pub const CALLBACKS: &[&str] =
    &["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"];

const CALLBACK: &[Key] = &[
    key("on_start", Text),
    key("on_stop", Text),
    key("on_restart", Text),
    key("on_reload", Text),
    key("on_role_change", Text),
];

/// `postgresql` of the local configuration; `/config` may hold all but `LOCAL_ONLY` of it.
const POSTGRESQL: &[Key] = &[
    key("listen", Address),
    key("connect_address", Address),
    key("proxy_address", Address),
    key("data_dir", Text),
    key("config_dir", Text),
    key("config_base_name", Text),
    key("bin_dir", Text),
    key("bin_name", Section(BIN_NAME)),
    key("pgpass", Text),
    key("authentication", Section(AUTHENTICATION)),
    key("krbsrvname", Text),
    key("use_unix_socket", Bool),
    key("use_unix_socket_repl", Bool),
    key("parameters", TextMap),
    key("parameters_primary", TextMap),
    key("parameters_replica", TextMap),
    key("parameters_standby_leader", TextMap),
    key("pg_hba", TextList),
    key("pg_hba_primary", TextList),
    key("pg_hba_replica", TextList),
    key("pg_hba_standby_leader", TextList),
    key("pg_ident", TextList),
    key("pg_ident_primary", TextList),
    key("pg_ident_replica", TextList),
    key("pg_ident_standby_leader", TextList),
    key("custom_conf", Text),
    key("recovery_conf", TextMap),
    key("callbacks", Section(CALLBACK)),
    key("pre_promote", Text),
    key("before_stop", Text),
    key("create_replica_methods", TextList),
    key("create_replica_method", TextList),
    key("basebackup", Options),
    key("rewind", Options),
    key("use_pg_rewind", Bool),
    key("remove_data_directory_on_rewind_failure", Bool),
    key("remove_data_directory_on_diverged_timelines", Bool),
    key("pg_ctl_timeout", seconds(0)),
    key("use_slots", Bool),
    // The oldest spellings.
    key("name", Text),
    key("superuser", Section(USER)),
    key("replication", Section(USER)),
    key("pg_rewind", Section(USER)),
];

/// Keys of `postgresql` that are ignored in `/config`.
pub const LOCAL_ONLY: &[&str] = &[
    "connect_address",
    "proxy_address",
    "listen",
    "config_dir",
    "data_dir",
    "pgpass",
    "authentication",
    "superuser",
    "replication",
    "pg_rewind",
    "name",
];

const STANDBY_CLUSTER: &[Key] = &[
    key("host", Text),
    key("port", Int { min: 1, max: 65_535 }),
    key("primary_slot_name", Text),
    key("create_replica_methods", TextList),
    key("restore_command", Text),
    key("archive_cleanup_command", Text),
    key("recovery_min_apply_delay", Text),
];

/// `/config` and `bootstrap.dcs`.
pub const DYNAMIC: &[Key] = &[
    key("ttl", at_least(1)),
    key("loop_wait", at_least(1)),
    key("retry_timeout", at_least(1)),
    key("maximum_lag_on_failover", bytes(0)),
    key("maximum_lag_on_syncnode", bytes(-1)),
    key("max_timelines_history", at_least(0)),
    key("primary_start_timeout", seconds(0)),
    key("master_start_timeout", seconds(0)),
    key("primary_stop_timeout", seconds(0)),
    key("master_stop_timeout", seconds(0)),
    key("primary_race_backoff", seconds(0)),
    key("synchronous_mode", OneOf(&["on", "off", "quorum"])),
    key("synchronous_mode_strict", Bool),
    key("synchronous_node_count", at_least(1)),
    key("failsafe_mode", Bool),
    key("check_timeline", Bool),
    key("pause", Bool),
    key("member_slots_ttl", seconds(0)),
    key("slots", Mapping),
    key("permanent_slots", Mapping),
    key("permanent_replication_slots", Mapping),
    key("ignore_slots", Any),
    key("standby_cluster", Section(STANDBY_CLUSTER)),
    key("postgresql", Section(POSTGRESQL)),
    key("vigil", Section(VIGIL)),
];

/// A key that is understood but not honoured.
pub struct Unsupported {
    pub path: &'static str,
    /// Refused at start; otherwise a warning.
    pub error: bool,
    /// Values that ask for nothing special, `|` between them.
    pub unless: Option<&'static str>,
    pub why: &'static str,
}

const fn refuse(path: &'static str, why: &'static str) -> Unsupported {
    Unsupported { path, error: true, unless: None, why }
}

const fn ignore(
    path: &'static str,
    unless: Option<&'static str>,
    why: &'static str,
) -> Unsupported {
    Unsupported { path, error: false, unless, why }
}

const STORE: &str = "this store is not supported; use etcd3 (or etcd: the same cluster over v3)";
const NO_REPLICATION: &str =
    "has no effect: pgvigil makes no replication connection to its own server";
const PYTHON: &str = "has no effect: it tunes Patroni's own threads";

/// What the local configuration may say and we cannot do. Whoever builds it removes the line.
pub const UNSUPPORTED: &[Unsupported] = &[
    refuse("consul", STORE),
    refuse("zookeeper", STORE),
    refuse("exhibitor", STORE),
    refuse("kubernetes", STORE),
    refuse("raft", STORE),
    refuse("citus", "Citus clusters are not supported"),
    ignore("restapi.request_queue_size", None, PYTHON),
    ignore("restapi.thread_pool_size", None, PYTHON),
    ignore("thread_pool_size", None, PYTHON),
    ignore("thread_stack_size", None, PYTHON),
    ignore("log.traceback_level", None, "has no effect: there are no tracebacks"),
    ignore("log.loggers", None, "has no effect: it names modules of Patroni"),
    ignore("postgresql.use_unix_socket_repl", Some("off"), NO_REPLICATION),
    ignore("bootstrap.users", None, "has no effect since Patroni 4; use bootstrap.post_bootstrap"),
];

/// The same for `/config` and `bootstrap.dcs`; those of `postgresql` hold for the file, too.
pub const UNSUPPORTED_DYNAMIC: &[Unsupported] = &[
    ignore(
        "standby_cluster.create_replica_methods",
        None,
        "has no effect: postgresql.create_replica_methods make every copy",
    ),
    ignore("primary_race_backoff", Some("0"), "has no effect: Patroni 4.1.5 has no such key"),
    ignore("postgresql.pg_ctl_timeout", Some("60"), "has no effect: pg_ctl is not waited for"),
];
