//! What the seeds of the simulator must have exercised together: a promise that was never judged,
//! a rule that never fired or a step of the guard that was never taken proves nothing.

use std::collections::BTreeMap;

use pgvigil_core::core::decide::rules;
use pgvigil_core::core::guard::Phase;
use pgvigil_core::sim::Sum;
use pgvigil_core::sim::invariant::INVARIANTS;

/// Rules that no seed lets fire, and why. The list may only shrink.
const SILENT_RULES: &[(&str, &str)] = &[
    ("safety.unpermitted", "the guard fences first: a second line"),
    ("safety.identity", "nobody changes /initialize"),
    ("follow.copy_slots", "servers have no slots here"),
    ("health.watchdog", "devices that fail for good are not played"),
    ("leader.bootstrap_failed", "no bootstrap fails twice in these seeds"),
    ("standby.demote", "standby clusters are not played"),
    ("standby.start", "standby clusters are not played"),
    ("standby.adopt", "standby clusters are not played"),
    ("standby.follow", "standby clusters are not played"),
    ("standby.restart", "standby clusters are not played"),
    ("standby.switchover", "standby clusters are not played"),
    ("standby.steady", "standby clusters are not played"),
    ("leader.adopt", "every cluster begins with initdb"),
    ("vacant.uninitialized_replica", "nobody removes /initialize"),
];

/// Steps between the guard's phases that some seed must take.
const STEPS: &[(Phase, Phase)] = &[
    (Phase::Idle, Phase::Candidate),
    (Phase::Idle, Phase::Frozen),
    (Phase::Idle, Phase::Fenced),
    (Phase::Candidate, Phase::Idle),
    (Phase::Candidate, Phase::Leading),
    (Phase::Leading, Phase::Idle),
    (Phase::Leading, Phase::Frozen),
    (Phase::Leading, Phase::Killing),
    (Phase::Leading, Phase::Sealed),
    (Phase::Leading, Phase::Paused),
    (Phase::Frozen, Phase::Leading),
    (Phase::Frozen, Phase::Killing),
    (Phase::Frozen, Phase::Fenced),
    (Phase::Killing, Phase::Fenced),
    (Phase::Fenced, Phase::Idle),
    (Phase::Fenced, Phase::Candidate),
    (Phase::Sealed, Phase::Idle),
    (Phase::Paused, Phase::Leading),
];

/// Everything that was not exercised, in words; and every excuse that is not needed any more.
pub fn complaints(sum: &Sum) -> Vec<String> {
    let count = |counts: &BTreeMap<&'static str, u64>, name: &str| counts.get(name).copied();
    let mut all = Vec::new();
    for invariant in INVARIANTS {
        if count(&sum.exercised, invariant.name).is_none() {
            all.push(format!("never judged: {}: {}", invariant.name, invariant.sentence));
        }
    }
    for rule in rules() {
        let fired = count(&sum.rules, rule.id).is_some();
        let excused = SILENT_RULES.iter().any(|(id, _)| *id == rule.id);
        match (fired, excused) {
            (false, false) => all.push(format!("rule that never fired: {}", rule.id)),
            (true, true) => all.push(format!("{} fired: take it off SILENT_RULES", rule.id)),
            _ => {}
        }
    }
    let missing = STEPS.iter().filter(|step| !sum.transitions.contains_key(*step));
    all.extend(missing.map(|(from, to)| format!("step never taken: {from:?} -> {to:?}")));
    all
}
