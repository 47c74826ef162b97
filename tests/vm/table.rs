//! What the scenarios predicted and measured, for docs/FENCING.md.

use std::time::Duration;

pub struct Row {
    pub predicted: String,
    pub measured: String,
}

/// A row of the table in docs/FENCING.md.
pub fn line(scenario: &str, device: &str, row: &Row) -> String {
    format!("| {scenario} | {device} | {} | {} |", row.predicted, row.measured)
}

pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
