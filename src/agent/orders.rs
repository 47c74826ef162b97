//! The agent's end of the link: one order at a time, each waited for until the supervisor's state
//! says that it was handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use crate::link::AgentEnd;
use crate::link::order::{Envelope, Order};
use crate::link::state::State;

/// The supervisor handles an order within one turn of its poll loop; far beyond that it is stuck
/// and no order is worth waiting for.
const HANDLED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("the supervisor refused: {0}")]
    Refused(String),
    #[error("the supervisor did not handle an order within {} s", HANDLED_WITHIN.as_secs())]
    Silent,
    #[error("the link to the supervisor is closed")]
    Closed,
}

/// Sends orders; cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    end: Arc<AgentEnd>,
    generation: u32,
    seq: AtomicU64,
    turn: Mutex<()>,
    state: watch::Receiver<Arc<State>>,
}

impl Supervisor {
    pub fn new(
        end: Arc<AgentEnd>,
        generation: u32,
        state: watch::Receiver<Arc<State>>,
    ) -> Supervisor {
        let (seq, turn) = (AtomicU64::new(0), Mutex::new(()));
        Supervisor { inner: Arc::new(Inner { end, generation, seq, turn, state }) }
    }

    pub fn generation(&self) -> u32 {
        self.inner.generation
    }

    /// The newest state.
    pub fn state(&self) -> Arc<State> {
        self.inner.state.borrow().clone()
    }

    /// A place to wait for the next state.
    pub fn states(&self) -> watch::Receiver<Arc<State>> {
        self.inner.state.clone()
    }

    /// Sends one order and returns the first state that knows of it.
    pub async fn order(&self, order: Order) -> Result<Arc<State>, OrderError> {
        let inner = &*self.inner;
        // One in flight: the state names only the last refusal.
        let _turn = inner.turn.lock().await;
        let seq = inner.seq.fetch_add(1, Ordering::Relaxed) + 1;
        let envelope = Envelope { generation: inner.generation, seq, order };
        let mut state = inner.state.clone();
        inner.end.send(&envelope).await.map_err(|_| OrderError::Closed)?;
        let handled = state.wait_for(|s| s.seq_seen >= seq);
        let state = tokio::time::timeout(HANDLED_WITHIN, handled)
            .await
            .map_err(|_| OrderError::Silent)?
            .map_err(|_| OrderError::Closed)?
            .clone();
        match &state.refused {
            Some(refusal) if refusal.seq == seq => Err(OrderError::Refused(refusal.reason.clone())),
            _ => Ok(state),
        }
    }
}

/// Nothing but the handling of orders lies between the two.
pub fn only_handled(state: &State, before: &State) -> bool {
    let (seq_seen, refused) = (before.seq_seen, before.refused.clone());
    State { seq_seen, refused, ..state.clone() } == *before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::state::Refusal;

    #[test]
    fn the_handling_of_an_order_is_told_from_a_change() {
        let before = State { seq_seen: 4, reloads: 1, ..State::default() };
        let refused = Some(Refusal { seq: 5, reason: "no".to_owned() });
        let handled = State { seq_seen: 5, refused, ..before.clone() };
        assert!(only_handled(&handled, &before));
        let reload = State { reloads: 2, ..handled };
        assert!(!only_handled(&reload, &before));
    }
}
