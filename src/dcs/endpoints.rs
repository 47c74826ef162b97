//! The endpoints of one etcd cluster: a client for each, connected when first needed, and the
//! memory of which of them answers.
//!
//! A client is thrown away when its endpoint failed or kept silent, and built anew at the next
//! attempt. So a half-open connection is never asked twice, and renewed certificates are read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use tokio::sync::watch;

use super::Options;
use crate::core::time::Boot;
use crate::sys::clock;

/// How long an endpoint that failed is asked after all others.
const SUSPECT_FOR: Duration = Duration::from_secs(10);

/// Longest wait for a TCP connection (and TLS handshake); callers' deadlines are often shorter.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// HTTP/2 pings while a request or a watch is open. etcd closes connections that ping more often
/// than every 5 s (`--grpc-keepalive-min-time`), or at all while nothing is open: hence no pings
/// on idle connections. One that died while idle costs one attempt's share.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What the endpoint must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It has an etcd leader; without one it refuses at once instead of keeping us waiting.
    Quorum,
    /// It answers, even alone: for stale reads.
    Alone,
}

/// All endpoints, in the order of the configuration or of the search.
pub(super) struct Endpoints {
    all: Vec<Arc<Endpoint>>,
    /// The endpoint that gave the last good answer.
    preferred: watch::Sender<usize>,
    options: Options,
}

struct Endpoint {
    url: String,
    quorum: Mutex<Option<Client>>,
    alone: Mutex<Option<Client>>,
    /// BOOTTIME of the last failure in nanoseconds; 0 after a good answer.
    failed_at: AtomicU64,
}

impl Endpoints {
    /// Of options that were checked; connects nowhere.
    pub(super) fn new(options: &Options, urls: &[String]) -> Endpoints {
        let all = urls.iter().map(|url| Arc::new(Endpoint::new(url))).collect();
        Endpoints { all, preferred: watch::Sender::new(0), options: options.clone() }
    }

    /// Another list of the same cluster: an endpoint that stays keeps its clients.
    pub(super) fn changed_to(&self, urls: &[String]) -> Endpoints {
        let kept = |url: &String| self.all.iter().find(|e| e.url == bare(url)).cloned();
        let endpoint = |url: &String| kept(url).unwrap_or_else(|| Arc::new(Endpoint::new(url)));
        let all = urls.iter().map(endpoint).collect();
        Endpoints { all, preferred: watch::Sender::new(0), options: self.options.clone() }
    }

    /// Whether this is the list.
    pub(super) fn are(&self, urls: &[String]) -> bool {
        self.all.iter().map(|endpoint| &*endpoint.url).eq(urls.iter().map(|url| bare(url)))
    }

    /// Number of endpoints; none only as long as they are looked for.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn url(&self, index: usize) -> &str {
        &self.all[index].url
    }

    /// Follows which endpoint answers best.
    pub(super) fn preferred(&self) -> watch::Receiver<usize> {
        self.preferred.subscribe()
    }

    /// In which order to ask: the last good one first, then the next ones in turn, and those that
    /// failed a moment ago last.
    pub(super) fn order(&self) -> Vec<usize> {
        let (first, now) = (*self.preferred.borrow(), clock::boot());
        let mut order: Vec<usize> =
            (0..self.len()).map(|step| (first + step) % self.len()).collect();
        order.sort_by_key(|&index| self.all[index].is_suspect(now));
        order
    }

    /// The endpoint gave a good answer. A stale one recommends nobody: whoever is cut off gives it.
    pub(super) fn succeeded(&self, index: usize, link: Link) {
        if link == Link::Alone {
            return;
        }
        self.all[index].failed_at.store(0, Ordering::Relaxed);
        self.preferred.send_if_modified(|preferred| std::mem::replace(preferred, index) != index);
    }

    /// The endpoint failed or kept silent: ask it last, and over a new connection.
    pub(super) fn failed(&self, index: usize, link: Link) {
        self.all[index].failed_at.store(clock::boot().0, Ordering::Relaxed);
        *self.all[index].slot(link).lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The endpoint's client; with a user, a new one authenticates over the network first.
    pub(super) async fn client(&self, index: usize, link: Link) -> Result<Client, Error> {
        let endpoint = &self.all[index];
        let slot = endpoint.slot(link);
        let known = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = self.connect(&endpoint.url, link).await?;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    async fn connect(&self, url: &str, link: Link) -> Result<Client, Error> {
        let mut plain = ConnectOptions::new()
            .with_connect_timeout(CONNECT_WITHIN)
            .with_keep_alive(PING_EVERY, PING_ANSWER_WITHIN)
            .with_require_leader(link == Link::Quorum);
        if url.starts_with("https://") {
            let options = self.options.clone();
            // Certificates may lie on a volume that hangs: not on this thread.
            let tls = tokio::task::spawn_blocking(move || tls(&options)).await;
            plain = plain.with_tls(tls.map_err(std::io::Error::other)??);
        }
        let (Some(user), Some(password)) = (&self.options.username, &self.options.password) else {
            return Client::connect([url], Some(plain)).await;
        };
        let named = plain.clone().with_user(user, password).with_auto_token_refresh(true);
        match Client::connect([url], Some(named)).await {
            // Credentials are configured before authentication is switched on in etcd.
            Err(Error::GRpcStatus(status)) if status.message().ends_with(NOT_ENABLED) => {
                Client::connect([url], Some(plain)).await
            }
            connected => connected,
        }
    }
}

/// End of etcd's answer to credentials while authentication is switched off.
const NOT_ENABLED: &str = "authentication is not enabled";

impl Endpoint {
    fn new(url: &str) -> Endpoint {
        Endpoint {
            url: bare(url).into(),
            quorum: Mutex::default(),
            alone: Mutex::default(),
            failed_at: AtomicU64::new(0),
        }
    }

    fn slot(&self, link: Link) -> &Mutex<Option<Client>> {
        match link {
            Link::Quorum => &self.quorum,
            Link::Alone => &self.alone,
        }
    }

    fn is_suspect(&self, now: Boot) -> bool {
        let failed_at = Boot(self.failed_at.load(Ordering::Relaxed));
        failed_at != Boot(0) && now.since(failed_at) < SUSPECT_FOR
    }
}

fn bare(url: &str) -> &str {
    url.trim_end_matches('/')
}

pub(super) fn is_endpoint(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with([':', '/']))
}

/// Whether these options can work.
pub(super) fn check(options: &Options) -> Result<(), String> {
    if options.endpoints.is_empty() && options.find.is_none() {
        return Err("no endpoint is configured; name at least one host and port".into());
    }
    if let Some(url) = options.endpoints.iter().find(|url| !is_endpoint(url)) {
        return Err(format!("{url} is no endpoint; write http://host:port or https://…"));
    }
    if options.username.is_some() != options.password.is_some() {
        return Err("username and password must be given together".into());
    }
    if options.key.is_some() && options.cert.is_none() {
        return Err("a key is given without its cert".into());
    }
    if !options.prefix.starts_with('/') || !options.prefix.ends_with('/') {
        return Err(format!("the prefix {} must begin and end with a slash", options.prefix));
    }
    Ok(())
}

/// Reads the files anew. Without `cacert` the system's authorities are trusted; without `key` the
/// key is looked for in the file `cert`, as Patroni does.
fn tls(options: &Options) -> std::io::Result<TlsOptions> {
    let read = |path: &String| {
        std::fs::read(path)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{path}: {error}")))
    };
    let mut tls = match &options.cacert {
        Some(path) => TlsOptions::new().ca_certificate(Certificate::from_pem(read(path)?)),
        None => TlsOptions::new().with_native_roots(),
    };
    if let Some(cert) = &options.cert {
        let key = options.key.as_ref().unwrap_or(cert);
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dcs::Find;

    fn options(endpoints: &[&str]) -> Options {
        Options {
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            prefix: "/service/demo/".into(),
            ..Options::default()
        }
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        let good = options(&["http://a:2379", "https://b:2379"]);
        assert_eq!(check(&good), Ok(()));
        let found = Options { find: Some(Find::new(async || Ok(Vec::new()))), ..options(&[]) };
        assert_eq!(check(&found), Ok(()));
        let some = |text: &str| Some(text.to_string());
        let bad = [
            options(&[]),
            options(&["a:2379"]),
            options(&["http://"]),
            options(&["http://:2379"]),
            Options { prefix: "/service/demo".into(), ..good.clone() },
            Options { username: some("u"), ..good.clone() },
            Options { key: some("k"), ..good.clone() },
        ];
        for options in bad {
            assert!(check(&options).is_err(), "{options:?}");
        }
    }

    #[test]
    fn the_last_good_endpoint_is_asked_first_and_the_failed_ones_last() {
        let options = options(&["http://a", "http://b", "http://c"]);
        let endpoints = Endpoints::new(&options, &options.endpoints);
        assert_eq!(endpoints.order(), [0, 1, 2]);
        endpoints.succeeded(1, Link::Quorum);
        assert_eq!(endpoints.order(), [1, 2, 0]);
        endpoints.failed(2, Link::Quorum);
        assert_eq!(endpoints.order(), [1, 0, 2]);
        endpoints.failed(1, Link::Quorum);
        assert_eq!(endpoints.order(), [0, 1, 2]);
        endpoints.succeeded(2, Link::Alone);
        assert_eq!(endpoints.order(), [0, 1, 2]);
        endpoints.succeeded(2, Link::Quorum);
        assert_eq!(endpoints.order(), [2, 0, 1]);
    }

    #[test]
    fn another_list_keeps_what_is_known_of_those_that_stay() {
        let options = options(&["http://a", "http://b"]);
        let before = Endpoints::new(&options, &options.endpoints);
        before.failed(1, Link::Quorum);
        let urls = ["http://b/", "http://c"].map(str::to_owned);
        assert!(!before.are(&urls));
        let after = before.changed_to(&urls);
        assert!(after.are(&urls) && after.url(0) == "http://b");
        assert_eq!(after.order(), [1, 0]);
    }
}
