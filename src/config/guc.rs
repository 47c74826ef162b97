//! The server parameters that Patroni controls: they stand on the server's command line, come
//! from the dynamic configuration only, and have to be the same on all members.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::units;

/// What a controlled parameter may be.
enum Check {
    AtLeast(i64),
    OneOf(&'static [&'static str]),
    Bool,
}

/// Name, default, check; in the order of the command line.
const CONTROLLED: &[(&str, &str, Check)] = &[
    ("wal_level", "replica", Check::OneOf(&["hot_standby", "replica", "logical"])),
    ("hot_standby", "on", Check::OneOf(&["on"])),
    ("max_connections", "100", Check::AtLeast(25)),
    ("max_wal_senders", "10", Check::AtLeast(3)),
    ("max_prepared_transactions", "0", Check::AtLeast(0)),
    ("max_locks_per_transaction", "64", Check::AtLeast(32)),
    ("track_commit_timestamp", "off", Check::Bool),
    ("max_replication_slots", "10", Check::AtLeast(4)),
    ("max_worker_processes", "8", Check::AtLeast(2)),
    ("wal_log_hints", "on", Check::Bool),
];

/// Set from `postgresql.listen` and `scope`; nobody else may.
const FIXED: [&str; 3] = ["listen_addresses", "port", "cluster_name"];

/// Controlled as well, but written into postgresql.conf.
const WAL_KEEP: [&str; 2] = ["wal_keep_size", "wal_keep_segments"];

/// `postgresql.parameters`, sorted out.
#[derive(Debug, Default)]
pub struct Parameters {
    /// In the order of the command line, without listen_addresses, port and cluster_name.
    pub controlled: Vec<(String, String)>,
    /// Name as written (the last spelling) and value as text.
    pub others: BTreeMap<String, String>,
}

/// Sorts out the parameters: `local` over `dynamic`, each source in the order of precedence.
pub fn sort_out(dynamic: &[&Value], local: &[&Value], warnings: &mut Vec<String>) -> Parameters {
    let mut controlled: Map<String, Value> = Map::new();
    let mut others: BTreeMap<String, (String, Value)> = BTreeMap::new();
    for (is_local, source) in
        dynamic.iter().map(|s| (false, *s)).chain(local.iter().map(|s| (true, *s)))
    {
        for (name, value) in source.as_object().into_iter().flatten() {
            let lower = name.to_lowercase();
            if FIXED.contains(&lower.as_str()) {
                let why = "is set from postgresql.listen and scope";
                warnings.push(format!("postgresql.parameters.{name} is ignored: it {why}"));
            } else if is_controlled(&lower) && is_local {
                let why = "only the dynamic configuration may set it";
                warnings.push(format!("postgresql.parameters.{name} is ignored here: {why}"));
            } else if is_controlled(&lower) {
                controlled.insert(lower, value.clone());
            } else if !is_name(name) {
                warnings.push(format!("`{name}` is no name of a server parameter, ignored"));
            } else {
                others.insert(lower, (name.clone(), value.clone()));
            }
        }
    }
    let mut result = Parameters::default();
    for (name, default, check) in CONTROLLED {
        let given = controlled.get(*name).filter(|v| !v.is_null());
        let value = match given {
            None => (*default).to_owned(),
            Some(given) => checked(check, given).unwrap_or_else(|| {
                warnings.push(refusal(name, given, default));
                (*default).to_owned()
            }),
        };
        result.controlled.push(((*name).to_owned(), value));
    }
    result.others.insert("wal_keep_size".to_owned(), wal_keep_size(&controlled, warnings));
    for (name, value) in others.into_values() {
        match units::text(&value) {
            Some(text) => drop(result.others.insert(name, text)),
            // Null removes what a source below set.
            None if value.is_null() => {}
            None => {
                warnings.push(format!("postgresql.parameters.{name} is no single value, ignored"))
            }
        }
    }
    result
}

pub fn is_controlled(lower: &str) -> bool {
    CONTROLLED.iter().any(|(name, _, _)| *name == lower) || WAL_KEEP.contains(&lower)
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$' | '-'))
}

fn refusal(name: &str, given: &Value, default: &str) -> String {
    let given = units::python_text(given);
    format!("postgresql parameter {name}={given} failed validation, defaulting to {default}")
}

fn checked(check: &Check, value: &Value) -> Option<String> {
    match check {
        Check::AtLeast(min) => {
            let value = units::integer(value, "").filter(|v| v >= min)?;
            // Every one of them is a 32-bit integer for the server.
            i32::try_from(value).ok().map(|v| v.to_string())
        }
        Check::OneOf(words) => {
            let on = words.contains(&"on") && units::boolean(value) == Some(true);
            let word = if on { "on".to_owned() } else { units::text(value)?.to_lowercase() };
            let word = if word == "hot_standby" { "replica".to_owned() } else { word };
            words.contains(&word.as_str()).then_some(word)
        }
        Check::Bool => units::boolean(value).map(|b| if b { "on" } else { "off" }.to_owned()),
    }
}

/// `wal_keep_size`, else `wal_keep_segments` at 16 MB each, else 128MB (Patroni's 8 segments).
fn wal_keep_size(controlled: &Map<String, Value>, warnings: &mut Vec<String>) -> String {
    const DEFAULT: &str = "128MB";
    let given = |name: &str| controlled.get(name).filter(|v| !v.is_null());
    if let Some(size) = given("wal_keep_size") {
        if units::integer(size, "MB").is_some_and(|mb| mb >= 16) {
            return units::text(size).unwrap_or_else(|| DEFAULT.to_owned());
        }
        warnings.push(refusal("wal_keep_size", size, DEFAULT));
    }
    if let Some(segments) = given("wal_keep_segments") {
        if let Some(n) = units::integer(segments, "").filter(|n| (1..=100_000_000).contains(n)) {
            return format!("{}MB", n * 16);
        }
        warnings.push(refusal("wal_keep_segments", segments, "8"));
    }
    DEFAULT.to_owned()
}
