//! Transactions: all writes under conditions, or none.
//!
//! # Asking a second endpoint
//!
//! A commit that an endpoint does not answer is sent to the next one, though it is not known
//! whether the first was applied, or will be when a stopped etcd wakes up. This is sound because
//! of what is concluded from the answers, not because doing it twice is impossible:
//!
//! * *Succeeded*, from any endpoint, is true: at that revision every compare held and every write
//!   was done.
//! * *Not succeeded* counts only if every request that was sent is answered so. With one unanswered
//!   our own write may be what made the compares fail: that is `DcsError::Unclear`.
//! * A transaction that compares the absence or the revision of a key that it writes (all that
//!   take, move or release the leader key do) cannot be applied twice. Any other one writes the
//!   same values a second time under the same compares, and only moves revisions.
//! * A late duplicate may put an old value over a newer one of ours where nothing but the leader's
//!   tenure is compared (status, member). The same happens without a second endpoint, as soon as a
//!   caller goes on after a timeout. Such documents are written anew in each round.

use std::time::Duration;

use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse,
};

use super::endpoints::Link;
use super::keys::Key;
use super::race::{Ask, CallError};
use super::{Dcs, DcsError, header};

/// Greatest silence before a commit is sent to the next endpoint, too. A commit waits for etcd's
/// disks, so it is given more time than a read.
const COMMIT_PATIENCE: Duration = Duration::from_secs(1);

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    Absent(Key),
    /// The key's last change has this revision.
    ModRevision(Key, i64),
    /// The key carries this lease.
    Lease(Key, i64),
    Value(Key, String),
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Key, value, lease (0: none).
    Put(Key, String, i64),
    Delete(Key),
}

/// The store's verdict on a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Whether all compares held, and so all writes were done.
    pub succeeded: bool,
    /// The store's revision; after a success that put something, the mod_revision of every key put.
    pub revision: i64,
    pub raft_term: u64,
    pub cluster_id: u64,
    /// How many keys the deletions found.
    pub deleted: u64,
}

impl Dcs {
    /// Does all writes if all compares hold. `Err` with `maybe_applied()` means that nobody knows:
    /// read, and compare what is found with what was meant.
    pub async fn commit(
        &self,
        compares: &[Compare],
        writes: &[Write],
        within: Duration,
    ) -> Result<Committed, DcsError> {
        let compares: Vec<EtcdCompare> = compares.iter().map(|c| self.compare(c)).collect();
        let writes: Vec<TxnOp> = writes.iter().map(|w| self.operation(w)).collect();
        let txn = Txn::new().when(compares).and_then(writes);
        let ask = Ask { link: Link::Quorum, within, patience: COMMIT_PATIENCE };
        let refused = |committed: &Committed| !committed.succeeded;
        let call = move |client| commit(client, txn.clone());
        let answer = self.ask(ask, refused, call).await;
        match answer.result {
            Ok(committed) if refused(&committed) && answer.unknown => {
                Err(DcsError::Unclear { asked: answer.asked })
            }
            result => result,
        }
    }

    fn compare(&self, compare: &Compare) -> EtcdCompare {
        let path = |key: &Key| key.path(&self.prefix);
        match compare {
            Compare::Absent(key) => EtcdCompare::create_revision(path(key), CompareOp::Equal, 0),
            Compare::ModRevision(key, revision) => {
                EtcdCompare::mod_revision(path(key), CompareOp::Equal, *revision)
            }
            Compare::Lease(key, lease) => EtcdCompare::lease(path(key), CompareOp::Equal, *lease),
            Compare::Value(key, value) => {
                EtcdCompare::value(path(key), CompareOp::Equal, value.as_str())
            }
        }
    }

    fn operation(&self, write: &Write) -> TxnOp {
        match write {
            Write::Put(key, value, lease) => {
                let options = PutOptions::new().with_lease(*lease);
                TxnOp::put(key.path(&self.prefix), value.as_str(), Some(options))
            }
            Write::Delete(key) => TxnOp::delete(key.path(&self.prefix), None),
        }
    }
}

async fn commit(mut client: Client, txn: Txn) -> Result<Committed, CallError> {
    let answer = client.txn(txn).await?;
    let header = header(answer.header())?;
    let responses = answer.op_responses();
    let deleted = responses.iter().map(|response| match response {
        TxnOpResponse::Delete(deletion) => u64::try_from(deletion.deleted()).unwrap_or(0),
        TxnOpResponse::Put(_) | TxnOpResponse::Get(_) | TxnOpResponse::Txn(_) => 0,
    });
    Ok(Committed {
        succeeded: answer.succeeded(),
        revision: header.revision(),
        raft_term: header.raft_term(),
        cluster_id: header.cluster_id(),
        deleted: deleted.sum(),
    })
}
