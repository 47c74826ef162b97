//! Writes to the store that decisions order. All of a leader's writes compare its tenure (MOD of
//! the leader key), so that a leader that is none any more changes nothing.

use std::collections::BTreeMap;

use crate::core::cluster::{
    Cluster, Handover, NewestTimeline, PauseRecord, Status, SyncState, Tenure,
};
use crate::core::decision::{Action, RecordIs};
use crate::core::lsn::Lsn;
use crate::core::view::View;
use crate::dcs::documents;
use crate::dcs::{Compare, Key, Write};
use crate::link::order::Order;

use super::drivers::Drivers;
use super::events::Fact;
use super::executor::ActionError;

/// The comparisons that make a write one of this tenure.
pub fn under(tenure: Tenure) -> [Compare; 2] {
    [
        Compare::ModRevision(Key::Leader, tenure.mod_revision),
        Compare::Lease(Key::Leader, tenure.lease_id),
    ]
}

/// 0: absent.
fn at_revision(key: Key, revision: i64) -> Compare {
    match revision {
        0 => Compare::Absent(key),
        revision => Compare::ModRevision(key, revision),
    }
}

/// Who is named is told apart by the key's revision: only a write whose answer was seen counts.
async fn write_failsafe(
    d: &Drivers,
    tenure: Tenure,
    revision: i64,
    members: Option<&BTreeMap<String, String>>,
    facts: &mut Vec<Fact>,
) -> Result<(), ActionError> {
    // A deadline that stands on promises stands on those of the members that are named.
    let (promised, sent_at) = (*d.promised.lock().await, d.supervisor.state().sent_at);
    if promised >= sent_at {
        let text = "the deadline stands on promises of those that are named now".to_owned();
        return Err(ActionError::Precondition(text));
    }
    let mut compares = under(tenure).to_vec();
    compares.push(at_revision(Key::Failsafe, revision));
    let write = match members {
        Some(members) => Write::Put(Key::Failsafe, documents::failsafe_json(members), 0),
        None => Write::Delete(Key::Failsafe),
    };
    let within = d.setup().settings().retry_timeout;
    let done = d.dcs.commit(&compares, &[write], within).await?;
    if done.succeeded {
        facts.push(Fact::FailsafeWritten(members.is_some().then_some(done.revision)));
    }
    Ok(())
}

pub async fn write(
    d: &Drivers,
    v: &View,
    action: Action,
    facts: &mut Vec<Fact>,
) -> Result<(), ActionError> {
    let result = match action {
        Action::AcquireLeader { sync_revision, record } => {
            // Who knows of no pause, and of no synchronous mode, that began since, gets nothing.
            let config = v.cluster().and_then(|c| c.config.as_ref());
            let config = at_revision(Key::Config, config.map_or(0, |key| key.mod_revision));
            // The list of those who may take it, as this decision saw it.
            let named = v.cluster().and_then(|c| c.failsafe.as_ref());
            let named = at_revision(Key::Failsafe, named.map_or(0, |key| key.mod_revision));
            // The operator's last word: one that stands above /sync may have been taken back.
            let asked = v.cluster().and_then(|c| c.failover.as_ref());
            let asked = at_revision(Key::Failover, asked.map_or(0, |key| key.mod_revision));
            let compares = vec![Compare::Absent(Key::Leader), config, named, asked];
            acquire(d, v, compares, record, sync_revision, vec![]).await
        }
        Action::TakeHandover { note_revision, leader_revision, sync_revision } => {
            let compares = vec![
                Compare::ModRevision(Key::Leader, leader_revision),
                Compare::ModRevision(Key::Handover, note_revision),
            ];
            let writes =
                vec![Write::Delete(Key::Handover), Write::Put(Key::Failover, "{}".to_owned(), 0)];
            acquire(d, v, compares, RecordIs::Absent, sync_revision, writes).await
        }
        Action::WriteShutdownStatus { tenure, lsn } => shutdown_status(d, v, tenure, lsn).await,
        Action::WriteHandover { tenure, to, lsn } => handover(d, v, tenure, to, lsn).await,
        Action::DeleteLeader { tenure } => delete_leader(d, v, tenure).await,
        Action::ClearFailover { revision } => {
            let compares = [Compare::ModRevision(Key::Failover, revision)];
            let writes = [Write::Put(Key::Failover, "{}".to_owned(), 0)];
            commit(d, &compares, &writes).await.map(drop)
        }
        Action::WriteSync { tenure, revision, state } => {
            write_sync(d, tenure, revision, &state).await
        }
        Action::WriteFailsafe { tenure, revision, members } => {
            write_failsafe(d, tenure, revision, members.as_ref(), facts).await
        }
        Action::WritePauseRecord { tenure, record } => {
            let write = Write::Put(Key::PauseRecord, documents::pause_json(&record), 0);
            commit(d, &under(tenure), &[write]).await.map(drop)
        }
        Action::RemovePauseRecord { tenure, revision } => {
            remove_pause_record(d, tenure, revision).await
        }
        Action::WriteTimeline { tenure, revision, number } => {
            let leader_mod_revision = tenure.mod_revision;
            let newest = NewestTimeline { number, leader_mod_revision };
            let write = Write::Put(Key::Timeline, documents::timeline_json(newest), 0);
            let mut compares = under(tenure).to_vec();
            compares.push(at_revision(Key::Timeline, revision));
            commit(d, &compares, &[write]).await.map(drop)
        }
        other => Err(ActionError::Precondition(format!("no driver for {other:?}"))),
    };
    // Whatever happened (the answer may be lost, the write not): look before deciding again.
    facts.push(d.cluster_fact().await?);
    result
}

/// True if the transaction's comparisons held.
pub async fn commit(
    d: &Drivers,
    compares: &[Compare],
    writes: &[Write],
) -> Result<bool, ActionError> {
    let within = d.setup().settings().retry_timeout;
    Ok(d.dcs.commit(compares, writes, within).await?.succeeded)
}

/// Renew, then one transaction, then confirm. The supervisor is armed already: whatever stalls
/// from here on is bounded by its deadline or costs only the race.
async fn acquire(
    d: &Drivers,
    v: &View,
    mut compares: Vec<Compare>,
    record: RecordIs,
    sync_revision: Option<i64>,
    mut writes: Vec<Write>,
) -> Result<(), ActionError> {
    let settings = &v.settings;
    let lease = d.leases.renew(settings.ttl, settings.retry_timeout).await?;
    compares.push(match record {
        RecordIs::Absent => Compare::Absent(Key::PauseRecord),
        RecordIs::Ours { revision } | RecordIs::Overruled { revision } => {
            Compare::ModRevision(Key::PauseRecord, revision)
        }
    });
    if matches!(record, RecordIs::Overruled { .. }) {
        writes.push(Write::Delete(Key::PauseRecord));
    }
    compares.extend(sync_revision.map(|revision| at_revision(Key::Sync, revision)));
    // Nobody was promoted since the decision: see `core::numbering`.
    let newest = v.cluster().and_then(|c| c.newest_timeline);
    compares.push(at_revision(Key::Timeline, newest.map_or(0, |key| key.mod_revision)));
    // Nor has anybody taken the key since: see `Cluster::lately_led`.
    let again = newest.map(|key| documents::timeline_json(key.value));
    writes.extend(again.map(|document| Write::Put(Key::Timeline, document, 0)));
    writes.push(Write::Put(Key::Leader, v.name.clone(), lease.id));
    let within = settings.retry_timeout;
    match d.dcs.commit(&compares, &writes, within).await {
        Ok(done) if done.succeeded => {}
        Ok(_) => {
            tracing::info!("Could not take out TTL lock");
            return Ok(());
        }
        // The answer is lost. Nobody but us attaches this lease: a leader key that carries it is
        // the one that this transaction wrote.
        Err(error) if error.maybe_applied() => {
            let read = d.dcs.leader(within).await?;
            if read.key.is_none_or(|key| key.lease_id != lease.id) {
                return Err(error.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    d.leases.confirm(within).await?;
    Ok(())
}

/// The status, and for members that know no `/status` the position where they look for it.
pub fn status_writes(status: &Status, cluster: &Cluster) -> Vec<Write> {
    let old = status.optime.filter(|_| cluster.reads_optime());
    let old = old.map(|lsn| Write::Put(Key::OptimeLeader, lsn.0.to_string(), 0));
    let status = Write::Put(Key::Status, documents::status_json(status), 0);
    std::iter::once(status).chain(old).collect()
}

async fn remove_pause_record(
    d: &Drivers,
    tenure: Option<Tenure>,
    revision: i64,
) -> Result<(), ActionError> {
    let mut compares = match tenure {
        Some(tenure) => under(tenure).to_vec(),
        None => vec![Compare::Absent(Key::Leader)],
    };
    // An order to suspend that was not answered may only not have been read yet: by a supervisor
    // that stood still. It is read before this one, which takes it back.
    if tenure.is_some() {
        d.supervisor.order(Order::Resume).await?;
    }
    compares.push(Compare::ModRevision(Key::PauseRecord, revision));
    commit(d, &compares, &[Write::Delete(Key::PauseRecord)]).await.map(drop)
}

async fn shutdown_status(
    d: &Drivers,
    v: &View,
    tenure: Tenure,
    lsn: Lsn,
) -> Result<(), ActionError> {
    let nothing = Cluster::default();
    let cluster = v.cluster().unwrap_or(&nothing);
    let status = Status { optime: Some(lsn), ..cluster.status.clone() };
    commit(d, &under(tenure), &status_writes(&status, cluster)).await.map(drop)
}

async fn handover(
    d: &Drivers,
    v: &View,
    tenure: Tenure,
    to: String,
    lsn: Lsn,
) -> Result<(), ActionError> {
    let vigil = v.cluster().and_then(|c| c.members.get(&to)).is_some_and(|m| m.vigil);
    if !vigil {
        // A Patroni candidate knows nothing of notes: it waits for the key to vanish.
        return Ok(());
    }
    let leader_mod_revision = tenure.mod_revision;
    let note = Handover { from: v.name.clone(), to, lsn, leader_mod_revision };
    let document = documents::handover_json(&note);
    commit(d, &under(tenure), &[Write::Put(Key::Handover, document, 0)]).await.map(drop)
}

async fn delete_leader(d: &Drivers, v: &View, tenure: Tenure) -> Result<(), ActionError> {
    if v.guard.burned != Some(tenure) {
        let text = "the supervisor has not granted the release".to_owned();
        return Err(ActionError::Precondition(text));
    }
    let mut writes = vec![Write::Delete(Key::Leader), Write::Delete(Key::Handover)];
    if let Some(key) = v.cluster().and_then(|c| c.pause_record.as_ref()) {
        // Burned means that nothing of ours accepts writes.
        let stopped = PauseRecord { stopped: true, ..key.value.clone() };
        let document = documents::pause_json(&stopped);
        writes.push(match v.settings.paused && stopped.leader == v.name {
            true => Write::Put(Key::PauseRecord, document, 0),
            false => Write::Delete(Key::PauseRecord),
        });
    }
    if commit(d, &under(tenure), &writes).await? {
        tracing::info!("Leader key released");
    }
    Ok(())
}

async fn write_sync(
    d: &Drivers,
    tenure: Tenure,
    revision: i64,
    state: &SyncState,
) -> Result<(), ActionError> {
    let mut compares = under(tenure).to_vec();
    compares.push(at_revision(Key::Sync, revision));
    let write = match state.leader {
        Some(_) => Write::Put(Key::Sync, documents::sync_json(state), 0),
        None => Write::Delete(Key::Sync),
    };
    if !commit(d, &compares, &[write]).await? {
        let text = "/sync was changed by somebody else".to_owned();
        return Err(ActionError::Precondition(text));
    }
    Ok(())
}
