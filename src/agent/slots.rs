//! Replication slots: what `core::slots` plans, carried out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::core::database::ControlData;
use crate::core::lsn::Lsn;
use crate::core::slot_copies::{LeaderSlots, Question};
use crate::core::slots::{Advance, PermanentSlot, SlotKind, SlotWork};
use crate::core::time::Boot;
use crate::postgres::session::{Session, SessionError};
use crate::postgres::slot_copies;
use crate::sys::clock;

use super::drivers::{Drivers, Setup};
use super::events::Fact;
use super::executor::ActionError;
use super::sql;

const SQL_WITHIN: Duration = Duration::from_secs(3);

const LOGICAL_WITHIN: Duration = Duration::from_secs(10);

/// A standby that stops takes no longer to be started again; what is older describes another
/// leader, perhaps.
const COPIES_FRESH: Duration = Duration::from_secs(300);

/// States of the leader's logical slots, for the next start of this standby.
#[derive(Debug, Default)]
pub struct Copies(Mutex<(Boot, Vec<Copy>)>);

#[derive(Debug)]
pub struct Copy {
    name: String,
    state: Vec<u8>,
    needs: Lsn,
}

impl Copies {
    fn put(&self, at: Boot, copies: Vec<Copy>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (at, copies);
    }

    /// All of them, once.
    pub fn take(&self) -> Vec<Copy> {
        let (at, copies) =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if clock::boot().since(at) < COPIES_FRESH { copies } else { Vec::new() }
    }
}

/// Before the server starts. What fails here is no reason not to start it.
pub fn install(setup: &Setup, copies: &[Copy], control: Option<&ControlData>) {
    let mut levels = setup.replica.controlled.iter();
    // A server of another level does not start with a logical slot.
    let logical = levels.any(|(name, value)| name == "wal_level" && value == "logical");
    let Some(control) = control.filter(|_| logical) else { return };
    for Copy { name, state, needs } in copies {
        let segment = control.wal_segment_bytes;
        match slot_copies::install(&setup.data_dir(), name, state, *needs, segment) {
            Ok(true) => tracing::info!("copied the logical replication slot {name} of the leader"),
            Ok(false) => tracing::info!(
                "the logical replication slot {name} of the leader was not copied: the WAL that it \
                 needs from {needs} on is not here any more, or there is a slot of that name"
            ),
            Err(error) => tracing::warn!("the logical replication slot {name}: {error}"),
        }
    }
}

/// Creates, moves on and drops.
pub async fn keep(setup: &Setup, work: &SlotWork) -> Result<(), ActionError> {
    for name in &work.proofs.proven {
        tracing::info!("Logical slot {name} is safe to be used after a failover");
    }
    for name in &work.proofs.doubtful {
        tracing::warn!(
            "Logical slot {name} might be unsafe to use after promotion: its copy was young, and \
             rows of the catalogs that it needs may be gone. Check its consumer; if it is refused \
             or reads nonsense, create the slot anew and let the consumer begin anew"
        );
    }
    if work.create.is_empty() && work.advance.is_empty() && work.drop.is_empty() {
        return Ok(());
    }
    let mut session = sql::local(setup, SQL_WITHIN).await?;
    // What one slot is refused costs no other its turn.
    let mut result = Ok(true);
    for PermanentSlot { name, kind } in &work.create {
        let created = match kind {
            SlotKind::Physical => session.ensure_physical(name, true, SQL_WITHIN).await,
            SlotKind::Logical { database, plugin } => create(setup, name, database, plugin).await,
        };
        result = result.and(created);
    }
    for Advance { name, database, to } in &work.advance {
        let moved = match database {
            None => session.advance_slot(name, *to, SQL_WITHIN).await,
            Some(database) => advance(setup, name, database, *to).await,
        };
        result = result.and(moved.map(|()| true));
    }
    for name in &work.drop {
        tracing::info!("dropping the replication slot {name}: nothing wants it");
        result = result.and(session.drop_slot(name, SQL_WITHIN).await);
    }
    Ok(result.map(drop)?)
}

/// A logical slot belongs to a database: there it is created and moved on.
async fn of_database(setup: &Setup, database: &str) -> Result<Session, SessionError> {
    let mut target = sql::local_target(setup, LOGICAL_WITHIN);
    database.clone_into(&mut target.database);
    Session::connect(&target, SQL_WITHIN).await
}

/// It is ready when the transactions that run now have ended, which may take long: tried again in
/// the next round.
async fn create(
    setup: &Setup,
    name: &str,
    database: &str,
    plugin: &str,
) -> Result<bool, SessionError> {
    let mut session = of_database(setup, database).await?;
    session.ensure_logical(name, plugin, LOGICAL_WITHIN).await
}

/// Reads the WAL in between: no more than was read on the leader in one `loop_wait`, as a rule.
async fn advance(setup: &Setup, name: &str, database: &str, to: Lsn) -> Result<(), SessionError> {
    of_database(setup, database).await?.advance_slot(name, to, LOGICAL_WITHIN).await
}

/// Asks the leader; what is to be copied waits for the next start.
pub async fn ask(d: &Drivers, question: &Question, pid: i32) -> Result<Fact, ActionError> {
    let (setup, at) = (d.setup(), clock::boot());
    let mut session = sql::leader(&setup, &question.leader, SQL_WITHIN).await?;
    let Question { own_slot, copy, prove, replayed, .. } = question;
    let answer = session.logical_slots(own_slot, copy, prove, SQL_WITHIN).await?;
    let mut told = LeaderSlots::default();
    let mut copies = Vec::new();
    for slot in answer.slots {
        if let Some(xid) = slot.catalog_xmin.filter(|_| answer.keeps) {
            told.needs.insert(slot.name.clone(), xid);
        }
        let here = slot.confirmed_flush_lsn.is_some_and(|position| position <= *replayed);
        if let Some((state, needs)) = slot.state.zip(slot.restart_lsn)
            && here
            && slot.recent
        {
            told.fetched.push(slot.name.clone());
            copies.push(Copy { name: slot.name, state, needs });
        }
    }
    if !copies.is_empty() {
        d.slot_copies.put(at, copies);
    }
    Ok(Fact::LeaderSlots { pid, at, slots: told })
}
