//! Where the configuration of the command line comes from.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

use crate::api::auth::Credentials;
use crate::api::client::Client;
use crate::config::{self, CtlConfig};
use crate::dcs::Options;
use crate::discovery;

use super::Failure;
use super::args::Global;

/// What a session needs to know.
pub struct Context {
    /// The cluster, if a command names none.
    pub scope: Option<String>,
    pub namespace: String,
    /// The store; the prefix is left empty, it depends on the cluster.
    pub store: Options,
    pub client: Client,
}

/// Reads the file, the variables and `-d`.
pub fn load(global: &Global) -> Result<Context, Failure> {
    let env: BTreeMap<String, String> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
    let url = global.dcs_url.as_deref().or(env.get("DCS_URL").map(String::as_str));
    let file = global.config_file.as_deref();
    let loaded = config::load_ctl(file, url, global.insecure, &env, &home);
    let config = loaded.map_err(|findings| {
        let errors = findings.iter().filter(|finding| finding.error);
        let lines: Vec<String> = errors.map(|finding| finding.to_string()).collect();
        Failure::Message(lines.join("\n"))
    })?;
    context(config)
}

fn context(config: CtlConfig) -> Result<Context, Failure> {
    let credentials = config
        .credentials
        .map(|config::Credentials { username, password }| Credentials { username, password });
    let client = Client::new(credentials, &config.ctl.tls)
        .map_err(|error| Failure::Message(format!("{:#}", anyhow::Error::new(error))))?;
    Ok(Context {
        scope: config.scope,
        namespace: config.namespace,
        store: discovery::options(&config.etcd, String::new()),
        client,
    })
}
