//! Configuration that another program wrote: a second writer of YAML (serde_yaml) spells, quotes
//! and folds in its own ways, and every value comes back as it was.

use std::sync::Arc;

use pgvigil::config::yaml11::parse;
use serde_json::Value;

#[test]
fn what_another_writer_writes_is_read_as_it_was_meant() {
    let cases = include_str!("data/emit.jsonl");
    for (number, line) in (1..).zip(cases.lines()) {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = serde_yaml::to_string(&case["v"]).unwrap();
        let read = parse(&text, &Arc::from("test")).map(|document| document.root.to_value());
        assert_eq!(read.ok().as_ref(), Some(&case["v"]), "case {number}:\n{text}");
    }
}
