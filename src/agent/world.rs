//! Everything the agent knows, brought up to date by events, and the view that decisions get.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::core::cluster::{Cluster, Tags};
use crate::core::database::{DataDir, Probe};
use crate::core::failsafe::{Bound, Known};
use crate::core::guard::Phase;
use crate::core::health::Health;
use crate::core::settings::Settings;
use crate::core::slot_copies::LeaderSlots;
use crate::core::time::{Boot, Wall};
use crate::core::timeline::History;
use crate::core::view::{
    DataJob, GuardView, LastExit, Memory, OwnLease, PeerAnswer, Postmaster, Seen, Server, Store,
    View, Wishes, Work,
};
use crate::dcs::Write;
use crate::link::order::JobKind;
use crate::link::state::{ExitStatus, Means, State};
use crate::sys::clock;

use super::drivers::Setup;
use super::events::{Event, Fact};
use super::inspect::Inspection;
use super::lease::{Held, decode_capsule};
use super::progress::Copied;
use super::promises;
use super::volume::Room;

/// Three probes in a row without an answer make a server silent, one does not: a checkpoint or a
/// full disk can hold a query for a moment.
const PROBES_MISSED: u32 = 3;

#[derive(Debug, Default)]
pub struct World {
    pub name: String,
    pub tags: Tags,
    pub settings: Settings,
    pub data_dir_path: PathBuf,
    pub link: Arc<State>,
    store: Store,
    pub inspection: Option<Inspection>,
    /// Counts up whenever what an inspection that is under way may say is out of date.
    pub inspection_epoch: u64,
    probe: Option<(i32, Seen<Arc<Probe>>)>,
    probes_missed: u32,
    /// When the server was last seen to run again after a freeze.
    thawed_at: Boot,
    upstream: Option<String>,
    leader_history: Option<(u32, History)>,
    leader_slots: Option<Seen<LeaderSlots>>,
    stopping: Option<(i32, Boot)>,
    peers: BTreeMap<String, PeerAnswer>,
    peers_asked_at: Option<Boot>,
    pub copied: Option<Copied>,
    /// What the probes found of the server and its volumes.
    pub health: Health,
    /// Since when a required device has failed.
    unwatched: Option<Boot>,
    /// What the present postmaster says to our own session instead of serving it, and since when.
    refused: Option<(String, Boot)>,
    /// Why nobody answers where the present postmaster should be, and since when.
    unreached: Option<(String, Boot)>,
    /// What is free on the volumes, as far as it is known.
    pub room: Vec<Room>,
    pub wishes: Wishes,
    pub memory: Memory,
    /// Wall-clock seconds of the last answer of the store.
    pub dcs_last_seen: i64,
    pub member_written: Option<(String, i64)>,
    /// What of `/status` was written last.
    pub status_written: Option<Vec<Write>>,
    pub history_written: Option<u32>,
    pub give_up: Option<String>,
    pub goodbye: bool,
}

/// The work that a job id stands for; see [`job_id`].
pub fn work_of(id: u64) -> Option<Work> {
    match id & 0xFF {
        1 => Some(Work::Initdb),
        2 => Some(Work::BaseBackup),
        3 => Some(Work::Rewind),
        _ => None,
    }
}

/// Unique over agent generations, readable by the next agent, and greater for later jobs: the
/// newest that ended is the one whose end counts.
pub fn job_id(generation: u32, work: Option<Work>, number: u32) -> u64 {
    let kind = match work {
        Some(Work::Initdb) => 1,
        Some(Work::BaseBackup) => 2,
        Some(Work::Rewind) => 3,
        None => 0,
    };
    u64::from(generation) << 32 | u64::from(number & 0xFF_FFFF) << 8 | kind
}

impl World {
    /// What is known at the start: the configuration, the supervisor's first state and the lease
    /// that an earlier agent left in its capsule.
    pub fn new(setup: &Setup, link: Arc<State>) -> World {
        let held = decode_capsule(&link.capsule);
        let failsafe = promises::recall(setup);
        World {
            name: setup.local.name.clone(),
            tags: setup.local.tags.clone(),
            settings: setup.settings().clone(),
            data_dir_path: setup.data_dir(),
            store: Store { lease: held.lease, next_lease: held.next, failsafe, ..Store::default() },
            link,
            ..World::default()
        }
    }

    /// Takes an event in; requests are not for here.
    pub fn apply(&mut self, event: &mut Event, wall: Wall) {
        match event {
            Event::Link(state) => self.apply_link(state.clone()),
            Event::Cluster { cluster, sent_at, received_at } => {
                self.learn(std::mem::take(cluster), *sent_at, *received_at, wall);
            }
            Event::ClusterFailed { at } => {
                self.store.failing_since = self.store.failing_since.or(Some(*at));
            }
            Event::Copied(copied) => self.copied = *copied,
            Event::Unanswered { pid, lasting } if self.is_present(*pid) => {
                self.health.unanswered = *lasting;
            }
            Event::Unwritten { pid, lasting } if self.is_present(*pid) => {
                self.health.unwritten = *lasting;
            }
            Event::Refused { pid, why } if self.is_present(*pid) => {
                let why = std::mem::take(why);
                let since = self.refused.take().map_or_else(clock::boot, |(_, since)| since);
                self.refused = Some((why, since));
            }
            Event::Unreached { pid, why } if self.is_present(*pid) => {
                let why = std::mem::take(why);
                let since = self.unreached.take().map_or_else(clock::boot, |(_, since)| since);
                self.unreached = Some((why, since));
            }
            Event::Unanswered { .. } | Event::Unwritten { .. } => {}
            Event::Refused { .. } | Event::Unreached { .. } => {}
            Event::Volumes { worst, rooms } => {
                self.health.volume = *worst;
                self.room = std::mem::take(rooms);
            }
            Event::Lease(held) => self.take_leases(*held),
            Event::Probe { pid, answer, asked_at } => {
                self.apply_probe(*pid, answer.take(), *asked_at);
            }
            Event::Done { facts, .. } | Event::DutiesDone { facts, .. } => {
                for fact in facts.drain(..) {
                    self.apply_fact(fact, wall);
                }
            }
            Event::Promises { asked_at, missing } => {
                self.store.failsafe.missing = std::mem::take(missing);
                if self.store.failsafe.missing.is_empty() {
                    self.store.failsafe.promised_at = Some(*asked_at);
                }
            }
            Event::LinkLost | Event::Refresh | Event::Request(_) => {}
        }
    }

    fn is_present(&self, pid: i32) -> bool {
        self.link.postmaster.is_some_and(|p| p.pid == pid) && !self.link.group.frozen
    }

    fn take_leases(&mut self, held: Held) {
        self.store.lease = held.lease;
        self.store.next_lease = held.next;
    }

    fn apply_link(&mut self, state: Arc<State>) {
        let pid = state.postmaster.map(|p| p.pid);
        if self.stopping.is_some_and(|(of, _)| Some(of) != pid) {
            self.stopping = None;
        }
        // What the files said before a server came or went says nothing about afterwards: an old
        // `shut down` would hand the key over while the last WAL is still being written.
        let another = self.link.postmaster.map(|p| p.pid) != pid;
        if another || self.link.jobs != state.jobs {
            self.forget_inspection();
        }
        if self.probe.as_ref().is_some_and(|(of, _)| Some(*of) != pid) {
            self.probe = None;
            self.probes_missed = 0;
        }
        if another {
            (self.refused, self.unreached) = (None, None);
            self.leader_slots = None;
        }
        // What the answer said before a promotion or a fence says nothing about afterwards.
        let permitted = |s: &State| s.postmaster.map(|p| (p.pid, p.permitted));
        if permitted(&state) != permitted(&self.link) && state.phase != self.link.phase {
            self.probe = None;
        }
        // Whoever stands still by our own doing, or is another, is not silent.
        if another || state.group.frozen {
            self.health = Health { volume: self.health.volume, ..Health::default() };
        }
        // It is required, and what it was last told was refused.
        let device = &state.watchdog;
        let fails = device.required && !device.trouble.is_empty() && state.phase == Phase::Leading;
        self.unwatched = fails.then(|| self.unwatched.unwrap_or_else(clock::boot));
        self.wishes.stop = state.stop_requested;
        if self.link.group.frozen && !state.group.frozen {
            self.thawed_at = clock::boot();
        }
        self.link = state;
    }

    fn learn(&mut self, read: Box<Cluster>, sent_at: Boot, received_at: Boot, wall: Wall) {
        self.dcs_last_seen = wall.0 / 1_000_000;
        self.store.learn(Arc::from(read), sent_at, received_at, self.settings.ttl);
    }

    fn apply_probe(&mut self, pid: i32, answer: Option<Box<Probe>>, asked_at: Boot) {
        if self.link.postmaster.map(|p| p.pid) != Some(pid) {
            return;
        }
        match answer {
            Some(probe) => {
                self.probes_missed = 0;
                (self.refused, self.unreached) = (None, None);
                self.probe = Some((pid, Seen { value: Arc::from(probe), at: asked_at }));
            }
            // Of a question that met a frozen server the silence says nothing.
            None if self.link.group.frozen || self.thawed_at >= asked_at => {}
            None => {
                self.probes_missed = self.probes_missed.saturating_add(1);
            }
        }
    }

    fn apply_fact(&mut self, fact: Fact, wall: Wall) {
        match fact {
            Fact::Peers { answers, asked_at } => {
                self.peers = answers;
                self.peers_asked_at = Some(asked_at);
            }
            Fact::BootstrapFailed => self.memory.bootstrap_failed = true,
            Fact::BootstrapWon => self.memory.bootstrap_won = true,
            Fact::Upstream(conn_url) => self.upstream = conn_url,
            Fact::History { timeline, history } => {
                self.leader_history = Some((timeline, history));
            }
            Fact::StopAsked { pid, at } => {
                if self.stopping.is_none() {
                    self.forget_inspection();
                }
                self.stopping = self.stopping.filter(|(of, _)| *of == pid).or(Some((pid, at)));
            }
            Fact::RestartDone => self.wishes.restart = false,
            Fact::ReinitializeBegun => {
                self.wishes.reinitialize = false;
                self.wishes.from_leader = false;
            }
            Fact::Cluster { cluster, sent_at, received_at } => {
                self.learn(cluster, sent_at, received_at, wall);
            }
            Fact::MemberWritten { document, lease_id } => {
                self.member_written = Some((document, lease_id));
            }
            Fact::StatusWritten(writes) => self.status_written = Some(writes),
            Fact::FailsafeWritten(revision) => self.store.failsafe.settled = revision,
            Fact::LeaderSlots { pid, at, slots } if self.is_present(pid) => {
                self.leader_slots = Some(Seen { value: slots, at });
            }
            Fact::LeaderSlots { .. } => {}
            Fact::HistoryWritten(timeline) => self.history_written = Some(timeline),
            Fact::Inspect => self.forget_inspection(),
            Fact::GiveUp(reason) => self.give_up = Some(reason),
            Fact::SaidGoodbye => self.goodbye = true,
        }
    }

    fn forget_inspection(&mut self) {
        self.inspection = None;
        self.inspection_epoch += 1;
    }

    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.store.cluster.as_ref().map(|seen| seen.value.clone())
    }

    pub fn lease(&self) -> Option<OwnLease> {
        self.store.lease
    }

    pub fn doubt(&self) -> Option<&str> {
        self.store.doubt.as_ref().map(|doubt| doubt.why.as_str())
    }

    /// The present postmaster's last answer and when it was asked for.
    pub fn probe(&self) -> Option<(Arc<Probe>, Boot)> {
        self.probe.as_ref().map(|(_, seen)| (seen.value.clone(), seen.at))
    }

    /// PostgreSQL is there and does not answer.
    pub fn silent(&self) -> bool {
        self.probes_missed >= PROBES_MISSED
    }

    pub fn promises(&self) -> &Known {
        &self.store.failsafe
    }

    /// From here on no campaign until then.
    pub fn bind(&mut self, bound: Bound) {
        self.store.failsafe.bound = Some(bound);
    }

    pub fn stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// The files say more than the supervisor only while no server runs or it is going away.
    pub fn needs_inspection(&self) -> bool {
        self.inspection.is_none()
            || self.link.postmaster.is_none()
            || self.stopping.is_some()
            || self.awaits_checkpoint().is_some()
    }

    /// The timeline of a primary whose control file still names an older one: a rewind reads the
    /// timeline there, so that others must wait for the first checkpoint after the promotion.
    pub fn awaits_checkpoint(&self) -> Option<u32> {
        let (_, seen) = self.probe.as_ref()?;
        match self.inspection.as_ref()?.data_dir.as_ref()? {
            DataDir::Cluster { control, .. } => {
                let behind = !seen.value.in_recovery && control.timeline < seen.value.timeline;
                behind.then_some(seen.value.timeline)
            }
            DataDir::Empty | DataDir::Unusable { .. } => None,
        }
    }

    pub fn view(&self, now: Boot, wall: Wall) -> View {
        View {
            now,
            wall,
            name: self.name.clone(),
            tags: self.tags.clone(),
            settings: self.settings.clone(),
            store: self.store.clone(),
            guard: self.guard(),
            server: self.server(),
            health: Health {
                unwatched: self.unwatched.map_or(Duration::ZERO, |since| now.since(since)),
                ..self.health
            },
            job: self.job(),
            peers: self.peers.clone(),
            peers_asked_at: self.peers_asked_at,
            wishes: self.wishes.clone(),
            memory: self.memory.clone(),
        }
    }

    /// Why there is no server that a start would bring up.
    pub fn nothing_to_start(&self) -> Option<String> {
        self.inspection.as_ref()?.data_dir.as_ref()?.lost().map(str::to_owned)
    }

    fn guard(&self) -> GuardView {
        let s = &self.link;
        GuardView {
            phase: s.phase,
            tenure: s.tenure,
            sent_at: s.sent_at,
            deadline: s.deadline,
            burned: s.burned,
            fresh: s.budget.map_or(Duration::ZERO, |b| b.g),
            fenceable: s.group.means != Means::NotFenceable,
            populated: s.group.populated,
            stop_requested: s.stop_requested,
            awaits_device: s.awaits_device(),
        }
    }

    fn server(&self) -> Server {
        let inspection = self.inspection.clone().unwrap_or_default();
        Server {
            data_dir: inspection.data_dir,
            standby_signal: inspection.standby_signal,
            bootstrapping: inspection.bootstrapping,
            promoting: inspection.promoting,
            half_rewound: inspection.half_rewound,
            stay_down: inspection.stay_down,
            running_pid: inspection.running_pid,
            shm_attached: inspection.shm_attached,
            postmaster: self.link.postmaster.map(|p| Postmaster {
                pid: p.pid,
                started_at: p.started_at,
                permitted: p.permitted,
                stopping_since: self.stopping.filter(|(of, _)| *of == p.pid).map(|(_, at)| at),
            }),
            last_exit: self.link.last_exit.map(|e| LastExit {
                pid: e.pid,
                at: e.at,
                permitted: e.permitted,
                clean: e.status == ExitStatus::Code(0),
            }),
            probe: self.probe.as_ref().map(|(_, seen)| seen.clone()),
            refused: self.refused.clone(),
            unreached: self.unreached.clone(),
            upstream: self.upstream.clone(),
            leader_history: self.leader_history.clone(),
            leader_slots: self.leader_slots.clone(),
        }
    }

    /// The data job that runs, else the newest that ended.
    fn job(&self) -> Option<DataJob> {
        self.link
            .jobs
            .iter()
            .filter(|j| j.kind == JobKind::Data)
            .filter_map(|j| {
                let work = work_of(j.id)?;
                let succeeded = j.ended.map(|status| status == ExitStatus::Code(0));
                Some(DataJob { id: j.id, work, succeeded })
            })
            .max_by_key(|j| (j.succeeded.is_none(), j.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_job_has_a_greater_id_whatever_it_does() {
        let kinds = [Some(Work::Rewind), Some(Work::BaseBackup), None, Some(Work::Initdb)];
        let ids: Vec<u64> =
            (1..).zip(kinds).map(|(number, work)| job_id(7, work, number)).collect();
        assert!(ids.is_sorted() && job_id(8, None, 1) > ids[3], "{ids:x?}");
        assert_eq!(ids.iter().map(|id| work_of(*id)).collect::<Vec<_>>(), kinds);
    }
}
