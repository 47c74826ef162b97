//! Another member under our name: an operator gave it to two. Both would write one member key, and
//! a Patroni takes a leader key with its own name for its own. Asked once, by a member that starts
//! from nothing; safety does not rest on it (a lease belongs to who was granted it, not to a name).
//! In all it takes 6 s at the most: the supervisor replaces an agent that is silent for 10 s.

use std::time::Duration;

use super::drivers::Setup;
use crate::api::client::Client;
use crate::dcs::Dcs;
use crate::sys::clock;

/// Without an answer of etcd in this time the member starts unasked, as it starts without etcd.
const READ_WITHIN: Duration = Duration::from_secs(2);

const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// An agent whose supervisor was killed ends when it sees that; until then it may answer.
const LAST_BREATH: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(500);

/// The refusal, in Patroni's words; any answer over HTTP counts, as there.
pub async fn refuse(dcs: &Dcs, setup: &Setup) -> Result<(), String> {
    let (name, begun) = (&setup.local.name, clock::boot());
    let Ok(cluster) = dcs.read(READ_WITHIN).await else { return Ok(()) };
    let Some(member) = cluster.members.get(name).filter(|m| !m.api_url.is_empty()) else {
        return Ok(());
    };
    // What is wrong with these files is told by who needs them.
    let Ok(client) = Client::new(None, &setup.local.ctl.tls) else { return Ok(()) };
    let base = member.api_url.split_once("/patroni").map_or(&*member.api_url, |(base, _)| base);
    let url = format!("{base}/liveness");
    while client.get(&url, ANSWER_WITHIN).await.is_ok() {
        if clock::boot().since(begun) >= LAST_BREATH {
            let what = format!("Can't start; there is already a node named '{name}' running");
            return Err(format!("{what} at {base}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
