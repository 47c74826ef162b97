//! What every member does beside its decisions: publish its document; what every leader does:
//! publish its position, keep slots and history; and bring changed configuration to the server.
//! None of it is urgent, none of it may hold a decision up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Effective;
use crate::core::PATRONI_VERSION;
use crate::core::cluster::{HistoryEntry, Status, Tenure};
use crate::core::database::Probe;
use crate::core::decision::Upstream;
use crate::core::error::chain;
use crate::core::slots::{SlotWork, slot_name};
use crate::core::time::Boot;
use crate::core::timeline::History;
use crate::core::view::{OwnLease, View};
use crate::dcs::documents::{self, MemberDocument};
use crate::dcs::{Key, Write};
use crate::link::order::{Order, PgSignal};
use crate::postgres::conninfo;
use crate::sys::clock;

use super::disk::on_disk;
use super::drivers::Drivers;
use super::events::{Event, Fact};
use super::executor::{self, ActionError};
use super::publish::{self, role_word, state_word};
use super::store::{commit, status_writes, under};
use super::turn::{Turn, Unwritten};
use super::{hooks, server, slots};

/// One round of duties, computed in the loop, carried out beside it.
struct Round {
    drivers: Arc<Drivers>,
    member: Option<(String, OwnLease)>,
    leader: Option<Leader>,
    slots: SlotWork,
    /// The postmaster that this is about.
    pid: Option<i32>,
}

struct Leader {
    tenure: Tenure,
    /// Of `/status`, if it is due and says something new.
    status: Option<Vec<Write>>,
    /// The timeline whose history is not published yet, with what is known of older ones.
    history: Option<(u32, Vec<HistoryEntry>)>,
}

/// Which of the server's configuration files are brought up to date.
pub enum Files {
    All(Role),
    /// pg_hba.conf and pg_ident.conf alone.
    Access {
        primary: bool,
    },
}

/// What the server is, for its configuration files.
pub struct Role {
    primary: bool,
    upstream: Option<Upstream>,
    sync_names: Option<String>,
}

/// Starts a round if something is due.
pub fn start(turn: &mut Turn, now: Boot) {
    checkpoint_after_promotion(turn);
    let view = turn.world.view(now, clock::wall());
    let due = now.since(turn.duties_at) >= turn.world.settings.loop_wait;
    let round = Round {
        drivers: turn.drivers.clone(),
        member: member(turn, due),
        leader: leader(turn, &view, due),
        slots: turn.slots.plan(&view, due),
        pid: view.server.postmaster.map(|p| p.pid),
    };
    if due {
        turn.duties_at = now;
    }
    let idle =
        round.member.is_none() && round.leader.is_none() && round.slots == SlotWork::default();
    if !idle {
        turn.duties = Some(executor::apart(round.run()));
    }
}

/// The first checkpoint of a new timeline, once; it may take long, so that it is no duty of a
/// round.
fn checkpoint_after_promotion(turn: &mut Turn) {
    let timeline = turn.world.awaits_checkpoint();
    if timeline.is_none() || timeline == turn.checkpointed {
        return;
    }
    turn.checkpointed = timeline;
    let drivers = turn.drivers.clone();
    tokio::spawn(async move { executor::checkpoint(&drivers, executor::AFTER_PROMOTION).await });
}

/// The member document, at once when more than a position changed, else every `loop_wait`.
fn member(turn: &Turn, due: bool) -> Option<(String, OwnLease)> {
    let lease = turn.world.lease()?;
    let document = member_document(turn);
    if let Some((written, lease_id)) = &turn.world.member_written
        && *lease_id == lease.id
    {
        let moved_only = documents::moved_only(written.as_bytes(), document.as_bytes());
        if *written == document || (moved_only && !due) {
            return None;
        }
    }
    Some((document, lease))
}

fn member_document(turn: &Turn) -> String {
    let world = &turn.world;
    let setup = turn.drivers.setup();
    let pg = &setup.local.postgresql;
    let probe = world.probe().map(|(probe, _)| probe);
    let probe = probe.as_deref();
    let recovering = probe.is_some_and(|p| p.in_recovery);
    let proxy = pg.proxy_address.as_ref();
    documents::member_json(&MemberDocument {
        conn_url: conninfo::url(&pg.connect_address.host, pg.connect_address.port, "postgres"),
        api_url: setup.local.restapi.api_url(),
        state: state_word(world).to_owned(),
        role: role_word(world).to_owned(),
        version: PATRONI_VERSION.to_owned(),
        proxy_url: proxy.map(|p| conninfo::url(&p.host, p.port, "postgres")),
        awaits_checkpoint: world.awaits_checkpoint().is_some(),
        tags: setup.local.tag_values.clone().into_iter().collect(),
        pending_restart: probe.map(|p| p.pending_restart.clone()).unwrap_or_default(),
        xlog_location: probe.and_then(crate::core::view::position),
        replay_lsn: probe.and_then(|p| p.replay_lsn).filter(|_| recovering),
        receive_lsn: probe.and_then(|p| p.receive_lsn).filter(|_| recovering),
        replication_state: probe.and_then(|p| replication_state(&setup.replica, p)),
        timeline: probe.map(|p| p.timeline),
        scheduled_restart: scheduled_restart(turn, probe),
        pause: world.settings.paused,
        vigil_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        last_reset: publish::last_reset(turn),
    })
}

/// The planned restart as Patroni publishes it.
pub fn scheduled_restart(turn: &Turn, probe: Option<&Probe>) -> Option<serde_json::Value> {
    let started = probe.map(|p| p.postmaster_start_time.as_str()).unwrap_or_default();
    turn.scheduled_restart.as_ref().map(|plan| plan.published(started))
}

fn replication_state(effective: &Effective, probe: &Probe) -> Option<String> {
    if !probe.in_recovery {
        return None;
    }
    let streaming = probe.wal_receiver.as_ref().is_some_and(|r| r.status == "streaming");
    match (streaming, effective.restores()) {
        (true, _) => Some("streaming".to_owned()),
        (false, true) => Some("in archive recovery".to_owned()),
        (false, false) => None,
    }
}

fn leader(turn: &mut Turn, view: &View, due: bool) -> Option<Leader> {
    let standby = view.settings.standby_cluster.is_some();
    let leads = view.holds_key() && (view.is_primary() || standby);
    let tenure = view.guard.tenure.filter(|_| leads)?;
    let probe = view.probe()?;
    let cluster = view.cluster()?;
    let status = due.then(|| status_writes(&status(turn, view, probe), cluster));
    let status = status.filter(|s| turn.world.status_written.as_ref() != Some(s));
    let known = cluster.history.last().map_or(0, |h| h.timeline);
    let history = (probe.timeline > 1
        && !probe.in_recovery
        && known != probe.timeline - 1
        && turn.world.history_written != Some(probe.timeline))
    .then(|| (probe.timeline, cluster.history.clone()));
    (status.is_some() || history.is_some()).then_some(Leader { tenure, status, history })
}

fn status(turn: &Turn, view: &View, probe: &Probe) -> Status {
    let mut slots: BTreeMap<_, _> = probe
        .slots
        .iter()
        .filter_map(|s| Some((s.name.clone(), s.confirmed_flush_lsn.or(s.restart_lsn)?)))
        .collect();
    let own = slot_name(&view.name);
    let optime = crate::core::view::position(probe);
    slots.extend(optime.map(|lsn| (own, lsn)));
    Status { optime, slots, retain_slots: turn.slots.retained(view) }
}

/// Changed configuration is written for what the server is now. Not a duty of a round but a batch:
/// beside one it would put names back that the batch has just changed.
pub fn configuration(turn: &mut Turn, view: &View) -> Option<Files> {
    if turn.unwritten == Unwritten::Nothing {
        return None;
    }
    let Some(probe) = view.probe() else {
        // It may be these files that keep us out, and the operator has mended them.
        let postmaster = view.server.postmaster.filter(|_| view.server.refused.is_some())?;
        let first = std::mem::replace(&mut turn.unwritten, Unwritten::AllButAccess);
        let access = Files::Access { primary: postmaster.permitted };
        return (first == Unwritten::All).then_some(access);
    };
    turn.unwritten = Unwritten::Nothing;
    let primary = !probe.in_recovery;
    let synchronous = view.settings.synchronous_mode != crate::core::settings::SyncMode::Off;
    let upstream = view.server.upstream.as_ref().map(|url| Upstream {
        name: view.leader().map(|l| l.name.clone()).unwrap_or_default(),
        conn_url: url.clone(),
    });
    let sync_names = (primary && synchronous).then(|| {
        view.memory.sync_names.as_ref().unwrap_or(&probe.synchronous_standby_names).clone()
    });
    Some(Files::All(Role { primary, upstream, sync_names }))
}

impl Round {
    async fn run(self) {
        let mut facts = Vec::new();
        let mut failed = false;
        if let Some((document, lease)) = &self.member {
            failed |=
                failed_at("the member key", self.write_member(document, lease, &mut facts).await);
        }
        if let Some(leader) = &self.leader {
            failed |= failed_at("/status", self.write_status(leader, &mut facts).await);
            failed |= failed_at("/history", self.write_history(leader, &mut facts).await);
        }
        let setup = self.drivers.setup();
        failed |= failed_at("replication slots", slots::keep(&setup, &self.slots).await);
        if let Some((question, pid)) = self.slots.question.as_ref().zip(self.pid) {
            let told = slots::ask(&self.drivers, question, pid).await;
            let told = told.map(|fact| facts.push(fact));
            failed |= failed_at("the leader's logical slots", told);
        }
        // The loop is gone only when the agent ends.
        let _ = self.drivers.events.send(Event::DutiesDone { facts, failed }).await;
    }

    async fn write_member(
        &self,
        document: &str,
        lease: &OwnLease,
        facts: &mut Vec<Fact>,
    ) -> Result<(), ActionError> {
        let name = self.drivers.setup().local.name.clone();
        let write = Write::Put(Key::Member(name), document.to_owned(), lease.id);
        commit(&self.drivers, &[], &[write]).await?;
        facts.push(Fact::MemberWritten { document: document.to_owned(), lease_id: lease.id });
        Ok(())
    }

    async fn write_status(
        &self,
        leader: &Leader,
        facts: &mut Vec<Fact>,
    ) -> Result<(), ActionError> {
        let Some(writes) = &leader.status else { return Ok(()) };
        if commit(&self.drivers, &under(leader.tenure), writes).await? {
            facts.push(Fact::StatusWritten(writes.clone()));
        }
        Ok(())
    }

    async fn write_history(
        &self,
        leader: &Leader,
        facts: &mut Vec<Fact>,
    ) -> Result<(), ActionError> {
        let Some((timeline, known)) = &leader.history else { return Ok(()) };
        let setup = self.drivers.setup();
        let path = setup.data_dir().join("pg_wal").join(format!("{timeline:08X}.history"));
        let max = setup.settings().max_timelines_history;
        let (timeline, known, name) = (*timeline, known.clone(), setup.local.name.clone());
        let entries = on_disk(move || entries(&path, timeline, &known, &name, max))
            .await?
            .map_err(ActionError::Precondition)?;
        let write = Write::Put(Key::History, documents::history_json(&entries), 0);
        if commit(&self.drivers, &under(leader.tenure), &[write]).await? {
            facts.push(Fact::HistoryWritten(timeline));
        }
        Ok(())
    }
}

/// Brings the files up to date and tells the server.
pub async fn configure(drivers: Arc<Drivers>, files: Files) {
    failed_at("the configuration of PostgreSQL", write_files(&drivers, files).await);
    // The loop is gone only when the agent ends.
    let _ = drivers.events.send(Event::Done { facts: Vec::new(), failed: None }).await;
}

async fn write_files(drivers: &Drivers, files: Files) -> Result<(), ActionError> {
    let setup = drivers.setup();
    let primary = match &files {
        Files::All(role) => role.primary,
        Files::Access { primary } => *primary,
    };
    let write = move || match files {
        Files::All(Role { primary, upstream, sync_names }) => {
            server::write_configuration(&setup, primary, upstream.as_ref(), sync_names.as_deref())
        }
        Files::Access { primary } => server::write_access(&setup, primary),
    };
    if on_disk(write).await?? {
        drivers.supervisor.order(Order::Signal(PgSignal::Reload)).await?;
        hooks::callback(drivers, "on_reload", if primary { "primary" } else { "replica" }).await;
    }
    Ok(())
}

/// True if it failed.
fn failed_at(what: &str, result: Result<(), ActionError>) -> bool {
    if let Err(error) = &result {
        tracing::warn!("{what}: {}", chain(error));
    }
    result.is_err()
}

/// The history file as entries; what older entries know of time and leader is kept.
fn entries(
    path: &PathBuf,
    timeline: u32,
    known: &[HistoryEntry],
    name: &str,
    max: u32,
) -> Result<Vec<HistoryEntry>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let history = History::parse(&text, timeline).map_err(|e| e.to_string())?;
    let now = jiff::Timestamp::from_microsecond(clock::wall().0).unwrap_or_default();
    let now = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00");
    let mut all: Vec<HistoryEntry> = history
        .0
        .iter()
        .map(|switch| {
            let old = known.iter().find(|k| k.timeline == switch.timeline && k.lsn == switch.lsn);
            let last = Some(switch) == history.0.last();
            old.cloned().unwrap_or_else(|| HistoryEntry {
                timeline: switch.timeline,
                lsn: switch.lsn,
                reason: switch.reason.clone(),
                timestamp: last.then(|| now.to_string()),
                new_leader: last.then(|| name.to_owned()),
            })
        })
        .collect();
    if max > 0 {
        let extra = all.len().saturating_sub(max as usize);
        all.drain(..extra);
    }
    Ok(all)
}
