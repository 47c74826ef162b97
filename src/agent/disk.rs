//! Files on the data volume, which may hang: never touched on the loop's threads, one at a time,
//! and given up after a while. What hangs keeps one thread, and its successors are refused.

use std::time::Duration;

use tokio::sync::Semaphore;

/// Far beyond what writing a few small files takes; a batch that waits decides nothing.
const WITHIN: Duration = Duration::from_secs(10);

static TURN: Semaphore = Semaphore::const_new(1);

#[derive(Debug, thiserror::Error)]
#[error("the data volume did not answer within {} s", WITHIN.as_secs())]
pub struct DiskHangs;

/// Runs work that reads or writes on the data volume.
pub async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DiskHangs> {
    let all = async {
        let turn = TURN.acquire().await.map_err(|_| DiskHangs)?;
        // Whoever hangs keeps its turn, also when nobody waits for it any more.
        let job = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        job.await.map_err(|_| DiskHangs)
    };
    tokio::time::timeout(WITHIN, all).await.map_err(|_| DiskHangs)?
}
