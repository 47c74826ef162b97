//! Configuration: Patroni's files, variables and dynamic configuration, and what they mean.

mod address;
mod check;
mod ctl;
pub mod diagnostics;
mod dynamic;
mod effective;
mod emit;
mod env;
mod etcd;
mod guc;
mod import;
pub mod keys;
mod load;
mod local;
mod log;
pub mod options;
mod read_local;
mod reader;
mod scalar;
mod schema;
mod slots;
mod tags;
pub mod tree;
pub mod units;
pub mod yaml11;

pub use address::Endpoint;
pub use check::check_config;
pub use ctl::{CtlConfig, SERVICE_FILE, load_ctl, service_file};
pub use diagnostics::Diagnostic;
pub use dynamic::{
    PATRONI_TTL_FLOOR_S, TTL_FLOOR_S, merge_patch, review_dynamic, validate_dynamic,
};
pub use effective::{Effective, Role, effective};
pub use emit::to_yaml;
pub use env::knows_variable;
pub use etcd::{EtcdSection, Srv};
pub use guc::is_controlled;
pub use import::import;
pub use load::{Loaded, again, load, merged};
pub use local::{
    Bootstrap, Credentials, Ctl, CtlTls, CustomBootstrap, DbUser, Local, Postgresql, RestApi,
    RestTls, VerifyClient, Vigil, Watchdog, WatchdogMode,
};
pub use log::{Attribute, Log, LogFile, LogForm, Piece};
pub use options::ReplicaMethod;

#[cfg(test)]
mod tests;
