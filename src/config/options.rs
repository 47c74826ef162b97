//! Options that users give to tools (initdb, pg_basebackup, pg_rewind) and to their own scripts.

use serde_json::Value;

use super::units;
use crate::core::settings;

/// A tool, and the options that are ours to set.
#[derive(Debug)]
pub struct Tool {
    pub name: &'static str,
    refused: &'static [&'static str],
}

pub const INITDB: Tool =
    Tool { name: "initdb", refused: &["pgdata", "nosync", "pwfile", "sync-only", "version"] };

pub const BASEBACKUP: Tool = Tool {
    name: "pg_basebackup",
    refused: &[
        "pgdata",
        "format",
        "wal-method",
        "xlog-method",
        "gzip",
        "version",
        "dbname",
        "host",
        "port",
        "username",
        "password",
    ],
};

pub const REWIND: Tool = Tool {
    name: "pg_rewind",
    refused: &[
        "target-pgdata",
        "source-pgdata",
        "source-server",
        "write-recovery-conf",
        "dry-run",
        "restore-target-wal",
        "config-file",
        "no-ensure-shutdown",
        "version",
        "help",
    ],
};

/// Command line options from a list (`- checksums`, `- encoding: UTF8`) or a mapping, and what is
/// wrong with the rest, which is left out.
pub fn of(tool: &Tool, value: &Value) -> (Vec<String>, Vec<String>) {
    let mut results = Vec::new();
    match value {
        Value::Null => {}
        Value::Object(map) => {
            // Patroni leaves out what has no value.
            let filled = map.iter().filter(|(_, v)| !v.is_null() && *v != "");
            results.extend(filled.map(|(name, value)| option(tool, name, Some(value))));
        }
        Value::Array(items) => results.extend(items.iter().map(|item| item_of(tool, item))),
        _ => results.push(Err(format!("options of {} must be a list or a mapping", tool.name))),
    }
    let (mut options, mut problems) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(option) => options.push(option),
            Err(why) => problems.push(why),
        }
    }
    (options, problems)
}

fn item_of(tool: &Tool, item: &Value) -> Result<String, String> {
    let single = item.as_object().filter(|map| map.len() == 1).and_then(|map| map.iter().next());
    match (item, single) {
        (Value::String(name), _) => option(tool, name, None),
        (_, Some((name, value))) => option(tool, name, Some(value)),
        _ => Err(format!("an option of {} is neither a name nor one name: value", tool.name)),
    }
}

fn option(tool: &Tool, name: &str, value: Option<&Value>) -> Result<String, String> {
    let spelled = name.split('=').next().unwrap_or(name).trim();
    if tool.refused.contains(&spelled) {
        return Err(format!("option {spelled} of {} is not allowed", tool.name));
    }
    let clean = !name.is_empty() && !name.starts_with('-') && !name.contains('\0');
    if !clean {
        return Err(format!("`{name}` is no option of {} (no dashes)", tool.name));
    }
    let Some(value) = value else { return Ok(format!("--{name}")) };
    let text = match value {
        Value::String(s) => unquote(s).to_owned(),
        Value::Number(n) => n.to_string(),
        _ => return Err(format!("the value of option {name} of {} must be text", tool.name)),
    };
    let server_side = text.starts_with("server-");
    if tool.name == BASEBACKUP.name && name == "compress" && !server_side {
        return Err(format!("option compress of {} must begin with server-", tool.name));
    }
    Ok(format!("--{name}={text}"))
}

/// Without one pair of quotes around the whole: they would reach the tool.
fn unquote(text: &str) -> &str {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// How a standby's data directory can be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaMethod {
    /// `basebackup` is built in.
    pub name: String,
    /// For the script: `--name=value` each, before those that we add.
    pub options: Vec<(String, String)>,
    /// Default: the method's name.
    pub command: Option<String>,
    /// Do not add `--scope --role --datadir --connstring`.
    pub no_params: bool,
    /// Works without a leader.
    pub no_leader: bool,
    /// Do not empty the data directory first, nor after a failure.
    pub keep_data: bool,
}

impl ReplicaMethod {
    /// From the section of the method's name in `postgresql`, if there is one.
    pub fn of(name: &str, section: Option<&Value>) -> ReplicaMethod {
        let flag =
            |key: &str| section.and_then(|s| s.get(key)).and_then(units::boolean).unwrap_or(false);
        let no_params = flag("no_params");
        let ours = |key: &str| {
            key == "command" || no_params && matches!(key, "no_params" | "no_leader" | "keep_data")
        };
        let entries = section.and_then(Value::as_object).into_iter().flatten();
        ReplicaMethod {
            name: name.to_owned(),
            options: entries
                .filter(|(key, _)| !ours(key))
                .map(|(key, value)| (key.clone(), units::python_text(value)))
                .collect(),
            command: section.and_then(|s| s.get("command")).and_then(units::text),
            no_params,
            no_leader: flag("no_leader"),
            keep_data: flag("keep_data"),
        }
    }

    /// What decisions need of it.
    pub fn in_short(&self) -> settings::ReplicaMethod {
        let ReplicaMethod { no_leader, keep_data, .. } = *self;
        settings::ReplicaMethod { name: self.name.clone(), no_leader, keep_data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_of_tools() {
        let list = json!(["data-checksums", {"encoding": "UTF8"}, {"locale": "\"C\""}, "pgdata"]);
        assert_eq!(
            of(&INITDB, &list),
            (
                ["--data-checksums", "--encoding=UTF8", "--locale=C"].map(str::to_owned).to_vec(),
                vec!["option pgdata of initdb is not allowed".to_owned()],
            )
        );
        let map = json!({"max-rate": "100M", "checkpoint": "fast", "verbose": null});
        let expected = ["--max-rate=100M", "--checkpoint=fast"].map(str::to_owned).to_vec();
        assert_eq!(of(&BASEBACKUP, &map), (expected, vec![]));
        for wrong in [
            json!([{"a": "b", "c": "d"}]),
            json!([1]),
            json!("x"),
            json!([{"compress": "gzip"}]),
            json!(["--verbose"]),
            json!(["host=evil"]),
            json!([{"x": true}]),
        ] {
            let (options, problems) = of(&BASEBACKUP, &wrong);
            assert_eq!((options.len(), problems.len()), (0, 1), "{wrong}");
        }
    }

    #[test]
    fn a_replica_method_keeps_its_flags_as_arguments_unless_no_params() {
        let section = json!({"command": "/x y", "no_leader": 1, "keep_data": true, "stanza": "m"});
        let method = ReplicaMethod::of("pgbackrest", Some(&section));
        let names: Vec<_> = method.options.iter().map(|(k, v)| format!("--{k}={v}")).collect();
        assert_eq!(names, ["--no_leader=1", "--keep_data=True", "--stanza=m"]);
        assert!(method.no_leader && method.keep_data && !method.no_params);
        let section = json!({"no_params": true, "no_leader": true, "stanza": "m"});
        let method = ReplicaMethod::of("pgbackrest", Some(&section));
        assert_eq!(method.options, [("stanza".to_owned(), "m".to_owned())]);
    }
}
