//! The effective configuration: defaults, dynamic configuration, local configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::dynamic::{self, Timeouts};
use super::guc;
use super::keys::{CALLBACKS, LOCAL_ONLY};
use super::local::{Local, Vigil};
use super::options::{self, ReplicaMethod};
use super::reader::{self, Reader};
use super::slots;
use super::tree::{Node, Position};
use super::units::{self, BYTES, SECONDS};
use crate::core::decision::Upstream;
use crate::core::settings::{Settings, StandbyCluster, SyncMode};
use crate::core::slots::SlotKind;

const FEEDBACK: &str = "hot_standby_feedback";

/// What the server on this member is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Replica,
    StandbyLeader,
}

/// All that is in force on this member, as long as `/config` and the local configuration stay.
#[derive(Clone, PartialEq)]
pub struct Effective {
    pub settings: Settings,
    /// `vigil.rho`: bound of the relative clock rate error, parts per million.
    pub rho_ppm: u32,
    /// For the server's command line, in Patroni's order.
    pub controlled: Vec<(String, String)>,
    /// All other parameters, values as text; a value may contain line ends.
    pub parameters: BTreeMap<String, String>,
    /// `None`: leave pg_hba.conf alone.
    pub pg_hba: Option<Vec<String>>,
    pub pg_ident: Option<Vec<String>>,
    pub recovery_conf: BTreeMap<String, String>,
    pub custom_conf: Option<String>,
    /// `on_start`, `on_stop`, `on_restart`, `on_reload`, `on_role_change`.
    pub callbacks: BTreeMap<String, String>,
    pub pre_promote: Option<String>,
    pub before_stop: Option<String>,
    /// To be tried in this order; never empty.
    pub create_replica_methods: Vec<ReplicaMethod>,
    /// Command line options of pg_basebackup.
    pub basebackup: Vec<String>,
    pub rewind_options: Vec<String>,
    pub pg_ctl_timeout: Duration,
}

impl fmt::Debug for Effective {
    /// Without parameters and commands, where anything may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Effective").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Effective {
    /// A standby without a stream reads the archive.
    pub fn restores(&self) -> bool {
        let name = "restore_command";
        self.recovery_conf.contains_key(name) || self.parameters.contains_key(name)
    }
}

/// Computes what is in force. `dynamic` is `/config`, or `bootstrap.dcs` before there is one;
/// `floor_ttl_s` is `PATRONI_TTL_FLOOR_S` while a Patroni member is in the cluster, else ours.
/// Never fails: what is wrong falls back to its default, and a warning says so.
pub fn effective(
    local: &Local,
    dynamic: &Value,
    role: Role,
    floor_ttl_s: u64,
) -> (Effective, Vec<String>) {
    let mut warnings = Vec::new();
    let at = Position { file: "".into(), line: 0, column: 0 };
    let node = Node::from_value(dynamic, &at);
    let top = Reader::new(&node);
    let times = dynamic::timeouts(dynamic, floor_ttl_s, &mut warnings);
    let merged = Merged::new(local, dynamic, &mut warnings);
    let settings = settings(top, times, &merged, &local.vigil, &mut warnings);
    let parameters = parameters(local, &merged, role, &settings, &mut warnings);
    let hba = parameters.others.keys().any(|k| k.eq_ignore_ascii_case("hba_file"));
    let ident = parameters.others.keys().any(|k| k.eq_ignore_ascii_case("ident_file"));
    let mut tool = |key: &str, tool: &options::Tool| {
        let (options, problems) = options::of(tool, merged.get(key).unwrap_or(&Value::Null));
        warnings.extend(problems.into_iter().map(|why| format!("postgresql.{key}: {why}")));
        options
    };
    let basebackup = tool("basebackup", &options::BASEBACKUP);
    let rewind_options = tool("rewind", &options::REWIND);
    let vigil = Vigil::read(top.sub("vigil"));
    let callbacks = merged.get("callbacks").map(reader::text_map).unwrap_or_default();
    let effective = Effective {
        rho_ppm: local.vigil.rho_ppm.or(vigil.rho_ppm).unwrap_or(10_000),
        controlled: command_line(local, parameters.controlled),
        parameters: parameters.others,
        pg_hba: merged.lines("pg_hba", role).filter(|_| !hba),
        pg_ident: merged.lines("pg_ident", role).filter(|_| !ident),
        recovery_conf: merged.get("recovery_conf").map(reader::text_map).unwrap_or_default(),
        custom_conf: merged.text("custom_conf"),
        callbacks: callbacks.into_iter().filter(|(k, _)| CALLBACKS.contains(&&**k)).collect(),
        pre_promote: merged.text("pre_promote"),
        before_stop: merged.text("before_stop"),
        create_replica_methods: merged.replica_methods(),
        basebackup,
        rewind_options,
        pg_ctl_timeout: Duration::from_secs(merged.seconds("pg_ctl_timeout").unwrap_or(60)),
        settings,
    };
    (effective, warnings)
}

/// The `postgresql` sections of both sources.
struct Merged<'a> {
    dynamic: Option<&'a Value>,
    local: &'a Value,
}

impl<'a> Merged<'a> {
    fn new(local: &'a Local, dynamic: &'a Value, warnings: &mut Vec<String>) -> Merged<'a> {
        let section = dynamic.get("postgresql");
        for (name, _) in section.and_then(Value::as_object).into_iter().flatten() {
            let here =
                ["bin_dir", "bin_name", "use_unix_socket", "use_unix_socket_repl", "krbsrvname"];
            if LOCAL_ONLY.contains(&name.as_str()) || here.contains(&name.as_str()) {
                let why = "is ignored in the dynamic configuration: it belongs into the file";
                warnings.push(format!("postgresql.{name} {why}"));
            }
        }
        Merged { dynamic: section, local: &local.postgresql.raw }
    }

    fn dynamic_value(&self, key: &str) -> Option<&'a Value> {
        self.dynamic?.get(key).filter(|v| !v.is_null())
    }

    /// Local over dynamic, the whole value.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.local.get(key).filter(|v| !v.is_null()).or_else(|| self.dynamic_value(key))
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key).and_then(units::text).filter(|t| !t.is_empty())
    }

    fn boolean(&self, key: &str) -> bool {
        self.get(key).and_then(units::boolean).unwrap_or(false)
    }

    fn seconds(&self, key: &str) -> Option<u64> {
        u64::try_from(units::integer(self.get(key)?, SECONDS)?).ok()
    }

    /// Lines of a file of ours; the role's own list replaces the common one.
    fn lines(&self, key: &str, role: Role) -> Option<Vec<String>> {
        let own = self.get(&format!("{key}_{}", role_name(role))).and_then(reader::texts);
        let lines = own.or_else(|| self.get(key).and_then(reader::texts))?;
        Some(lines).filter(|l| !l.is_empty())
    }

    fn replica_methods(&self) -> Vec<ReplicaMethod> {
        let list = |key: &str| self.get(key).and_then(reader::texts).filter(|l| !l.is_empty());
        let names = list("create_replica_methods").or_else(|| list("create_replica_method"));
        let names = names.unwrap_or_else(|| vec!["basebackup".to_owned()]);
        let section = |name: &str| self.get(name).filter(|_| name != "basebackup");
        names.iter().map(|name| ReplicaMethod::of(name, section(name))).collect()
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::StandbyLeader => "standby_leader",
    }
}

fn settings(
    top: Reader,
    times: Timeouts,
    merged: &Merged,
    own: &Vigil,
    warnings: &mut Vec<String>,
) -> Settings {
    let default = Settings::default();
    let vigil = Vigil::read(top.sub("vigil"));
    let mut number = Number { top, warnings };
    let flag = |key: &str| top.boolean(key).unwrap_or(false);
    let strict = flag("synchronous_mode_strict");
    let use_slots = merged.dynamic_value("use_slots").map_or(Some(true), units::boolean);
    let standby_cluster = standby_cluster(top.sub("standby_cluster"));
    let slots = slots::permanent(top, number.warnings);
    let ignore_slots = slots::ignored(top, number.warnings);
    Settings {
        slots,
        ignore_slots,
        ttl: Duration::from_secs(times.ttl_s),
        loop_wait: Duration::from_secs(times.loop_wait_s),
        retry_timeout: Duration::from_secs(times.retry_timeout_s),
        maximum_lag_on_failover_bytes: number.of(
            &["maximum_lag_on_failover"],
            BYTES,
            default.maximum_lag_on_failover_bytes,
        ),
        primary_start_timeout: number
            .seconds(&["primary_start_timeout", "master_start_timeout"], 300),
        primary_stop_timeout: number.seconds(&["primary_stop_timeout", "master_stop_timeout"], 0),
        // Nothing is committed in a standby cluster.
        synchronous_mode: match &standby_cluster {
            None => sync_mode(top.value("synchronous_mode")),
            Some(_) => SyncMode::Off,
        },
        standby_cluster,
        synchronous_mode_strict: strict,
        synchronous_node_count: number
            .of(&["synchronous_node_count"], "", 1)
            .max(u32::from(strict)),
        maximum_lag_on_syncnode_bytes: number.of(&["maximum_lag_on_syncnode"], BYTES, -1),
        failsafe_mode: flag("failsafe_mode"),
        paused: flag("pause"),
        check_timeline: flag("check_timeline"),
        max_timelines_history: number.of(&["max_timelines_history"], "", 0),
        member_slots_ttl: number.seconds(&["member_slots_ttl"], 1800),
        use_pg_rewind: merged.boolean("use_pg_rewind"),
        use_slots: use_slots.unwrap_or(false),
        remove_data_directory_on_rewind_failure: merged
            .boolean("remove_data_directory_on_rewind_failure"),
        remove_data_directory_on_diverged_timelines: merged
            .boolean("remove_data_directory_on_diverged_timelines"),
        freeze_max: own.freeze_max.or(vigil.freeze_max).unwrap_or(default.freeze_max),
        allow_unfenced: own.allow_unfenced.or(vigil.allow_unfenced).unwrap_or(false),
        health: own.health.over(vigil.health),
        replica_methods: merged.replica_methods().iter().map(ReplicaMethod::in_short).collect(),
    }
}

/// `standby_cluster`, in effect when it says where the WAL comes from.
fn standby_cluster(section: Reader) -> Option<StandbyCluster> {
    let (host, port) = (section.text("host"), section.integer("port", ""));
    if host.is_none() && port.is_none() && !section.has("restore_command") {
        return None;
    }
    let upstream = (host.is_some() || port.is_some()).then(|| {
        let (hosts, port) = (host.unwrap_or_else(|| "localhost".to_owned()), port.unwrap_or(5432));
        let hosts = hosts.split(',').map(str::trim).map(|host| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        });
        let conn_url = format!("postgres://{}/postgres", hosts.collect::<Vec<_>>().join(","));
        Upstream { name: "remote".to_owned(), conn_url }
    });
    let names = ["restore_command", "archive_cleanup_command", "recovery_min_apply_delay"];
    let recovery = names.iter().filter_map(|name| Some(((*name).to_owned(), section.text(name)?)));
    let slot_name = section.text("primary_slot_name");
    Some(StandbyCluster { upstream, slot_name, recovery: recovery.collect() })
}

struct Number<'a> {
    top: Reader<'a>,
    warnings: &'a mut Vec<String>,
}

impl Number<'_> {
    /// The first of these keys that is there.
    fn of<T: TryFrom<i64> + fmt::Display>(&mut self, keys: &[&str], base: &str, default: T) -> T {
        let Some(key) = keys.iter().find(|key| self.top.has(key)) else { return default };
        match self.top.integer(key, base).and_then(|v| T::try_from(v).ok()) {
            Some(value) => value,
            None => {
                self.warnings.push(format!("{key} is not valid, using {default}"));
                default
            }
        }
    }

    fn seconds(&mut self, keys: &[&str], default: u64) -> Duration {
        Duration::from_secs(self.of(keys, SECONDS, default))
    }
}

fn sync_mode(value: Option<Value>) -> SyncMode {
    let value = value.unwrap_or(Value::Null);
    if value.as_str().is_some_and(|s| s.eq_ignore_ascii_case("quorum")) {
        return SyncMode::Quorum;
    }
    if units::boolean(&value) == Some(true) { SyncMode::On } else { SyncMode::Off }
}

fn parameters(
    local: &Local,
    merged: &Merged,
    role: Role,
    settings: &Settings,
    warnings: &mut Vec<String>,
) -> guc::Parameters {
    let own = format!("parameters_{}", role_name(role));
    let dynamic: Vec<&Value> = merged.dynamic_value("parameters").into_iter().collect();
    // A role's own parameters are never the controlled ones, wherever they stand.
    let local_parameters = merged.local.get("parameters");
    let over = local_parameters.into_iter().chain(merged.get(&own));
    let mut sorted = guc::sort_out(&dynamic, &over.collect::<Vec<_>>(), warnings);
    if settings.synchronous_mode != SyncMode::Off {
        sorted.others.retain(|name, _| !name.eq_ignore_ascii_case("synchronous_standby_names"));
    }
    if settings.use_slots && settings.slots.iter().any(|slot| slot.kind != SlotKind::Physical) {
        // The leader must keep the rows of the catalogs that a standby's copies need (PATRONI: so).
        sorted.others.retain(|name, _| !name.eq_ignore_ascii_case(FEEDBACK));
        sorted.others.insert(FEEDBACK.to_owned(), "on".to_owned());
    }
    for (name, value) in &mut sorted.others {
        if name.eq_ignore_ascii_case("hba_file") || name.eq_ignore_ascii_case("ident_file") {
            let path = Path::new(&local.postgresql.config_dir).join(&*value);
            *value = path.to_string_lossy().into_owned();
        }
    }
    sorted
}

fn command_line(local: &Local, controlled: Vec<(String, String)>) -> Vec<(String, String)> {
    let fixed = [
        ("listen_addresses", local.postgresql.listen_addresses.join(",")),
        ("port", local.postgresql.port.to_string()),
        ("cluster_name", local.scope.clone()),
    ];
    fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(controlled).collect()
}
