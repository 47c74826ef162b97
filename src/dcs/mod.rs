//! The store with consensus: etcd v3, with Patroni's keys and documents in it.
//!
//! Every call has a deadline and ends with an answer or an error by then, whatever the endpoints
//! do: one that is dead or silent costs its share of the time, and the others are asked. No error
//! of this module is a reason to demote.

mod directory;
pub mod documents;
mod endpoints;
mod error;
mod keys;
mod lease;
mod look;
mod race;
mod watch;
mod writes;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, ResponseHeader};

pub use directory::Find;
pub use error::DcsError;
pub use keys::Key;
pub use lease::{Granted, LeaderRead, Renewed};
pub use writes::{Committed, Compare, Write};

use crate::core::cluster::Cluster;
use crate::sys::clock;
use directory::Directory;
use documents::Entry;
use race::{Answer, Ask, CallError};

/// Greatest silence before a read or a renewal is sent to the next endpoint, too.
const PATIENCE: Duration = Duration::from_millis(400);

/// Greatest answer that is read. etcd's own limit is per key (1.5 MiB), not per answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where the store is and who we are there.
#[derive(Clone, Default)]
pub struct Options {
    /// `http://host:port` or `https://host:port`, in the order in which they are asked first.
    pub endpoints: Vec<String>,
    /// Looks the endpoints up; `endpoints` count then as long as it finds none.
    pub find: Option<Find>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Paths of PEM files; read anew for each new connection.
    pub cacert: Option<String>,
    pub cert: Option<String>,
    pub key: Option<String>,
    /// `/<namespace>/<scope>/`.
    pub prefix: String,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("endpoints", &self.endpoints)
            .field("find", &self.find)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("cacert", &self.cacert)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("prefix", &self.prefix)
            .finish()
    }
}

/// One cluster's part of the store. Clones share connections and the memory of what answers.
#[derive(Clone)]
pub struct Dcs {
    directory: Arc<Directory>,
    prefix: Arc<str>,
}

impl fmt::Debug for Dcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dcs").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Dcs {
    /// Checks the options; connects when first asked. Needs tokio from then on.
    pub fn new(options: Options) -> Result<Dcs, DcsError> {
        let prefix = options.prefix.as_str().into();
        Ok(Dcs { directory: Arc::new(Directory::new(options)?), prefix })
    }

    /// Everything below the prefix, by one linearizable read.
    pub async fn read(&self, within: Duration) -> Result<Cluster, DcsError> {
        let prefix = self.prefix.clone();
        let options = GetOptions::new().with_prefix();
        self.hedged(within, |_| false, move |client| range(client, prefix.clone(), options.clone()))
            .await
    }

    /// A number that grows whenever something changed below the prefix on which a decision could
    /// depend: not for mere positions (`status`, the members' LSNs). A hint: it may be late, and
    /// it may be early. Spawns a task that ends when all receivers are gone.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        let (count, receiver) = tokio::sync::watch::channel(0);
        tokio::spawn(watch::follow(self.directory.clone(), self.prefix.to_string(), count));
        receiver
    }

    /// Asks the endpoints that are known, see [`race::ask`]. If one of them fails, whatever the
    /// others say, the list is looked for again, if it was found by a search.
    async fn ask<T, F, C>(&self, ask: Ask, weak: fn(&T) -> bool, call: F) -> Answer<T>
    where
        T: Send + 'static,
        F: Fn(Client) -> C + Clone + Send + 'static,
        C: Future<Output = Result<T, CallError>> + Send,
    {
        let begun = clock::boot();
        let endpoints = match self.directory.known(ask.within).await {
            Ok(endpoints) => endpoints,
            Err(error) => {
                return Answer { result: Err(error), unknown: false, asked: String::new() };
            }
        };
        let within = ask.within.saturating_sub(clock::boot().since(begun));
        let answer = race::ask(&endpoints, Ask { within, ..ask }, weak, call).await;
        if !answer.asked.is_empty() {
            self.directory.search();
        }
        answer
    }
}

async fn range(
    client: Client,
    prefix: Arc<str>,
    options: GetOptions,
) -> Result<Cluster, CallError> {
    let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
    let mut answer = kv.get(prefix.as_bytes(), Some(options)).await?;
    let entries: Vec<Entry> = answer
        .take_kvs()
        .into_iter()
        .filter_map(|kv| {
            let name = std::str::from_utf8(kv.key()).ok()?.strip_prefix(&*prefix)?;
            let key = Key::parse(name)?;
            let (mod_revision, lease_id) = (kv.mod_revision(), kv.lease());
            Some(Entry { key, value: kv.into_key_value().1, mod_revision, lease_id })
        })
        .collect();
    let header = header(answer.header())?;
    let mut cluster = documents::cluster(&entries);
    cluster.cluster_id = header.cluster_id();
    cluster.revision = header.revision();
    cluster.raft_term = header.raft_term();
    Ok(cluster)
}

fn header(header: Option<&ResponseHeader>) -> Result<&ResponseHeader, CallError> {
    header.ok_or(CallError::Missing("header"))
}
