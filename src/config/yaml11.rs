//! Reads YAML as Patroni does: PyYAML's `safe_load`, YAML 1.1. saphyr-parser gives the events,
//! `scalar` their meaning; here they become a tree that knows where each value was written.

use std::collections::BTreeMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::Value;

use super::scalar;
use super::tree::{Data, Entry, Node, Position};

/// More text than this is not a configuration.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Aliases multiply nodes; a document that grows beyond this is refused.
const NODES_MAX: usize = 100_000;
const DEPTH_MAX: usize = 64;

/// A parsed document.
#[derive(Clone, Debug)]
pub struct Document {
    pub root: Node,
    /// Keys written twice in one mapping: the last one counts.
    pub duplicates: Vec<(Position, String)>,
}

/// Why a text is not YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    pub at: Position,
    pub message: String,
}

/// Parses one document. An empty text is null.
///
/// # Errors
/// The first thing that PyYAML would refuse, with its position; also what is too large or too deep.
pub fn parse(text: &str, file: &Arc<str>) -> Result<Document, YamlError> {
    check_characters(text, file)?;
    let mut builder = Builder::new(file);
    let mut parser = Parser::new_from_str(text);
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|e| scan_error(text, &e, file))?;
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                return Err(builder.error(&span, "a second document begins: only one is read"));
            }
        }
        builder.event(event, &span)?;
    }
    let start = Position { file: Arc::clone(file), line: 1, column: 1 };
    let empty = Node { data: Data::Scalar(Value::Null), at: start, respelled: false };
    Ok(Document { root: builder.root.unwrap_or(empty), duplicates: builder.duplicates })
}

fn check_characters(text: &str, file: &Arc<str>) -> Result<(), YamlError> {
    let at = |line, column| Position { file: Arc::clone(file), line, column };
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("is longer than {TEXT_BYTES_MAX} bytes");
        return Err(YamlError { at: at(1, 1), message });
    }
    for (line, content) in text.split('\n').enumerate() {
        for (column, c) in content.chars().enumerate() {
            let control = c.is_control() && !matches!(c, '\t' | '\r' | '\u{85}');
            if control || matches!(c, '\u{FFFE}' | '\u{FFFF}') {
                let message = format!("control character {:#06x}", u32::from(c));
                return Err(YamlError { at: at(line + 1, column + 1), message });
            }
        }
    }
    Ok(())
}

fn scan_error(text: &str, error: &saphyr_parser::ScanError, file: &Arc<str>) -> YamlError {
    let at = |line, column| Position { file: Arc::clone(file), line, column };
    let line = error.marker().line().max(1);
    // A tab may be noticed at the end of the line before it.
    for (i, content) in text.lines().enumerate().skip(line - 1).take(2) {
        let indent = content.len() - content.trim_start().len();
        if let Some(tab) = content[..indent].find('\t') {
            let message = "a tab indents this line: YAML allows spaces only".to_owned();
            return YamlError { at: at(i + 1, tab + 1), message };
        }
    }
    let message = format!("not YAML: {}", error.info());
    YamlError { at: at(line, error.marker().col() + 1), message }
}

enum Frame {
    List { anchor: usize, at: Position, items: Vec<Node> },
    Map { anchor: usize, at: Position, merged: Vec<Entry>, own: Vec<Entry>, key: Option<Key> },
}

enum Key {
    Merge,
    Name(String, Position),
}

struct Builder<'a> {
    file: &'a Arc<str>,
    frames: Vec<Frame>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
    duplicates: Vec<(Position, String)>,
}

impl<'a> Builder<'a> {
    fn new(file: &'a Arc<str>) -> Builder<'a> {
        Builder {
            file,
            frames: Vec::new(),
            anchors: BTreeMap::new(),
            nodes: 0,
            root: None,
            duplicates: Vec::new(),
        }
    }

    fn at(&self, span: &Span) -> Position {
        let file = Arc::clone(self.file);
        Position { file, line: span.start.line(), column: span.start.col() + 1 }
    }

    fn error(&self, span: &Span, message: impl Into<String>) -> YamlError {
        YamlError { at: self.at(span), message: message.into() }
    }

    fn event(&mut self, event: Event, span: &Span) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(&text, style, anchor, tag.as_deref(), span)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| {
                    self.error(span, "this alias stands inside the value that it names")
                })?;
                self.push(node, span)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", span)?;
                let at = self.at(span);
                self.open(Frame::List { anchor, at, items: Vec::new() }, span)
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", span)?;
                let (at, merged, own) = (self.at(span), Vec::new(), Vec::new());
                self.open(Frame::Map { anchor, at, merged, own, key: None }, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, frame: Frame, span: &Span) -> Result<(), YamlError> {
        if self.frames.len() >= DEPTH_MAX {
            return Err(self.error(span, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.frames.push(frame);
        Ok(())
    }

    fn close(&mut self, span: &Span) -> Result<(), YamlError> {
        let (anchor, at, data) = match self.frames.pop() {
            Some(Frame::List { anchor, at, items }) => (anchor, at, Data::List(items)),
            Some(Frame::Map { anchor, at, merged, own, .. }) => {
                (anchor, at, Data::Map(self.join(merged, own)))
            }
            None => return Err(self.error(span, "not YAML: an end without a beginning")),
        };
        self.finish(Node { data, at, respelled: false }, anchor, span)
    }

    /// Merged keys first, then the mapping's own over them: a later one replaces an earlier one.
    fn join(&mut self, merged: Vec<Entry>, own: Vec<Entry>) -> Vec<Entry> {
        let mut index: BTreeMap<String, (usize, bool)> = BTreeMap::new();
        let mut joined: Vec<Entry> = Vec::with_capacity(merged.len() + own.len());
        let both = merged.into_iter().map(|e| (e, false)).chain(own.into_iter().map(|e| (e, true)));
        for (entry, is_own) in both {
            match index.get_mut(&entry.name) {
                Some((i, was_own)) => {
                    if is_own && *was_own {
                        self.duplicates.push((entry.at.clone(), entry.name.clone()));
                    }
                    *was_own = is_own;
                    joined[*i] = entry;
                }
                None => {
                    index.insert(entry.name.clone(), (joined.len(), is_own));
                    joined.push(entry);
                }
            }
        }
        joined
    }

    fn finish(&mut self, node: Node, anchor: usize, span: &Span) -> Result<(), YamlError> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.push(node, span)
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        span: &Span,
    ) -> Result<(), YamlError> {
        let tag = tag.filter(|t| !(is_non_specific(t) && style == ScalarStyle::Plain));
        let plain = style == ScalarStyle::Plain && tag.is_none();
        let as_key = matches!(self.frames.last(), Some(Frame::Map { key: None, .. }));
        if let (true, "<<", Some(Frame::Map { key: key @ None, .. })) =
            (plain, text, self.frames.last_mut())
        {
            *key = Some(Key::Merge);
            return Ok(());
        }
        let value = if plain && !(as_key && text == "=") {
            scalar::resolve(text).map_err(|why| self.error(span, why))?
        } else {
            tagged(text, tag).map_err(|why| self.error(span, why))?
        };
        let respelled = matches!(&value, Value::Number(n) if n.to_string() != text);
        let node = Node { data: Data::Scalar(value), at: self.at(span), respelled };
        self.finish(node, anchor, span)
    }

    fn check_tag(&self, tag: Option<&Tag>, own: &str, span: &Span) -> Result<(), YamlError> {
        match tag {
            None => Ok(()),
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == own => Ok(()),
            Some(_) => Err(self.error(span, "this tag has no meaning in a configuration")),
        }
    }

    /// A finished value goes where it belongs: document, list, key or value of a mapping.
    fn push(&mut self, node: Node, span: &Span) -> Result<(), YamlError> {
        self.nodes += count(&node);
        if self.nodes > NODES_MAX {
            return Err(self.error(span, format!("more than {NODES_MAX} values")));
        }
        let at = self.at(span);
        let fail = |message: &str| YamlError { at, message: message.to_owned() };
        match self.frames.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { merged, own, key, .. }) => match key.take() {
                None => {
                    let Data::Scalar(name) = &node.data else {
                        return Err(fail("a list or a mapping cannot be a key"));
                    };
                    *key = Some(Key::Name(key_text(name), node.at));
                }
                Some(Key::Name(name, at)) => own.push(Entry { name, at, node }),
                Some(Key::Merge) => {
                    let entries = merge_source(node).ok_or_else(|| {
                        fail("<< needs a mapping or a list of mappings (usually an *alias)")
                    })?;
                    merged.extend(entries);
                }
            },
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    match &node.data {
        Data::Scalar(_) => 1,
        Data::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Data::Map(entries) => 1 + entries.iter().map(|e| count(&e.node)).sum::<usize>(),
    }
}

/// The entries that `<<` brings; of a list, the first mapping that has a key wins.
fn merge_source(node: Node) -> Option<Vec<Entry>> {
    match node.data {
        Data::Map(entries) => Some(entries),
        Data::List(items) => {
            let mut merged = Vec::new();
            for item in items.into_iter().rev() {
                let Data::Map(entries) = item.data else { return None };
                merged.extend(entries);
            }
            Some(merged)
        }
        Data::Scalar(_) => None,
    }
}

/// A key that is no text is spelled as JSON spells it, as Python's `json.dumps` does.
fn key_text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// The lone `!`, which for PyYAML changes nothing.
fn is_non_specific(tag: &Tag) -> bool {
    tag.handle.is_empty() && tag.suffix == "!" || tag.handle == "!" && tag.suffix.is_empty()
}

fn tagged(text: &str, tag: Option<&Tag>) -> Result<Value, &'static str> {
    let Some(tag) = tag else { return Ok(Value::String(text.to_owned())) };
    if is_non_specific(tag) {
        return Ok(Value::String(text.to_owned()));
    }
    if !tag.is_yaml_core_schema() {
        return Err("this tag has no meaning in a configuration");
    }
    if tag.suffix == "str" {
        return Ok(Value::String(text.to_owned()));
    }
    let value = scalar::resolve(text)?;
    match (tag.suffix.as_str(), &value) {
        ("int", Value::Number(n)) if !n.is_f64() => Ok(value),
        ("float", Value::Number(n)) => Ok(n.as_f64().map_or(Value::Null, Value::from)),
        ("bool", Value::Bool(_)) | ("null", Value::Null) => Ok(value),
        ("int" | "float" | "bool" | "null", _) => Err("is not what its tag says"),
        _ => Err("this tag has no meaning in a configuration"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents and what PyYAML 6.0.3 made of them; `e`: it, or we, refuse (no JSON for it).
    const PYYAML: &str = include_str!("../../tests/data/yaml11.jsonl");

    fn read(text: &str) -> Result<Document, YamlError> {
        parse(text, &"f.yml".into())
    }

    fn message(text: &str) -> String {
        let e = read(text).unwrap_err();
        format!("{}:{} {}", e.at.line, e.at.column, e.message)
    }

    #[test]
    fn agrees_with_pyyaml() {
        for line in PYYAML.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let got = read(case["d"].as_str().unwrap()).map(|d| d.root.to_value()).ok();
            assert_eq!(got.as_ref(), case.get("v"), "{line}");
        }
    }

    #[test]
    fn positions_count_from_one_and_belong_to_the_value() {
        let doc = read("a:\n  b: [x, yy]\n  c: 0644\n").unwrap();
        let b = doc.root.get("a").and_then(|a| a.get("b")).unwrap();
        let Data::List(items) = &b.data else { panic!("a list") };
        assert_eq!((b.at.line, b.at.column), (2, 6));
        assert_eq!((items[1].at.line, items[1].at.column), (2, 10));
        let c = doc.root.get("a").and_then(|a| a.get("c")).unwrap();
        assert_eq!((c.respelled, items[0].respelled), (true, false));
    }

    #[test]
    fn duplicate_keys_are_reported_and_the_last_counts() {
        let doc = read("a: 1\nb: {c: 1, c: 2}\na: 3\n").unwrap();
        assert_eq!(doc.root.to_value(), serde_json::json!({"a": 3, "b": {"c": 2}}));
        let names: Vec<_> = doc.duplicates.iter().map(|(at, n)| (at.line, n.as_str())).collect();
        assert_eq!(names, [(2, "c"), (3, "a")]);
        let merged = read("x: &x {a: 1}\ny:\n  <<: *x\n  a: 2\n").unwrap();
        assert!(merged.duplicates.is_empty(), "overriding a merged key is no duplicate");
    }

    #[test]
    fn errors_say_where_and_what() {
        for (text, expected) in [
            ("a:\n\tb: 1\n", "a tab indents this line: YAML allows spaces only"),
            ("a: 1\n---\nb: 2\n", "a second document begins: only one is read"),
            ("a: 2001-12-14 21:59:43\n", "1:4 is a date with a time of day: put it in quotes"),
            ("a: \u{1}\n", "1:4 control character 0x0001"),
            ("a: &x [*x]\n", "this alias stands inside the value that it names"),
        ] {
            assert!(message(text).contains(expected), "{text:?}: {}", message(text));
        }
    }

    #[test]
    fn what_grows_without_bound_is_refused() {
        let deep = "[".repeat(80) + &"]".repeat(80);
        assert!(message(&deep).contains("nested deeper than"));
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let row = vec![format!("*a{}", i - 1); 10].join(", ");
            laughs += &format!("a{i}: &a{i} [{row}]\n");
        }
        assert!(message(&laughs).contains("more than 100000 values"));
    }
}
