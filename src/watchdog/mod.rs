//! The watchdog device, the last tier of the fence: it resets the machine when nothing of ours runs
//! any more. Which device, what it can and cannot do, and how it is driven. When it counts and
//! which pings it gets is decided by `core::guard`.

pub mod card;
pub mod device;
pub mod discover;
pub mod drivers;
pub mod held;
pub mod petter;
pub mod record;
