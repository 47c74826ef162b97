//! Connections to PostgreSQL: the local server as superuser, the leader as rewind role.

use std::time::Duration;

use crate::core::decision::Upstream;
use crate::postgres::session::{Session, SessionError, Target};

use super::drivers::Setup;
use super::server::{self, ServerError};

const DATABASE: &str = "postgres";

/// Longer than every deadline of a call: the deadline ends a call, not the server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The local server, over its socket or the address that it listens on.
pub fn local_target(setup: &Setup, statement_timeout: Duration) -> Target {
    let pg = &setup.local.postgresql;
    let socket_dir = setup
        .primary
        .parameters
        .get("unix_socket_directories")
        .and_then(|dirs| dirs.split(',').next())
        .map(|dir| dir.trim().to_owned())
        .filter(|dir| !dir.is_empty());
    let listen = match pg.listen_addresses.first().map(String::as_str) {
        None | Some("*" | "0.0.0.0" | "") => "127.0.0.1".to_owned(),
        Some("::") => "::1".to_owned(),
        Some(address) => address.to_owned(),
    };
    let host = if pg.use_unix_socket { socket_dir.unwrap_or(listen) } else { listen };
    Target {
        host,
        port: pg.port,
        user: pg.superuser.username.clone(),
        password: pg.superuser.password.clone(),
        database: DATABASE.to_owned(),
        statement_timeout,
        options: pg.superuser.options.clone(),
    }
}

pub async fn local(setup: &Setup, within: Duration) -> Result<Session, SessionError> {
    Session::connect(&local_target(setup, STATEMENT_TIMEOUT), within).await
}

#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Another member, as the role that pg_rewind uses.
pub async fn leader(
    setup: &Setup,
    from: &Upstream,
    within: Duration,
) -> Result<Session, LeaderError> {
    let (host, port) = server::address(from)?;
    let user = &setup.local.postgresql.rewind;
    let target = Target {
        host,
        port,
        user: user.username.clone(),
        password: user.password.clone(),
        database: DATABASE.to_owned(),
        statement_timeout: STATEMENT_TIMEOUT,
        options: user.options.clone(),
    };
    Ok(Session::connect(&target, within).await?)
}
