//! Typed access to a tree that the schema has checked: what is absent or wrong reads as absent.

use std::collections::BTreeMap;

use serde_json::Value;

use super::tree::{Data, Node, Position};
use super::units;

/// A section, or nothing where it is absent.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    node: Option<&'a Node>,
}

impl<'a> Reader<'a> {
    pub fn new(node: &'a Node) -> Reader<'a> {
        Reader { node: Some(node) }
    }

    pub fn node(self, name: &str) -> Option<&'a Node> {
        self.node?.get(name).filter(|n| !n.is_null())
    }

    pub fn has(self, name: &str) -> bool {
        self.node(name).is_some()
    }

    pub fn is_present(self) -> bool {
        self.node.is_some()
    }

    pub fn sub(self, name: &str) -> Reader<'a> {
        Reader { node: self.node(name) }
    }

    /// Where the key stands; where it is absent, the section; else `otherwise`.
    pub fn at(self, name: &str, otherwise: &Position) -> Position {
        self.node(name).or(self.node).map_or_else(|| otherwise.clone(), |n| n.at.clone())
    }

    /// Text that is not empty.
    pub fn text(self, name: &str) -> Option<String> {
        match &self.node(name)?.data {
            Data::Scalar(v @ (Value::String(_) | Value::Number(_))) => {
                units::text(v).filter(|t| !t.is_empty())
            }
            _ => None,
        }
    }

    pub fn boolean(self, name: &str) -> Option<bool> {
        units::boolean(&self.node(name)?.to_value())
    }

    pub fn integer(self, name: &str, base: &str) -> Option<i64> {
        units::integer(&self.node(name)?.to_value(), base)
    }

    /// The texts of a list.
    pub fn texts(self, name: &str) -> Option<Vec<String>> {
        texts(&self.node(name)?.to_value())
    }

    /// The scalars of a mapping as text; null entries are left out.
    pub fn text_map(self, name: &str) -> BTreeMap<String, String> {
        self.node(name).map(|n| text_map(&n.to_value())).unwrap_or_default()
    }

    /// The section itself.
    pub fn whole(self) -> Option<Value> {
        self.node.map(Node::to_value)
    }

    pub fn value(self, name: &str) -> Option<Value> {
        self.node(name).map(Node::to_value)
    }
}

/// The texts of a list; `None` if it is none.
pub fn texts(value: &Value) -> Option<Vec<String>> {
    Some(value.as_array()?.iter().filter_map(units::text).collect())
}

/// The scalars of a mapping as text; null entries are left out.
pub fn text_map(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, v)| Some((name.clone(), units::text(v)?))).collect()
}
