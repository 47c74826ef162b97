//! Leases: grant, keep alive, and the read that confirms a renewal.

use std::time::Duration;

use etcd_client::{Client, Error, GetOptions, ResponseHeader};

use super::documents::{self, Entry};
use super::endpoints::Link;
use super::keys::Key;
use super::race::{Ask, CallError};
use super::{Dcs, DcsError, PATIENCE, header};
use crate::core::cluster::LeaderKey;
use crate::core::time::Boot;
use crate::sys::clock;

/// A lease as granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub id: i64,
    /// What the store granted; it raises what is too short for its own election timeout.
    pub ttl: Duration,
    /// BOOTTIME just before the request was sent: the lease does not end before this plus `ttl`.
    pub sent_at: Boot,
    pub raft_term: u64,
    pub cluster_id: u64,
}

/// A renewal as answered. It is *confirmed* only once a linearizable read (`Dcs::leader`) that
/// began after it finds the leader key as ours under the same `raft_term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    pub ttl: Duration,
    /// BOOTTIME just before the answered request was sent.
    pub sent_at: Boot,
    /// From the header of the answer itself.
    pub raft_term: u64,
    pub cluster_id: u64,
}

/// A linearizable read of the leader key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderRead {
    pub key: Option<LeaderKey>,
    pub raft_term: u64,
    pub cluster_id: u64,
    pub revision: i64,
}

impl Dcs {
    /// Grants a lease of `ttl`, rounded up to whole seconds. When an endpoint is slow a second
    /// lease may be granted, which nobody uses and which ends by itself.
    pub async fn grant(&self, ttl: Duration, within: Duration) -> Result<Granted, DcsError> {
        let rounded = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(rounded.max(1)).unwrap_or(i64::MAX);
        self.hedged(
            within,
            |_| false,
            move |mut client| async move {
                let sent_at = clock::boot();
                let answer = client.lease_grant(seconds, None).await?;
                let header = header(answer.header())?;
                Ok(Granted {
                    id: answer.id(),
                    ttl: whole_seconds(answer.ttl()),
                    sent_at,
                    raft_term: header.raft_term(),
                    cluster_id: header.cluster_id(),
                })
            },
        )
        .await
    }

    /// Renews the lease once. `None`: an endpoint says that the lease is gone, and no other one
    /// contradicts in time.
    ///
    /// The caller keeps one call outstanding per lease. Inside a call a slow endpoint may be
    /// joined by others, and that is sound: etcd's answers carry no request id, but each attempt
    /// has a stream of its own on a connection of its own, with one ping outstanding at a time.
    /// So the answer that is taken belongs to the ping whose `sent_at` stands beside it, and a
    /// ping that nobody waits for any more can only prolong the lease, never shorten it.
    pub async fn keep_alive(
        &self,
        lease: i64,
        within: Duration,
    ) -> Result<Option<Renewed>, DcsError> {
        self.hedged(within, Option::is_none, move |client| ping(client, lease)).await
    }

    /// The leader key, by a linearizable read.
    pub async fn leader(&self, within: Duration) -> Result<LeaderRead, DcsError> {
        let path = Key::Leader.path(&self.prefix);
        self.hedged(within, |_| false, move |client| leader(client, path.clone())).await
    }

    /// Asks in the way of reads and renewals: doing it twice does no harm.
    pub(super) async fn hedged<T, F, C>(
        &self,
        within: Duration,
        weak: fn(&T) -> bool,
        call: F,
    ) -> Result<T, DcsError>
    where
        T: Send + 'static,
        F: Fn(Client) -> C + Clone + Send + 'static,
        C: Future<Output = Result<T, CallError>> + Send,
    {
        let ask = Ask { link: Link::Quorum, within, patience: PATIENCE };
        self.ask(ask, weak, call).await.result
    }
}

/// The client library sends a first ping when it opens the stream, and keeps its answer for itself.
/// So the evidence is a second ping on the same stream, sent when the first one is answered.
async fn ping(mut client: Client, lease: i64) -> Result<Option<Renewed>, CallError> {
    let (mut keeper, mut answers) = match client.lease_keep_alive(lease).await {
        Err(Error::LeaseKeepAliveError(reason)) if reason == "lease not found" => return Ok(None),
        opened => opened?,
    };
    let sent_at = clock::boot();
    keeper.keep_alive().await?;
    let answer = answers.message().await?.ok_or(CallError::Ended)?;
    let header = header(answer.header())?;
    if answer.ttl() <= 0 {
        return Ok(None);
    }
    Ok(Some(Renewed {
        ttl: whole_seconds(answer.ttl()),
        sent_at,
        raft_term: header.raft_term(),
        cluster_id: header.cluster_id(),
    }))
}

async fn leader(mut client: Client, path: String) -> Result<LeaderRead, CallError> {
    let answer = client.get(path, None::<GetOptions>).await?;
    let header: &ResponseHeader = header(answer.header())?;
    let key = answer.kvs().first().and_then(|kv| {
        documents::leader(&Entry {
            key: Key::Leader,
            value: kv.value().into(),
            mod_revision: kv.mod_revision(),
            lease_id: kv.lease(),
        })
    });
    Ok(LeaderRead {
        key,
        raft_term: header.raft_term(),
        cluster_id: header.cluster_id(),
        revision: header.revision(),
    })
}

fn whole_seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}
