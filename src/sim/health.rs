//! Servers that do not answer and volumes that fail, and what the probes make of them. It follows
//! `agent::{health, volume}`; the probe of the write path is not played.

use std::time::Duration;

use crate::core::health::{Ailing, Health, Illness, Place};
use crate::core::time::Boot;

use super::world::World;

/// What the probes of one agent have found, and when for the first time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Of this postmaster.
    silent: Option<(i32, Boot)>,
    ailing: Option<(Illness, Boot)>,
}

impl World {
    pub fn fail_volume(&mut self, m: usize, illness: Illness, length: Duration) {
        self.members[m].ailing = Some(illness);
        self.later(length, move |sim| sim.with(|w| w.members[m].ailing = None));
    }

    /// What waits for it executes nothing and does not die.
    pub fn volume_hangs(&self, m: usize) -> bool {
        self.members[m].ailing == Some(Illness::Hung)
    }

    /// One round of the probes.
    pub fn look_at_health(&mut self, m: usize) {
        let now = self.local(m);
        let member = &self.members[m];
        let illness = member.ailing;
        let postmaster = member.supervisor.as_ref().and_then(|s| s.postmaster);
        // Whoever stands still by our own doing is not silent.
        let hung = !member.frozen && member.server.as_ref().is_some_and(|s| s.hung);
        let silent = postmaster.map(|(pid, _)| pid).filter(|_| hung);
        let Some(a) = self.agent(m) else { return };
        let Found { silent: before, ailing } = a.found;
        a.found = Found {
            silent: silent.map(|pid| before.filter(|(of, _)| *of == pid).unwrap_or((pid, now))),
            ailing: illness.map(|of| ailing.filter(|(was, _)| *was == of).unwrap_or((of, now))),
        };
    }

    pub fn health(&self, m: usize) -> Health {
        let now = self.local(m);
        let found = self.members[m].agent.as_ref().map(|a| a.found).unwrap_or_default();
        Health {
            unanswered: found.silent.map_or(Duration::ZERO, |(_, since)| now.since(since)),
            unwritten: Duration::ZERO,
            unwatched: Duration::ZERO,
            volume: found.ailing.map(|(illness, since)| Ailing {
                place: Place::DataDirectory,
                illness,
                lasting: now.since(since),
            }),
        }
    }
}
