//! Reads the cluster from the store: when the watch hints at a change, when asked, and at the
//! latest after `loop_wait`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::core::error::chain;
use crate::core::events;
use crate::sys::clock;

use super::drivers::Drivers;
use super::events::Event;

/// Between attempts while the store does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// A failing store is reported in the log this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

pub async fn run(drivers: Arc<Drivers>, events: mpsc::Sender<Event>) {
    let mut hint = drivers.dcs.watch();
    let mut complained = None;
    loop {
        let (event, pause) = match drivers.read_cluster().await {
            Ok((cluster, sent_at, received_at)) => {
                if complained.take().is_some() {
                    let message_id = events::STORE_BACK;
                    tracing::info!(message_id, "the store answers again");
                }
                let event = Event::Cluster { cluster, sent_at, received_at };
                (event, drivers.setup().settings().loop_wait)
            }
            Err(error) => {
                let now = clock::boot();
                if complained.is_none_or(|at| now.since(at) > COMPLAIN_EVERY) {
                    complained = Some(now);
                    let message_id = events::STORE_SILENT;
                    tracing::warn!(message_id, "waiting on etcd: {}", chain(&error));
                }
                (Event::ClusterFailed { at: now }, RETRY)
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = drivers.refresh.notified() => {}
            // The watch task lives as long as this receiver.
            _ = hint.changed() => {}
        }
    }
}
