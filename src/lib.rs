//! pgvigil keeps a PostgreSQL primary alive on a set of servers and makes sure that there is never
//! more than one. docs/ARCHITECTURE.md tells how the rooms below fit together;
//! `tests/tidy.rs` holds the directions in which they may use each other.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod core;
pub mod dcs;
pub mod leftover;
pub mod link;
pub mod postgres;
pub mod sim;
pub mod supervisor;
pub mod sys;
pub mod telemetry;
pub mod tls;
pub mod watchdog;
