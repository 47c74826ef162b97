//! The commands that make a replica's data directory: pg_basebackup, and the user's own methods.

use crate::config::ReplicaMethod;
use crate::core::decision::Upstream;
use crate::core::settings::BASEBACKUP;
use crate::link::order::Command;
use crate::postgres::binaries::Tool;
use crate::postgres::command;

use super::drivers::Setup;
use super::hooks;
use super::server::{self, ServerError};

/// The command of this method for a copy of this member, or of none.
pub fn create(
    setup: &Setup,
    method: &str,
    from: Option<&Upstream>,
) -> Result<Command, ServerError> {
    let connstring = match from {
        Some(from) => {
            server::write_pgpass(setup, from)?;
            // Not under the member's name: a copy in progress must not look like its standby.
            server::replication_conninfo(setup, from, None)?
        }
        None => String::new(),
    };
    if method == BASEBACKUP && from.is_some() {
        return base_backup(setup, &connstring);
    }
    let missing = || ServerError::Method { method: method.to_owned() };
    let mut methods = setup.replica.create_replica_methods.iter();
    let configured = methods.find(|m| m.name == method && m.name != BASEBACKUP);
    Ok(custom(setup, configured.ok_or_else(missing)?, &connstring))
}

fn base_backup(setup: &Setup, connstring: &str) -> Result<Command, ServerError> {
    let argv = command::pg_basebackup(
        &server::binary(setup, Tool::PgBasebackup)?,
        &setup.local.postgresql.data_dir,
        connstring,
        &setup.replica.basebackup,
    );
    Ok(Command { argv, ..Command::default() })
}

/// `<command> --<option>=<value>… --scope --role --datadir --connstring`, as Patroni calls it.
fn custom(setup: &Setup, method: &ReplicaMethod, connstring: &str) -> Command {
    let pg = &setup.local.postgresql;
    let mut options = method.options.clone();
    if !method.no_params {
        let ours = [
            ("scope", setup.local.scope.as_str()),
            ("role", "replica"),
            ("datadir", &pg.data_dir),
            ("connstring", connstring),
        ];
        options.retain(|(name, _)| ours.iter().all(|(own, _)| own != name));
        options.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let line = method.command.as_deref().unwrap_or(&method.name);
    let mut command = hooks::command(line, &[]);
    command.argv.extend(options.iter().map(|(name, value)| format!("--{name}={value}")));
    command.env.push(("PGPASSFILE".to_owned(), pg.pgpass.clone()));
    command
}
