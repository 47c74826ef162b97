//! The REST API, Patroni's: answered from a snapshot that the agent's loop keeps fresh, never by a
//! database query per request. Commands go to the agent as requests and wait for its reply.
//!
//! `server` owns sockets and limits, `routes` maps a request to an answer; everything between
//! (`view`, `status`, `health`, `cluster`, `metrics`, `operator`, `restart`) is a pure function of
//! a snapshot and an instant. `client` and `peer` are the other side: what members ask each other.

pub mod auth;
mod ciphers;
pub mod client;
pub mod cluster;
pub mod fence;
pub mod health;
pub mod json;
pub mod metrics;
pub mod operator;
pub mod options;
pub mod page;
pub mod peer;
pub mod quantity;
pub mod restart;
pub mod routes;
#[cfg(test)]
mod samples;
pub mod schedule;
pub mod server;
pub mod snapshot;
pub mod status;
pub mod tls;
pub mod view;
