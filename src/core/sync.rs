//! One synchronous standby: the order of writes that keeps `/sync` and
//! `synchronous_standby_names` intersecting at every instant.
//!
//! A name leaves the key before it leaves the names: while it is in the key it may win a race, so
//! every acknowledged commit must wait for it. It enters the key only after the new names are in
//! force and the standby has flushed past the primary's flush position read after that: a commit
//! that was acknowledged without waiting for it was flushed here before.

use std::time::Duration;

use super::cluster::{SyncState, Tenure};
use super::database::Probe;
use super::decision::Action;
use super::settings::SyncMode;
use super::time::Boot;
use super::view::{Memory, View};

/// How long a server may take to bring a reloaded parameter into force before it is told again.
const SETTLE: Duration = Duration::from_secs(1);

/// Longer than a woken process takes to be scheduled and to read its files.
const WOKEN: Duration = Duration::from_millis(300);

/// The next single step and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub why: String,
    pub action: Action,
}

/// What the carry-over must know of a step that is being taken at `now`.
pub fn remember(action: &Action, now: Boot, memory: &mut Memory) {
    match action {
        Action::WriteSync { revision, .. } => memory.sync_wrote = Some(*revision),
        Action::SetSyncNames { names } => {
            memory.sync_names = Some(names.clone());
            memory.sync_names_set = Some(now);
        }
        _ => {}
    }
}

/// No earlier write of `/sync` under this tenure can still be on its way: it would compare a
/// revision that is gone. Unknown (a new agent, an answer that was lost) counts as no.
fn settled(v: &View, revision: i64) -> bool {
    v.memory.sync_wrote.is_some_and(|compared| compared != revision)
}

/// What must be written to `/sync` before a server may accept writes: it names us, and it stays
/// what it is, so that the names can be taken from it.
pub fn before_writable(v: &View, tenure: Tenure, alone: bool) -> Option<Action> {
    let key = v.cluster()?.sync.as_ref();
    if v.settings.synchronous_mode == SyncMode::Off && key.is_none_or(|k| k.value.leader.is_none())
    {
        return None;
    }
    let revision = key.map_or(0, |k| k.mod_revision);
    let ours = key.map(|k| &k.value).filter(|s| s.leader.as_deref() == Some(&v.name));
    let standbys = ours.filter(|_| !alone).map(|s| s.standbys.clone()).unwrap_or_default();
    let state = SyncState { leader: Some(v.name.clone()), standbys, quorum: 0 };
    let done = ours == Some(&state) && settled(v, revision);
    (!done).then_some(Action::WriteSync { tenure, revision, state })
}

/// What brings the pair one step closer to what is wanted; `None` when nothing is to do.
pub fn step(v: &View) -> Option<Step> {
    let probe = v.probe()?;
    let tenure = v.guard.tenure?;
    let key = v.cluster()?.sync.as_ref();
    let revision = key.map_or(0, |k| k.mod_revision);
    let state = key.map(|k| k.value.clone()).unwrap_or_default();
    if v.settings.synchronous_mode == SyncMode::Off {
        return switched_off(v, probe, &state, revision);
    }
    let write = |why: &str, standbys: Vec<String>| {
        let state = SyncState { leader: Some(v.name.clone()), standbys, quorum: 0 };
        Some(Step { why: why.to_owned(), action: Action::WriteSync { tenure, revision, state } })
    };
    let wanted = choose(v, probe, &state);
    let listed = |name: &str| Some(name) == wanted.as_deref();
    // Shrink the key first.
    if state.leader.as_deref() != Some(&v.name) || state.standbys.iter().any(|s| !listed(s)) {
        return write("assigning synchronous standby status to nobody", Vec::new());
    }
    // Whatever took the names back, commits are acknowledged without that standby now.
    if state.standbys.iter().any(|s| probe.synchronous_standby_names != quote(s)) {
        return write("synchronous_standby_names were changed, assigning to nobody", Vec::new());
    }
    let names = match &wanted {
        Some(name) => quote(name),
        None if v.settings.synchronous_mode_strict => "*".to_owned(),
        None => String::new(),
    };
    let ordered = v.memory.sync_names.as_deref() == Some(names.as_str());
    if !ordered || probe.synchronous_standby_names != names {
        // The names of a server whose key may still grow behind our back do not change.
        if !settled(v, revision) {
            return write("making sure of the synchronous standby status", state.standbys);
        }
        // Just set, and not asked since: the server reads its files when it gets to it.
        if ordered && v.memory.sync_names_set.is_some_and(|at| v.now.since(at) < SETTLE) {
            return None;
        }
        let why = format!("setting synchronous_standby_names to '{names}'");
        return Some(Step { why, action: Action::SetSyncNames { names } });
    }
    let name = wanted?;
    // Grow the key last.
    if state.standbys.is_empty() && caught_up(v, probe, &name) {
        let why = format!("assigning synchronous standby status to {name}");
        return write(&why, vec![name]);
    }
    None
}

fn switched_off(v: &View, probe: &Probe, state: &SyncState, revision: i64) -> Option<Step> {
    let tenure = v.guard.tenure?;
    if state.leader.is_some() {
        let state = SyncState::default();
        let why = "disabling synchronous replication".to_owned();
        return Some(Step { why, action: Action::WriteSync { tenure, revision, state } });
    }
    // Names that an operator set by hand stay; only a value of ours is taken back.
    let ours = v.cluster()?.members.keys().any(|m| probe.synchronous_standby_names == quote(m));
    ours.then(|| Step {
        why: "disabling synchronous replication".to_owned(),
        action: Action::SetSyncNames { names: String::new() },
    })
}

/// The present one while it streams, else the most advanced streaming member that may be.
fn choose(v: &View, probe: &Probe, state: &SyncState) -> Option<String> {
    let able = |name: &str| {
        v.cluster().and_then(|c| c.members.get(name)).is_some_and(|m| {
            m.name != v.name && m.is_running() && !m.tags.nosync && m.tags.sync_priority > 0
        })
    };
    let streaming =
        || probe.wal_senders.iter().filter(|w| w.state == "streaming" && able(&w.application_name));
    let named =
        state.standbys.first().cloned().or_else(|| unquote(&probe.synchronous_standby_names));
    if let Some(name) = named
        && streaming().any(|w| w.application_name == name)
    {
        return Some(name);
    }
    streaming()
        .max_by_key(|w| (w.flush_lsn, std::cmp::Reverse(w.application_name.clone())))
        .map(|w| w.application_name.clone())
}

/// Both positions are of one answer that already showed the new names in force. (The insert
/// position would not do: after a switch of WAL files it stands behind a page header that nobody
/// flushes until the next record.)
///
/// "In force" needs a second look: a commit waits only once the *checkpointer* has told so in
/// shared memory (SyncRepUpdateSyncStandbysDefined), and a checkpointer that syncs files reads no
/// configuration for seconds, while our own session shows the new names already. One that is seen
/// in its main loop well after the reload has read it: the signal would have woken it.
fn caught_up(v: &View, probe: &Probe, name: &str) -> bool {
    let asked_at = v.server.probe.as_ref().map(|seen| seen.at);
    let read = match (v.memory.sync_names_set, asked_at) {
        (Some(set), Some(asked)) => asked.since(set) >= WOKEN,
        (None, _) => true,
        (Some(_), None) => false,
    };
    if !(read && probe.checkpointer_idle) {
        return false;
    }
    let flushed = probe.flush_lsn;
    probe.wal_senders.iter().any(|w| {
        w.application_name == name
            && w.sync_state == "sync"
            && flushed.is_some()
            && w.flush_lsn >= flushed
    })
}

/// As PostgreSQL's list wants it: quoted unless it is a plain identifier.
pub fn quote(name: &str) -> String {
    let mut chars = name.chars();
    let plain = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn unquote(names: &str) -> Option<String> {
    if names.is_empty() || names == "*" {
        return None;
    }
    match names.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(inner) => Some(inner.replace("\"\"", "\"")),
        None => Some(names.to_owned()),
    }
}
