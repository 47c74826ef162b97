//! Scripts of the user: callbacks, which are not waited for, and hooks, which are.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::link::order::{Command, Job, JobKind, Order};
use crate::link::state::{ExitStatus, JobState};
use crate::sys::clock;

use super::drivers::Drivers;
use super::executor::ActionError;
use super::sql;

/// A hook that runs longer is cancelled; Patroni waits without limit, which a failover cannot.
const HOOK_WITHIN: Duration = Duration::from_secs(300);

/// Patroni does not wait for a callback, and a stop must not take long.
const LAST_CALLBACK_WITHIN: Duration = Duration::from_secs(10);

/// `before_stop`: its exit code is ignored, as Patroni ignores it.
pub async fn before_stop(d: &Drivers) {
    let setup = d.setup();
    let Some(line) = &setup.primary.before_stop else { return };
    if let Err(error) = wait(d, command(line, &[])).await {
        tracing::warn!("before_stop failed: {error}");
    }
}

/// `pre_promote`: a failure cancels the promotion.
pub async fn pre_promote(d: &Drivers) -> Result<(), ActionError> {
    let setup = d.setup();
    let Some(line) = &setup.primary.pre_promote else { return Ok(()) };
    wait(d, command(line, &[])).await
}

/// `post_bootstrap` (or `post_init`) with a connection string.
pub async fn post_bootstrap(d: &Drivers) -> Result<(), ActionError> {
    let setup = d.setup();
    let Some(line) = &setup.local.bootstrap.post_bootstrap else { return Ok(()) };
    let target = sql::local_target(&setup, Duration::ZERO);
    let conninfo = format!(
        "dbname={} user={} host={} port={}",
        target.database, target.user, target.host, target.port
    );
    let mut command = command(line, &[&conninfo]);
    command.env = vec![
        ("PGPASSFILE".to_owned(), setup.local.postgresql.pgpass.clone()),
        ("PGOPTIONS".to_owned(), "-c synchronous_commit=local -c statement_timeout=0".to_owned()),
    ];
    wait(d, command).await
}

/// `<command words> <action> <role> <scope>`, not waited for. One that still runs is out of date
/// and is ended, with its children, as Patroni does; `on_reload` has a place of its own. Returns
/// the job.
pub async fn callback(d: &Drivers, action: &str, role: &str) -> Option<u64> {
    let setup = d.setup();
    let line = setup.primary.callbacks.get(action)?;
    let command = command(line, &[action, role, &setup.local.scope]);
    let id = d.next_job(None);
    let before = d.callbacks[usize::from(action == "on_reload")].swap(id, Ordering::Relaxed);
    if d.supervisor.state().jobs.iter().any(|job| job.id == before && job.ended.is_none())
        && let Err(error) = d.supervisor.order(Order::CancelJob { id: before }).await
    {
        tracing::warn!("the callback before {action} could not be ended: {error}");
    }
    let job = Job { id, kind: JobKind::Script, command };
    if let Err(error) = d.supervisor.order(Order::RunJob(job)).await {
        tracing::warn!("callback {action} could not be started: {error}");
        return None;
    }
    Some(id)
}

/// Whoever ends the service may kill what still runs: the callback of the end gets some time.
pub async fn finish_callback(d: &Drivers) {
    let Some(call) = d.take_call() else { return };
    let finish = async {
        let Ok(Some(id)) = call.await else { return };
        let mut states = d.supervisor.states();
        let runs = |job: &JobState| job.id == id && job.ended.is_none();
        // An error: the supervisor is gone, and nobody waits any more.
        let _ = states.wait_for(|state| !state.jobs.iter().any(runs)).await;
    };
    if tokio::time::timeout(LAST_CALLBACK_WITHIN, finish).await.is_err() {
        tracing::warn!("a callback still runs; it is not waited for any longer");
    }
}

/// Words are split at blanks, quotes keep them together. A name without a slash is looked for in
/// PATH by env(1): the supervisor executes absolute paths only.
pub fn command(line: &str, arguments: &[&str]) -> Command {
    let mut argv = vec!["/usr/bin/env".to_owned()];
    argv.extend(words(line));
    argv.extend(arguments.iter().map(|a| (*a).to_owned()));
    Command { argv, ..Command::default() }
}

fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => (quote, begun) = (Some(c), true),
            (None | Some('"'), '\\') => {
                word.extend(chars.next());
                begun = true;
            }
            (None, c) if c.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    all.push(std::mem::take(&mut word));
                }
            }
            (_, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        all.push(word);
    }
    all
}

async fn wait(d: &Drivers, command: Command) -> Result<(), ActionError> {
    let id = d.next_job(None);
    let name = command.argv.get(1).cloned().unwrap_or_default();
    let job = Job { id, kind: JobKind::Script, command };
    d.supervisor.order(Order::RunJob(job)).await?;
    let until = clock::boot().plus(HOOK_WITHIN);
    let mut state = d.supervisor.states();
    loop {
        let ended = state.borrow_and_update().jobs.iter().find(|j| j.id == id).map(|j| j.ended);
        match ended {
            Some(Some(ExitStatus::Code(0))) => return Ok(()),
            Some(Some(status)) => {
                return Err(ActionError::Precondition(format!("{name} failed: {status:?}")));
            }
            None => return Err(ActionError::Precondition(format!("{name} was lost"))),
            Some(None) => {}
        }
        let left = until.since(clock::boot());
        if left.is_zero() {
            d.supervisor.order(Order::CancelJob { id }).await?;
            let text = format!("{name} ran longer than {} s", HOOK_WITHIN.as_secs());
            return Err(ActionError::Precondition(text));
        }
        // An error means that the link is gone, and with it this agent.
        let _ = tokio::time::timeout(left, state.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn splits_like_a_shell() {
        assert_eq!(
            words("/bin/x  a 'b c' \"d \\\" e\" f\\ g ''"),
            ["/bin/x", "a", "b c", "d \" e", "f g", ""]
        );
    }
}
