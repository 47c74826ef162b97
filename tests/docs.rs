//! The documents say what the code does: lists that stand in both are compared.

use std::collections::BTreeSet;
use std::fs;

use pgvigil::config::keys::{DYNAMIC, Key, Kind, LOCAL, UNSUPPORTED, UNSUPPORTED_DYNAMIC};
use pgvigil::core::decide::rules;
use pgvigil::sim::invariant::{INVARIANTS, Invariant};

pub fn read(path: &str) -> String {
    let whole = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{whole}: {error}"))
}

/// The rows of the table below this heading, whose first cell is code.
pub fn rows(text: &str, heading: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('#'));
    lines.filter(|line| line.starts_with("| `")).map(str::to_owned).collect()
}

pub fn same(found: &[String], wanted: &[String], file: &str) {
    assert!(
        found == wanted,
        "{file} is behind the code; its table should be\n{}",
        wanted.join("\n")
    );
}

#[test]
fn every_rule_is_documented_in_its_order() {
    let wanted: Vec<String> =
        rules().map(|rule| format!("| `{}` | {} |", rule.id, rule.meaning)).collect();
    same(&rows(&read("docs/RULES.md"), "## The table"), &wanted, "docs/RULES.md");
}

#[test]
fn every_promise_is_documented() {
    let row = |i: &Invariant| format!("| `{}` | {} |", i.name, i.sentence);
    let wanted: Vec<String> = INVARIANTS.iter().map(row).collect();
    same(&rows(&read("docs/SAFETY.md"), "## The promises"), &wanted, "docs/SAFETY.md");
}

#[test]
fn what_is_not_honoured_is_documented() {
    let text = read("docs/CONFIGURATION.md");
    for (heading, error) in [("## Refused", true), ("## Warned", false)] {
        let lines = UNSUPPORTED.iter().chain(UNSUPPORTED_DYNAMIC).filter(|u| u.error == error);
        let wanted: Vec<String> = lines
            .map(|u| {
                let unless = u.unless.map(|v| format!(" (but `{v}` is fine)")).unwrap_or_default();
                format!("| `{}`{unless} | {} |", u.path, u.why)
            })
            .collect();
        same(&rows(&text, heading), &wanted, "docs/CONFIGURATION.md");
    }
}

#[test]
fn every_key_is_documented() {
    let text = read("docs/CONFIGURATION.md");
    let mut missing = BTreeSet::new();
    look(LOCAL, &text, &mut missing);
    look(DYNAMIC, &text, &mut missing);
    assert!(missing.is_empty(), "docs/CONFIGURATION.md does not name {missing:?}");
}

/// Names stand in code spans, with or without their section.
fn look(keys: &[Key], text: &str, missing: &mut BTreeSet<&'static str>) {
    for key in keys {
        if !["`", "."].iter().any(|before| text.contains(&format!("{before}{}`", key.name))) {
            missing.insert(key.name);
        }
        if let Kind::Section(keys) | Kind::Open(keys) = key.kind {
            look(keys, text, missing);
        }
    }
}

/// A path in a document leads somewhere.
#[test]
fn links_and_file_names_are_right() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut wrong = Vec::new();
    let decisions = fs::read_dir(format!("{root}/docs/decisions")).expect("docs/decisions");
    let decisions =
        decisions.map(|e| format!("docs/decisions/{}", e.unwrap().file_name().display()));
    let pages = [
        "README.md",
        "docs/ARCHITECTURE.md",
        "docs/COMPATIBILITY.md",
        "docs/CONFIGURATION.md",
        "docs/FENCING.md",
        "docs/INSTALL.md",
        "docs/MIGRATING.md",
        "docs/OPERATIONS.md",
        "docs/RULES.md",
        "docs/SAFETY.md",
    ];
    for page in pages.map(str::to_owned).into_iter().chain(decisions) {
        let text = read(&page);
        let dir = page.rsplit_once('/').map_or("", |(dir, _)| dir);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !fs::exists(format!("{root}/{dir}/{path}")).unwrap() {
                wrong.push(format!("{page}: {link}"));
            }
        }
        let names = text.split('`').skip(1).step_by(2).filter(|s| s.ends_with(".rs"));
        for name in names.filter(|name| !name.contains([' ', '*', '{'])) {
            let found = [name.to_owned(), format!("src/{name}")];
            if !found.iter().any(|path| fs::exists(format!("{root}/{path}")).unwrap()) {
                wrong.push(format!("{page}: {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
