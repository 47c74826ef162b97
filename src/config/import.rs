//! `pgvigil import FILE`: what a configuration of Patroni means here, key by key, and the steps.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use super::diagnostics::{Diagnostic, Report};
use super::load::{load, sources};
use super::local::Local;
use super::tree::{Data, Node};

/// The width that the lists are broken at.
const COLUMNS: usize = 78;

/// Prints the report; 0: the configuration can be run as it is, 1: something is refused.
///
/// # Errors
/// When `out` cannot be written.
pub fn import(
    path: Option<&Path>,
    env: &BTreeMap<String, String>,
    out: &mut dyn Write,
) -> io::Result<u8> {
    let mut unread = Report::default();
    let root = sources(path, env, &mut unread);
    let (local, findings) = match load(path, env) {
        Ok(loaded) => (Some(loaded.local), loaded.warnings),
        Err(findings) => (None, findings),
    };
    let (refused, warned): (Vec<_>, Vec<_>) = findings.into_iter().partition(|f| f.error);
    list(out, "Refused: pgvigil does not start with these", &refused)?;
    list(out, "Accepted with a warning", &warned)?;
    if let Some(root) = &root {
        same(out, root, refused.iter().chain(&warned))?;
        advice(out, root)?;
    }
    match &local {
        Some(local) => steps(out, local, path)?,
        None => writeln!(out, "Nothing was changed. Mend what is refused and look again.")?,
    }
    Ok(u8::from(local.is_none()))
}

fn list(out: &mut dyn Write, title: &str, findings: &[Diagnostic]) -> io::Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(out, "{title}:")?;
    for finding in findings {
        writeln!(out, "  {finding}")?;
    }
    writeln!(out)
}

/// Keys about which there is nothing to say.
fn same<'a>(
    out: &mut dyn Write,
    root: &Node,
    findings: impl Iterator<Item = &'a Diagnostic>,
) -> io::Result<()> {
    let named: Vec<&str> = findings.map(|f| f.path.as_str()).filter(|p| !p.is_empty()).collect();
    let below = |path: &str, of: &str| {
        path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut all = Vec::new();
    keys(root, "", &mut all);
    all.retain(|path| !named.iter().any(|of| below(path, of)));
    writeln!(out, "The same as in Patroni ({} keys):", all.len())?;
    let mut line = String::new();
    for path in all {
        if !line.is_empty() && line.len() + path.len() + 4 > COLUMNS {
            writeln!(out, "  {line}")?;
            line.clear();
        }
        line = if line.is_empty() { path } else { format!("{line}, {path}") };
    }
    writeln!(out, "  {line}\n")
}

/// Keys whose entries are names of the user's or of PostgreSQL's.
const WHOLE: [&str; 6] = ["parameters", "recovery_conf", "tags", "slots", "static_fields", "users"];

fn keys(node: &Node, path: &str, all: &mut Vec<String>) {
    let name = path.rsplit('.').next().unwrap_or_default();
    match &node.data {
        Data::Map(entries) if !WHOLE.contains(&name) && !entries.is_empty() => {
            for entry in entries {
                let below = match path {
                    "" => entry.name.clone(),
                    path => format!("{path}.{}", entry.name),
                };
                keys(&entry.node, &below, all);
            }
        }
        _ => all.push(path.to_owned()),
    }
}

/// Where a key stands if it is there and what is better about it.
const ADVICE: &[(&str, &str)] = &[
    (
        "watchdog",
        "the fence does not hang on the device: at the lease's own deadline the supervisor freezes \
         PostgreSQL, and kills it after `vigil.freeze_max` (30 s). `pgvigil check-config` prints \
         what is made of `watchdog`",
    ),
    (
        "bootstrap.dcs.ttl",
        "Patroni's floor of 20 s holds as long as a Patroni member is registered. Afterwards \
         `pgvigilctl edit-config -s ttl=10 -s loop_wait=3 -s retry_timeout=3` fails over three \
         times as fast as the default; 3 s is the least",
    ),
    (
        "log.dir",
        "started by systemd, pgvigil writes to the journal with fields (PGVIGIL_RULE, MESSAGE_ID) \
         beside this file; without `log.dir` the journal is enough",
    ),
    ("postgresql.pre_promote", "is cancelled after 300 s; Patroni waits for it without a limit"),
    ("postgresql.before_stop", "is cancelled after 300 s; Patroni waits for it without a limit"),
    (
        "bootstrap.dcs.slots",
        "physical ones are kept on all members. Logical ones are made on the leader; that a \
         standby has them after a failover is PostgreSQL's own affair (17 and later: \
         sync_replication_slots)",
    ),
    (
        "postgresql.callbacks",
        "are called on Patroni's occasions with Patroni's arguments; what follows the leader key \
         from outside (vip-manager, HAProxy) needs none",
    ),
];

fn advice(out: &mut dyn Write, root: &Node) -> io::Result<()> {
    let stands = |path: &str| {
        let found = path.split('.').try_fold(root, |node, name| node.get(name));
        found.is_some_and(|node| !node.is_null())
    };
    let given: Vec<_> = ADVICE.iter().filter(|(path, _)| stands(path)).collect();
    writeln!(out, "Better, or worth knowing:")?;
    for (path, text) in given {
        writeln!(out, "  {path}: {text}")?;
    }
    writeln!(
        out,
        "  vigil: a section of its own, none of it needed. `freeze_max` (30 s), `rho` (0.01: how \
         far\n  clocks may differ in rate), `allow_unfenced` (off: a member whose PostgreSQL \
         cannot be\n  frozen or killed does not lead). Patroni ignores the section, with a \
         warning.\n"
    )
}

fn steps(out: &mut dyn Write, local: &Local, path: Option<&Path>) -> io::Result<()> {
    let (name, scope) = (&local.name, &local.scope);
    let file = path.map_or_else(|| "the variables".to_owned(), |p| p.display().to_string());
    writeln!(
        out,
        "Steps, one member at a time, replicas first ({name} of cluster {scope}):\n  \
         1. patronictl list {scope}          all members run, no lag, no pause\n  \
         2. on a leader: patronictl switchover {scope} --leader {name}\n  \
         3. systemctl stop patroni           PostgreSQL stops, too\n  \
         4. systemctl disable patroni        two agents for one data directory must not be\n  \
         5. systemctl enable --now pgvigil   with {file} as it is\n  \
         6. pgvigilctl list {scope}          {name} runs and streams: on to the next member\n\
         Back: stop pgvigil, start patroni with the same file. docs/MIGRATING.md tells the rest.\n\
         Nothing was changed."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (u8, String) {
        let env = BTreeMap::from([("PATRONI_CONFIGURATION".to_owned(), text.to_owned())]);
        let mut out = Vec::new();
        let code = import(None, &env, &mut out).expect("written");
        (code, String::from_utf8(out).expect("text"))
    }

    const GOOD: &str = "
name: alpha
scope: demo
etcd3: {hosts: 'a:2379'}
restapi: {listen: '127.0.0.1:8008', connect_address: '10.0.0.1:8008'}
postgresql:
  listen: 127.0.0.1:5432
  connect_address: 10.0.0.1:5432
  data_dir: /data
  pre_promote: /bin/true
  parameters: {work_mem: 4MB}
  authentication: {superuser: {username: s}, replication: {username: r}}
thread_pool_size: 6
";

    #[test]
    fn tells_what_is_the_same_and_what_is_not() {
        let (code, text) = of(GOOD);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("thread_pool_size: has no effect"), "{text}");
        let same = text.split("The same").nth(1).and_then(|t| t.split("\n\n").next());
        let same = same.expect("a list");
        assert!(same.contains("postgresql.parameters") && !same.contains("thread_pool"), "{same}");
        assert!(text.contains("postgresql.pre_promote: is cancelled"), "{text}");
        assert!(text.contains("alpha of cluster demo") && !text.contains("Refused"), "{text}");
    }

    #[test]
    fn tells_what_is_refused_and_gives_no_steps() {
        let (code, text) = of(&format!("{GOOD}consul: {{host: a}}\n"));
        assert_eq!(code, 1, "{text}");
        assert!(text.starts_with("Refused") && text.contains("consul: this store"), "{text}");
        assert!(!text.contains("systemctl"), "{text}");
    }
}
