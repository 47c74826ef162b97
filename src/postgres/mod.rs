//! PostgreSQL: its files, its programs and sessions with its server. Plain paths and strings
//! come in; what is learnt goes out as the types of `core`. Programs are only described here
//! (`command`): whoever owns the processes runs them.

pub mod binaries;
pub mod command;
pub mod conninfo;
pub mod control;
pub mod datadir;
pub mod durable;
pub mod files;
pub mod history;
pub mod judge;
pub mod pidfile;
pub mod ping;
pub mod probe;
pub mod roles;
pub mod session;
pub mod slot_copies;
pub mod tls;
