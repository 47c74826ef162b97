//! `pgvigil doctor [CONFIG]`: whether this server protects its member, and by what. Everything is
//! tried or read where it is in force, not inferred from what was configured; nothing is changed.
//! No watchdog device is opened: opening arms it.

mod fence;
mod machine;
mod member;
mod service;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

pub use member::{Port, try_ports};

use super::Failure;
use super::console::Console;

/// From good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Good,
    /// It works, but not as it could.
    Warning,
    /// A member would not run here, or not safely.
    Bad,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    topic: &'static str,
    verdict: Verdict,
    what: String,
    /// What to do about it; empty where nothing is to be done.
    advice: String,
}

impl Check {
    fn good(topic: &'static str, what: impl Into<String>) -> Check {
        Check { topic, verdict: Verdict::Good, what: what.into(), advice: String::new() }
    }

    fn warning(topic: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { topic, verdict: Verdict::Warning, what: what.into(), advice: advice.into() }
    }

    fn bad(topic: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { topic, verdict: Verdict::Bad, what: what.into(), advice: advice.into() }
    }
}

/// Runs all checks and prints them; the exit code: 0 all is well, 3 it works with warnings,
/// 1 something is bad.
pub fn run(config: Option<&Path>, environment: &BTreeMap<String, String>, as_json: bool) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let checks = match runtime {
        Ok(runtime) => runtime.block_on(examine(config, environment)),
        Err(error) => return Failure::message(format!("no runtime: {error}")).report(),
    };
    let text = if as_json { json_of(&checks) } else { text_of(&checks) };
    match Console::stdio().print(&text) {
        Ok(()) => exit_code(&checks),
        Err(failure) => failure.report(),
    }
}

async fn examine(config: Option<&Path>, environment: &BTreeMap<String, String>) -> Vec<Check> {
    let (known, mut checks) = member::Known::gather(config, environment).await;
    checks.extend(member::checks(&known).await);
    checks.extend(fence::checks(&known));
    checks.extend(machine::checks(&known));
    checks.extend(service::checks(&known, config));
    checks
}

fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Good)
}

fn exit_code(checks: &[Check]) -> i32 {
    match worst(checks) {
        Verdict::Good => 0,
        Verdict::Warning => 3,
        Verdict::Bad => 1,
    }
}

fn text_of(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "warning",
            Verdict::Bad => "BAD",
        };
        text.push_str(&format!("{verdict:<8}{:<15}{}\n", check.topic, check.what));
        if !check.advice.is_empty() {
            text.push_str(&format!("{:23}-> {}\n", "", check.advice));
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (warnings, bad) = (count(Verdict::Warning), count(Verdict::Bad));
    text.push_str(&match worst(checks) {
        Verdict::Good => "All is well.\n".to_owned(),
        Verdict::Warning => format!("It works, with {}.\n", counted(warnings, "warning")),
        Verdict::Bad => format!("{bad} bad, {}.\n", counted(warnings, "warning")),
    });
    text
}

fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn json_of(checks: &[Check]) -> String {
    let word = |verdict| match verdict {
        Verdict::Good => "ok",
        Verdict::Warning => "warning",
        Verdict::Bad => "bad",
    };
    let list: Vec<_> = checks
        .iter()
        .map(|check| {
            json!({"topic": check.topic, "verdict": word(check.verdict), "what": check.what,
                   "advice": check.advice})
        })
        .collect();
    format!("{:#}\n", json!({"verdict": word(worst(checks)), "checks": list}))
}
