//! Transactions on the store, as `agent::store` makes them.

use std::collections::BTreeMap;

use crate::core::cluster::{
    FailoverRequest, Handover, NewestTimeline, PauseRecord, SyncState, Tenure,
};
use crate::core::decision::{Action, RecordIs};
use crate::core::guard::Event;
use crate::core::view::View;

use super::action::{Done, Failed, label};
use super::agent::{CallError, Ctx};
use super::defect::Defect;
use super::lease::{confirm, renew};
use super::order::{Order, order};
use super::store::{Answer, Compare, Request, Write};

/// The leader key is still this tenure's.
pub fn under(tenure: Tenure) -> Compare {
    Compare::Leader { lease_id: tenure.lease_id, mod_revision: tenure.mod_revision }
}

pub async fn commit(
    ctx: &Ctx,
    v: &View,
    compares: Vec<Compare>,
    writes: Vec<Write>,
) -> Result<bool, Failed> {
    let mut compares = compares;
    if ctx.with(|w| w.flawed(Defect::TenureUnchecked)) {
        compares.retain(|compare| !matches!(compare, Compare::Leader { .. }));
    }
    let request = Request::Transaction { compares, writes };
    match ctx.call(request, v.settings.retry_timeout).await? {
        Answer::Done { succeeded, .. } => Ok(succeeded),
        _ => Err(Failed::Store(CallError::Refused)),
    }
}

/// Nobody leads, and what the operator and the key `/failsafe` say is what this decision saw.
fn as_decided(v: &View) -> Vec<Compare> {
    let cluster = v.cluster();
    let config = cluster.and_then(|c| c.config.as_ref()).map_or(0, |key| key.mod_revision);
    let named = cluster.and_then(|c| c.failsafe.as_ref()).map_or(0, |key| key.mod_revision);
    let asked = cluster.and_then(|c| c.failover.as_ref()).map_or(0, |key| key.mod_revision);
    vec![
        Compare::LeaderAbsent,
        Compare::ConfigRevision(config),
        Compare::FailsafeRevision(named),
        Compare::FailoverRevision(asked),
    ]
}

pub async fn write_store(ctx: &Ctx, v: &View, action: Action) -> Done {
    match action {
        Action::AcquireLeader { sync_revision, record } => {
            let compares = as_decided(v);
            acquire(ctx, v, compares, record, sync_revision, Vec::new()).await
        }
        Action::TakeHandover { note_revision, leader_revision, sync_revision } => {
            let compares = vec![
                Compare::LeaderRevision(leader_revision),
                Compare::HandoverRevision(note_revision),
            ];
            let writes = vec![Write::NoHandover, Write::Failover(FailoverRequest::default())];
            acquire(ctx, v, compares, RecordIs::Absent, sync_revision, writes).await
        }
        Action::WriteShutdownStatus { tenure, lsn } => {
            let mut status = v.cluster().map(|c| c.status.clone()).unwrap_or_default();
            status.optime = Some(lsn);
            commit(ctx, v, vec![under(tenure)], vec![Write::Status(status)]).await.map(drop)
        }
        Action::WriteHandover { tenure, to, lsn } => {
            let leader_mod_revision = tenure.mod_revision;
            let note = Handover { from: v.name.clone(), to, lsn, leader_mod_revision };
            commit(ctx, v, vec![under(tenure)], vec![Write::Handover(note)]).await.map(drop)
        }
        Action::DeleteLeader { tenure } => {
            if v.guard.burned != Some(tenure) {
                return Err(Failed::Precondition("the release was not granted"));
            }
            let mut writes = vec![Write::NoLeader, Write::NoHandover];
            if let Some(key) = v.cluster().and_then(|c| c.pause_record.as_ref()) {
                let stopped = PauseRecord { stopped: true, ..key.value.clone() };
                writes.push(match v.settings.paused && stopped.leader == v.name {
                    true => Write::PauseRecord(stopped),
                    false => Write::NoPauseRecord,
                });
            }
            commit(ctx, v, vec![under(tenure)], writes).await.map(drop)
        }
        Action::ClearFailover { revision } => {
            let writes = vec![Write::Failover(FailoverRequest::default())];
            commit(ctx, v, vec![Compare::FailoverRevision(revision)], writes).await.map(drop)
        }
        Action::WriteSync { tenure, revision, state } => {
            write_sync(ctx, v, tenure, revision, state).await
        }
        Action::WriteTimeline { tenure, revision, number } => {
            let leader_mod_revision = tenure.mod_revision;
            let newest = NewestTimeline { number, leader_mod_revision };
            let compares = vec![under(tenure), Compare::TimelineRevision(revision)];
            commit(ctx, v, compares, vec![Write::Timeline(newest)]).await.map(drop)
        }
        Action::WritePauseRecord { tenure, record } => {
            commit(ctx, v, vec![under(tenure)], vec![Write::PauseRecord(record)]).await.map(drop)
        }
        Action::RemovePauseRecord { tenure, revision } => {
            remove_pause_record(ctx, v, tenure, revision).await
        }
        Action::WriteFailsafe { tenure, revision, members } => {
            write_failsafe(ctx, v, tenure, revision, members).await
        }
        other => {
            let what = format!("not modelled: {}", label(&other));
            ctx.with(|w| w.checks.violate(w.now, what));
            Err(Failed::Precondition("not modelled"))
        }
    }
}

/// The supervisor takes back what it may still have to read.
async fn remove_pause_record(ctx: &Ctx, v: &View, tenure: Option<Tenure>, revision: i64) -> Done {
    let first = tenure.map_or(Compare::LeaderAbsent, under);
    if tenure.is_some() {
        order(ctx, Order::Guard(Event::Resume)).await?;
    }
    let compares = vec![first, Compare::PauseRevision(revision)];
    commit(ctx, v, compares, vec![Write::NoPauseRecord]).await.map(drop)
}

/// Only a write whose answer was seen counts.
async fn write_failsafe(
    ctx: &Ctx,
    v: &View,
    tenure: Tenure,
    revision: i64,
    members: Option<BTreeMap<String, String>>,
) -> Done {
    let there = members.is_some();
    let lease = ctx.with(|w| w.members[ctx.m].supervisor.as_ref()?.shown.lease());
    let sent_at = lease.map(|lease| lease.sent_at);
    if ctx.agent(|a| a.store.failsafe.promised_at) >= sent_at {
        return Err(Failed::Precondition("the deadline stands on promises"));
    }
    let compares = vec![under(tenure), Compare::FailsafeRevision(revision)];
    let request = Request::Transaction { compares, writes: vec![Write::Failsafe(members)] };
    if let Answer::Done { succeeded: true, revision } =
        ctx.call(request, v.settings.retry_timeout).await?
    {
        ctx.agent(|a| a.store.failsafe.settled = there.then_some(revision));
    }
    Ok(())
}

async fn write_sync(ctx: &Ctx, v: &View, tenure: Tenure, revision: i64, state: SyncState) -> Done {
    let compares = vec![under(tenure), Compare::SyncRevision(revision)];
    if commit(ctx, v, compares, vec![Write::Sync(state)]).await? {
        Ok(())
    } else {
        Err(Failed::Precondition("/sync was changed by somebody else"))
    }
}

/// Renew, then one transaction, then confirm.
async fn acquire(
    ctx: &Ctx,
    v: &View,
    mut compares: Vec<Compare>,
    record: RecordIs,
    sync_revision: Option<i64>,
    mut writes: Vec<Write>,
) -> Done {
    let within = v.settings.retry_timeout;
    let lease = renew(ctx, v.settings.ttl, within).await?;
    compares.push(match record {
        RecordIs::Absent => Compare::PauseRevision(0),
        RecordIs::Ours { revision } | RecordIs::Overruled { revision } => {
            Compare::PauseRevision(revision)
        }
    });
    if matches!(record, RecordIs::Overruled { .. }) {
        writes.push(Write::NoPauseRecord);
    }
    compares.extend(sync_revision.map(Compare::SyncRevision));
    let newest = v.cluster().and_then(|c| c.newest_timeline);
    compares.push(Compare::TimelineRevision(newest.map_or(0, |key| key.mod_revision)));
    writes.extend(newest.map(|key| Write::Timeline(key.value)));
    writes.push(Write::Leader { name: v.name.clone(), lease_id: lease.id });
    compares.retain(|compare| match compare {
        Compare::ConfigRevision(_) => !ctx.with(|w| w.flawed(Defect::ConfigUnchecked)),
        Compare::PauseRevision(_) => !ctx.with(|w| w.flawed(Defect::IgnoresPause)),
        Compare::TimelineRevision(_) => !ctx.with(|w| w.flawed(Defect::TimelineUnnumbered)),
        _ => true,
    });
    if ctx.with(|w| w.flawed(Defect::TakesAnyKey)) {
        compares.clear();
    }
    let request = Request::Transaction { compares, writes };
    match ctx.call(request, within).await {
        Ok(Answer::Done { succeeded: true, .. }) => {}
        Ok(_) => return Ok(()),
        Err(CallError::Timeout) => {
            let Answer::Leader { key, .. } = ctx.call(Request::Leader, within).await? else {
                return Err(Failed::NotOurs);
            };
            if key.is_none_or(|key| key.lease_id != lease.id) {
                return Err(Failed::Store(CallError::Timeout));
            }
        }
        Err(error) => return Err(error.into()),
    }
    confirm(ctx, within).await
}
