//! How far the copy of a member's data has come, for those who wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::core::decision::Upstream;
use crate::core::view::Work;
use crate::postgres::datadir;

use super::drivers::Drivers;
use super::events::Event;
use super::sql;
use super::world::work_of;

const EVERY: Duration = Duration::from_secs(1);

/// Asking for the size reads the metadata of every file there.
const TOTAL_WITHIN: Duration = Duration::from_secs(30);

/// What a copy has done of what there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// Measures while a job makes the data directory; ends when the loop is gone.
pub async fn run(drivers: Arc<Drivers>) {
    let mut states = drivers.supervisor.states();
    loop {
        let copying = |jobs: &[crate::link::state::JobState]| {
            jobs.iter().any(|j| j.ended.is_none() && work_of(j.id) == Some(Work::BaseBackup))
        };
        if states.wait_for(|s| copying(&s.jobs)).await.is_err() {
            return;
        }
        let total_bytes = total(&drivers).await.unwrap_or(0);
        while total_bytes > 0 && copying(&drivers.supervisor.state().jobs) {
            let data_dir = drivers.setup().data_dir();
            // One at a time: a disk that hangs holds this task up and nothing else.
            let done = spawn_blocking(move || datadir::size_bytes(&data_dir)).await.unwrap_or(0);
            let copied = Copied { done_bytes: done.min(total_bytes), total_bytes };
            if drivers.events.send(Event::Copied(Some(copied))).await.is_err() {
                return;
            }
            tokio::time::sleep(EVERY).await;
        }
        let _ = states.wait_for(|s| !copying(&s.jobs)).await;
        if drivers.events.send(Event::Copied(None)).await.is_err() {
            return;
        }
    }
}

/// The size of the leader's databases; a copy of another member's comes near.
async fn total(drivers: &Drivers) -> Option<u64> {
    let leader = {
        let snapshot = drivers.snapshots.borrow();
        let cluster = snapshot.cluster.as_ref()?;
        let member = cluster.members.get(&cluster.leader.as_ref()?.name)?;
        Upstream { name: member.name.clone(), conn_url: member.conn_url.clone() }
    };
    let asked = async {
        let mut session = sql::leader(&drivers.setup(), &leader, TOTAL_WITHIN).await?;
        Ok::<u64, sql::LeaderError>(session.size_bytes(TOTAL_WITHIN).await?)
    };
    match asked.await {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::debug!("the size of {} is not known: {error}", leader.name);
            None
        }
    }
}
