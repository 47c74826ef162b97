//! pgvigil keeps a PostgreSQL primary alive on a set of servers and makes sure that there is never
//! more than one. docs/ARCHITECTURE.md tells how the rooms below fit together;
//! `tests/tidy.rs` holds the directions in which they may use each other.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod dcs;
pub mod discovery;
pub mod leftover;
pub mod link;
pub mod postgres;
pub mod supervisor;
pub mod sys;
pub mod telemetry;
pub mod tls;
pub mod watchdog;

/// The decisions and their simulator (`src/pure.rs`).
pub use pgvigil_core::{core, sim};
