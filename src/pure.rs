//! What decides, and what tries it: nothing here uses more than std. A package of its own
//! (`core/Cargo.toml`), because a thousand simulated clusters want optimized code and nothing else
//! does.

pub mod core;
pub mod sim;
