//! The two message types between supervisor and agent, and both ends of their socket pair
//! (SOCK_SEQPACKET: one message, one datagram).
//!
//! Orders are idempotent and carry generation and sequence number. State is sent whole, on
//! connect and after each change; the latest wins, so no event can get lost.

mod agent_end;
mod codec;
pub mod order;
pub mod state;
mod supervisor_end;
mod wire;

pub use agent_end::AgentEnd;
pub use codec::{DATAGRAM_MAX, Malformed, decode, encode};
pub use supervisor_end::SupervisorEnd;

/// Environment variables that an agent is started with: the number of its end of the socket pair,
/// and its generation.
pub const LINK_FD: &str = "PGVIGIL_LINK_FD";
pub const GENERATION: &str = "PGVIGIL_GENERATION";

/// The most that a capsule may hold.
pub const CAPSULE_MAX_BYTES: usize = 4096;
