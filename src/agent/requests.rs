//! Commands that came over HTTP. What the store decides runs beside the loop; what the loop must
//! do becomes a wish in its next view.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::api::operator::{self, SwitchoverPlan};
use crate::api::peer::PeerStatus;
use crate::api::restart::{self, ReinitializePlan, RestartPlan};
use crate::api::snapshot::{Command, Reply, Request, Snapshot};
use crate::config;
use crate::core::error::chain;
use crate::core::settings::Settings;
use crate::core::time::Boot;
use crate::dcs::{Compare, Key, Write, documents};
use crate::link::order::JobKind;
use crate::sys::clock;

use super::drivers::Drivers;
use super::promises;
use super::turn::Turn;

/// Patroni asks candidates with this deadline before it writes the request.
const CANDIDATE_WITHIN: Duration = Duration::from_secs(2);

pub fn handle(turn: &mut Turn, request: Request) {
    let Request { command, reply } = request;
    let snapshot = turn.snapshot.borrow().clone();
    let drivers = turn.drivers.clone();
    if let Some(answer) = operator::refused_while_frozen(&command, snapshot.phase) {
        return send(reply, answer);
    }
    let answer = match command {
        Command::Restart(body) => match ask_restart(turn, &snapshot, &body) {
            Ok(until) => return turn.restart_waiters.push((reply, until)),
            Err(answer) => answer,
        },
        Command::DeleteRestart => restart::deleted(turn.scheduled_restart.take().is_some()),
        Command::Reinitialize(body) => reinitialize(turn, &snapshot, &body),
        Command::Reload => {
            turn.reload();
            operator::reload_scheduled()
        }
        Command::PatchConfig(body) => {
            return spawn(reply, async move { patch_config(&drivers, &body).await });
        }
        Command::PutConfig(body) => {
            return spawn(reply, async move { put_config(&drivers, body).await });
        }
        Command::Switchover(body) => {
            return match operator::check_switchover(&body, &snapshot, clock::wall()) {
                Ok(plan) => spawn(reply, async move { switch(&drivers, plan).await }),
                Err(answer) => send(reply, answer),
            };
        }
        Command::Failover(body) => {
            return match operator::check_failover(&body, &snapshot) {
                Ok(plan) => spawn(reply, async move { switch(&drivers, plan).await }),
                Err(answer) => send(reply, answer),
            };
        }
        Command::DeleteSwitchover => {
            return spawn(reply, async move { delete_switchover(&drivers).await });
        }
        Command::Failsafe(body) => promises::promise(turn, &body),
    };
    send(reply, answer);
}

fn send(reply: oneshot::Sender<Reply>, answer: Reply) {
    // The client may be gone; then nobody waits for the answer.
    let _ = reply.send(answer);
}

fn spawn(reply: oneshot::Sender<Reply>, work: impl Future<Output = Reply> + Send + 'static) {
    tokio::spawn(async move { send(reply, work.await) });
}

/// Begun: until when the answer waits. Without a `timeout`, as long as a primary may take to start.
/// A `primary_start_timeout` of 0 asks for a failover at the first death, and says nothing of how
/// long people wait: its default counts.
fn ask_restart(turn: &mut Turn, snapshot: &Snapshot, body: &Value) -> Result<Boot, Reply> {
    let plan = restart::parse_restart(body, snapshot.settings.paused, clock::wall())?;
    if plan.schedule.is_some() {
        if turn.scheduled_restart.is_some() {
            return Err(restart::already_scheduled());
        }
        turn.scheduled_restart = Some(plan);
        return Err(restart::scheduled());
    }
    begin_restart(turn, snapshot, &plan)?;
    let usual = Some(turn.world.settings.primary_start_timeout).filter(|limit| !limit.is_zero());
    let limit = plan.timeout.or(usual).unwrap_or(Settings::default().primary_start_timeout);
    Ok(clock::boot().plus(limit))
}

/// Turns a restart that is due into a wish, if its conditions hold.
pub fn begin_restart(
    turn: &mut Turn,
    snapshot: &Snapshot,
    plan: &RestartPlan,
) -> Result<(), Reply> {
    let version = snapshot.probe.as_ref().map_or(0, |(probe, _)| probe.server_version);
    if !plan.matches(&snapshot.role, version, !snapshot.pending_restart.is_empty()) {
        return Err(restart::conditions_not_satisfied());
    }
    if turn.world.wishes.restart || turn.world.memory.restarting {
        return Err(restart::already_in_progress("restart"));
    }
    if snapshot.postmaster_alive && snapshot.probe.is_none() {
        return Err(restart::still_starting());
    }
    if !snapshot.postmaster_alive {
        if let Some(reason) = turn.world.nothing_to_start() {
            return Err(restart::failed(&reason));
        }
        // There is nothing to stop: the next start is the restart. In a pause a rule begins it.
        turn.world.memory.restarting = !snapshot.settings.paused;
    }
    turn.world.wishes.restart = true;
    turn.wake_at = clock::boot();
    Ok(())
}

fn reinitialize(turn: &mut Turn, snapshot: &Snapshot, body: &Value) -> Reply {
    let ReinitializePlan { force, from_leader } = restart::parse_reinitialize(body);
    if let Err(answer) = restart::check_reinitialize(snapshot) {
        return answer;
    }
    let world = &mut turn.world;
    let copying = world.link.jobs.iter().any(|j| j.kind == JobKind::Data && j.ended.is_none());
    if (world.wishes.reinitialize || world.memory.reinitializing || copying) && !force {
        return restart::already_in_progress("reinitialize");
    }
    world.wishes.reinitialize = true;
    world.wishes.from_leader = from_leader;
    // By force: begin anew, whatever has been done so far.
    world.memory.reinitializing = false;
    turn.wake_at = clock::boot();
    restart::reinitialize_started()
}

async fn patch_config(d: &Drivers, patch: &Value) -> Reply {
    let Some((stored, revision)) = stored_config(d).await else { return Reply::error(503) };
    let (next, changed) = config::merge_patch(&stored, patch);
    if !changed {
        return Reply::json(200, &stored);
    }
    let compare = [Compare::ModRevision(Key::Config, revision)];
    write_config(d, &compare, &next, 409).await
}

async fn put_config(d: &Drivers, next: Value) -> Reply {
    if stored_config(d).await.is_some_and(|(stored, _)| stored == next) {
        return Reply::json(200, &next);
    }
    write_config(d, &[], &next, 502).await
}

async fn write_config(d: &Drivers, compares: &[Compare], next: &Value, lost: u16) -> Reply {
    let problems = config::validate_dynamic(next);
    if !problems.is_empty() {
        return Reply::text(400, problems.join("\n"));
    }
    let write = Write::Put(Key::Config, documents::compact(next), 0);
    let within = d.setup().settings().retry_timeout;
    match d.dcs.commit(compares, &[write], within).await {
        Ok(done) if done.succeeded => {
            d.refresh.notify_one();
            Reply::json(200, next)
        }
        Ok(_) => Reply::error(lost),
        Err(error) => {
            tracing::warn!("the configuration could not be written: {}", chain(&error));
            Reply::error(lost)
        }
    }
}

async fn stored_config(d: &Drivers) -> Option<(Value, i64)> {
    let (cluster, ..) = d.read_cluster().await.ok()?;
    let config = cluster.config?;
    Some((serde_json::from_str(&config.value).ok()?, config.mod_revision))
}

/// Checks the candidates, writes `/failover` and waits for what comes of it.
async fn switch(d: &Drivers, plan: SwitchoverPlan) -> Reply {
    if let Err(answer) = plan.admit(&ask(d, &plan).await) {
        return answer;
    }
    let Ok((before, ..)) = d.read_cluster().await else { return plan.not_written() };
    let write = Write::Put(Key::Failover, documents::failover_json(&plan.request), 0);
    let within = d.setup().settings().retry_timeout;
    match d.dcs.commit(&[], &[write], within).await {
        Ok(done) if done.succeeded => {}
        Ok(_) | Err(_) => return plan.not_written(),
    }
    d.refresh.notify_one();
    if plan.request.scheduled_at.is_some() {
        return plan.scheduled();
    }
    let limit = operator::poll_max(d.setup().settings().loop_wait);
    let mut snapshots = d.snapshots.clone();
    let wait = async {
        loop {
            let answer = {
                let snapshot = snapshots.borrow_and_update();
                snapshot
                    .cluster
                    .as_ref()
                    .filter(|now| now.revision > before.revision)
                    .and_then(|now| operator::outcome(&plan, &before, now))
            };
            if let Some(answer) = answer {
                return answer;
            }
            if snapshots.changed().await.is_err() {
                return plan.unknown(limit);
            }
        }
    };
    tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| plan.unknown(limit))
}

async fn ask(d: &Drivers, plan: &SwitchoverPlan) -> Vec<PeerStatus> {
    let cluster = d.snapshots.borrow().cluster.clone();
    let client = d.peers();
    let mut questions = JoinSet::new();
    for name in &plan.ask {
        let Some(url) =
            cluster.as_ref().and_then(|c| c.members.get(name)).map(|m| m.api_url.clone())
        else {
            continue;
        };
        let client = client.clone();
        questions.spawn(async move {
            match client.get(&url, CANDIDATE_WITHIN).await {
                Ok(answer) => PeerStatus::parse(&answer.body),
                Err(_) => PeerStatus::unreachable(),
            }
        });
    }
    questions.join_all().await
}

async fn delete_switchover(d: &Drivers) -> Reply {
    let Ok((cluster, ..)) = d.read_cluster().await else { return Reply::error(503) };
    let revision = match operator::check_delete_switchover(&cluster) {
        Ok(revision) => revision,
        Err(answer) => return answer,
    };
    let compare = [Compare::ModRevision(Key::Failover, revision)];
    let write = [Write::Put(Key::Failover, "{}".to_owned(), 0)];
    let within = d.setup().settings().retry_timeout;
    let written = d.dcs.commit(&compare, &write, within).await.is_ok_and(|done| done.succeeded);
    operator::switchover_deleted(written)
}
