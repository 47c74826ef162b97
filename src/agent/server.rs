//! The local PostgreSQL: its configuration files and the commands that the supervisor runs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{CustomBootstrap, Effective};
use crate::core::decision::Upstream;
use crate::core::settings::StandbyCluster;
use crate::core::slots::slot_name;
use crate::link::order::Command;
use crate::postgres::binaries::{Binaries, BinaryError, Tool};
use crate::postgres::command::{self, Postmaster, Rewind};
use crate::postgres::conninfo;
use crate::postgres::durable::{self, FileError};
use crate::postgres::files::{self, PgpassEntry, Places, Recovery};
use crate::postgres::{judge, pidfile};
use crate::sys::proc;

use super::drivers::Setup;
use super::inspect::{BOOTSTRAP_MARKER, promotion_marker};
use super::{bootstrap, sql};

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Binary(#[from] BinaryError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the replica method {method} is no longer configured, or has nothing to copy from")]
    Method { method: String },
    #[error("member {member}: its conn_url {url} is not understood")]
    ConnUrl { member: String, url: String },
}

pub fn places(setup: &Setup) -> Places {
    let pg = &setup.local.postgresql;
    Places::new(&pg.data_dir, &pg.config_dir, &pg.config_base_name)
}

pub fn binary(setup: &Setup, tool: Tool) -> Result<String, ServerError> {
    let pg = &setup.local.postgresql;
    let path = Binaries::new(&pg.bin_dir, &pg.bin_name).path(tool)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Every program that will be needed is looked for before anything starts.
pub fn check_binaries(setup: &Setup) -> Result<String, ServerError> {
    for tool in [Tool::Initdb, Tool::PgBasebackup, Tool::PgCtl] {
        binary(setup, tool)?;
    }
    binary(setup, Tool::Postgres)
}

/// Writes postgresql.conf, pg_hba.conf and pg_ident.conf for this role. `None` upstream on a
/// standby: it recovers and waits.
pub fn write_configuration(
    setup: &Setup,
    primary: bool,
    upstream: Option<&Upstream>,
    sync_names: Option<&str>,
) -> Result<bool, ServerError> {
    if let Some(custom) = bootstrap::custom_under_way(setup) {
        return write_bootstrap_configuration(setup, custom);
    }
    let places = places(setup);
    let effective = match remote(setup, upstream) {
        Some(_) if !primary && upstream.is_some() => &setup.standby_leader,
        _ => setup.role(primary),
    };
    let mut parameters = parameters(setup, effective);
    if let Some(names) = sync_names {
        parameters.insert("synchronous_standby_names".to_owned(), names.to_owned());
    }
    // A primary's file has them, too: a promoted standby would otherwise wait for a restart to
    // forget recovery targets that it no longer heeds.
    let recovery = recovery(setup, upstream)?;
    files::restore_configuration(&places)?;
    let custom = effective.custom_conf.as_deref();
    let mut changed = files::write_postgresql_conf(&places, &parameters, custom, Some(&recovery))?;
    changed |= write_access_of(effective, &places)?;
    files::clean_auto_conf(&setup.data_dir())?;
    files::backup_configuration(&places)?;
    Ok(changed)
}

/// Writes pg_hba.conf and pg_ident.conf alone, for a server whose parameters are not known.
pub fn write_access(setup: &Setup, primary: bool) -> Result<bool, ServerError> {
    match bootstrap::custom_under_way(setup) {
        Some(_) => Ok(false),
        None => write_access_of(setup.role(primary), &places(setup)),
    }
}

fn write_access_of(effective: &Effective, places: &Places) -> Result<bool, ServerError> {
    let mut changed = false;
    if let Some(lines) = &effective.pg_hba
        && !effective.parameters.contains_key("hba_file")
    {
        changed |= files::write_hba(places, lines)?;
    }
    if let Some(lines) = &effective.pg_ident
        && !effective.parameters.contains_key("ident_file")
    {
        changed |= files::write_ident(places, lines)?;
    }
    Ok(changed)
}

/// Without those that would keep the server from starting.
fn parameters(setup: &Setup, effective: &Effective) -> BTreeMap<String, String> {
    let mut parameters: BTreeMap<String, String> = effective.parameters.clone();
    if let Ok(postgres) = binary(setup, Tool::Postgres) {
        for judge::Refusal { name, reason } in judge::refusals(Path::new(&postgres), &parameters) {
            tracing::warn!("postgresql.parameters.{name} is left out: {reason}");
            parameters.remove(&name);
        }
    }
    parameters.extend(effective.controlled.iter().cloned());
    for fixed in ["listen_addresses", "port", "cluster_name"] {
        parameters.remove(fixed);
    }
    parameters
}

/// For a cluster that the user's own command made: recovery as that wants it, and nobody but the
/// superuser, from here, whose password is not known before we have set it.
fn write_bootstrap_configuration(
    setup: &Setup,
    custom: &CustomBootstrap,
) -> Result<bool, ServerError> {
    let places = places(setup);
    let mut parameters = parameters(setup, &setup.primary);
    parameters.remove("hba_file");
    let recovery = (!custom.keep_existing_recovery_conf)
        .then(|| Recovery { user: custom.recovery_conf.clone(), ..Recovery::default() });
    files::restore_configuration(&places)?;
    let conf = setup.primary.custom_conf.as_deref();
    let changed = files::write_postgresql_conf(&places, &parameters, conf, recovery.as_ref())?;
    let user = setup.local.postgresql.superuser.username.replace('"', "\"\"");
    let mut lines = vec![format!("local all \"{user}\" trust")];
    let host = sql::local_target(setup, Duration::ZERO).host;
    if let Ok(address) = host.parse::<IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        lines.push(format!("host all \"{user}\" {address}/{bits} trust"));
    }
    Ok(files::write_hba(&places, &lines)? | changed)
}

/// The superuser's password is set: the configuration becomes what it is to be.
pub fn end_custom_bootstrap(setup: &Setup) -> Result<(), ServerError> {
    let data_dir = setup.data_dir();
    durable::remove(&places(setup).hba_file())?;
    durable::write(&data_dir.join(BOOTSTRAP_MARKER), b"", None)?;
    set_role(setup, true)?;
    write_configuration(setup, true, None, None)?;
    Ok(())
}

/// The signal file decides what the next start is; written right before it.
pub fn set_role(setup: &Setup, primary: bool) -> Result<(), ServerError> {
    if bootstrap::custom_under_way(setup).is_some() {
        return Ok(());
    }
    files::set_standby(&setup.data_dir(), !primary)?;
    durable::remove(&promotion_marker(&setup.data_dir()))?;
    clear_lock_of_zombie(&setup.data_dir())
}

/// PostgreSQL takes a zombie for a running postmaster. One whose supervisor died waits for its new
/// parent to reap it, which not every init does at once; it runs no code any more.
fn clear_lock_of_zombie(data_dir: &Path) -> Result<(), ServerError> {
    let pid = pidfile::read(data_dir).map(|file| file.pid);
    if pid.and_then(proc::stat).is_some_and(|stat| stat.state == 'Z') {
        durable::remove(&data_dir.join("postmaster.pid"))?;
    }
    Ok(())
}

fn recovery(setup: &Setup, upstream: Option<&Upstream>) -> Result<Recovery, ServerError> {
    let slots = setup.settings().use_slots;
    let primary_conninfo = match upstream {
        Some(from) => {
            write_pgpass(setup, from)?;
            Some(replication_conninfo(setup, from, Some(&setup.local.name))?)
        }
        None => None,
    };
    let mut user = setup.replica.recovery_conf.clone();
    let primary_slot_name = match remote(setup, upstream) {
        Some(remote) => {
            user.extend(remote.recovery.clone());
            remote.slot_name.clone().filter(|_| upstream.is_some())
        }
        None => (slots && upstream.is_some()).then(|| slot_name(&setup.local.name)),
    };
    Ok(Recovery { primary_slot_name, primary_conninfo, user })
}

/// In a standby cluster: what a server follows that has the remote primary for its upstream, or
/// none.
fn remote<'a>(setup: &'a Setup, upstream: Option<&Upstream>) -> Option<&'a StandbyCluster> {
    let remote = setup.settings().standby_cluster.as_ref()?;
    let theirs = remote.upstream.as_ref().map(|u| &u.conn_url);
    upstream.is_none_or(|u| Some(&u.conn_url) == theirs).then_some(remote)
}

/// Host and port of a member's `conn_url`, or hosts, with commas, of a remote primary that may be
/// on any of them, all with one port.
pub fn address(from: &Upstream) -> Result<(String, u16), ServerError> {
    let bad = || ServerError::ConnUrl { member: from.name.clone(), url: from.conn_url.clone() };
    let map = conninfo::parse(&from.conn_url).map_err(|_| bad())?;
    let host = map.get("host").ok_or_else(bad)?.clone();
    let port = map.get("port").and_then(|ports| ports.split(',').next()).unwrap_or("5432");
    let port = port.parse().map_err(|_| bad())?;
    Ok((host, port))
}

pub fn replication_conninfo(
    setup: &Setup,
    from: &Upstream,
    application_name: Option<&str>,
) -> Result<String, ServerError> {
    let pg = &setup.local.postgresql;
    let (host, port) = address(from)?;
    let upstream = conninfo::Upstream {
        host: &host,
        port,
        user: Some(&pg.replication.username),
        passfile: Some(&pg.pgpass),
        application_name,
        options: &pg.replication.options,
    };
    Ok(upstream.conninfo())
}

/// All roles that connect to the upstream, in one file: a rewind and the standby after it find
/// theirs.
pub fn write_pgpass(setup: &Setup, from: &Upstream) -> Result<(), ServerError> {
    let pg = &setup.local.postgresql;
    let (host, port) = address(from)?;
    let entries: Vec<PgpassEntry> = [&pg.replication, &pg.rewind, &pg.superuser]
        .into_iter()
        .filter_map(|user| {
            let password = user.password.clone()?;
            let entry = move |host: &str| PgpassEntry {
                host: host.to_owned(),
                port,
                user: user.username.clone(),
                password: password.clone(),
            };
            Some(host.split(',').map(entry).collect::<Vec<_>>())
        })
        .flatten()
        .collect();
    files::write_pgpass(Path::new(&pg.pgpass), &entries)?;
    Ok(())
}

pub fn postmaster(setup: &Setup, primary: bool) -> Result<Command, ServerError> {
    let pg = &setup.local.postgresql;
    let config_file = places(setup).config_file().to_string_lossy().into_owned();
    let argv = command::postmaster(&Postmaster {
        postgres: &binary(setup, Tool::Postgres)?,
        data_dir: &pg.data_dir,
        config_file: &config_file,
        controlled: &setup.role(primary).controlled,
    });
    Ok(Command { argv, cwd: Some(pg.data_dir.clone()), ..Command::default() })
}

pub fn promote(setup: &Setup) -> Result<Command, ServerError> {
    let data_dir = &setup.local.postgresql.data_dir;
    let argv = command::promote(&binary(setup, Tool::PgCtl)?, data_dir);
    Ok(Command { argv, ..Command::default() })
}

pub fn initdb(setup: &Setup) -> Result<Command, ServerError> {
    let pg = &setup.local.postgresql;
    let path = match &pg.superuser.password {
        Some(password) => {
            let path = password_file(setup);
            files::write_secret(&path, password)?;
            Some(path.to_string_lossy().into_owned())
        }
        None => None,
    };
    let argv = command::initdb(
        &binary(setup, Tool::Initdb)?,
        &pg.data_dir,
        &setup.local.bootstrap.initdb,
        Some(&pg.superuser.username),
        path.as_deref(),
    );
    Ok(Command { argv, ..Command::default() })
}

/// Beside the pgpass file: the data directory must be empty for initdb.
pub fn password_file(setup: &Setup) -> PathBuf {
    PathBuf::from(format!("{}.initdb", setup.local.postgresql.pgpass))
}

/// What to tell pg_rewind of where postgresql.conf is, and whether it finds it at all. It starts a
/// server that crashed, to recover it, and asks it for `restore_command`; before PostgreSQL 15 it
/// looks for the file nowhere but in the data directory.
fn config_for_rewind(places: &Places, major: u32) -> (Option<String>, bool) {
    let file = places.config_file();
    let elsewhere = file != places.data_dir.join("postgresql.conf");
    let told = (elsewhere && major >= 15).then(|| file.to_string_lossy().into_owned());
    let found = !elsewhere || told.is_some();
    (told, found)
}

pub fn rewind(setup: &Setup, from: &Upstream, major: u32) -> Result<Command, ServerError> {
    write_pgpass(setup, from)?;
    let pg = &setup.local.postgresql;
    let (host, port) = address(from)?;
    let upstream = conninfo::Upstream {
        host: &host,
        port,
        user: Some(&pg.rewind.username),
        passfile: Some(&pg.pgpass),
        application_name: None,
        options: &pg.rewind.options,
    };
    let mut pairs = upstream.pairs();
    pairs.push(("dbname".to_owned(), "postgres".to_owned()));
    let (config_file, finds_config) = config_for_rewind(&places(setup), major);
    let restores = setup.replica.recovery_conf.contains_key("restore_command");
    let argv = command::pg_rewind(&Rewind {
        pg_rewind: &binary(setup, Tool::PgRewind)?,
        data_dir: &pg.data_dir,
        source_conninfo: &conninfo::build(&pairs),
        restore_target_wal: restores && finds_config,
        config_file: config_file.as_deref(),
        options: &setup.replica.rewind_options,
    });
    Ok(Command { argv, ..Command::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pg_rewind_is_told_of_a_configuration_that_is_elsewhere() {
        let beside = Places::new("/pg/data", "", "");
        assert_eq!(config_for_rewind(&beside, 15), (None, true));
        assert_eq!(config_for_rewind(&beside, 13), (None, true));
        let debian = Places::new("/pg/data", "/etc/postgresql/15/main", "");
        let file = "/etc/postgresql/15/main/postgresql.conf".to_owned();
        assert_eq!(config_for_rewind(&debian, 15), (Some(file), true));
        assert_eq!(config_for_rewind(&debian, 14), (None, false));
        let renamed = Places::new("/pg/data", "", "ha");
        assert_eq!(config_for_rewind(&renamed, 16), (Some("/pg/data/ha.conf".to_owned()), true));
    }
}
