//! What would make every start of PostgreSQL fail is refused in one line before anything runs.

use std::io::ErrorKind;
use std::net::TcpListener;

use crate::postgres::datadir::{self, DataDirError};
use crate::postgres::durable::FileError;

use super::drivers::Setup;
use super::inspect::running_pid;

#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error("postgresql.data_dir: {0}")]
    DataDir(#[from] DataDirError),
    #[error("postgresql.data_dir: {0}")]
    File(#[from] FileError),
    #[error(
        "postgresql.listen: {host}:{port} is in use by another program (another PostgreSQL?): \
         stop it, or change postgresql.listen"
    )]
    PortInUse { host: String, port: u16 },
}

/// Looks at the data directory and at PostgreSQL's port, unless a postmaster runs, which has both.
pub fn check(setup: &Setup) -> Result<(), PreflightError> {
    let data_dir = setup.data_dir();
    if running_pid(&data_dir).is_some() {
        return Ok(());
    }
    if data_dir.exists() {
        datadir::check_removable(&data_dir)?;
        datadir::check_room(&data_dir)?;
    }
    let port = setup.local.postgresql.port;
    for address in &setup.local.postgresql.listen_addresses {
        let all = matches!(address.as_str(), "" | "*");
        let hosts = if all { vec!["0.0.0.0", "::"] } else { vec![address.as_str()] };
        for host in hosts {
            // Any other error is left to PostgreSQL, which may know better.
            if TcpListener::bind((host, port)).is_err_and(|e| e.kind() == ErrorKind::AddrInUse) {
                return Err(PreflightError::PortInUse { host: address.clone(), port });
            }
        }
    }
    Ok(())
}
