//! Watches the prefix: a hint that something changed, nothing more. Whoever is woken reads.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Event, WatchOptions, WatchStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::directory::Directory;
use super::documents;
use super::endpoints::{Endpoints, Link};
use super::keys::Key;

/// Pause before the next subscription; doubles while subscriptions fail or end at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A subscription that lived so long was a good one.
const LIVED: Duration = Duration::from_secs(5);

/// An endpoint that does not confirm the subscription in this time is left.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(3);

/// Counts changes until every receiver is gone. Each new subscription counts, too: nobody knows
/// what was missed before it.
pub(super) async fn follow(directory: Arc<Directory>, prefix: String, count: watch::Sender<u64>) {
    let mut lists = directory.lists();
    loop {
        let endpoints = lists.borrow_and_update().clone();
        tokio::select! {
            () = count.closed() => return,
            changed = lists.changed() => {
                changed.expect("invariant: the directory lives as long as this function");
            }
            () = follow_one(&endpoints, &prefix, &count), if endpoints.len() > 0 => return,
        }
    }
}

/// The same while the list of endpoints is this one.
async fn follow_one(endpoints: &Endpoints, prefix: &str, count: &watch::Sender<u64>) {
    let mut preferred = endpoints.preferred();
    let mut pause = PAUSE_MIN;
    let mut skipped = 0;
    loop {
        let index = (*preferred.borrow_and_update() + skipped) % endpoints.len();
        let began = Instant::now();
        tokio::select! {
            () = count.closed() => return,
            // Another endpoint answers now, so this one is probably silent: a watch cannot tell.
            moved = preferred.changed() => {
                moved.expect("invariant: the endpoints live as long as this function");
                skipped = 0;
            }
            () = subscribe(endpoints, index, prefix, count) => skipped += 1,
        }
        pause = if began.elapsed() >= LIVED { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::select! {
            () = count.closed() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Returns when the subscription ended, for whatever reason (a compaction, too: we subscribe to
/// what comes from now on, so it cannot hurt the next one).
async fn subscribe(endpoints: &Endpoints, index: usize, prefix: &str, count: &watch::Sender<u64>) {
    let opened = timeout(SUBSCRIBE_WITHIN, open(endpoints, index, prefix)).await;
    let Some(mut stream) = opened.ok().flatten() else {
        endpoints.failed(index, Link::Quorum);
        return;
    };
    count.send_modify(|changes| *changes += 1);
    while let Ok(Some(answer)) = stream.message().await {
        if answer.canceled() {
            return;
        }
        if answer.events().iter().any(|event| matters(event, prefix)) {
            count.send_modify(|changes| *changes += 1);
        }
    }
}

/// Subscribed and confirmed, or `None`.
async fn open(endpoints: &Endpoints, index: usize, prefix: &str) -> Option<WatchStream> {
    let mut client = endpoints.client(index, Link::Quorum).await.ok()?;
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = client.watch(prefix, Some(options)).await.ok()?;
    let answer = stream.message().await.ok().flatten()?;
    (answer.created() && !answer.canceled()).then_some(stream)
}

/// Whether anybody could decide differently after this change. What members publish in each round
/// (positions) must not wake the others, or they would never rest.
fn matters(event: &Event, prefix: &str) -> bool {
    let Some(kv) = event.kv() else { return true };
    let name = std::str::from_utf8(kv.key()).ok().and_then(|path| path.strip_prefix(prefix));
    match name.and_then(Key::parse) {
        None => false,
        Some(Key::Status | Key::OptimeLeader | Key::History | Key::Failsafe) => false,
        Some(Key::Member(_)) => {
            event.prev_kv().is_none_or(|before| !documents::moved_only(before.value(), kv.value()))
        }
        Some(
            Key::Leader
            | Key::Initialize
            | Key::Config
            | Key::Failover
            | Key::Sync
            | Key::Handover
            | Key::PauseRecord
            | Key::Timeline,
        ) => true,
    }
}
