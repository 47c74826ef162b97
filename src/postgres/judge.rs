//! Parameters that this version of PostgreSQL does not know, or whose values it does not take. A
//! server with one of them in its configuration does not start, so that one slip in `edit-config`
//! would take down every member at its next restart; Patroni leaves them out, too.
//!
//! The judge is the server program itself: `postgres -C` reads all parameters, prints one and
//! ends. It needs no data directory, takes no lock and loads no library.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// A parameter that the server would not start with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub name: String,
    /// PostgreSQL's own words.
    pub reason: String,
}

/// Each run finds one; more than these are not looked for.
const REFUSALS_MAX: usize = 30;

/// Decides the language of the answer.
const LANGUAGE: &str = "lc_messages";

/// The last answer, since the same question comes with each configuration that is written.
static LAST: Mutex<Option<Judgement>> = Mutex::new(None);

type Judgement = (BTreeMap<String, String>, Vec<Refusal>);

/// Those of `parameters` that this server program refuses. Blocks for 30 ms and more, for nothing
/// if it was asked the same before. What cannot be judged (no program, an answer that is not
/// understood) is not refused: the start will show it.
pub fn refusals(postgres: &Path, parameters: &BTreeMap<String, String>) -> Vec<Refusal> {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = last.as_ref().filter(|(asked, _)| asked == parameters) {
        return known.clone();
    }
    let mut left = parameters.clone();
    left.retain(|name, _| !name.eq_ignore_ascii_case(LANGUAGE));
    let mut found = Vec::new();
    while found.len() < REFUSALS_MAX {
        let Some(reason) = complaint(postgres, &left) else { break };
        let Some(name) = left.keys().find(|name| names(&reason, name)).cloned() else { break };
        left.remove(&name);
        found.push(Refusal { name, reason });
    }
    *last = Some((parameters.clone(), found.clone()));
    found
}

/// The first complaint; `None`: there is none, or none that a server made.
fn complaint(postgres: &Path, parameters: &BTreeMap<String, String>) -> Option<String> {
    let mut command = Command::new(postgres);
    command.args(["-C", "port", "-D", "/", "--config-file=/dev/null"]);
    for (name, value) in parameters {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let fatal = text.lines().find_map(|line| line.split_once("FATAL:  ")).map(|(_, why)| why);
    fatal.filter(|_| !output.status.success()).map(str::to_owned)
}

/// `unrecognized configuration parameter "nosuch"`, `invalid value for parameter "work_mem": "x"`.
fn names(reason: &str, name: &str) -> bool {
    reason.to_lowercase().contains(&format!("parameter \"{}\"", name.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_refused_unasked() {
        let parameters = BTreeMap::from([("work_mem".to_owned(), "many".to_owned())]);
        assert_eq!(refusals(Path::new("/nowhere/postgres"), &parameters), []);
        assert!(names("invalid value for parameter \"TimeZone\": \"Mars\"", "timezone"));
        assert!(!names("unrecognized configuration parameter \"a_b\"", "a"));
    }
}
