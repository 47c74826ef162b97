//! Process 2: everything but the safety of the data. May hang, crash and be replaced; the
//! supervisor keeps its lease id in a capsule and fences if nobody renews in time.

mod accepted;
mod bootstrap;
mod callbacks;
mod disk;
mod drivers;
mod duties;
mod events;
mod executor;
mod health;
mod hooks;
mod inspect;
mod jitter;
mod late_device;
mod lease;
mod orders;
mod peers;
mod preflight;
mod prober;
mod progress;
mod promises;
mod publish;
mod reader;
mod replica;
mod requests;
mod reset;
mod say;
mod server;
mod slots;
mod sql;
mod start;
mod store;
mod turn;
mod twin;
mod volume;
mod world;

pub use accepted::kept;
pub use drivers::device;
pub use start::{CONFIGURATION_REFUSED, run};
pub use volume::{page_path as volume_page, probe as probe_volumes};
