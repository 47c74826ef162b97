//! The rules in words, the model and the simulated clusters: what `core` and `sim` are tried by. A
//! program of the package `pgvigil-core`, so that it is optimized and built in a moment:
//! `cargo test -p pgvigil-core`.

mod coverage;
mod decisions;
mod defects;
mod model;
mod sim;
