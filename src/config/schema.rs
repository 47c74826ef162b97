//! Holds a tree against the tables: unknown keys, wrong types, keys that cannot be honoured.

use std::collections::BTreeSet;

use serde_json::Value;

use super::diagnostics::Report;
use super::keys::{DYNAMIC, Key, Kind, LOCAL, UNSUPPORTED, UNSUPPORTED_DYNAMIC, Unsupported};
use super::tree::{Data, Node};
use super::units;

/// Checks a local configuration, `bootstrap.dcs` included.
pub fn check_local(root: &Node, report: &mut Report) {
    let Data::Map(_) = root.data else {
        report.error(&root.at, "", "is not a mapping of keys to values");
        return;
    };
    let mut walk = Walk { report, own: own_sections(root) };
    walk.section(root, LOCAL, "", true);
    unsupported(root, UNSUPPORTED, "", report);
    unsupported(root, UNSUPPORTED_DYNAMIC, "", report);
    if let Some(dcs) = root.get("bootstrap").and_then(|b| b.get("dcs")) {
        unsupported(dcs, UNSUPPORTED_DYNAMIC, "bootstrap.dcs", report);
    }
}

/// Checks a dynamic configuration.
pub fn check_dynamic(root: &Node, report: &mut Report) {
    let Data::Map(_) = root.data else {
        report.error(&root.at, "", "is not a mapping of keys to values");
        return;
    };
    let mut own = BTreeSet::new();
    methods(root, "", &mut own);
    Walk { report, own }.section(root, DYNAMIC, "", true);
    unsupported(root, UNSUPPORTED_DYNAMIC, "", report);
}

/// Paths of the sections that users name themselves: replica methods, the bootstrap method.
fn own_sections(root: &Node) -> BTreeSet<String> {
    let mut own = BTreeSet::new();
    methods(root, "", &mut own);
    if let Some(bootstrap) = root.get("bootstrap") {
        if let Some(Data::Scalar(Value::String(name))) = bootstrap.get("method").map(|n| &n.data) {
            own.insert(format!("bootstrap.{name}"));
        }
        if let Some(dcs) = bootstrap.get("dcs") {
            methods(dcs, "bootstrap.dcs", &mut own);
        }
    }
    let dynamic: Vec<String> = own
        .iter()
        .filter_map(|path| path.strip_prefix("bootstrap.dcs.").map(str::to_owned))
        .collect();
    own.extend(dynamic);
    own
}

fn methods(root: &Node, prefix: &str, own: &mut BTreeSet<String>) {
    let Some(postgresql) = root.get("postgresql") else { return };
    for list in ["create_replica_methods", "create_replica_method"] {
        if let Some(Data::List(items)) = postgresql.get(list).map(|n| &n.data) {
            for item in items {
                if let Data::Scalar(Value::String(name)) = &item.data {
                    own.insert(join(&join(prefix, "postgresql"), name));
                }
            }
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn unsupported(root: &Node, table: &[Unsupported], prefix: &str, report: &mut Report) {
    for line in table {
        let mut node = Some(root);
        for name in line.path.split('.') {
            node = node.and_then(|n| n.get(name));
        }
        let Some(node) = node.filter(|n| !n.is_null()) else { continue };
        let value = units::text(&node.to_value());
        if line.unless.is_some_and(|fine| fine.split('|').any(|one| value.as_deref() == Some(one)))
        {
            continue;
        }
        let path = join(prefix, line.path);
        if line.error {
            report.error(&node.at, &path, line.why);
        } else {
            report.warn(&node.at, &path, line.why);
        }
    }
}

struct Walk<'a> {
    report: &'a mut Report,
    own: BTreeSet<String>,
}

impl Walk<'_> {
    fn section(&mut self, node: &Node, keys: &'static [Key], path: &str, closed: bool) {
        let Data::Map(entries) = &node.data else {
            self.report.error(&node.at, path, "must be a mapping of keys to values");
            return;
        };
        for entry in entries {
            let path_of = join(path, &entry.name);
            match keys.iter().find(|k| k.name == entry.name) {
                Some(_) if entry.node.is_null() => {}
                Some(key) => self.value(&entry.node, key.kind, &path_of),
                None if self.own.contains(&path_of) => {
                    self.value(&entry.node, Kind::Mapping, &path_of);
                }
                None if closed => {
                    let why = unknown(&entry.name, path, keys);
                    self.report.warn(&entry.at, &path_of, why);
                }
                None => {}
            }
        }
    }

    fn value(&mut self, node: &Node, kind: Kind, path: &str) {
        match kind {
            Kind::Section(keys) => return self.section(node, keys, path, true),
            Kind::Open(keys) => return self.section(node, keys, path, false),
            Kind::TextList => return self.texts(node, path),
            Kind::TextOrList if matches!(node.data, Data::List(_)) => {
                return self.texts(node, path);
            }
            Kind::TextMap => return self.text_map(node, path),
            Kind::Text | Kind::TextOrList | Kind::Address => self.respelled(node, path),
            _ => {}
        }
        if let Err(why) = check(node, kind) {
            self.report.error(&node.at, path, why);
        }
    }

    fn respelled(&mut self, node: &Node, path: &str) {
        if node.respelled {
            let message = "is read as a number that prints differently; put it in quotes";
            self.report.warn(&node.at, path, message);
        }
    }

    fn texts(&mut self, node: &Node, path: &str) {
        let Data::List(items) = &node.data else {
            self.report.error(&node.at, path, "must be a list");
            return;
        };
        for (i, item) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            self.respelled(item, &path);
            if let Err(why) = check(item, Kind::Text) {
                self.report.error(&item.at, &path, why);
            }
        }
    }

    fn text_map(&mut self, node: &Node, path: &str) {
        let Data::Map(entries) = &node.data else {
            self.report.error(&node.at, path, "must be a mapping of names to values");
            return;
        };
        for entry in entries {
            if !matches!(entry.node.data, Data::Scalar(_)) {
                let path = join(path, &entry.name);
                self.report.error(&entry.node.at, &path, "must be a single value");
            }
        }
    }
}

fn unknown(name: &str, path: &str, keys: &[Key]) -> String {
    if path.is_empty() && DYNAMIC.iter().any(|k| k.name == name) {
        return "is ignored here: it belongs into bootstrap.dcs or the dynamic configuration"
            .into();
    }
    match keys.iter().find(|k| distance_is_one(k.name, name)) {
        Some(key) => format!("unknown key, ignored; did you mean `{}`?", key.name),
        None => "unknown key, ignored".to_owned(),
    }
}

/// One character too many, too few, or another one.
fn distance_is_one(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let prefix = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[prefix..], &b[prefix..]);
    let suffix = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    a.len() - suffix <= 1 && b.len() - suffix <= 1
}

fn check(node: &Node, kind: Kind) -> Result<(), String> {
    let value = node.to_value();
    match kind {
        Kind::Text | Kind::TextOrList => match value {
            Value::String(_) | Value::Number(_) => Ok(()),
            Value::Bool(b) => Err(format!("is the boolean {b}, text is needed: put it in quotes")),
            _ => Err("must be text".into()),
        },
        Kind::Bool => units::boolean(&value).map(drop).ok_or("must be on or off".into()),
        Kind::Int { min, max } => in_range(units::integer(&value, ""), min, max, "a whole number"),
        Kind::Quantity { base, min } => {
            let what = if base == units::BYTES {
                "a size (a number of bytes, or with unit: 16MB)"
            } else {
                "a duration (a number of seconds, or with unit: 30min)"
            };
            in_range(units::integer(&value, base), min, i64::MAX, what)
        }
        Kind::Fraction => match value.as_f64() {
            Some(f) if (0.0..1.0).contains(&f) => Ok(()),
            _ => Err("must be a fraction of at least 0 and below 1".into()),
        },
        Kind::OneOf(words) => {
            let word = units::text(&value).unwrap_or_default();
            if words.iter().any(|w| w.eq_ignore_ascii_case(&word)) {
                return Ok(());
            }
            let boolean = units::boolean(&value).map(|b| if b { "on" } else { "off" });
            if boolean.is_some_and(|b| words.contains(&b)) {
                return Ok(());
            }
            Err(format!("must be one of {}", words.join(", ")))
        }
        Kind::Address => match &value {
            Value::String(s) => super::address::parse(s).map(drop),
            _ => Err("must be host:port".into()),
        },
        Kind::Options if value.is_array() || value.is_object() => Ok(()),
        Kind::Options => Err("must be a list or a mapping of options".into()),
        Kind::Mapping if value.is_object() => Ok(()),
        Kind::Mapping => Err("must be a mapping of names to values".into()),
        Kind::Any | Kind::TextList | Kind::TextMap | Kind::Section(_) | Kind::Open(_) => Ok(()),
    }
}

fn in_range(value: Option<i64>, min: i64, max: i64, what: &str) -> Result<(), String> {
    match value {
        None => Err(format!("must be {what}")),
        Some(v) if v < min => Err(format!("is {v}, must be at least {min}")),
        Some(v) if v > max => Err(format!("is {v}, must be at most {max}")),
        Some(_) => Ok(()),
    }
}
