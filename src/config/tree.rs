//! What a configuration is before anything is understood of it: a tree of JSON's values, each of
//! which knows where it was written.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Where something was written. Line and column count from 1; line 0: the source has no lines
/// (an environment variable).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub data: Data,
    pub at: Position,
    /// A number that does not print as it was written (`0644`, `1_000`, `1:30`): wherever text is
    /// meant this is a surprise.
    pub respelled: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Never an array or an object.
    Scalar(Value),
    List(Vec<Node>),
    /// Names are unique, in the order of their first appearance.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    pub at: Position,
    pub node: Node,
}

impl Node {
    /// A node that stands nowhere in particular within `at`.
    pub fn from_value(value: &Value, at: &Position) -> Node {
        let data = match value {
            Value::Array(items) => {
                Data::List(items.iter().map(|v| Node::from_value(v, at)).collect())
            }
            Value::Object(map) => Data::Map(
                map.iter()
                    .map(|(name, v)| Entry {
                        name: name.clone(),
                        at: at.clone(),
                        node: Node::from_value(v, at),
                    })
                    .collect(),
            ),
            scalar => Data::Scalar(scalar.clone()),
        };
        Node { data, at: at.clone(), respelled: false }
    }

    /// The bare value.
    pub fn to_value(&self) -> Value {
        match &self.data {
            Data::Scalar(v) => v.clone(),
            Data::List(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Data::Map(entries) => Value::Object(
                entries.iter().map(|e| (e.name.clone(), e.node.to_value())).collect::<Map<_, _>>(),
            ),
        }
    }

    pub fn is_null(&self) -> bool {
        self.data == Data::Scalar(Value::Null)
    }

    /// The value of a key of a mapping.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|e| e.name == name).map(|e| &e.node),
            _ => None,
        }
    }

    /// Merges `patch` over this tree by Patroni's rule: null deletes, mappings merge key by key,
    /// scalars that print alike stay what they were.
    pub fn patch(&mut self, patch: &Node) {
        let (Data::Map(base), Data::Map(changes)) = (&mut self.data, &patch.data) else {
            *self = patch.clone();
            return;
        };
        for change in changes {
            let found = base.iter().position(|e| e.name == change.name);
            match found {
                Some(i) if change.node.is_null() => drop(base.remove(i)),
                None if change.node.is_null() => {}
                Some(i) => base[i].node.patch(&change.node),
                None => base.push(change.clone()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patch_merges_by_key_and_null_deletes() {
        let at = Position { file: "f.yml".into(), line: 1, column: 1 };
        let tree = |value| Node::from_value(&value, &at);
        let mut base = tree(json!({"a": {"b": 1, "c": 2}, "d": [1]}));
        base.patch(&tree(json!({"a": {"b": null, "e": 3}, "d": [2], "x": null})));
        assert_eq!(base.to_value(), json!({"a": {"c": 2, "e": 3}, "d": [2]}));
    }
}
