//! The dynamic configuration (`/config`): merging, validation, and the timeout rule.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::diagnostics::{Diagnostic, Report};
use super::tree::{Node, Position};
use super::{options, schema, units};

/// Patroni's floor of ttl, to be kept while a Patroni member is in the cluster.
pub const PATRONI_TTL_FLOOR_S: u64 = 20;
/// Ours.
pub const TTL_FLOOR_S: u64 = 3;

/// Applies a PATCH as Patroni does: null deletes, mappings merge, and a scalar that prints like
/// the old one changes nothing. Returns the result and whether it differs.
pub fn merge_patch(base: &Value, patch: &Value) -> (Value, bool) {
    let mut merged = base.clone();
    let changed = match (&mut merged, patch) {
        (Value::Object(base), Value::Object(changes)) => merge(base, changes),
        _ => {
            merged = patch.clone();
            merged != *base
        }
    };
    (merged, changed)
}

fn merge(base: &mut Map<String, Value>, changes: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (name, value) in changes {
        if value.is_null() {
            changed |= base.shift_remove(name).is_some_and(|old| !old.is_null());
            continue;
        }
        let Some(old) = base.get_mut(name) else {
            base.insert(name.clone(), value.clone());
            changed = true;
            continue;
        };
        if let (Value::Object(old), Value::Object(value)) = (&mut *old, value) {
            changed |= merge(old, value);
        } else if units::python_text(old) != units::python_text(value) {
            *old = value.clone();
            changed = true;
        }
    }
    changed
}

/// What is wrong with a dynamic configuration that a PATCH or PUT would make; empty: it may be
/// stored. Unknown keys are no error: Patroni keeps them, and so do we.
pub fn validate_dynamic(config: &Value) -> Vec<String> {
    findings(config).iter().filter(|d| d.error).map(ToString::to_string).collect()
}

/// What is to be said of a `/config` before it is stored: what would be refused, what has no
/// effect, and the times that are taken for others.
pub fn review_dynamic(config: &Value, floor_ttl_s: u64) -> Vec<String> {
    let mut all: Vec<String> = findings(config).iter().map(ToString::to_string).collect();
    timeouts(config, floor_ttl_s, &mut all);
    all
}

fn findings(config: &Value) -> Vec<Diagnostic> {
    let at = Position { file: Arc::from(""), line: 0, column: 0 };
    let mut report = Report::default();
    let root = Node::from_value(config, &at);
    schema::check_dynamic(&root, &mut report);
    tool_options(&root, "", &mut report);
    report.findings
}

/// Options of pg_basebackup and pg_rewind below `postgresql` of any configuration.
pub(super) fn tool_options(root: &Node, prefix: &str, report: &mut Report) {
    let Some(section) = root.get("postgresql") else { return };
    for (key, tool) in [("basebackup", &options::BASEBACKUP), ("rewind", &options::REWIND)] {
        let Some(node) = section.get(key) else { continue };
        // The oldest spelling has the rewind user here.
        if node.get("username").is_some() && key == "rewind" {
            continue;
        }
        for why in options::of(tool, &node.to_value()).1 {
            report.error(&node.at, &format!("{prefix}postgresql.{key}"), why);
        }
    }
}

/// The three times that must fit into each other, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub ttl_s: u64,
    pub loop_wait_s: u64,
    pub retry_timeout_s: u64,
}

/// Reads and adjusts the times so that `loop_wait + 2*retry_timeout <= ttl`: first loop_wait is
/// lowered, then retry_timeout. With Patroni's floor of ttl its floor of retry_timeout (3 s)
/// holds, too; below it, 1 s.
pub fn timeouts(config: &Value, floor_ttl_s: u64, warnings: &mut Vec<String>) -> Timeouts {
    let retry_floor = if floor_ttl_s >= PATRONI_TTL_FLOOR_S { 3 } else { 1 };
    let mut read = |name: &str, default: u64, floor: u64| {
        let value = config.get(name).filter(|v| !v.is_null());
        let Some(value) = value else { return default.max(floor) };
        let number = units::integer(value, "").and_then(|v| i32::try_from(v).ok());
        let Some(number) = number else {
            warnings.push(format!("{name} is no number of seconds, using {default}"));
            return default.max(floor);
        };
        let floored = u64::try_from(number).unwrap_or(0).max(floor);
        if i64::from(number) < i64::try_from(floor).unwrap_or(i64::MAX) {
            warnings.push(format!("{name}={number} can't be smaller than {floor}, adjusting..."));
        }
        floored
    };
    let loop_wait = read("loop_wait", 10, 1);
    let retry = read("retry_timeout", 10, retry_floor);
    let ttl = read("ttl", 30, floor_ttl_s.max(TTL_FLOOR_S));
    let mut adjusted = Timeouts { ttl_s: ttl, loop_wait_s: loop_wait, retry_timeout_s: retry };
    let rule = r#"Violated the rule "loop_wait + 2*retry_timeout <= ttl", where ttl="#;
    if 1 + 2 * retry > ttl {
        adjusted.loop_wait_s = 1;
        adjusted.retry_timeout_s = (ttl - 1) / 2;
        warnings.push(format!(
            "{rule}{ttl}. Adjusting loop_wait from {loop_wait} to 1 and retry_timeout from \
             {retry} to {}",
            adjusted.retry_timeout_s
        ));
    } else if loop_wait + 2 * retry > ttl {
        adjusted.loop_wait_s = ttl - 2 * retry;
        warnings.push(format!(
            "{rule}{ttl} and retry_timeout={retry}. Adjusting loop_wait from {loop_wait} to {}",
            adjusted.loop_wait_s
        ));
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patch_is_patronis() {
        for (base, patch, expected, changed) in [
            (json!({"ttl": 20}), json!({"ttl": "20"}), json!({"ttl": 20}), false),
            (json!({"ttl": 20}), json!({"ttl": 30}), json!({"ttl": 30}), true),
            (json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2}), true),
            (json!({"a": 1}), json!({"x": null}), json!({"a": 1}), false),
            (json!({"p": {"q": 1}}), json!({"p": {"r": 2}}), json!({"p": {"q": 1, "r": 2}}), true),
            (json!({"p": 1}), json!({"p": {"r": 2}}), json!({"p": {"r": 2}}), true),
            (json!({"l": [1]}), json!({"l": [2]}), json!({"l": [2]}), true),
            (json!({"b": true}), json!({"b": "True"}), json!({"b": true}), false),
        ] {
            assert_eq!(merge_patch(&base, &patch), (expected, changed), "{base} + {patch}");
        }
    }

    #[test]
    fn timeouts_fit_into_each_other() {
        // ttl, loop_wait, retry_timeout, floor; the same three adjusted; warnings.
        for (given, floor, expected, warned) in [
            ((30, 10, 10), 20, (30, 10, 10), 0),
            ((20, 10, 10), 20, (20, 1, 9), 1),
            ((20, 10, 7), 20, (20, 6, 7), 1),
            ((5, 1, 2), 20, (20, 1, 3), 2),
            ((5, 1, 2), 3, (5, 1, 2), 0),
            ((5, 10, 10), 3, (5, 1, 2), 1),
            ((1, 1, 1), 0, (3, 1, 1), 1),
            ((-5, 0, 0), 3, (3, 1, 1), 3),
        ] {
            let config = json!({"ttl": given.0, "loop_wait": given.1, "retry_timeout": given.2});
            let mut warnings = Vec::new();
            let t = timeouts(&config, floor, &mut warnings);
            assert_eq!((t.ttl_s, t.loop_wait_s, t.retry_timeout_s), expected, "{given:?} {floor}");
            assert_eq!(warnings.len(), warned, "{warnings:?}");
        }
        let mut warnings = Vec::new();
        timeouts(&json!({"ttl": 20}), 20, &mut warnings);
        assert_eq!(
            warnings,
            ["Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl=20. \
              Adjusting loop_wait from 10 to 1 and retry_timeout from 10 to 9"]
        );
    }

    #[test]
    fn a_review_tells_of_what_would_be_refused_unheeded_or_adjusted() {
        let config = json!({"ttl": 2, "loop_wait": 1, "retry_timeout": 1, "nosuch": 1,
            "synchronous_mode": "maybe"});
        let told = review_dynamic(&config, TTL_FLOOR_S);
        for what in ["nosuch: unknown key", "synchronous_mode: ", "ttl=2 can't be smaller than 3"] {
            assert_eq!(told.iter().filter(|t| t.contains(what)).count(), 1, "{what}: {told:?}");
        }
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(review_dynamic(&json!({"ttl": 30}), PATRONI_TTL_FLOOR_S), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_dynamic_configuration_is_refused() {
        for wrong in [
            json!([]),
            json!({"ttl": "x"}),
            json!({"ttl": 0}),
            json!({"loop_wait": 1.0e300}),
            json!({"postgresql": {"parameters": []}}),
            json!({"postgresql": {"pg_hba": "local all all trust"}}),
            json!({"postgresql": {"basebackup": [{"pgdata": "/x"}]}}),
            json!({"synchronous_mode": "maybe"}),
            json!({"standby_cluster": {"port": 0}}),
            json!({"slots": []}),
        ] {
            assert_eq!(
                validate_dynamic(&wrong).len(),
                1,
                "{wrong}: {:?}",
                validate_dynamic(&wrong)
            );
        }
        let right = json!({"ttl": 30, "unknown": 1, "synchronous_mode": "quorum", "pause": true,
            "maximum_lag_on_failover": "16MB", "slots": {"a": null},
            "standby_cluster": {"host": "a"},
            "postgresql": {"parameters": {"max_connections": 50, "wal_level": null},
                           "use_pg_rewind": true, "pg_hba": ["local all all trust"]}});
        assert_eq!(validate_dynamic(&right), Vec::<String>::new());
    }
}
