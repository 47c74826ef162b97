//! `tests/core/*.txt`: what a member sees, in words, and what it decides then. One file for each
//! block of rules. `REWRITE=1 cargo test -p pgvigil-core decisions::` writes the answers anew; read
//! the difference before you keep it. The words are explained in `tests/core/README`.

mod line;
mod view;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pgvigil_core::core::candidates;
use pgvigil_core::core::decide::{decide, rules};
use pgvigil_core::core::decision::Decision;
use pgvigil_core::core::lsn::Lsn;
use pgvigil_core::core::view::{Memory, View};

use line::Line;

/// Begins an answer.
const ANSWER: &str = "-> ";

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/core");
    let entries = fs::read_dir(&directory).expect("tests/core");
    let paths = entries.map(|entry| entry.expect("an entry of tests/core").path());
    let mut files: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    files
}

/// The file with its answers as they are now, and the rules that fired, each with its place.
fn play(file: &str, text: &str) -> (String, Vec<(&'static str, String)>) {
    let (mut out, mut fired) = (String::new(), Vec::new());
    let mut view = None;
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let at = format!("tests/core/{file}:{}", number + 1);
        if line.starts_with(ANSWER) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line.starts_with("== ") {
            view = None;
        } else if !line.is_empty() && !line.starts_with('#') {
            view::change(&mut view, Line::new(&at, line));
        }
        let ends = lines.peek().is_none_or(|(_, next)| {
            next.is_empty() || next.starts_with(ANSWER) || next.starts_with("== ")
        });
        if let (Some(view), true) = (&mut view, ends && !line.is_empty()) {
            out.push_str(&answer(view, line, &at, &mut fired));
        }
    }
    (out, fired)
}

fn answer(
    view: &mut View,
    line: &str,
    at: &str,
    fired: &mut Vec<(&'static str, String)>,
) -> String {
    if line == "candidates" {
        let all = candidates::overview(view).into_iter();
        return all.map(|c| format!("{ANSWER}{}\n", candidate(&c))).collect();
    }
    let decision = decide(view);
    fired.push((decision.rule, at.to_owned()));
    let text = tell(view, &decision);
    view.memory = decision.memory;
    text
}

fn candidate(c: &candidates::Candidacy) -> String {
    let behind = c.behind_bytes.map_or(String::new(), |bytes| format!(", {bytes} bytes behind"));
    let obstacles =
        if c.obstacles.is_empty() { "may lead".to_owned() } else { c.obstacles.join("; ") };
    format!("{}{behind}: {obstacles}", c.name)
}

/// The decision in lines: rule and sentence, actions, what changes in the carry-over, the pause.
fn tell(view: &View, decision: &Decision) -> String {
    let mut lines = vec![format!("{}: {}", decision.rule, decision.why)];
    lines.extend(decision.actions.iter().map(|action| format!("  {}", plain(view, action))));
    let (old, new) = (parts(view, &view.memory), parts(view, &decision.memory));
    let changed = new.iter().filter(|part| !old.contains(part));
    lines.extend(changed.map(|part| format!("  remember {part}")));
    if decision.renew_until != view.now.plus(view.settings.ttl) {
        lines.push("  do not renew the lease".to_owned());
    }
    if decision.wake_after != view.settings.loop_wait {
        lines.push(format!("  look again after {:?}", decision.wake_after));
    }
    lines.iter().map(|line| format!("{ANSWER}{line}\n")).collect()
}

/// The fields of the carry-over.
fn parts(view: &View, memory: &Memory) -> Vec<String> {
    let text = plain(view, memory);
    let inner = text.trim_start_matches("Memory { ").trim_end_matches(" }");
    let (mut parts, mut depth, mut quoted) = (vec![String::new()], 0, false);
    for c in inner.chars() {
        match c {
            '"' => quoted = !quoted,
            '{' | '(' | '[' if !quoted => depth += 1,
            '}' | ')' | ']' if !quoted => depth -= 1,
            ',' if depth == 0 && !quoted => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("one at least").push(c);
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

/// As Rust prints it, with times as distances from now, positions as PostgreSQL prints them, and
/// tenures as `lease/revision`.
fn plain(view: &View, value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let text = replace(&text, "Boot(", ")", |nanos| {
        let nanos: u64 = nanos.parse().expect("a number");
        let apart = |later: u64, earlier: u64| {
            std::time::Duration::from_nanos(later.saturating_sub(earlier))
        };
        let now = view.now.0;
        match nanos {
            same if same == now => "now".to_owned(),
            past if past < now => format!("{:?} ago", apart(now, past)),
            coming => format!("in {:?}", apart(coming, now)),
        }
    });
    let text = replace(&text, "Lsn(", ")", |position| {
        Lsn(position.parse().expect("a number")).to_string()
    });
    replace(&text, "Tenure { lease_id: ", " }", |rest| rest.replace(", mod_revision: ", "/"))
}

fn replace(text: &str, begin: &str, end: &str, with: impl Fn(&str) -> String) -> String {
    let mut parts = text.split(begin);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inner, rest) = part.split_once(end).expect("a closed value");
        out.push_str(&with(inner));
        out.push_str(rest);
    }
    out
}

#[test]
fn every_answer_is_as_written() {
    let mut wrong = Vec::new();
    for path in files() {
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a file of tests/core");
        let (new, _) = play(&file, &text);
        if new == text {
            continue;
        }
        if std::env::var_os("REWRITE").is_some() {
            fs::write(&path, &new).expect("a file of tests/core can be written");
            continue;
        }
        let pairs = text.lines().zip(new.lines());
        let first = pairs.enumerate().find(|(_, (old, new))| old != new);
        let (line, (old, new)) = first.unwrap_or((text.lines().count(), ("(the end)", "more")));
        wrong.push(format!("tests/core/{file}:{}:\n  {old}\n  is now\n  {new}", line + 1));
    }
    assert!(wrong.is_empty(), "REWRITE=1 writes anew:\n{}", wrong.join("\n"));
}

/// A rule stands in the file of its block, at least once.
#[test]
fn every_rule_has_a_case() {
    let mut fired = BTreeSet::new();
    for path in files() {
        let block = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a file of tests/core");
        let (_, rules) = play(&block, &text);
        fired.extend(rules.into_iter().map(|(rule, _)| (block.clone(), rule)));
    }
    let blocks = [("work", "safety"), ("stop", "release")];
    let missing: Vec<&str> = rules()
        .filter(|rule| {
            let prefix = rule.id.split('.').next().expect("a prefix");
            let block = blocks.iter().find(|(of, _)| *of == prefix).map_or(prefix, |b| b.1);
            !fired.contains(&(block.to_owned(), rule.id))
        })
        .map(|rule| rule.id)
        .collect();
    assert!(missing.is_empty(), "rules without a case in the file of their block: {missing:?}");
}

#[test]
fn every_rule_has_its_own_name_and_a_meaning() {
    let mut seen = BTreeSet::new();
    for rule in rules() {
        assert!(seen.insert(rule.id), "{} twice", rule.id);
        assert!(!rule.meaning.is_empty() && rule.id.contains('.'), "{}", rule.id);
    }
}
