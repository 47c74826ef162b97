//! Finds, reads, merges and checks the sources of the local configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::ctl::SERVICE_FILE;
use super::diagnostics::{Diagnostic, Report};
use super::local::Local;
use super::tree::{Data, Node, Position};
use super::yaml11;
use super::{dynamic, env, read_local, schema};

const EMPTY: &str = "the configuration is empty: name a file; `pgvigil init` makes one";

/// A configuration that can be run.
#[derive(Clone)]
pub struct Loaded {
    pub local: Local,
    pub warnings: Vec<Diagnostic>,
    /// All that was read, for [`again`].
    pub merged: Value,
}

impl fmt::Debug for Loaded {
    /// Without what was read, which has passwords in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loaded { local, warnings, .. } = self;
        f.debug_struct("Loaded").field("local", local).field("warnings", warnings).finish()
    }
}

/// Loads a file, or every `*.yml` and `*.yaml` of a directory in the order of their names; the
/// variables `PATRONI_*` in `env` go over it. Without a path: `PATRONI_CONFIGURATION` alone, else
/// the variables alone. `${…}` is not expanded, as in Patroni.
///
/// # Errors
/// All that is wrong, errors and warnings, in the order of the files.
pub fn load(
    path: Option<&Path>,
    env: &BTreeMap<String, String>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let mut report = Report::default();
    let Some(root) = sources(path, env, &mut report) else { return Err(report.sorted()) };
    understood(&root, report)
}

/// The configuration of `merged`, which another process kept in the file `name`; the variables are
/// in it.
///
/// # Errors
/// As [`load`].
pub fn again(merged: &Value, name: &str) -> Result<Loaded, Vec<Diagnostic>> {
    let at = Position { file: Arc::from(name), line: 0, column: 0 };
    understood(&Node::from_value(merged, &at), Report::default())
}

fn understood(root: &Node, mut report: Report) -> Result<Loaded, Vec<Diagnostic>> {
    schema::check_local(root, &mut report);
    dynamic::tool_options(root, "", &mut report);
    if let Some(dcs) = root.get("bootstrap").and_then(|b| b.get("dcs")) {
        dynamic::tool_options(dcs, "bootstrap.dcs.", &mut report);
    }
    let local = read_local::read(root, &mut report);
    if report.has_errors() {
        return Err(report.sorted());
    }
    Ok(Loaded { local, warnings: report.sorted(), merged: root.to_value() })
}

/// The sources as they are, merged, without defaults: what `patroni --validate-config --print`
/// shows. `None` if one cannot be read, which [`load`] tells.
pub fn merged(path: Option<&Path>, env: &BTreeMap<String, String>) -> Option<Value> {
    sources(path, env, &mut Report::default()).map(|root| root.to_value())
}

/// The merged tree; `None` if a source cannot be read, which the report tells.
pub(super) fn sources(
    path: Option<&Path>,
    env: &BTreeMap<String, String>,
    report: &mut Report,
) -> Option<Node> {
    let whole = env.get(env::CONFIGURATION).filter(|text| !text.is_empty());
    let root = match (path, whole) {
        (Some(path), _) => {
            let mut root = files(path, report)?;
            root.patch(&env::tree(env, report));
            root
        }
        (None, Some(text)) => document(text, env::CONFIGURATION, report)?,
        (None, None) => env::tree(env, report),
    };
    if matches!(&root.data, Data::Map(entries) if entries.is_empty()) {
        report.error(&root.at, "", EMPTY);
        return None;
    }
    Some(root)
}

fn files(path: &Path, report: &mut Report) -> Option<Node> {
    let name = path.to_string_lossy();
    let at = Position { file: Arc::from(&*name), line: 0, column: 0 };
    let unreadable = |e: std::io::Error| {
        // Where nobody has been yet.
        let first = e.kind() == std::io::ErrorKind::NotFound && path == Path::new(SERVICE_FILE);
        let advice = if first { "; `pgvigil init` makes it" } else { "" };
        report.error(&at, "", cannot_read(&e) + advice);
    };
    let paths = list(path).map_err(unreadable).ok()?;
    if paths.is_empty() {
        report.error(&at, "", "there is no *.yml or *.yaml file in this directory");
        return None;
    }
    let mut root = Node::from_value(&Value::Object(Map::new()), &at);
    let mut readable = true;
    for path in paths {
        let name = path.to_string_lossy();
        let text = match read_bounded(&path) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned()),
            Err(e) => Err(cannot_read(&e)),
        };
        match text {
            Ok(text) => match document(&text, &name, report) {
                Some(node) => root.patch(&node),
                None => readable = false,
            },
            Err(why) => {
                report.error(&Position { file: Arc::from(&*name), line: 0, column: 0 }, "", why);
                readable = false;
            }
        }
    }
    readable.then_some(root)
}

/// Reads one byte more than a configuration may have at most: the parser refuses that.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(yaml11::TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn cannot_read(e: &std::io::Error) -> String {
    format!("cannot be read: {e}")
}

fn list(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let yaml = path.extension().is_some_and(|e| e == "yml" || e == "yaml");
        if yaml && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn document(text: &str, name: &str, report: &mut Report) -> Option<Node> {
    let document = match yaml11::parse(text, &Arc::from(name)) {
        Ok(document) => document,
        Err(e) => {
            report.findings.push(e.into());
            return None;
        }
    };
    for (at, key) in document.duplicates {
        report.warn(&at, &key, "is written twice in one section: the last one counts");
    }
    if !matches!(document.root.data, Data::Map(_)) {
        report.error(&document.root.at, "", "is not a mapping of keys to values");
        return None;
    }
    Some(document.root)
}
