//! Asking the other members: all at once, each with a short deadline.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::api::peer::PeerStatus;
use crate::core::error::chain;
use crate::core::view::{PeerAnswer, View};
use crate::sys::clock;

use super::drivers::Drivers;
use super::events::Fact;

/// Patroni gives a peer 2 s. Members that died lose their key with the leader's and are not asked
/// at all, so that this bound is met only by one that hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

pub async fn ask(d: &Drivers, v: &View) -> Fact {
    let asked_at = clock::boot();
    let client = d.peers();
    let mut questions = JoinSet::new();
    for member in v.others().filter(|m| !m.api_url.is_empty()) {
        let (name, url, client) = (member.name.clone(), member.api_url.clone(), client.clone());
        questions.spawn(async move {
            let answer = client.get(&url, ANSWER_WITHIN).await;
            let peer = match answer {
                Ok(answer) => to_answer(&PeerStatus::parse(&answer.body)),
                Err(error) => {
                    tracing::warn!("member {name} did not answer: {}", chain(&error));
                    PeerAnswer::default()
                }
            };
            (name, peer)
        });
    }
    let answers: BTreeMap<String, PeerAnswer> = questions.join_all().await.into_iter().collect();
    Fact::Peers { answers, asked_at }
}

fn to_answer(peer: &PeerStatus) -> PeerAnswer {
    PeerAnswer {
        reachable: peer.reachable,
        // One that runs no server is no candidate, but it is no primary either.
        in_recovery: peer.in_recovery.unwrap_or(true),
        position: peer.position(),
        fresh: peer.fresh,
        timeline: peer.timeline,
        nofailover: peer.nofailover || peer.in_recovery.is_none(),
        failover_priority: peer.failover_priority,
        watchdog_failed: peer.watchdog_failed,
        unfit: peer.unfit,
        vigil: peer.vigil,
    }
}
