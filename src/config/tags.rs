//! Tags: what a member says about itself, and what of it is published.

use std::collections::BTreeMap;

use serde_json::Value;

use super::units;
use crate::core::cluster::Tags;

/// Not published when false, unless the priority that contradicts or confirms it is there.
const BOOLEANS: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];

/// The tags' meaning, and Patroni's sentences about contradictions.
pub fn of(values: &BTreeMap<String, Value>) -> (Tags, Vec<String>) {
    let flag = |name: &str| values.get(name).and_then(units::boolean);
    let priority = |name: &str| values.get(name).and_then(|v| units::integer(v, ""));
    let mut conflicts = Vec::new();
    let mut pair = |boolean: &str, number: &str| {
        let (b, p) = (flag(boolean), priority(number));
        if let (Some(b), Some(p)) = (b, p)
            && b == (p > 0)
        {
            let b = units::python_text(&Value::Bool(b));
            conflicts.push(format!(
                "Conflicting configuration between {boolean}: {b} and {number}: {p}. \
                 Defaulting to {boolean}: {b}"
            ));
        }
        let refused = b.unwrap_or_else(|| p.is_some_and(|p| p <= 0));
        (refused, if b == Some(true) { 0 } else { p.unwrap_or(1) })
    };
    let (nofailover, failover_priority) = pair("nofailover", "failover_priority");
    let (nosync, sync_priority) = pair("nosync", "sync_priority");
    let tags = Tags {
        nofailover,
        failover_priority,
        nosync,
        sync_priority,
        noloadbalance: flag("noloadbalance").unwrap_or(false),
        clonefrom: flag("clonefrom").unwrap_or(false),
        replicatefrom: values.get("replicatefrom").and_then(units::text).filter(|t| !t.is_empty()),
        nostream: flag("nostream").unwrap_or(false),
        published: published(values),
    };
    (tags, conflicts)
}

fn published(values: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    shown(values).into_iter().map(|(name, value)| (name, value.to_string())).collect()
}

/// What others get to see of the tags as they were written.
pub fn shown(values: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let kept = |name: &str, value: &Value| {
        let matching = match name {
            "nofailover" => values.contains_key("failover_priority"),
            "nosync" => values.contains_key("sync_priority"),
            _ => false,
        };
        !BOOLEANS.contains(&name) || matching || units::boolean(value) != Some(false)
    };
    let kept = values.iter().filter(|(name, value)| kept(name, value));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pairs_of_boolean_and_priority() {
        // nofailover, failover_priority as written; then as meant, and whether that conflicts.
        for (boolean, number, refused, priority, conflict) in [
            (json!(null), json!(null), false, 1, false),
            (json!(true), json!(null), true, 0, false),
            (json!(null), json!(0), true, 0, false),
            (json!(null), json!(5), false, 5, false),
            (json!(true), json!(1), true, 0, true),
            (json!(false), json!(0), false, 0, true),
            (json!(false), json!(2), false, 2, false),
        ] {
            let values = [("nofailover", boolean), ("failover_priority", number)];
            let values = values.into_iter().filter(|(_, v)| !v.is_null());
            let values: BTreeMap<_, _> = values.map(|(k, v)| (k.to_owned(), v)).collect();
            let (tags, conflicts) = of(&values);
            assert_eq!(
                (tags.nofailover, tags.failover_priority),
                (refused, priority),
                "{values:?}"
            );
            assert_eq!(!conflicts.is_empty(), conflict, "{values:?}");
        }
    }

    #[test]
    fn false_flags_are_not_published() {
        let values = json!({"nofailover": false, "failover_priority": 1, "nosync": false,
                            "clonefrom": true, "zone": "z1", "weight": 3});
        let values = values.as_object().unwrap().clone().into_iter().collect();
        let published = of(&values).0.published;
        let pairs: Vec<_> = published.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            pairs,
            [
                "clonefrom=true",
                "failover_priority=1",
                "nofailover=false",
                "weight=3",
                "zone=\"z1\""
            ]
        );
    }
}
