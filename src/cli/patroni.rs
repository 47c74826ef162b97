//! What scripts ask the program `patroni` for in place of a member, with its exit codes. Standard
//! output holds what was asked for and nothing else; findings go to standard error.

use std::collections::BTreeMap;
use std::io::{ErrorKind, stderr};
use std::path::Path;

use super::console::Console;
use super::doctor::{Port, try_ports};
use super::program::Patroni;
use super::setup::{Source, generate_to};
use super::{Failure, exit_code};
use crate::config;

/// The exit code; `None` if a member is wanted.
pub fn run(
    asked: &Patroni,
    path: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Option<i32> {
    if asked.validate_config {
        return Some(validate(asked, path, environment));
    }
    if asked.generate_config {
        let source = asked.dsn.as_deref().map_or(Source::Nearest, Source::Server);
        return Some(generate_to(source, path));
    }
    asked.generate_sample_config.then(|| generate_to(Source::Machine, path))
}

fn validate(asked: &Patroni, path: Option<&Path>, environment: &BTreeMap<String, String>) -> i32 {
    let checked = config::check_config(path, environment, &mut stderr());
    let (Ok(0), Ok(loaded)) = (checked, config::load(path, environment)) else { return 1 };
    let ports = if asked.ignore_listen_port { Vec::new() } else { try_ports(&loaded.local) };
    let merged = config::merged(path, environment).filter(|_| asked.print);
    exit_code(free(&ports).and_then(|()| match merged {
        Some(merged) => Console::stdio().print(&config::to_yaml(&merged)),
        None => Ok(()),
    }))
}

/// One that is no address of this machine is left to whoever runs there: the file may be another
/// server's.
fn free(ports: &[Port]) -> Result<(), Failure> {
    let in_use =
        |port: &&Port| port.tried.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    ports.iter().find(in_use).map_or(Ok(()), |Port { key, host, port, .. }| {
        let what = format!("{key}: {host}:{port} is in use; --ignore-listen-port passes over that");
        Err(Failure::message(what))
    })
}
