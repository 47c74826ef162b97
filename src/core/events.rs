//! Classes of events: the journal's MESSAGE_ID of a record. `systemd/pgvigil.catalog` explains each
//! of them to people (`journalctl -x`), and `tests/packaging/mod.rs` holds the two together.
//!
//! An id is for ever: people filter by it. A class that means something else gets another one.

use super::guard::Phase;

/// A rule of decision fired (the field PGVIGIL_RULE says which).
pub const DECISION: &str = "b445241dc51a45fb800ddaf2d6e10292";
/// This member has another role than before.
pub const ROLE: &str = "3534aab95c1645719c6320b9f9dab0b4";
/// Another member holds the leader key than before, or nobody.
pub const LEADER: &str = "41cae27513844f9fb3a569f945bed460";
/// This member's PostgreSQL is promoted.
pub const PROMOTION: &str = "f28c4dac354b464b911edc1d01313808";
/// The deadline passed: PostgreSQL stands still.
pub const FROZEN: &str = "f6526904045d4199a2d0af98285354e7";
/// The lease was confirmed again in time: PostgreSQL goes on.
pub const THAWED: &str = "89830b3989a144ebbbc8befee4b1fa27";
/// PostgreSQL is killed: it may not acknowledge any more.
pub const KILLED: &str = "8d461f14be034cff81d661026f1deb3c";
/// Nothing of the killed PostgreSQL is left.
pub const FENCED: &str = "388a221c9fae40abacadcfcd74654feb";
/// The leader key is ours and confirmed: the deadline runs.
pub const LEADS: &str = "5d85a690161f4972a3e2982eb908d262";
/// The deadline is suspended under the pause record.
pub const PAUSED: &str = "60ccb05e1e0c4b2b86f7cd6c5c63ac98";
/// PostgreSQL was shut down in good order, its key is about to be given up.
pub const SEALED: &str = "84edb2f4758844408c4212e17c016d73";
/// Any other change of the guard's phase.
pub const PHASE: &str = "ae4c7484ce34465397fe69247e11a08b";
/// etcd does not answer.
pub const STORE_SILENT: &str = "ea2ae8d7cb604c7cbdac3656305082b6";
/// etcd answers again.
pub const STORE_BACK: &str = "c784a112246248169835369814ba0cc9";
/// A renewal of the lease was not confirmed.
pub const LEASE_UNCONFIRMED: &str = "7018d5519a854ef89e80d9a5902cdf38";
/// The watchdog device counts.
pub const WATCHDOG_ARMED: &str = "7da7a2944e5d45809cc7a73fb3d18a10";
/// It does not count any more.
pub const WATCHDOG_STOPPED: &str = "24bc5f5b80e04d7b969431d9127d7b37";
/// It is not used, or something is wrong with it.
pub const WATCHDOG_TROUBLE: &str = "b2f15bea2d1b462ba2517ffe427cb104";
/// The machine went down while the device was armed.
pub const BOOT_AFTER_RESET: &str = "5f1d0c8a6f0b4b0e9a3f2c7d41e68b95";
/// Something is wrong with the server, its disks or its replication.
pub const FINDING: &str = "357f6613d2be484eb947f6cedfbc5bc3";
/// It is not any more.
pub const FINDING_GONE: &str = "5ead7835300241c4a05e8215f85de490";
/// The data directory is removed, to be copied anew.
pub const DATA_REMOVED: &str = "e99662b0f0044f46ae3d581603766c51";
/// In failsafe mode: a member did not promise not to lead.
pub const NOT_PROMISED: &str = "a8b6567089d0487ba503f7e9ff757e3f";
/// The configuration was read again.
pub const RELOADED: &str = "5ccdc83c82a44666a4505cf19a17903b";
/// It has errors: the old one stays.
pub const RELOAD_REFUSED: &str = "e1652e7a15f9479f9f9d968596f91a88";
/// What the supervisor does; a change of phase has a class of its own.
pub const SUPERVISOR: &str = "1ff540a299c44f55867aedaf51351afd";
/// What the supervisor could not do, or had to do without.
pub const SUPERVISOR_TROUBLE: &str = "81e6485431704fa6a47f8b3983b12a8b";

/// All of them, for the catalog's test.
pub const ALL: [&str; 27] = [
    DECISION,
    ROLE,
    LEADER,
    PROMOTION,
    FROZEN,
    THAWED,
    KILLED,
    FENCED,
    LEADS,
    PAUSED,
    SEALED,
    PHASE,
    STORE_SILENT,
    STORE_BACK,
    LEASE_UNCONFIRMED,
    WATCHDOG_ARMED,
    WATCHDOG_STOPPED,
    WATCHDOG_TROUBLE,
    BOOT_AFTER_RESET,
    FINDING,
    FINDING_GONE,
    DATA_REMOVED,
    NOT_PROMISED,
    RELOADED,
    RELOAD_REFUSED,
    SUPERVISOR,
    SUPERVISOR_TROUBLE,
];

/// The class of a change of phase.
pub fn of_phases(before: Phase, after: Phase) -> &'static str {
    match (before, after) {
        (_, Phase::Frozen) => FROZEN,
        (_, Phase::Killing) => KILLED,
        (_, Phase::Fenced) => FENCED,
        (_, Phase::Paused) => PAUSED,
        (_, Phase::Sealed) => SEALED,
        (Phase::Frozen, _) => THAWED,
        (_, Phase::Leading) => LEADS,
        (_, Phase::Idle | Phase::Candidate) => PHASE,
    }
}

/// The class of a decision's record.
pub fn of_rule(rule: &str) -> &'static str {
    if rule == "leader.promote" { PROMOTION } else { DECISION }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_told_from_other_changes() {
        use Phase::{Candidate, Fenced, Frozen, Idle, Killing, Leading, Paused, Sealed};
        for (before, after, class) in [
            (Leading, Frozen, FROZEN),
            (Frozen, Leading, THAWED),
            (Frozen, Killing, KILLED),
            (Killing, Fenced, FENCED),
            (Candidate, Leading, LEADS),
            (Paused, Leading, LEADS),
            (Leading, Paused, PAUSED),
            (Leading, Sealed, SEALED),
            (Sealed, Idle, PHASE),
            (Idle, Candidate, PHASE),
        ] {
            assert_eq!(of_phases(before, after), class, "{before:?} -> {after:?}");
        }
        assert_ne!(of_rule("leader.promote"), of_rule("leader.steady"));
    }
}
