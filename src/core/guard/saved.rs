//! The guard as lines of text, for the supervisor that comes after this one: after a crash, an
//! upgrade, or a downgrade (the next release may be older, so unknown keys are ignored).

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Confirmation, Device, GroupState, Guard, Phase};
use crate::core::budget::{Budget, Timeout};
use crate::core::cluster::Tenure;
use crate::core::time::Boot;

/// A key that must be there is missing, or its value cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt(pub &'static str);

const PHASES: [(Phase, &str); 8] = [
    (Phase::Idle, "idle"),
    (Phase::Candidate, "candidate"),
    (Phase::Leading, "leading"),
    (Phase::Frozen, "frozen"),
    (Phase::Killing, "killing"),
    (Phase::Fenced, "fenced"),
    (Phase::Sealed, "sealed"),
    (Phase::Paused, "paused"),
];

impl Guard {
    /// `guard.<field> <numbers>`, one a line; what is absent has no line.
    pub fn save(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, numbers: &[i128]| {
            let words: Vec<String> = numbers.iter().map(i128::to_string).collect();
            text.push_str(&format!("guard.{key} {}\n", words.join(" ")));
        };
        let ns = |d: Duration| d.as_nanos() as i128;
        let tenure = |t: Tenure| [i128::from(t.lease_id), i128::from(t.mod_revision)];
        for (key, watch, budget) in
            [("budget", "watch", self.budget), ("larger", "larger_watch", self.larger)]
        {
            if let Some(b) = budget {
                line(key, &[ns(b.ttl), ns(b.exclusive), ns(b.t1), ns(b.g), ns(b.k)]);
                b.watch.iter().for_each(|w| line(watch, &[ns(w.set), ns(w.reset)]));
            }
        }
        line("freeze_max", &[ns(self.freeze_max)]);
        line("last_sent", &[self.last_sent.0.into()]);
        if let Some(lease) = self.lease {
            let [id, revision] = tenure(lease.tenure);
            let (cluster, term) = (lease.cluster_id.into(), lease.raft_term.into());
            line("lease", &[id, revision, cluster, term, lease.sent_at.0.into(), ns(lease.ttl)]);
            lease.next.iter().for_each(|id| line("next", &[(*id).into()]));
        }
        // A ping that is under way may never be given, if this is the last that is written.
        let carried = self.pings.pending.map_or(self.deadline, |_| Some(self.pings.until));
        self.deadline.min(carried).iter().for_each(|at| line("deadline", &[at.0.into()]));
        self.burned.iter().for_each(|burned| line("burned", &tenure(*burned)));
        for (key, flag) in [
            ("can_freeze", self.can_freeze),
            ("permitted", self.permitted),
            ("stop_sent", self.stop_sent),
            ("sealed", self.sealed),
            ("populated", self.group.populated),
            ("data_job", self.data_job),
            ("device", self.device != Device::Off),
        ] {
            line(key, &[flag.into()]);
        }
        line("frozen_at", &[self.frozen_at.0.into()]);
        let phase = PHASES.iter().find(|(phase, _)| *phase == self.phase).map_or("", |p| p.1);
        text + &format!("guard.phase {phase}\n")
    }

    /// The guard that these lines tell of; `can_freeze` as it was. `frozen`: the group stands still
    /// now. Whether it is populated the guard learns as always; it acts on the difference.
    pub fn restore(lines: &BTreeMap<String, String>, frozen: bool) -> Result<Guard, Corrupt> {
        let get = |key: &'static str| lines.get(&format!("guard.{key}"));
        let numbers = |key: &'static str| -> Result<Option<Vec<i128>>, Corrupt> {
            get(key)
                .map(|v| v.split(' ').map(str::parse).collect())
                .transpose()
                .map_err(|_| Corrupt(key))
        };
        let one = |key| Ok(numbers(key)?.and_then(|n| n.first().copied()));
        let first = |key: &'static str| one(key)?.ok_or(Corrupt(key));
        let flag = |key: &'static str| Ok(first(key)? == 1);
        let boot = |n: i128| Boot(u64::try_from(n).unwrap_or(0));
        let length = |n: i128| Duration::from_nanos(u64::try_from(n).unwrap_or(0));
        let tenure = |n: &[i128]| match *n {
            [id, revision] => Ok(Tenure { lease_id: id as i64, mod_revision: revision as i64 }),
            _ => Err(Corrupt("tenure")),
        };
        let watch = |key: &'static str| match numbers(key)?.as_deref() {
            None => Ok(None),
            Some(&[set, reset]) => Ok(Some(Timeout { set: length(set), reset: length(reset) })),
            Some(_) => Err(Corrupt(key)),
        };
        let budget = |key: &'static str, of_device| match numbers(key)?.as_deref() {
            None => Ok(None),
            Some(&[ttl, exclusive, t1, g, k]) => Ok(Some(Budget {
                ttl: length(ttl),
                exclusive: length(exclusive),
                t1: length(t1),
                g: length(g),
                k: length(k),
                watch: watch(of_device)?,
            })),
            Some(_) => Err(Corrupt(key)),
        };
        let phase = PHASES.iter().find(|(_, name)| get("phase").is_some_and(|p| p == name));
        let mut guard = Guard::new(flag("can_freeze")?);
        guard.phase = phase.ok_or(Corrupt("phase"))?.0;
        guard.budget = budget("budget", "watch")?;
        guard.larger = budget("larger", "larger_watch")?;
        guard.freeze_max = length(first("freeze_max")?);
        guard.last_sent = boot(first("last_sent")?);
        guard.lease = match numbers("lease")?.as_deref() {
            None => None,
            Some(&[id, revision, cluster, term, sent_at, ttl]) => Some(Confirmation {
                tenure: tenure(&[id, revision])?,
                cluster_id: cluster as u64,
                raft_term: term as u64,
                sent_at: boot(sent_at),
                ttl: length(ttl),
                next: one("next")?.map(|id| id as i64),
            }),
            Some(_) => return Err(Corrupt("lease")),
        };
        guard.deadline = one("deadline")?.map(boot);
        guard.burned = numbers("burned")?.map(|n| tenure(&n)).transpose()?;
        guard.permitted = flag("permitted")?;
        guard.stop_sent = flag("stop_sent")?;
        guard.sealed = flag("sealed")?;
        guard.group = GroupState { populated: flag("populated")?, frozen };
        guard.data_job = flag("data_job")?;
        // What it does now the supervisor looks up; a release without devices wrote no line.
        guard.device = if one("device")? == Some(1) { Device::On } else { Device::Off };
        guard.pings.until = guard.deadline.unwrap_or_default();
        guard.frozen_at = boot(first("frozen_at")?);
        Ok(guard)
    }
}
