//! The configuration that was accepted last, for the next agent. Beside something that runs a new
//! agent's start is a reload: a file that was broken since, or that names another member, must cost
//! a log line and not the primary, whose lease would end while one agent after the other refuses.
//! Where nothing runs, the file that stands there counts, and nothing else.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::config::{self, Loaded, Local};
use crate::core::events;
use crate::sys::private;
use crate::telemetry;

use super::drivers::Origin;
use super::inspect::running_pid;

/// As JSON it is larger than as YAML, but not by much.
const BYTES_MAX: u64 = 2 * config::yaml11::TEXT_BYTES_MAX as u64;

/// A configuration in force.
pub struct Accepted<T> {
    pub merged: Value,
    /// What `check` made of it.
    pub checked: T,
}

/// Loads what `origin` names; where that cannot be run by, and either the supervisor has a member
/// that `goes_on` or a postmaster runs, what was accepted last. Says why; `None`: neither.
pub fn load<T>(
    origin: &Origin,
    goes_on: bool,
    check: impl Fn(Arc<Local>) -> Result<T, String>,
) -> Option<Accepted<T>> {
    let runs = |kept: &Loaded| running_pid(Path::new(&kept.local.postgresql.data_dir)).is_some();
    let kept = kept(origin.path.as_deref()).filter(|kept| goes_on || runs(kept));
    let loaded = config::load(origin.path.as_deref(), &origin.environment)
        .map_err(|all| all.iter().map(ToString::to_string).collect())
        .and_then(|loaded| match &kept {
            Some(kept) => same_member(&kept.local, &loaded.local).map(|()| loaded),
            None => Ok(loaded),
        });
    let loaded = match (loaded, &kept) {
        (Err(problems), None) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return None;
        }
        (loaded, _) => loaded,
    };
    let first = loaded.and_then(|loaded| accept(loaded, &check).map_err(|why| vec![why]));
    let (problems, kept) = match (first, kept) {
        (Ok(accepted), _) => return Some(accepted),
        (Err(problems), kept) => (problems, kept),
    };
    let second = kept.map(|kept| accept(kept, &check));
    problems.iter().for_each(|problem| tracing::error!("{problem}"));
    match second? {
        Ok(accepted) => {
            let message_id = events::RELOAD_REFUSED;
            tracing::error!(
                message_id,
                "the configuration is not usable; what was accepted last stays in force: mend it, \
                 then reload"
            );
            Some(accepted)
        }
        Err(why) => {
            tracing::error!("what was accepted last is not usable either: {why}");
            None
        }
    }
}

fn accept<T>(
    loaded: Loaded,
    check: impl Fn(Arc<Local>) -> Result<T, String>,
) -> Result<Accepted<T>, String> {
    let local = Arc::new(loaded.local);
    telemetry::identify(&local.scope, &local.name);
    telemetry::start(&local.log);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(Accepted { checked: check(local)?, merged: loaded.merged })
}

/// What a running member cannot change.
pub fn same_member(old: &Local, new: &Local) -> Result<(), Vec<String>> {
    let fixed = [
        ("name", &old.name, &new.name),
        ("scope", &old.scope, &new.scope),
        ("postgresql.data_dir", &old.postgresql.data_dir, &new.postgresql.data_dir),
    ];
    let changed = fixed.iter().filter(|(_, old, new)| old != new);
    let problems: Vec<String> = changed
        .map(|(key, old, new)| {
            format!("{key} cannot change without a restart: {old:?} runs, not {new:?}")
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// For the next agent. Variables stay what they are as long as the supervisor runs, so that where
/// there is no file nothing can break.
pub fn keep(path: Option<&Path>, merged: &Value) {
    let Some(place) = path.map(place) else { return };
    if let Err(error) = private::write(&place, merged.to_string().as_bytes()) {
        let place = place.display();
        tracing::warn!("{place}: an agent after this one cannot fall back on it: {error}");
    }
}

/// What was kept by an agent of this user and this boot of the machine.
pub fn kept(path: Option<&Path>) -> Option<Loaded> {
    let place = place(path?);
    let text = private::read(&place, BYTES_MAX).ok()?;
    config::again(&serde_json::from_str(&text).ok()?, &place.to_string_lossy()).ok()
}

/// At the orderly end: the next start is a person's, who reads what is wrong.
pub fn forget(path: Option<&Path>) {
    if let Some(place) = path.map(place) {
        let _ = std::fs::remove_file(place);
    }
}

/// One for each file, however it is called: another member's would be taken for ours.
fn place(config: &Path) -> PathBuf {
    let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let mut hasher = DefaultHasher::new();
    config.hash(&mut hasher);
    let hash = hasher.finish();
    let name: Vec<char> = config.to_string_lossy().replace('/', "-").chars().collect();
    // For people, to whom the end tells more; a file's name has its limit.
    let end: String = name[name.len().saturating_sub(100)..].iter().collect();
    let user = nix::unistd::geteuid();
    PathBuf::from(format!("/dev/shm/pgvigil-{user}-config-{hash:016x}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_place_of_its_own() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(place(Path::new("p.yml")), place(&here.join("p.yml")));
        let long = "x".repeat(100);
        let [one, two] =
            ["a", "b"].map(|folder| place(Path::new(&format!("/{folder}/{long}.yml"))));
        assert_ne!(one, two);
        assert_ne!(place(Path::new("/e/a-b.yml")), place(Path::new("/e/a/b.yml")));
    }
}
