//! Everything that decides. Pure: `std` only, no clock, no I/O, no threads, no hash maps;
//! `now` is an argument. Drivers convert to and from these types at their own border.

/// The Patroni release whose behaviour is offered: `version` of member documents, REST and ctl.
pub const PATRONI_VERSION: &str = "4.1.5";

pub mod budget;
pub mod candidates;
pub mod cloning;
pub mod cluster;
pub mod database;
pub mod decide;
#[cfg(test)]
mod decide_tests;
pub mod decision;
pub mod error;
pub mod events;
pub mod failsafe;
#[cfg(test)]
mod failsafe_tests;
pub mod guard;
pub mod health;
pub mod lsn;
pub mod numbering;
pub mod rules;
pub mod settings;
pub mod slot_copies;
pub mod slots;
pub mod sync;
pub mod sync_names;
pub mod time;
pub mod timeline;
pub mod trust;
pub mod view;
