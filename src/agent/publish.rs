//! The snapshot for REST and CLI, replaced whole after each turn.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::api::fence::Fence;
use crate::api::snapshot::Snapshot;
use crate::core::PATRONI_VERSION;
use crate::core::candidates;
use crate::core::database::DataDir;
use crate::core::failsafe;
use crate::core::guard::Phase;
use crate::core::health::{self, Place};
use crate::core::time::Boot;
use crate::core::view::{View, Work};
use crate::link::state::{Means, State};
use crate::sys::clock;

use super::progress::Copied;
use super::turn::Turn;
use super::world::World;

/// Patroni's word for the state of the local server.
pub fn state_word(world: &World) -> &'static str {
    let mut running = world.link.jobs.iter().filter(|j| j.ended.is_none());
    match running.find_map(|j| super::world::work_of(j.id)) {
        Some(Work::Initdb) => return "initializing new cluster",
        Some(Work::BaseBackup) => return "creating replica",
        Some(Work::Rewind) | None => {}
    }
    match (world.link.postmaster.is_some(), world.probe()) {
        (true, _) if world.memory.restarting => "restarting",
        (true, _) if world.stopping() => "stopping",
        (true, Some(_)) => "running",
        (true, None) => "starting",
        (false, _) if world.memory.restarting => "restarting",
        (false, _) => match world.link.last_exit {
            Some(exit) if exit.status != crate::link::state::ExitStatus::Code(0) => "crashed",
            _ => "stopped",
        },
    }
}

/// Patroni's word for the role.
pub fn role_word(world: &World) -> &'static str {
    match world.probe() {
        Some((probe, _)) if !probe.in_recovery => "primary",
        Some(_) if leads_standby(world) => "standby_leader",
        Some(_) if world.link.phase == Phase::Leading => "promoted",
        Some(_) => "replica",
        None => match world.inspection.as_ref().and_then(|i| i.data_dir.as_ref()) {
            Some(DataDir::Cluster { .. }) if world.link.postmaster.is_some() => "replica",
            Some(DataDir::Cluster { .. }) if world.memory.demoted_because.is_some() => "demoted",
            Some(DataDir::Cluster { .. }) if world.link.phase == Phase::Leading => "primary",
            Some(DataDir::Cluster { .. }) => "replica",
            _ => "uninitialized",
        },
    }
}

/// This member holds the key of a cluster that follows another one.
pub fn leads_standby(world: &World) -> bool {
    let leads = matches!(world.link.phase, Phase::Leading | Phase::Paused);
    leads && world.settings.standby_cluster.is_some()
}

pub fn publish(turn: &Turn, now: Boot) {
    let world = &turn.world;
    let setup = turn.drivers.setup();
    let link = &world.link;
    let view = world.view(now, crate::core::time::Wall(0));
    let probe = world.probe();
    let system_identifier = match &probe {
        Some((p, _)) => Some(p.system_identifier.to_string()),
        None => view.control().map(|c| c.system_identifier.to_string()),
    };
    let pending = probe.as_ref().map(|(p, _)| p.pending_restart.clone()).unwrap_or_default();
    let last = turn.last.as_ref();
    let snapshot = Snapshot {
        scope: setup.local.scope.clone(),
        name: setup.local.name.clone(),
        version: PATRONI_VERSION.to_owned(),
        state: state_word(world).to_owned(),
        role: role_word(world).to_owned(),
        postmaster_alive: link.postmaster.is_some(),
        probe: probe.clone(),
        probe_fresh: (world.settings.loop_wait * 2).max(Duration::from_secs(10)),
        system_identifier,
        cluster: world.cluster(),
        cluster_at: view.store.cluster.as_ref().map(|seen| seen.at).unwrap_or_default(),
        standby_cluster: world.settings.standby_cluster.is_some(),
        dcs_last_seen: world.dcs_last_seen,
        leader_until: link.deadline.filter(|_| view.guard.burned != view.guard.tenure),
        phase: link.phase,
        settings: world.settings.clone(),
        tags: setup.local.tag_values.clone(),
        noloadbalance: world.tags.noloadbalance,
        failover_priority: world.tags.failover_priority,
        pending_restart: pending
            .into_iter()
            .map(|p| (p.name, (p.old_value, p.new_value)))
            .collect(),
        scheduled_restart: super::duties::scheduled_restart(
            turn,
            probe.as_ref().map(|(p, _)| &**p),
        ),
        failsafe_active: failsafe::carries(&view)
            || view.store.failsafe.bound.as_ref().is_some_and(|bound| now < bound.until),
        failsafe: view.cluster().and_then(|c| Some(json!(c.failsafe.as_ref()?.value))),
        restore_command: setup.replica.restores(),
        watchdog_failed: link.watchdog.required && !link.watchdog.trouble.is_empty(),
        fence: Some(fence(turn)),
        loop_at: now,
        rule: last.map_or("start", |d| d.rule),
        why: last.map(|d| d.why.clone()).unwrap_or_default(),
        candidates: candidates::overview(&view),
        explain: turn.explain.clone(),
        vigil: vigil(turn, &view),
    };
    turn.snapshot.send_replace(Arc::new(snapshot));
}

/// What is wrong, and what is free, for people and for the other members.
fn health(turn: &Turn, view: &View) -> serde_json::Value {
    let findings = health::findings(view);
    let free = |place| turn.world.room.iter().find(|r| r.place == place).map(|r| r.free_bytes);
    json!({
        "fit": health::fit(&view.health),
        "findings": findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "data_free_bytes": free(Place::DataDirectory),
        "wal_free_bytes": free(Place::Wal),
    })
}

/// The last time that this machine went down under the armed device.
pub fn last_reset(turn: &Turn) -> Option<serde_json::Value> {
    let reset = turn.drivers.last_reset.get()?;
    let (at, by) = (clock::local(reset.at), reset.by.word());
    Some(json!({ "at": at, "by": by, "what": reset.to_string() }))
}

/// The metrics' share of it.
fn fence(turn: &Turn) -> Fence {
    let (link, leases) = (&turn.world.link, &turn.drivers.leases);
    let lateness = link.budget.and_then(|b| leases.lateness(b.k));
    let counters = link.counters;
    Fence {
        armed: link.watchdog.armed,
        pings: link.watchdog.pings,
        withheld: link.watchdog.withheld,
        failed: link.watchdog.failed,
        evidence_at: link.sent_at,
        margin_min: link.watchdog.margin_min,
        lateness: lateness.map(|l| [l.p50, l.p99, l.max]),
        freezes: counters.freezes,
        thaws: counters.thaws,
        kills: counters.kills,
        last_reset: turn.drivers.last_reset.get().map(|reset| (reset.by.word(), reset.at)),
        health: turn.world.health,
        free: turn.world.room.iter().map(|room| (room.place, room.free_bytes)).collect(),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The device, its timeout and what it did; `null`: none is held, and nothing is wrong with that.
fn watchdog(link: &State) -> serde_json::Value {
    let device = &link.watchdog;
    if device.node.is_empty() && device.trouble.is_empty() && !device.required {
        return serde_json::Value::Null;
    }
    let watch = link.budget.and_then(|budget| budget.watch);
    json!({
        "required": device.required,
        "device": device.node,
        "identity": device.identity,
        "armed": device.armed,
        "timeout_s": watch.map(|w| w.set.as_secs()),
        "resets_within_ms": watch.map(|w| ms(w.reset)),
        "grade": link.budget.and_then(|b| b.grade()).map(|grade| format!("{grade:?}")),
        "pings": device.pings,
        "withheld": device.withheld,
        "failed": device.failed,
        "margin_min_ms": device.margin_min.map(ms),
        "nowayout": device.endless,
        "descriptor_kept": device.kept,
        "trouble": (!device.trouble.is_empty()).then_some(device.trouble.as_str()),
    })
}

fn vigil(turn: &Turn, view: &View) -> serde_json::Value {
    let link = &turn.world.link;
    let means = match link.group.means {
        Means::ControlGroup => "control group",
        Means::Descent => "process by process",
        Means::NotFenceable => "none",
    };
    let fence = match link.phase {
        Phase::Frozen => "frozen",
        Phase::Killing => "killing",
        Phase::Fenced => "fenced",
        _ => "none",
    };
    let mut vigil = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "fence": fence,
        "fenced_by": means,
        "phase": format!("{:?}", link.phase).to_lowercase(),
        "deadline_in_ms": link.deadline.map(|d| d.since(view.now).as_millis() as u64),
        "rule": turn.last.as_ref().map(|d| d.rule),
        "why": turn.last.as_ref().map(|d| d.why.as_str()),
        "health": health(turn, view),
        "freezes": link.counters.freezes,
        "thaws": link.counters.thaws,
        "kills": link.counters.kills,
        "agent_starts": link.counters.agent_starts,
    });
    vigil["budget"] = json!(link.budget.map(|b| json!({
        "ttl_ms": ms(b.ttl),
        "exclusive_ms": ms(b.exclusive),
        "freeze_ms": ms(b.t1),
        "fresh_ms": ms(b.g),
        "renew_ms": ms(b.k),
    })));
    vigil["evidence_age_ms"] = json!(link.sent_at.map(|at| ms(view.now.since(at))));
    vigil["watchdog"] = watchdog(link);
    if let Some(reset) = last_reset(turn) {
        vigil["last_reset"] = reset;
    }
    if let Some(Copied { done_bytes, total_bytes }) = turn.world.copied {
        vigil["basebackup"] = json!({"done_bytes": done_bytes, "total_bytes": total_bytes});
    }
    vigil
}
