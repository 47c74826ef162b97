//! The list of endpoints where it may change: found when the first one is needed, and looked for
//! again when one fails, so that a cluster of etcd that moves member by member is followed while
//! some of those that are known still answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::endpoints::{self, Endpoints};
use super::{DcsError, Options};

/// A search that takes longer has failed: six names, some seconds each at the worst.
const SEARCH_WITHIN: Duration = Duration::from_secs(20);

/// Pause after a search; the shorter one as long as nothing is known.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_WITHOUT: Duration = Duration::from_millis(500);

type Found = Pin<Box<dyn Future<Output = Result<Vec<String>, String>> + Send>>;

/// Looks the endpoints up: URLs, or why there are none.
#[derive(Clone)]
pub struct Find(Arc<dyn Fn() -> Found + Send + Sync>);

impl Find {
    /// Asked as often as endpoints fail, every few seconds at the most.
    pub fn new<F, C>(look: F) -> Find
    where
        F: Fn() -> C + Send + Sync + 'static,
        C: Future<Output = Result<Vec<String>, String>> + Send + 'static,
    {
        Find(Arc::new(move || Box::pin(look())))
    }
}

impl fmt::Debug for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Find")
    }
}

pub(super) struct Directory {
    current: watch::Sender<Arc<Endpoints>>,
    options: Options,
    /// An endpoint failed since the last search began.
    wanted: AtomicBool,
    searching: AtomicBool,
    /// Why the last search found nothing.
    trouble: Mutex<String>,
}

impl Directory {
    /// Checks the options; neither looks nor connects.
    pub(super) fn new(options: Options) -> Result<Directory, DcsError> {
        endpoints::check(&options).map_err(DcsError::Options)?;
        // What is configured beside a search counts only when that finds nothing.
        let known = if options.find.is_some() { &[][..] } else { &options.endpoints };
        let current = watch::Sender::new(Arc::new(Endpoints::new(&options, known)));
        let (wanted, searching) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Directory { current, options, wanted, searching, trouble: Mutex::default() })
    }

    /// The list and its changes; it may be empty until something is found.
    pub(super) fn lists(&self) -> watch::Receiver<Arc<Endpoints>> {
        self.current.subscribe()
    }

    /// At least one endpoint; looked for if none is known yet.
    pub(super) async fn known(
        self: &Arc<Self>,
        within: Duration,
    ) -> Result<Arc<Endpoints>, DcsError> {
        let list = self.current.borrow().clone();
        if list.len() > 0 {
            return Ok(list);
        }
        let mut lists = self.lists();
        let found = timeout(within, async {
            loop {
                let list = lists.borrow_and_update().clone();
                if list.len() > 0 {
                    return list;
                }
                self.search();
                // Either may come first; a search that failed is begun again.
                let _ = timeout(PAUSE_WITHOUT, lists.changed()).await;
            }
        });
        found.await.map_err(|_| {
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let asked = if trouble.is_empty() { "DNS is silent".to_owned() } else { trouble };
            DcsError::Unreachable { within, asked, maybe_applied: false }
        })
    }

    /// An endpoint failed: looks for the list again, beside everything else, one search at a time.
    /// A failure in the pause after a search leads to the next one.
    pub(super) fn search(self: &Arc<Self>) {
        let Some(Find(find)) = self.options.find.clone() else { return };
        self.wanted.store(true, Ordering::Release);
        if self.searching.swap(true, Ordering::AcqRel) {
            return;
        }
        let turn = Turn(self.clone());
        tokio::spawn(async move {
            while turn.0.wanted.swap(false, Ordering::AcqRel) {
                let found = timeout(SEARCH_WITHIN, find()).await;
                let late = || format!("DNS gave no answer within {} s", SEARCH_WITHIN.as_secs());
                turn.0.learn(found.unwrap_or_else(|_| Err(late())));
                let known = turn.0.current.borrow().len() > 0;
                sleep(if known { PAUSE } else { PAUSE_WITHOUT }).await;
            }
        });
    }

    /// Endpoints that stay keep their connections.
    fn learn(&self, found: Result<Vec<String>, String>) {
        let (urls, trouble) = match found {
            Ok(urls) => {
                let urls: Vec<String> =
                    urls.into_iter().filter(|url| endpoints::is_endpoint(url)).collect();
                let none =
                    if urls.is_empty() { "DNS names no endpoint".into() } else { String::new() };
                (urls, none)
            }
            Err(why) => (Vec::new(), why),
        };
        let mut told = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if !trouble.is_empty() && *told != trouble {
            tracing::warn!("etcd's endpoints cannot be looked up: {trouble}");
        }
        *told = trouble;
        drop(told);
        let before = self.current.borrow().clone();
        let urls = match (urls.is_empty(), before.len()) {
            (false, _) => &urls,
            (true, 0) => &self.options.endpoints,
            // Better those of yesterday than none.
            (true, _) => return,
        };
        if !before.are(urls) {
            tracing::info!("etcd's endpoints are {}", urls.join(", "));
            self.current.send_replace(Arc::new(before.changed_to(urls)));
        }
    }
}

/// The right to search; given back also when the runtime ends in the middle of it.
struct Turn(Arc<Directory>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.searching.store(false, Ordering::Release);
    }
}
