//! What the kernel offers, in types that cannot be misused: the only room with `unsafe`.

#![allow(unsafe_code)]

pub mod cgroup;
pub mod clock;
pub mod fd;
pub mod journal;
pub mod kernel;
pub mod private;
pub mod proc;
pub mod process;
pub mod realtime;
pub mod shared;
pub mod watchdog;
