//! Asks one endpoint after another until one answers: the next one at once when one fails, and in
//! parallel when one keeps silent for its share of the time.
//!
//! An answer is *weak* when another endpoint's answer could overrule it (a refusal, an error). It
//! counts only once nobody else is left to be heard, or after one more share of the time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::DcsError;
use super::endpoints::{Endpoints, Link};

/// Pause between rounds when every endpoint failed (an etcd election takes one or two seconds).
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// Greatest number of unanswered attempts at one endpoint. More than one, because an etcd member
/// goes on waiting for a leader that hangs, for seconds, when its cluster has long elected another:
/// only a new request reaches that one. The older attempts stay, for an endpoint that is just slow.
const OPEN_PER_ENDPOINT_MAX: usize = 4;

/// How to ask.
pub(super) struct Ask {
    pub(super) link: Link,
    /// An answer comes within this time, if only an error.
    pub(super) within: Duration,
    /// Greatest silence before the next endpoint is asked, too.
    pub(super) patience: Duration,
}

/// What came of it.
pub(super) struct Answer<T> {
    pub(super) result: Result<T, DcsError>,
    /// A request other than the answered one may have been, or may yet be, carried out.
    pub(super) unknown: bool,
    /// Each endpoint that gave no good answer, with the reason: for error messages.
    pub(super) asked: String,
}

/// Why a single call gave nothing.
pub(super) enum CallError {
    Etcd(Error),
    /// The stream ended without an answer.
    Ended,
    /// The answer lacks this.
    Missing(&'static str),
}

impl From<Error> for CallError {
    fn from(error: Error) -> CallError {
        CallError::Etcd(error)
    }
}

/// What an attempt's error means for the whole.
enum Failure {
    /// Another endpoint, or a moment later the same, may do better.
    Retry { reason: String, sent: bool },
    /// All endpoints would say the same.
    Final(DcsError),
}

/// Asks by `call` until an answer is there that is not `weak`, or the time is up.
pub(super) async fn ask<T, F, C>(
    endpoints: &Arc<Endpoints>,
    ask: Ask,
    weak: fn(&T) -> bool,
    call: F,
) -> Answer<T>
where
    T: Send + 'static,
    F: Fn(Client) -> C + Clone + Send + 'static,
    C: Future<Output = Result<T, CallError>> + Send,
{
    let mut race = Race::new(endpoints.clone(), &ask);
    let mut deadline = Instant::now() + ask.within;
    let mut next = Instant::now();
    let mut held: Option<Result<T, DcsError>> = None;
    loop {
        tokio::select! {
            biased;
            Some(landed) = race.flights.join_next_with_id() => match race.land(landed) {
                Landed::Answer(answer) => {
                    let is_weak = answer.as_ref().map_or(true, weak);
                    held = Some(answer);
                    if !is_weak {
                        return race.end(held, ask.within);
                    }
                    deadline = deadline.min(Instant::now() + race.share);
                }
                Landed::Failure => next = race.after_failure(),
            },
            () = sleep_until(deadline) => return race.end(held, ask.within),
            () = sleep_until(next), if held.is_none() && race.may_start() => {
                race.start(call.clone());
                next = Instant::now() + race.share;
            }
        }
        if held.is_some() && race.open.is_empty() {
            return race.end(held, ask.within);
        }
    }
}

enum Landed<T> {
    Answer(Result<T, DcsError>),
    Failure,
}

/// An attempt under way.
struct Open {
    task: Id,
    endpoint: usize,
    since: Instant,
}

struct Race<T> {
    endpoints: Arc<Endpoints>,
    link: Link,
    order: Vec<usize>,
    /// Silence after which another endpoint is asked: all of them fit into the time given.
    share: Duration,
    started: usize,
    /// Dropping the set ends its tasks, and that closes their streams.
    flights: JoinSet<Result<T, Failure>>,
    open: Vec<Open>,
    reasons: BTreeMap<usize, String>,
    unknown: bool,
}

impl<T: Send + 'static> Race<T> {
    fn new(endpoints: Arc<Endpoints>, ask: &Ask) -> Race<T> {
        let shares = u32::try_from(endpoints.len().max(3)).unwrap_or(u32::MAX);
        Race {
            order: endpoints.order(),
            link: ask.link,
            share: ask.patience.min(ask.within / shares),
            started: 0,
            flights: JoinSet::new(),
            open: Vec::new(),
            reasons: BTreeMap::new(),
            unknown: false,
            endpoints,
        }
    }

    fn may_start(&self) -> bool {
        self.open.len() < self.order.len() * OPEN_PER_ENDPOINT_MAX
    }

    fn start<F, C>(&mut self, call: F)
    where
        F: Fn(Client) -> C + Send + 'static,
        C: Future<Output = Result<T, CallError>> + Send,
    {
        let endpoint = self.order[self.started % self.order.len()];
        self.started += 1;
        if self.open.iter().any(|open| open.endpoint == endpoint) {
            // Silent for a whole round: the next attempt goes over a new connection.
            self.endpoints.failed(endpoint, self.link);
        }
        let (endpoints, link) = (self.endpoints.clone(), self.link);
        let attempt = async move {
            let url = endpoints.url(endpoint);
            let client = endpoints.client(endpoint, link).await;
            let client = client.map_err(|error| failure(url, CallError::Etcd(error), false))?;
            call(client).await.map_err(|error| failure(url, error, true))
        };
        let task = self.flights.spawn(attempt).id();
        self.open.push(Open { task, endpoint, since: Instant::now() });
    }

    fn land(&mut self, landed: Result<(Id, Result<T, Failure>), JoinError>) -> Landed<T> {
        let (task, outcome) = match landed {
            Ok(landed) => landed,
            // A panic inside the client library: as bad as a broken connection, and no worse.
            Err(error) => {
                let reason = "the client failed".to_string();
                (error.id(), Err(Failure::Retry { reason, sent: true }))
            }
        };
        let position = self.open.iter().position(|open| open.task == task);
        let open = self.open.swap_remove(position.expect("invariant: every task is listed"));
        match outcome {
            Ok(value) => {
                self.endpoints.succeeded(open.endpoint, self.link);
                Landed::Answer(Ok(value))
            }
            Err(Failure::Final(error)) => {
                if matches!(error, DcsError::Refused { .. }) {
                    // Users or certificates may have changed since this client was made.
                    self.endpoints.failed(open.endpoint, self.link);
                }
                Landed::Answer(Err(error))
            }
            Err(Failure::Retry { reason, sent }) => {
                self.unknown |= sent;
                self.endpoints.failed(open.endpoint, self.link);
                self.reasons.insert(open.endpoint, reason);
                Landed::Failure
            }
        }
    }

    /// The next endpoint at once, but a pause before each new round.
    fn after_failure(&self) -> Instant {
        match self.started % self.order.len() {
            0 => Instant::now() + ROUND_PAUSE,
            _ => Instant::now(),
        }
    }

    fn end(mut self, held: Option<Result<T, DcsError>>, within: Duration) -> Answer<T> {
        let mut silent = false;
        for open in &self.open {
            // One that was asked a moment ago had no chance: it keeps its name, good or bad.
            let had_its_share = open.since.elapsed() >= self.share;
            if had_its_share || (held.is_none() && !self.reasons.contains_key(&open.endpoint)) {
                silent = true;
                self.endpoints.failed(open.endpoint, self.link);
                self.reasons.insert(open.endpoint, "silent".into());
            }
        }
        self.unknown |= !self.open.is_empty();
        let name = |(&index, reason)| format!("{}: {reason}", self.endpoints.url(index));
        let asked = self.reasons.iter().map(name).collect::<Vec<_>>().join("; ");
        let maybe_applied = self.unknown;
        let result = match held {
            Some(Err(error)) if self.unknown => Err(error.after_unknown()),
            Some(answer) => answer,
            None if silent => {
                Err(DcsError::Timeout { within, asked: asked.clone(), maybe_applied })
            }
            None => Err(DcsError::Unreachable { within, asked: asked.clone(), maybe_applied }),
        };
        Answer { result, unknown: self.unknown, asked }
    }
}

/// Judges an attempt's error by gRPC's code and, where etcd says more in words, by the words.
fn failure(url: &str, error: CallError, sent: bool) -> Failure {
    let status = match error {
        CallError::Etcd(Error::GRpcStatus(status)) => status,
        CallError::Etcd(error) => return Failure::Retry { reason: innermost(&error), sent },
        CallError::Ended => {
            return Failure::Retry { reason: "closed the stream".into(), sent };
        }
        CallError::Missing(what) => return Failure::Final(DcsError::Decode(what)),
    };
    let (endpoint, reason) = (url.to_string(), status.message().to_string());
    let says = |words: &str| reason.contains(words);
    let maybe_applied = false;
    match i32::from(status.code()) {
        LEASE_OR_KEY_NOT_FOUND if says("lease not found") => {
            Failure::Final(DcsError::LeaseNotFound { endpoint, maybe_applied })
        }
        // Users were changed or a token expired (a new client logs in anew), or the member is
        // overloaded: nothing was done.
        _ if NOTHING_DONE.into_iter().any(says) => Failure::Retry { reason, sent: false },
        UNAUTHENTICATED | PERMISSION_DENIED => {
            Failure::Final(DcsError::Refused { endpoint, reason, maybe_applied })
        }
        INVALID_ARGUMENT if says("authentication failed") || says("user name is empty") => {
            Failure::Final(DcsError::Refused { endpoint, reason, maybe_applied })
        }
        CANCELLED | UNKNOWN | DEADLINE_EXCEEDED | ABORTED | INTERNAL | UNAVAILABLE => {
            // A dead transport shows as any of these, not only as UNAVAILABLE.
            let sent = sent && !never_sent(&status) && !says("etcdserver: no leader");
            let reason = if says("etcdserver") { reason } else { innermost(&status) };
            Failure::Retry { reason, sent }
        }
        _ => Failure::Final(DcsError::Server { endpoint, reason, maybe_applied }),
    }
}

/// Parts of etcd's answers after which the same request may simply be sent again.
const NOTHING_DONE: [&str; 3] = ["auth store is old", "invalid auth token", "too many requests"];

// gRPC's codes; `tonic`, which names them, is not a dependency of ours.
const CANCELLED: i32 = 1;
const UNKNOWN: i32 = 2;
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const LEASE_OR_KEY_NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const ABORTED: i32 = 10;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// Whether the connection could not even be made.
fn never_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable);
        }
        cause = error.source();
    }
    false
}

/// The innermost cause: the layers above it only say that there is one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(cause) = at.source() {
        at = cause;
    }
    at.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::dcs::Options;

    /// What the n-th request meets; answers come after so many milliseconds.
    #[derive(Clone, Copy)]
    enum Fate {
        Yes(u64),
        No(u64),
        Silence,
        Broken,
    }
    use Fate::{Broken, No, Silence, Yes};

    /// Three endpoints with their fates, asked every 100 ms; `false` is weak. Nothing is connected:
    /// the clients are lazy and nobody uses them.
    fn outcome(fates: [Fate; 3]) -> (Result<bool, DcsError>, bool) {
        let options = Options {
            endpoints: ["http://a:1", "http://b:1", "http://c:1"].map(Into::into).into(),
            prefix: "/service/demo/".into(),
            ..Options::default()
        };
        let endpoints = Arc::new(Endpoints::new(&options, &options.endpoints));
        let within = Duration::from_millis(600);
        let how = Ask { link: Link::Quorum, within, patience: Duration::from_millis(100) };
        let asked = Arc::new(AtomicUsize::new(0));
        let call = move |_| {
            let fate = fates[asked.fetch_add(1, Ordering::Relaxed) % 3];
            async move {
                let sleep = |ms| tokio::time::sleep(Duration::from_millis(ms));
                match fate {
                    Yes(ms) => {
                        sleep(ms).await;
                        Ok(true)
                    }
                    No(ms) => {
                        sleep(ms).await;
                        Ok(false)
                    }
                    Silence => std::future::pending().await,
                    Broken => Err(CallError::Ended),
                }
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(ask(&endpoints, how, |yes| !*yes, call));
        (answer.result, answer.unknown)
    }

    #[test]
    fn a_strong_answer_counts_at_once_and_a_weak_one_when_all_are_heard() {
        let cases = [
            ([Yes(0), Silence, Silence], (true, false)),
            ([Silence, Silence, Yes(0)], (true, true)),
            ([Broken, Broken, Yes(0)], (true, true)),
            ([No(0), Yes(0), Yes(0)], (false, false)),
            // Both were asked, both refuse: nobody did it.
            ([No(120), No(0), Silence], (false, false)),
            // The first one's success overrules the second one's refusal.
            ([Yes(120), No(0), Silence], (true, false)),
            // The first one never says what it did.
            ([Silence, No(0), Yes(0)], (false, true)),
            ([Broken, No(0), Yes(0)], (false, true)),
        ];
        for (number, (fates, (expected, unknown))) in cases.into_iter().enumerate() {
            assert_eq!(outcome(fates), (Ok(expected), unknown), "case {number}");
        }
    }

    #[test]
    fn without_an_answer_the_error_says_who_was_silent_and_who_failed() {
        let (result, unknown) = outcome([Silence, Broken, Silence]);
        let error = result.unwrap_err();
        assert!(unknown && error.maybe_applied());
        assert!(matches!(error, DcsError::Timeout { .. }), "{error}");
        assert!(error.to_string().contains("http://a:1: silent; http://b:1: closed the stream"));
        let (result, _) = outcome([Broken, Broken, Broken]);
        assert!(matches!(result.unwrap_err(), DcsError::Unreachable { .. }));
    }
}
