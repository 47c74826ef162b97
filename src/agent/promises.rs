//! Failsafe mode over HTTP: a leader asks every other member not to lead, a member promises. What
//! may be asked, promised and concluded is `core::failsafe`'s.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::client::{Answer, Client};
use crate::api::snapshot::Reply;
use crate::core::budget::Budget;
use crate::core::cluster::Tenure;
use crate::core::decision::Action;
use crate::core::error::chain;
use crate::core::events;
use crate::core::failsafe::{self, Bound, Known, PROMISE_MAX, Plea, Refusal};
use crate::core::guard::Phase;
use crate::core::time::Boot;
use crate::link::order::Order;
use crate::postgres::conninfo;
use crate::postgres::durable::{FileError, at};
use crate::sys::{clock, private};
use crate::watchdog::record::boot_id;

use super::drivers::{Drivers, Setup};
use super::events::Event;
use super::turn::Turn;

/// The answer's header: for how long no campaign was promised. Patroni does not send it.
const PROMISED: &str = "vigil-promise-ms";

/// A round that failed is repeated after this.
const AGAIN: Duration = Duration::from_millis(500);

/// Whom the last decision permits to ask.
#[derive(Debug, PartialEq, Eq)]
pub struct Seeking {
    pub members: BTreeMap<String, String>,
    pub until: Boot,
}

/// The standing order: while the store does not confirm the lease, promises are sought.
///
/// It runs beside the loop and the renewals: neither a batch of actions nor an endpoint of etcd
/// that hangs holds it up. The last third of a ttl without a confirmation is enough of a sign; that
/// leaves room for several rounds before the deadline, and a promise that turns out needless only
/// delays others, by as much.
pub async fn keep(d: Arc<Drivers>, mut seeking: watch::Receiver<Option<Arc<Seeking>>>) {
    loop {
        // Nobody is to be asked: most of the time.
        if seeking.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let order = seeking.borrow_and_update().clone();
        let state = d.supervisor.state();
        let led = state.tenure.zip(state.sent_at).zip(state.budget);
        let now = clock::boot();
        let pause = match (order, led) {
            (Some(order), Some(((tenure, sent_at), budget)))
                if state.phase == Phase::Leading && now < order.until =>
            {
                match sent_at.plus(budget.ttl / 3).since(now) {
                    Duration::ZERO => {
                        let stands = || {
                            let now = seeking.borrow();
                            now.as_ref().is_some_and(|new| new.members == order.members)
                        };
                        round(&d, &order, tenure, budget, stands).await
                    }
                    early => early.min(AGAIN),
                }
            }
            _ => AGAIN,
        };
        if tokio::time::timeout(pause, seeking.changed()).await.is_ok_and(|ended| ended.is_err()) {
            return;
        }
    }
}

/// Asks all of them at once. All deadlines count from before the first question. `stands`: they
/// still are all who could lead.
async fn round(
    d: &Drivers,
    seeking: &Seeking,
    tenure: Tenure,
    budget: Budget,
    stands: impl Fn() -> bool,
) -> Duration {
    let asked_at = clock::boot();
    let within = (budget.ttl / 10).clamp(Duration::from_millis(500), Duration::from_secs(2));
    let plea = plea(d, budget.ttl);
    let mut questions = JoinSet::new();
    for (name, url) in seeking.members.clone() {
        let (client, plea) = (d.peers(), plea.clone());
        questions.spawn(async move {
            let promised = ask(&client, &url, &plea, within, budget.ttl).await;
            promised
                .inspect_err(|why| {
                    let message_id = events::NOT_PROMISED;
                    tracing::warn!(message_id, "{name} does not promise: {why}");
                })
                .is_err()
                .then_some(name)
        });
    }
    let missing: Vec<String> = questions.join_all().await.into_iter().flatten().collect();
    let complete = missing.is_empty();
    // The loop learns first: a state of the supervisor that counts from here must not look like
    // one that counts from the store's word.
    let _ = d.events.send(Event::Promises { asked_at, missing }).await;
    // Whoever writes `/failsafe` has taken that back before, and then looks here.
    let mut promised = d.promised.lock().await;
    if !complete || !stands() {
        return AGAIN;
    }
    *promised = Some(asked_at);
    match d.supervisor.order(Order::Extend { tenure, sent_at: asked_at }).await {
        Ok(_) => Duration::ZERO,
        Err(error) => {
            tracing::warn!("the promises of all members came to nothing: {error}");
            AGAIN
        }
    }
}

/// Patroni's document, and how long the promise has to be.
fn plea(d: &Drivers, ttl: Duration) -> Value {
    let setup = d.setup();
    let address = &setup.local.postgresql.connect_address;
    let snapshot = d.snapshots.borrow().clone();
    let slots = snapshot.cluster.as_ref().map(|c| c.status.slots.clone()).unwrap_or_default();
    let slots = slots.into_iter().map(|(name, lsn)| (name, json!(lsn.0)));
    json!({
        "name": setup.local.name,
        "conn_url": conninfo::url(&address.host, address.port, "postgres"),
        "api_url": setup.local.restapi.api_url(),
        "slots": Value::Object(slots.collect()),
        "vigil": {"ttl_ms": u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)},
    })
}

async fn ask(
    client: &Client,
    url: &str,
    plea: &Value,
    within: Duration,
    wanted: Duration,
) -> Result<(), String> {
    let base = url.rsplit_once('/').map_or(url, |(base, _)| base);
    let answer = client.post(&format!("{base}/failsafe"), plea, within).await;
    let Answer { status, headers, body } = answer.map_err(|error| chain(&error))?;
    if status != 200 || body != "Accepted" {
        return Err(format!("{status} {}", body.as_str().unwrap_or_default()));
    }
    let promised = headers.get(PROMISED).and_then(|v| v.to_str().ok()?.parse().ok());
    match promised.map(Duration::from_millis) {
        Some(promised) if promised >= wanted => Ok(()),
        Some(_) => Err("its promise is shorter than our lease".to_owned()),
        None => Err("it accepted, but is no pgvigil and promised no time".to_owned()),
    }
}

/// What the next agent of this machine must know. It stands in memory, because a disk that hangs
/// would cost another member its promise: after a boot of the machine it is gone, and the first
/// agent waits `PROMISE_MAX` instead.
struct Note {
    started_at: Boot,
    bound: Option<Bound>,
}

impl Note {
    fn of(turn: &Turn) -> Note {
        let Known { started_at, bound, .. } = turn.world.promises().clone();
        Note { started_at, bound }
    }

    fn write(&self, setup: &Setup) -> Result<(), FileError> {
        let path = note_path(setup);
        let (until, to) = self.bound.as_ref().map_or((0, ""), |b| (b.until.0, b.to.as_str()));
        let text = format!("{} {} {until} {to}\n", boot_id(), self.started_at.0);
        private::write(&path, text.as_bytes()).map_err(at("write", &path))
    }

    /// `None`: there is none of this boot of the machine, or it is not ours.
    fn read(setup: &Setup) -> Option<Note> {
        Note::parse(&private::read(&note_path(setup), 4096).ok()?, &boot_id())
    }

    fn parse(text: &str, boot_id: &str) -> Option<Note> {
        let mut words = text.trim_end_matches('\n').splitn(4, ' ');
        (words.next()? == boot_id && !boot_id.is_empty()).then_some(())?;
        let started_at = Boot(words.next()?.parse().ok()?);
        let until = Boot(words.next()?.parse().ok()?);
        let to = words.next()?.to_owned();
        Some(Note { started_at, bound: (until.0 > 0).then_some(Bound { to, until }) })
    }
}

/// Per data directory: members of several clusters may share a machine.
fn note_path(setup: &Setup) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    setup.data_dir().hash(&mut hasher);
    PathBuf::from(format!("/dev/shm/pgvigil-promise-{:016x}", hasher.finish()))
}

/// What an agent that begins now is bound by.
pub fn recall(setup: &Setup) -> Known {
    if let Some(Note { started_at, bound }) = Note::read(setup) {
        return Known { started_at, bound, ..Known::default() };
    }
    let started_at = clock::boot();
    // Without it the next agent waits, too: nothing is lost but time.
    if setup.settings().failsafe_mode
        && let Err(error) = (Note { started_at, bound: None }).write(setup)
    {
        tracing::warn!("the next agent will not know of promises: {}", chain(&error));
    }
    Known { started_at, ..Known::default() }
}

/// Answers `POST /failsafe`. In the loop, so that no decision to campaign falls in between.
pub fn promise(turn: &mut Turn, body: &Value) -> Reply {
    let Some(name) = body["name"].as_str() else { return Reply::error(400) };
    let ttl = body["vigil"]["ttl_ms"].as_u64().map(Duration::from_millis);
    let plea = Plea { name: name.to_owned(), ttl };
    let now = clock::boot();
    let view = turn.world.view(now, clock::wall());
    match failsafe::promise(&view, &plea, campaigning(turn)) {
        Ok(bound) => {
            let length = bound.until.since(now);
            turn.world.bind(bound);
            if let Err(error) = Note::of(turn).write(&turn.drivers.setup()) {
                let why = format!("the promise would not outlive this agent: {}", chain(&error));
                tracing::error!("{why}");
                return Reply::text(503, why);
            }
            let mut reply = Reply::text(200, "Accepted");
            let length_ms = u64::try_from(length.as_millis()).unwrap_or(0);
            reply.headers.push((PROMISED, length_ms));
            reply.headers.extend(view.position().map(|lsn| ("lsn", lsn.0)));
            tracing::info!("promised {name} not to lead for {length_ms} ms");
            reply
        }
        Err(Refusal::Off) => Reply::error(502),
        Err(Refusal::Leads) => Reply::text(500, "Running as a leader"),
        Err(Refusal::Campaigns) => Reply::text(503, "Taking part in the leader race"),
        Err(Refusal::Other(leader)) => Reply::text(500, format!("The leader is {leader}")),
        Err(Refusal::TooLong) => {
            let most = PROMISE_MAX.as_secs();
            Reply::text(400, format!("No promise is given for more than {most} s"))
        }
    }
}

/// An acquiring transaction may be under way.
fn campaigning(turn: &Turn) -> bool {
    let last = turn.last.as_ref().filter(|_| turn.batch.is_some());
    last.is_some_and(|d| d.actions.iter().any(Action::may_acquire))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_for_one_boot_of_the_machine() {
        let note = Note::parse("boot 5 9 a b\n", "boot").unwrap();
        assert_eq!(note.started_at, Boot(5));
        assert_eq!(note.bound, Some(Bound { to: "a b".into(), until: Boot(9) }));
        assert_eq!(Note::parse("boot 5 0 \n", "boot").map(|n| n.bound), Some(None));
        for (text, boot_id) in
            [("boot 5 9 a", "other"), ("boot 5", "boot"), ("", ""), (" 5 9 a", "")]
        {
            assert!(Note::parse(text, boot_id).is_none(), "{text:?}");
        }
    }
}
