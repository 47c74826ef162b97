//! Two questions to the local server whose silence counts: a new connection, and a small
//! transaction. Both add up the time in which they watched it be silent; the rules judge it.

use std::sync::Arc;
use std::time::Duration;

use crate::core::time::Boot;
use crate::postgres::ping::{Answer, ping};
use crate::postgres::session::Session;
use crate::sys::clock;

use super::drivers::Drivers;
use super::events::Event;
use super::prober::askable;
use super::sql;

/// A new connection that is not answered within this is silence; the next one is tried at once.
const PING_WITHIN: Duration = Duration::from_secs(2);

/// Between two questions whose answers stay away.
const AGAIN: Duration = Duration::from_millis(200);

/// No look counts for more: whatever is longer was a suspend, or a stall of our own.
const LOOK_MAX: Duration = Duration::from_millis(2500);

/// After this the server itself gives the small transaction up, where it can be given up: on a
/// lock, or for want of a CPU. That is an answer; waits for a disk or for a lock of shared memory
/// are not interrupted.
const CANCELLED_AFTER: Duration = Duration::from_secs(3);

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A status answer that is older than this may come of a server that cannot answer any more.
const ANSWERS_OLD: Duration = Duration::from_secs(15);

/// How long a postmaster has been watched to be silent.
#[derive(Debug, Default)]
struct Silence {
    pid: i32,
    /// Freezes before this look: one in between makes the silence our own doing.
    freezes: u32,
    lasting: Duration,
    looked_at: Boot,
}

impl Silence {
    /// One look at its end; `silent`: it brought no answer.
    fn look(&mut self, pid: i32, freezes: u32, silent: bool, now: Boot) {
        let same = self.pid == pid && self.freezes == freezes;
        self.lasting = match silent && same {
            true => self.lasting + now.since(self.looked_at).min(LOOK_MAX),
            false => Duration::ZERO,
        };
        (self.pid, self.freezes, self.looked_at) = (pid, freezes, now);
    }
}

/// Asks for new connections. Ends when the loop is gone.
pub async fn answers(drivers: Arc<Drivers>) {
    let mut silence = Silence::default();
    loop {
        let setup = drivers.setup();
        let limit = setup.settings().health.answer;
        let before = drivers.supervisor.state();
        let mut pause = (limit / 4).clamp(AGAIN, Duration::from_secs(5));
        if let Some(pid) = askable(&before).filter(|_| !limit.is_zero()) {
            let told = silence.lasting;
            let target = sql::local_target(&setup, Duration::ZERO);
            if told.is_zero() {
                silence.look(pid, before.counters.freezes, false, clock::boot());
            }
            let silent = ping(&target, PING_WITHIN).await == Answer::Silent;
            let after = drivers.supervisor.state();
            let silent = silent && askable(&after) == Some(pid);
            silence.look(pid, after.counters.freezes, silent, clock::boot());
            let lasting = silence.lasting;
            let event = Event::Unanswered { pid, lasting };
            if lasting != told && drivers.events.send(event).await.is_err() {
                return;
            }
            if !lasting.is_zero() {
                pause = AGAIN;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Tries the write path, but only when there is a reason to doubt it: every try takes a
/// transaction id and some bytes of the log, and would keep an idle server from being idle.
pub async fn writes(drivers: Arc<Drivers>) {
    let mut flushed = None;
    loop {
        let limit = drivers.setup().settings().health.write;
        tokio::time::sleep((limit / 6).clamp(Duration::from_millis(500), Duration::from_secs(5)))
            .await;
        let state = drivers.supervisor.state();
        let Some(pid) = askable(&state).filter(|_| !limit.is_zero()) else { continue };
        let known = drivers.snapshots.borrow().probe.clone();
        let Some((probe, asked_at)) = known.filter(|(p, _)| !p.in_recovery) else { continue };
        let moved = flushed != probe.flush_lsn;
        flushed = probe.flush_lsn;
        // Somebody writes, and nothing reaches the disk; or the server does not tell any more.
        let stands = !moved && (probe.insert_lsn > probe.flush_lsn || probe.writers > 0);
        let doubt = stands || clock::boot().since(asked_at) > ANSWERS_OLD;
        if doubt && !write(&drivers, pid).await {
            return;
        }
    }
}

/// One small transaction, awaited for as long as the postmaster is the same: what hangs in the
/// server cannot be cancelled, and another try would cost it another connection. False when the
/// loop is gone.
async fn write(drivers: &Drivers, pid: i32) -> bool {
    let target = sql::local_target(&drivers.setup(), CANCELLED_AFTER);
    // Whoever does not even let us in is the other question's.
    let Ok(mut session) = Session::connect(&target, CONNECT_WITHIN).await else { return true };
    let mut silence = Silence::default();
    silence.look(pid, drivers.supervisor.state().counters.freezes, false, clock::boot());
    let transaction = session.write(Duration::MAX);
    tokio::pin!(transaction);
    loop {
        let ended = tokio::time::timeout(Duration::from_secs(1), &mut transaction).await.is_ok();
        let state = drivers.supervisor.state();
        let same = askable(&state) == Some(pid);
        silence.look(pid, state.counters.freezes, same && !ended, clock::boot());
        let told = drivers.events.send(Event::Unwritten { pid, lasting: silence.lasting }).await;
        if told.is_err() || ended || state.postmaster.map(|p| p.pid) != Some(pid) {
            return told.is_ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_that_was_watched_counts() {
        let at = |ms: u64| Boot(1_000_000_000_000 + ms * 1_000_000);
        let mut silence = Silence::default();
        silence.look(5, 0, false, at(0));
        silence.look(5, 0, true, at(2000));
        silence.look(5, 0, true, at(4200));
        assert_eq!(silence.lasting, Duration::from_millis(4200));
        // A suspend of an hour.
        silence.look(5, 0, true, at(3_604_200));
        assert_eq!(silence.lasting, Duration::from_millis(4200) + LOOK_MAX);
        // Frozen by us in between; another postmaster; an answer.
        silence.look(5, 1, true, at(3_605_000));
        assert_eq!(silence.lasting, Duration::ZERO);
        silence.look(5, 1, true, at(3_606_000));
        silence.look(6, 1, true, at(3_607_000));
        assert_eq!(silence.lasting, Duration::ZERO);
        silence.look(6, 1, true, at(3_608_000));
        silence.look(6, 1, false, at(3_609_000));
        assert_eq!(silence.lasting, Duration::ZERO);
    }
}
