//! What each endpoint says of itself, for people: decisions ask the cluster, not its members.

use std::time::Duration;

use etcd_client::Error;

use crate::sys::clock;

use super::Dcs;
use super::endpoints::Link;

/// One endpoint, asked alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub url: String,
    /// Its version, or why there is none.
    pub version: Result<String, String>,
    /// From the question to the answer, connecting included.
    pub took: Duration,
}

impl Dcs {
    /// Asks every endpoint in turn for its version; each has `within`.
    pub async fn endpoints_seen(&self, within: Duration) -> Vec<Seen> {
        let mut seen = Vec::new();
        // What is wrong with the list itself is told by whoever reads.
        let Ok(endpoints) = self.directory.known(within).await else { return seen };
        for index in 0..endpoints.len() {
            let begun = clock::boot();
            let ask = async {
                let client = endpoints.client(index, Link::Alone).await?;
                client.maintenance_client().status().await
            };
            let version = match tokio::time::timeout(within, ask).await {
                Ok(Ok(status)) => Ok(status.version().to_owned()),
                Ok(Err(Error::GRpcStatus(status))) => Err(status.message().to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} ms", within.as_millis())),
            };
            let url = endpoints.url(index).to_owned();
            seen.push(Seen { url, version, took: clock::boot().since(begun) });
        }
        seen
    }
}
