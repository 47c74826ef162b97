//! Defects on purpose. The judges of `check.rs` are worth something only if they can condemn: each
//! defect here is a mistake that an implementation could make, and a test shows in how many seeds
//! it is found. They sit in the drivers of the simulator and at its border to `core`: what a
//! decision sees, what the guard is told, what becomes of its effects. `core` itself knows nothing
//! of them, and no build has them in its own agent or supervisor
//! (docs/decisions/0014-defects.md).

use crate::core::settings::SyncMode;
use crate::core::sync_names;
use crate::core::view::View;

use super::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Defect {
    CountsFromAnswer,
    DoesNotRead,
    ThawsLate,
    SentinelSleeps,
    NoDeadline,
    FoundRuns,
    AdoptsAsStandby,
    PermitsAlways,
    EmptyByPostmaster,
    TakesAnyKey,
    TenureUnchecked,
    IgnoresPause,
    ConfigUnchecked,
    SyncKeyIgnored,
    SyncKeyEarly,
    TimelineUnnumbered,
    ForgetsPromises,
}

/// Each with its name on the command line and what is wrong.
pub const DEFECTS: &[(Defect, &str, &str)] = &[
    (
        Defect::CountsFromAnswer,
        "counts-from-answer",
        "the deadline counts from the answer of a renewal, not from its sending",
    ),
    (
        Defect::DoesNotRead,
        "does-not-read",
        "a renewal that was answered is a confirmation: the leader key is not read after it",
    ),
    (Defect::ThawsLate, "thaws-late", "a stall between the decision to thaw and the thaw"),
    (Defect::SentinelSleeps, "sentinel-sleeps", "nobody fences for a supervisor that stands still"),
    (Defect::NoDeadline, "no-deadline", "the deadline is not told to the sentinel"),
    (Defect::FoundRuns, "found-runs", "a primary found running goes on until etcd is asked"),
    (Defect::AdoptsAsStandby, "adopts-as-standby", "every server found running is a standby's"),
    (Defect::PermitsAlways, "permits-always", "PostgreSQL is started and promoted without permit"),
    (
        Defect::EmptyByPostmaster,
        "empty-by-postmaster",
        "a group counts as empty once its postmaster is dead, whatever its backends do",
    ),
    (Defect::TakesAnyKey, "takes-any-key", "the acquiring transaction compares nothing"),
    (
        Defect::TenureUnchecked,
        "tenure-unchecked",
        "what a leader writes does not compare its leader key",
    ),
    (Defect::IgnoresPause, "ignores-pause", "a vacant key is taken whatever the pause record says"),
    (
        Defect::ConfigUnchecked,
        "config-unchecked",
        "the acquiring transaction does not compare /config",
    ),
    (Defect::SyncKeyIgnored, "sync-key-ignored", "members that /sync does not name may lead"),
    (
        Defect::SyncKeyEarly,
        "sync-key-early",
        "a name enters /sync before commits wait for that standby",
    ),
    (
        Defect::TimelineUnnumbered,
        "timeline-unnumbered",
        "a promotion takes whatever timeline number PostgreSQL chooses",
    ),
    (
        Defect::ForgetsPromises,
        "forgets-promises",
        "in failsafe mode an agent that begins anew knows nothing of promises",
    ),
];

/// The defect of this name.
pub fn find(name: &str) -> Option<Defect> {
    DEFECTS.iter().find(|(_, known, _)| *known == name).map(|(defect, ..)| *defect)
}

impl World {
    /// Whether this run has this defect.
    pub fn flawed(&self, defect: Defect) -> bool {
        self.plan.defect == Some(defect)
    }

    /// What a flawed member sees.
    pub fn distort(&self, view: &mut View) {
        match self.plan.defect {
            Some(Defect::SyncKeyIgnored) if view.leader().is_none() => {
                view.settings.synchronous_mode = SyncMode::Off;
            }
            Some(Defect::IgnoresPause) if view.leader().is_none() => {
                view.settings.paused = false;
                if let Some(seen) = &mut view.store.cluster {
                    std::sync::Arc::make_mut(&mut seen.value).pause_record = None;
                }
            }
            Some(Defect::SyncKeyEarly) => believe(view),
            _ => {}
        }
    }
}

/// Takes the names that were ordered for names in force, and every standby for caught up.
fn believe(view: &mut View) {
    let (ordered, now) = (view.memory.sync_names.clone(), view.now);
    let (Some(names), Some(seen)) = (ordered, &mut view.server.probe) else { return };
    let listed = sync_names::parse(&names).map(|parsed| parsed.names).unwrap_or_default();
    let probe = std::sync::Arc::make_mut(&mut seen.value);
    for sender in &mut probe.wal_senders {
        if listed.contains(&sender.application_name) {
            sender.sync_state = "sync".to_owned();
            sender.flush_lsn = probe.flush_lsn;
        }
    }
    probe.synchronous_standby_names = names;
    seen.at = now;
    view.memory.sync_names_set = None;
}
