//! What can go wrong with the store. None of it is ever a reason to demote: a leader keeps what it
//! has until its lease's own deadline.

use std::time::Duration;

/// Why the store did not give an answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DcsError {
    /// The options cannot work; nothing was sent.
    #[error("etcd: {0}")]
    Options(String),
    /// At least one endpoint kept silent until the end of the time given.
    #[error(
        "etcd gave no answer within {:.1} s ({asked}); check that etcd runs and has a quorum",
        within.as_secs_f32()
    )]
    Timeout { within: Duration, asked: String, maybe_applied: bool },
    /// Every endpoint failed, again and again, until the end of the time given.
    #[error(
        "no etcd endpoint could be used for {:.1} s ({asked}); check etcd, the network, \
         and the endpoints and certificates in the configuration",
        within.as_secs_f32()
    )]
    Unreachable { within: Duration, asked: String, maybe_applied: bool },
    /// A transaction's compares failed at one endpoint after another endpoint was asked and did
    /// not answer: perhaps it is our own write that made them fail.
    #[error("etcd refused a write that another endpoint may have done ({asked}); a read will tell")]
    Unclear { asked: String },
    /// etcd does not let us: user, password, certificate or permission.
    #[error("etcd {endpoint} refuses us: {reason}; check etcd's users and our credentials")]
    Refused { endpoint: String, reason: String, maybe_applied: bool },
    /// The lease that a write names is gone.
    #[error("etcd {endpoint} does not know the lease of this write")]
    LeaseNotFound { endpoint: String, maybe_applied: bool },
    /// etcd answered with an error that another endpoint or another attempt would not change.
    #[error("etcd {endpoint} failed: {reason}")]
    Server { endpoint: String, reason: String, maybe_applied: bool },
    /// The answer lacks what every etcd of version 3 sends.
    #[error("etcd's answer has no {0}; is something else listening there?")]
    Decode(&'static str),
}

impl DcsError {
    /// Whether a write that ended with this error may have been, or may yet be, applied: only a
    /// linearizable read tells, and even that only about what was applied before it.
    pub fn maybe_applied(&self) -> bool {
        match self {
            DcsError::Options(_) => false,
            DcsError::Unclear { .. } | DcsError::Decode(_) => true,
            DcsError::Timeout { maybe_applied, .. }
            | DcsError::Unreachable { maybe_applied, .. }
            | DcsError::Refused { maybe_applied, .. }
            | DcsError::LeaseNotFound { maybe_applied, .. }
            | DcsError::Server { maybe_applied, .. } => *maybe_applied,
        }
    }

    /// The same error after another attempt was sent whose fate is unknown.
    pub(super) fn after_unknown(mut self) -> DcsError {
        match &mut self {
            DcsError::Timeout { maybe_applied, .. }
            | DcsError::Unreachable { maybe_applied, .. }
            | DcsError::Refused { maybe_applied, .. }
            | DcsError::LeaseNotFound { maybe_applied, .. }
            | DcsError::Server { maybe_applied, .. } => *maybe_applied = true,
            DcsError::Options(_) | DcsError::Unclear { .. } | DcsError::Decode(_) => {}
        }
        self
    }
}
