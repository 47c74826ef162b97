//! `PATRONI_*` variables: the table, and the tree that is merged over the file.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::diagnostics::Report;
use super::tree::{Data, Entry, Node, Position};
use super::units;
use super::yaml11;

/// The whole configuration in one variable; then neither a file nor another variable counts.
pub const CONFIGURATION: &str = "PATRONI_CONFIGURATION";
const PREFIX: &str = "PATRONI_";

/// How a variable's text becomes a value.
#[derive(Clone, Copy)]
enum Form {
    /// As it is.
    Text,
    Bool,
    Int,
    /// YAML, put into brackets if it is not a list yet: `'host1:2379','host2:2379'`.
    List,
    /// YAML, put into braces if it is not a mapping yet.
    Mapping,
}

use Form::{Bool, Int, List, Mapping, Text};

/// Section of the variable (`RESTAPI_`), path of the section, its variables.
type Group = (&'static str, &'static str, &'static [(&'static str, Form)]);

/// Every variable: `PATRONI_` + group + name sets path + name in lower case.
const TABLE: &[Group] = &[
    (
        "",
        "",
        &[
            ("NAME", Text),
            ("NAMESPACE", Text),
            ("SCOPE", Text),
            ("THREAD_POOL_SIZE", Text),
            ("THREAD_STACK_SIZE", Text),
        ],
    ),
    (
        "RESTAPI_",
        "restapi",
        &[
            ("LISTEN", Text),
            ("CONNECT_ADDRESS", Text),
            ("CERTFILE", Text),
            ("KEYFILE", Text),
            ("KEYFILE_PASSWORD", Text),
            ("CAFILE", Text),
            ("CIPHERS", Text),
            ("VERIFY_CLIENT", Text),
            ("HTTP_EXTRA_HEADERS", Mapping),
            ("HTTPS_EXTRA_HEADERS", Mapping),
            ("ALLOWLIST", List),
            ("ALLOWLIST_INCLUDE_MEMBERS", Bool),
            ("REQUEST_QUEUE_SIZE", Int),
            ("THREAD_POOL_SIZE", Int),
            ("SERVER_TOKENS", Text),
        ],
    ),
    ("RESTAPI_", "restapi.authentication", &[("USERNAME", Text), ("PASSWORD", Text)]),
    (
        "CTL_",
        "ctl",
        &[
            ("INSECURE", Bool),
            ("CACERT", Text),
            ("CERTFILE", Text),
            ("KEYFILE", Text),
            ("KEYFILE_PASSWORD", Text),
        ],
    ),
    ("CTL_", "ctl.authentication", &[("USERNAME", Text), ("PASSWORD", Text)]),
    (
        "POSTGRESQL_",
        "postgresql",
        &[
            ("LISTEN", Text),
            ("CONNECT_ADDRESS", Text),
            ("PROXY_ADDRESS", Text),
            ("CONFIG_DIR", Text),
            ("DATA_DIR", Text),
            ("PGPASS", Text),
            ("BIN_DIR", Text),
        ],
    ),
    (
        "POSTGRESQL_BIN_",
        "postgresql.bin_name",
        &[
            ("PG_CTL", Text),
            ("INITDB", Text),
            ("PG_CONTROLDATA", Text),
            ("PG_BASEBACKUP", Text),
            ("POSTGRES", Text),
            ("PG_ISREADY", Text),
            ("PG_REWIND", Text),
        ],
    ),
    ("SUPERUSER_", "postgresql.authentication.superuser", USER),
    ("REPLICATION_", "postgresql.authentication.replication", USER),
    ("REWIND_", "postgresql.authentication.rewind", USER),
    (
        "LOG_",
        "log",
        &[
            ("TYPE", Text),
            ("LEVEL", Text),
            ("TRACEBACK_LEVEL", Text),
            ("FORMAT", Text),
            ("DATEFORMAT", Text),
            ("STATIC_FIELDS", Mapping),
            ("MAX_QUEUE_SIZE", Int),
            ("DIR", Text),
            ("MODE", Int),
            ("FILE_SIZE", Int),
            ("FILE_NUM", Int),
            ("LOGGERS", Mapping),
            ("DEDUPLICATE_HEARTBEAT_LOGS", Bool),
        ],
    ),
    ("ETCD3_", "etcd3", ETCD),
    ("ETCD_", "etcd", ETCD),
];

const USER: &[(&str, Form)] = &[
    ("USERNAME", Text),
    ("PASSWORD", Text),
    ("SSLMODE", Text),
    ("SSLCERT", Text),
    ("SSLKEY", Text),
    ("SSLPASSWORD", Text),
    ("SSLROOTCERT", Text),
    ("SSLCRL", Text),
    ("SSLCRLDIR", Text),
    ("GSSENCMODE", Text),
    ("CHANNEL_BINDING", Text),
    ("SSLNEGOTIATION", Text),
];

const ETCD: &[(&str, Form)] = &[
    ("HOST", Text),
    ("HOSTS", List),
    ("PORT", Int),
    ("USE_PROXIES", Bool),
    ("PROTOCOL", Text),
    ("SRV", Text),
    ("SRV_SUFFIX", Text),
    ("URL", Text),
    ("PROXY", Text),
    ("CACERT", Text),
    ("CERT", Text),
    ("KEY", Text),
    ("USERNAME", Text),
    ("PASSWORD", Text),
];

/// Old names, each with the one that wins if both are set.
const OLD: &[(&str, &str)] = &[
    ("PATRONI_LOGLEVEL", "PATRONI_LOG_LEVEL"),
    ("PATRONI_LOGFORMAT", "PATRONI_LOG_FORMAT"),
    ("PATRONI_LOG_DATEFMT", "PATRONI_LOG_DATEFORMAT"),
];

/// Stores that we refuse: any variable of theirs makes the section present.
const OTHER_STORES: &[&str] = &["CONSUL", "ZOOKEEPER", "EXHIBITOR", "KUBERNETES", "RAFT", "CITUS"];

/// The variables as a tree of the same shape as the file. Empty ones do not count.
pub fn tree(env: &BTreeMap<String, String>, report: &mut Report) -> Node {
    let nowhere = Position { file: Arc::from(""), line: 0, column: 0 };
    let mut root = Node::from_value(&Value::Object(Map::new()), &nowhere);
    for (name, text) in env.iter().filter(|(_, text)| !text.is_empty()) {
        let at = Position { file: Arc::from(name.as_str()), line: 0, column: 0 };
        let name = match OLD.iter().find(|(old, _)| old == name) {
            Some((_, new)) if env.get(*new).is_some_and(|v| !v.is_empty()) => continue,
            Some((_, new)) => new,
            None => name.as_str(),
        };
        let Some(short) = name.strip_prefix(PREFIX) else { continue };
        if let Some((path, form)) = find(short) {
            match value(text, form, &at) {
                Ok(node) => insert(&mut root, &path, node),
                Err(why) => report.error(&at, &path, why),
            }
        } else if let Some((store, key)) = short.split_once('_')
            && OTHER_STORES.contains(&store)
        {
            let path = format!("{}.{}", store.to_lowercase(), key.to_lowercase());
            insert(&mut root, &path, Node::from_value(&Value::Bool(true), &at));
        } else if let Some((first, _)) = short.split_once('_')
            && TABLE.iter().any(|(group, _, _)| group.starts_with(&format!("{first}_")))
        {
            report.warn(&at, "", "unknown variable, ignored");
        }
    }
    root
}

/// Whether this variable means something: sets a key, or names a store that we refuse.
pub fn knows_variable(name: &str) -> bool {
    let new = OLD.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new);
    let Some(short) = new.strip_prefix(PREFIX) else { return false };
    let store = short.split_once('_').is_some_and(|(store, _)| OTHER_STORES.contains(&store));
    store || new == CONFIGURATION || find(short).is_some()
}

fn find(short: &str) -> Option<(String, Form)> {
    for (group, section, variables) in TABLE {
        let Some(rest) = short.strip_prefix(group) else { continue };
        if let Some((name, form)) = variables.iter().find(|(name, _)| *name == rest) {
            let dot = if section.is_empty() { "" } else { "." };
            return Some((format!("{section}{dot}{}", name.to_lowercase()), *form));
        }
    }
    None
}

fn value(text: &str, form: Form, at: &Position) -> Result<Node, String> {
    let string = Value::String(text.to_owned());
    match form {
        Text => Ok(Node::from_value(&string, at)),
        Bool => match units::boolean(&string) {
            Some(b) => Ok(Node::from_value(&Value::Bool(b), at)),
            None => Err("must be on or off".to_owned()),
        },
        Int => match units::parse_integer(text, "") {
            Some(i) => Ok(Node::from_value(&Value::from(i), at)),
            None => Err("must be a whole number".to_owned()),
        },
        List if text.trim_start().starts_with('-') || text.contains('[') => yaml(text, at),
        List => yaml(&format!("[{text}]"), at),
        Mapping if text.trim_start().starts_with('{') => yaml(text, at),
        Mapping => yaml(&format!("{{{text}}}"), at),
    }
}

fn yaml(text: &str, at: &Position) -> Result<Node, String> {
    let document = yaml11::parse(text, &at.file).map_err(|e| e.message)?;
    Ok(Node::from_value(&document.root.to_value(), at))
}

/// Sets `path` (names with dots), making the mappings on the way.
fn insert(root: &mut Node, path: &str, node: Node) {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    let Data::Map(entries) = &mut root.data else { return };
    let i = entries.iter().position(|e| e.name == first).unwrap_or_else(|| {
        let empty = Node::from_value(&Value::Object(Map::new()), &node.at);
        entries.push(Entry { name: first.to_owned(), at: node.at.clone(), node: empty });
        entries.len() - 1
    });
    match rest {
        Some(rest) => insert(&mut entries[i].node, rest, node),
        None => entries[i].node = node,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(variables: &[(&str, &str)]) -> (Value, Vec<String>) {
        let env = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut report = Report::default();
        let value = tree(&env, &mut report).to_value();
        (value, report.findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn variables_become_a_tree() {
        for (name, text, expected) in [
            ("PATRONI_SCOPE", "123", json!({"scope": "123"})),
            ("PATRONI_ETCD3_HOSTS", "'a:1','b:2'", json!({"etcd3": {"hosts": ["a:1", "b:2"]}})),
            ("PATRONI_ETCD3_HOSTS", "[a:1]", json!({"etcd3": {"hosts": ["a:1"]}})),
            ("PATRONI_ETCD_PORT", "2379", json!({"etcd": {"port": 2379}})),
            ("PATRONI_LOGLEVEL", "DEBUG", json!({"log": {"level": "DEBUG"}})),
            ("PATRONI_LOG_LOGGERS", "a.b: INFO", json!({"log": {"loggers": {"a.b": "INFO"}}})),
            (
                "PATRONI_SUPERUSER_PASSWORD",
                "on",
                json!({"postgresql": {"authentication": {"superuser": {"password": "on"}}}}),
            ),
            (
                "PATRONI_POSTGRESQL_BIN_PG_CTL",
                "pg_ctl2",
                json!({"postgresql": {"bin_name": {"pg_ctl": "pg_ctl2"}}}),
            ),
            ("PATRONI_POSTGRESQL_BIN_DIR", "/b", json!({"postgresql": {"bin_dir": "/b"}})),
            (
                "PATRONI_RESTAPI_USERNAME",
                "u",
                json!({"restapi": {"authentication": {"username": "u"}}}),
            ),
            ("PATRONI_CONSUL_HOST", "h", json!({"consul": {"host": true}})),
            ("PATRONI_NAME", "", json!({})),
            ("PATRONI_DEMO_SERVICE_HOST", "10.0.0.1", json!({})),
        ] {
            assert_eq!(read(&[(name, text)]), (expected, vec![]), "{name}={text}");
        }
    }

    #[test]
    fn the_new_name_wins_and_wrong_ones_are_reported() {
        let both = [("PATRONI_LOGLEVEL", "DEBUG"), ("PATRONI_LOG_LEVEL", "ERROR")];
        assert_eq!(read(&both).0, json!({"log": {"level": "ERROR"}}));
        let wrong = [("PATRONI_ETCD3_PORT", "x"), ("PATRONI_RESTAPI_LISTNE", "y")];
        assert_eq!(
            read(&wrong).1,
            [
                "PATRONI_ETCD3_PORT: etcd3.port: must be a whole number",
                "PATRONI_RESTAPI_LISTNE: unknown variable, ignored"
            ]
        );
    }
}
