//! The rules in blocks, one file a block.

pub mod follow;
pub mod health;
#[cfg(test)]
mod health_tests;
pub mod leader;
pub mod pause;
pub mod rejoin;
pub mod release;
pub mod safety;
pub mod standby;
#[cfg(test)]
mod standby_tests;
#[cfg(test)]
mod tests;
pub mod vacant;
