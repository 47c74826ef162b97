//! Beside the decisions: the member document, and the leader's position and history. It follows
//! `agent::{duties, publish}`.

use crate::core::cluster::{HistoryEntry, Member, Status};
use crate::core::database::DataDir;
use crate::core::guard::Phase;
use crate::core::view::{View, Work, position};

use super::agent::Ctx;
use super::store::{Compare, Write};
use super::transaction::commit;

/// Starts a round if something is due.
pub fn start(ctx: &Ctx, view: &View) {
    let m = ctx.m;
    let now = view.now;
    let work = ctx.with(|w| {
        let loop_wait = view.settings.loop_wait;
        let a = w.agent(m).filter(|a| !a.on_duty)?;
        let due = now.since(a.duties_at) >= loop_wait;
        let member = document(view).filter(|d| {
            a.written.as_ref().is_none_or(|old| old != d && (due || !moved_only(old, d)))
        });
        let leader = leader(view, due, a.history_written);
        if due {
            a.duties_at = now;
        }
        if member.is_none() && leader.is_empty() {
            return None;
        }
        a.on_duty = true;
        Some((member, leader))
    });
    if let Some((member, leader)) = work {
        ctx.sim.spawn(m, round(ctx.clone(), view.clone(), member, leader));
    }
}

async fn round(ctx: Ctx, view: View, member: Option<Member>, leader: Vec<Write>) {
    if let Some(member) = member {
        let write = Write::Member(Box::new(member.clone()));
        if commit(&ctx, &view, vec![], vec![write]).await == Ok(true) {
            ctx.agent(|a| a.written = Some(member));
        }
    }
    if let Some(t) = view.guard.tenure {
        for write in leader {
            let under = Compare::Leader { lease_id: t.lease_id, mod_revision: t.mod_revision };
            let timeline = view.probe().map_or(0, |p| p.timeline);
            let is_history = matches!(write, Write::History(_));
            if commit(&ctx, &view, vec![under], vec![write]).await == Ok(true) && is_history {
                ctx.agent(|a| a.history_written = timeline);
            }
        }
    }
    ctx.agent(|a| a.on_duty = false);
}

fn moved_only(old: &Member, new: &Member) -> bool {
    let still = |m: &Member| Member {
        xlog_location: None,
        receive_lsn: None,
        replay_lsn: None,
        ..m.clone()
    };
    still(old) == still(new)
}

fn document(v: &View) -> Option<Member> {
    let lease = v.store.lease?;
    let probe = v.server.probe.as_ref().map(|seen| &*seen.value);
    let awaits = match (probe, v.control()) {
        (Some(p), Some(control)) => !p.in_recovery && control.timeline < p.timeline,
        _ => false,
    };
    Some(Member {
        name: v.name.clone(),
        conn_url: format!("postgres://{}", v.name),
        api_url: format!("http://{}", v.name),
        state: state(v).to_owned(),
        role: role(v).to_owned(),
        timeline: probe.map(|p| p.timeline),
        xlog_location: probe.and_then(position),
        tags: v.tags.clone(),
        checkpoint_after_promote: awaits.then_some(false),
        vigil: true,
        lease_id: lease.id,
        ..Member::default()
    })
}

fn state(v: &View) -> &'static str {
    match v.job.filter(|j| j.succeeded.is_none()).map(|j| j.work) {
        Some(Work::Initdb) => return "initializing new cluster",
        Some(Work::BaseBackup) => return "creating replica",
        Some(Work::Rewind) | None => {}
    }
    let there = v.server.postmaster;
    match (there.is_some(), v.server.probe.is_some()) {
        _ if v.memory.restarting => "restarting",
        (true, _) if there.is_some_and(|p| p.stopping_since.is_some()) => "stopping",
        (true, true) => "running",
        (true, false) => "starting",
        (false, _) => match v.server.last_exit {
            Some(exit) if !exit.clean => "crashed",
            _ => "stopped",
        },
    }
}

fn role(v: &View) -> &'static str {
    let dir = matches!(v.server.data_dir, Some(DataDir::Cluster { .. }));
    match &v.server.probe {
        Some(seen) if !seen.value.in_recovery => "primary",
        Some(_) if v.guard.phase == Phase::Leading => "promoted",
        Some(_) => "replica",
        None if !dir => "uninitialized",
        None if v.server.postmaster.is_some() => "replica",
        None if v.memory.demoted_because.is_some() => "demoted",
        None if v.guard.phase == Phase::Leading => "primary",
        None => "replica",
    }
}

fn leader(v: &View, due: bool, history_written: u32) -> Vec<Write> {
    let mut writes = Vec::new();
    let leads = v.guard.tenure.is_some() && v.holds_key() && v.is_primary();
    let (Some(probe), Some(cluster)) = (v.probe().filter(|_| leads), v.cluster()) else {
        return writes;
    };
    let status = Status { optime: probe.flush_lsn, ..Status::default() };
    if due && status != cluster.status {
        writes.push(Write::Status(status));
    }
    let known = cluster.history.last().map_or(0, |h| h.timeline);
    if probe.timeline > 1 && known != probe.timeline - 1 && history_written != probe.timeline {
        let entry = HistoryEntry { timeline: probe.timeline - 1, ..HistoryEntry::default() };
        writes.push(Write::History(vec![entry]));
    }
    writes
}
