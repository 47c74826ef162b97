//! Asks the local PostgreSQL how it is, over one connection that stays open, at the pace that the
//! loop sets. Any answer is life; only silence counts against the server, and only the loop
//! judges it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::link::state::State;
use crate::postgres::pidfile;
use crate::postgres::session::{Session, SessionError};
use crate::sys::clock;

use super::drivers::Drivers;
use super::events::Event;
use super::sql;

/// Whoever asks for probes: no more than one in this time.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// A local server that cannot answer a status query within this is hung for now.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

pub async fn run(
    drivers: Arc<Drivers>,
    mut pace: watch::Receiver<Duration>,
    events: mpsc::Sender<Event>,
) {
    let mut session: Option<(i32, Session)> = None;
    loop {
        let state = drivers.supervisor.state();
        if let Some(pid) = askable(&state) {
            if session.as_ref().is_some_and(|(of, s)| *of != pid || s.is_closed()) {
                session = None;
            }
            if !ask(&drivers, pid, &mut session, &events).await {
                return;
            }
        } else {
            session = None;
        }
        let wait = *pace.borrow_and_update();
        tokio::time::sleep(PAUSE_MIN).await;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = drivers.probe_now.notified() => {}
            changed = pace.changed() => if changed.is_err() { return },
        }
    }
}

/// A frozen server is not asked: its silence would say nothing.
pub fn askable(state: &State) -> Option<i32> {
    let postmaster = state.postmaster?;
    (!state.group.frozen).then_some(postmaster.pid)
}

/// False when the loop is gone.
async fn ask(
    drivers: &Drivers,
    pid: i32,
    session: &mut Option<(i32, Session)>,
    events: &mpsc::Sender<Event>,
) -> bool {
    let asked_at = clock::boot();
    let result = probe(drivers, pid, session).await;
    let event = match result {
        Ok(probe) => Event::Probe { pid, answer: Some(Box::new(probe)), asked_at },
        Err(error) => {
            *session = None;
            match &error {
                // It lives, and there is nothing to report.
                error if error.is_starting_or_stopping() => return true,
                SessionError::Unreachable { .. } => match listening(drivers, pid).await {
                    Some(there) => Event::Unreached { pid, why: format!("{error}; {there}") },
                    None => {
                        tracing::debug!("PostgreSQL is not ready: {error}");
                        return true;
                    }
                },
                // It lives, and does not serve us: pg_hba.conf, a role, too many clients.
                error if error.is_answer() => Event::Refused { pid, why: error.to_string() },
                error => {
                    tracing::warn!("PostgreSQL does not answer: {error}");
                    Event::Probe { pid, answer: None, asked_at }
                }
            }
        }
    };
    events.send(event).await.is_ok()
}

/// Where the postmaster itself says that it takes connections, and what would lead us there: one
/// that was adopted may have been started with other settings than ours. `None` while it starts.
async fn listening(drivers: &Drivers, pid: i32) -> Option<String> {
    let data_dir = drivers.setup().data_dir();
    // For as long as its volume hangs: then there is nobody to be reached either.
    let read = tokio::task::spawn_blocking(move || pidfile::read(&data_dir)).await;
    let there = read.ok()?.filter(|file| file.pid == pid)?.listening()?;
    Some(format!("it listens on {there} (postmaster.pid), and postgresql.listen must name that"))
}

async fn probe(
    drivers: &Drivers,
    pid: i32,
    session: &mut Option<(i32, Session)>,
) -> Result<crate::core::database::Probe, SessionError> {
    if session.is_none() {
        *session = Some((pid, sql::local(&drivers.setup(), ANSWER_WITHIN).await?));
    }
    match session {
        Some((_, open)) => open.probe(ANSWER_WITHIN).await,
        None => unreachable!("invariant: opened above"),
    }
}
