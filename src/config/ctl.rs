//! The configuration of pgvigilctl: a file, variables, a URL of the store.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::address;
use super::diagnostics::{Diagnostic, Report};
use super::etcd::{self, EtcdSection};
use super::load;
use super::local::{Credentials, Ctl};
use super::read_local;
use super::reader::Reader;
use super::schema;
use super::tree::{Node, Position};

/// Where patronictl looks without `-c`, below the home directory.
pub const DEFAULT_FILE: &str = ".config/patroni/patronictl.yaml";
/// The packaged service's: of the member on this server.
pub const SERVICE_FILE: &str = "/etc/pgvigil/pgvigil.yml";
/// The variable that names another file.
pub const FILE_VARIABLE: &str = "PATRONICTL_CONFIG_FILE";

/// What pgvigilctl needs to reach the store and the members.
#[derive(Clone, Debug)]
pub struct CtlConfig {
    /// The cluster when the command names none.
    pub scope: Option<String>,
    pub namespace: String,
    pub etcd: EtcdSection,
    pub ctl: Ctl,
    /// For requests to members: `ctl.authentication`, else `restapi.authentication`.
    pub credentials: Option<Credentials>,
}

/// The member's on this server, if no variable in `env` is configuration.
pub fn service_file(env: &BTreeMap<String, String>) -> Option<&'static Path> {
    let file = Path::new(SERVICE_FILE);
    (!variables(env) && file.is_file()).then_some(file)
}

fn variables(env: &BTreeMap<String, String>) -> bool {
    env.keys().any(|name| name.starts_with("PATRONI_"))
}

/// Loads it. `file`: of `-c`, or of PATRONICTL_CONFIG_FILE in `env`, which must exist; else
/// `DEFAULT_FILE` below `home` if it is there; else the variables; else [`service_file`].
/// `dcs_url`: of `-d`; it replaces the store's section.
///
/// # Errors
/// All that is wrong; sections that only a member needs may be missing.
pub fn load_ctl(
    file: Option<&Path>,
    dcs_url: Option<&str>,
    insecure: bool,
    env: &BTreeMap<String, String>,
    home: &Path,
) -> Result<CtlConfig, Vec<Diagnostic>> {
    let mut report = Report::default();
    let named = env.get(FILE_VARIABLE).filter(|name| !name.is_empty()).map(Path::new);
    let default = home.join(DEFAULT_FILE);
    let path = file.or(named).or(default.is_file().then_some(default.as_path()));
    let member = service_file(env).filter(|_| dcs_url.is_none());
    let path = path.or(member);
    if let Some(path) = path.filter(|path| !path.exists()) {
        let why = format!(
            "Provided config file {} not existing or no read rights. \
             Check the -c/--config-file parameter",
            path.display()
        );
        report.error(&nowhere(), "", why);
        return Err(report.sorted());
    }
    if path.is_none() && dcs_url.is_none() && !variables(env) {
        let why = format!(
            "no configuration: name the one of a member by -c FILE or {FILE_VARIABLE}, put one \
             into ~/{DEFAULT_FILE} or {SERVICE_FILE}, or name the store by -d etcd3://HOST:2379"
        );
        report.error(&nowhere(), "", why);
        return Err(report.sorted());
    }
    let mut root = match dcs_url {
        // A URL is enough: nothing else has to be there.
        Some(_) if path.is_none() => load::sources(None, env, &mut Report::default()),
        _ => load::sources(path, env, &mut report),
    }
    .unwrap_or_else(|| Node::from_value(&Value::Object(Map::new()), &nowhere()));
    if let Some(url) = dcs_url {
        match from_url(url) {
            Ok(patch) => {
                // Of the old section nothing may stay.
                let removal = serde_json::json!({"etcd3": null});
                root.patch(&Node::from_value(&removal, &nowhere()));
                root.patch(&Node::from_value(&patch, &nowhere()));
            }
            Err(why) => report.error(&nowhere(), "-d", why),
        }
    }
    if report.has_errors() {
        return Err(report.sorted());
    }
    schema::check_local(&root, &mut report);
    let config = read(&root, insecure, &mut report);
    if report.has_errors() {
        return Err(report.sorted());
    }
    Ok(config)
}

fn nowhere() -> Position {
    Position { file: "".into(), line: 0, column: 0 }
}

fn read(root: &Node, insecure: bool, report: &mut Report) -> CtlConfig {
    let top = Reader::new(root);
    let mut ctl = read_local::ctl(top);
    ctl.tls.insecure |= insecure;
    let whole = Position { line: 0, column: 0, ..root.at.clone() };
    let etcd = etcd::read(top, &whole, report);
    let member = read_local::credentials(top.sub("restapi"));
    CtlConfig {
        scope: top.text("scope"),
        namespace: read_local::namespace(top.text("namespace")),
        etcd,
        credentials: ctl.authentication.clone().or(member),
        ctl,
    }
}

/// `[etcd3://]host[:port][/namespace]` as a patch of the configuration.
fn from_url(url: &str) -> Result<Value, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if !matches!(scheme, "" | "etcd" | "etcd3") {
        return Err(format!("{scheme}:// is not supported; use etcd3://host:2379"));
    }
    let (host, namespace) = rest.split_once('/').unwrap_or((rest, ""));
    let host = if host.is_empty() { "localhost" } else { host };
    let endpoint = address::endpoint(host, Some(2379))?;
    if scheme.is_empty() && endpoint.port != 2379 && is_other_store(endpoint.port) {
        return Err(format!("port {} is not etcd's; write etcd3://{endpoint}", endpoint.port));
    }
    let mut patch = serde_json::json!({"etcd": null, "etcd3": {"host": endpoint.to_string()}});
    if !namespace.is_empty() {
        patch["namespace"] = Value::String(namespace.to_owned());
    }
    Ok(patch)
}

/// Ports by which patronictl would guess Consul, ZooKeeper or Exhibitor.
fn is_other_store(port: u16) -> bool {
    matches!(port, 2181 | 8500 | 8181)
}
