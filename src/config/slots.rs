//! `slots` and `ignore_slots` of the dynamic configuration.

use serde_json::Value;

use super::reader::Reader;
use super::units;
use crate::core::slots::{PermanentSlot, SlotKind, SlotPattern, is_valid};

/// `slots` under any of its names. What is wrong is left out, and a warning says so.
pub fn permanent(top: Reader, warnings: &mut Vec<String>) -> Vec<PermanentSlot> {
    let filled = |key: &str| match top.value(key) {
        Some(Value::Object(map)) if !map.is_empty() => Some(map),
        _ => None,
    };
    let names = ["permanent_replication_slots", "permanent_slots", "slots"];
    let Some(map) = names.into_iter().find_map(filled) else { return Vec::new() };
    let mut slots = Vec::new();
    for (name, value) in map {
        if !is_valid(&name) {
            warnings.push(format!("slots: `{name}` is no name of a slot ([a-z0-9_]), ignored"));
            continue;
        }
        // A slot of a standby cluster, in one that is none.
        if text(&value, "cluster_type").is_some_and(|of| of == "standby") {
            continue;
        }
        match kind(&value) {
            Some(kind) => slots.push(PermanentSlot { name, kind }),
            None => warnings.push(format!(
                "slots: `{name}` has no type (physical, or logical with database and plugin), \
                 ignored"
            )),
        }
    }
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    slots
}

/// Nothing said means physical; a database and a plugin mean logical.
fn kind(value: &Value) -> Option<SlotKind> {
    let (database, plugin) = (text(value, "database"), text(value, "plugin"));
    match (text(value, "type").as_deref(), database, plugin) {
        (Some("logical"), Some(database), Some(plugin)) | (None, Some(database), Some(plugin)) => {
            Some(SlotKind::Logical { database, plugin })
        }
        (Some("physical"), _, _) | (None, None, None) => Some(SlotKind::Physical),
        _ => None,
    }
}

/// `ignore_slots`; an entry that says nothing would match all and is left out.
pub fn ignored(top: Reader, warnings: &mut Vec<String>) -> Vec<SlotPattern> {
    let Some(Value::Array(list)) = top.value("ignore_slots") else { return Vec::new() };
    let mut patterns = Vec::new();
    for entry in list {
        let pattern = SlotPattern {
            name: text(&entry, "name"),
            kind: text(&entry, "type"),
            database: text(&entry, "database"),
            plugin: text(&entry, "plugin"),
        };
        if pattern == SlotPattern::default() {
            warnings.push(format!("ignore_slots: {entry} names nothing, left out"));
        } else {
            patterns.push(pattern);
        }
    }
    patterns
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(units::text).filter(|text| !text.is_empty())
}
