//! The house rules, held by a test: which room may use which, what may stand where, how large
//! things may grow. Every rule is shown to fail on a bad example below.
//!
//! The checks read lines as rustfmt leaves them; they need no parser for that.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Which rooms a room may use. A room that is not listed is an error.
const DIRECTIONS: &[(&str, &[&str])] = &[
    (
        "agent",
        &[
            "api",
            "config",
            "core",
            "dcs",
            "discovery",
            "link",
            "postgres",
            "sys",
            "telemetry",
            "tls",
            "watchdog",
        ],
    ),
    ("api", &["config", "core", "sys", "tls"]),
    ("cli", &["api", "config", "core", "dcs", "discovery", "postgres", "sys", "watchdog"]),
    ("config", &["core"]),
    ("core", &[]),
    ("dcs", &["core", "sys"]),
    ("discovery", &["api", "config", "dcs"]),
    ("leftover", &["supervisor", "sys", "watchdog"]),
    ("link", &["core", "sys"]),
    ("postgres", &["core", "sys", "tls"]),
    ("pure", &[]),
    ("sim", &["core"]),
    ("supervisor", &["core", "link", "sys", "watchdog"]),
    ("sys", &["core"]),
    ("telemetry", &["config", "core", "sys"]),
    ("tls", &[]),
    ("watchdog", &["core", "sys"]),
];

/// Rooms that must stay small in what they pull in: the crates that they may use.
const CRATES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("link", &["libc", "nix", "thiserror"]),
    ("sim", &[]),
    ("supervisor", &["libc", "nix", "sd_notify", "signal_hook", "thiserror"]),
    ("sys", &["libc", "nix", "thiserror"]),
    ("watchdog", &["libc", "nix", "thiserror"]),
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;
/// Lines of code in what the safety of the data rests on: `supervisor`, `link` and `core::guard`.
const SUPERVISOR_LINES_MAX: usize = 3589;

/// The ratchet: rule, file, weight (occurrences, or lines for the size rules), reason. The weight
/// must be exact, so that an exception shrinks with the code and goes when it is not needed.
const EXCEPTIONS: &[(&str, &str, usize, &str)] = &[
    (
        "clock read",
        "src/dcs/race.rs",
        8,
        "tokio's timers count on tokio's Instant; no deadline of ours",
    ),
    (
        "clock read",
        "src/dcs/watch.rs",
        2,
        "tokio's timers count on tokio's Instant; no deadline of ours",
    ),
    (
        "crate",
        "src/link/agent_end.rs",
        1,
        "the agent's end is asynchronous; the supervisor's is not",
    ),
    ("line width", "src/dcs/documents/tests.rs", 6, "captured documents"),
];

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    rule: &'static str,
    path: String,
    line: usize,
    weight: usize,
    what: String,
}

#[test]
fn the_house_rules_hold() {
    let crates = dependencies(&read("Cargo.toml"));
    let mut findings = Vec::new();
    for path in rust_files("src") {
        let text = read(&path);
        match is_test(&path) {
            true => findings.extend(check_test(&path, &text)),
            false => findings.extend(check(&path, &text, &crates)),
        }
    }
    for path in rust_files("tests").into_iter().filter(|path| path != "tests/tidy.rs") {
        findings.extend(check_test(&path, &read(&path)));
    }
    let complaints = settle(&findings, EXCEPTIONS);
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn the_supervisor_stays_small() {
    let mut total = 0;
    for (room, counts) in [
        ("supervisor", (|path: &str| path.starts_with("src/supervisor/")) as fn(&str) -> bool),
        ("link", |path| path.starts_with("src/link/")),
        ("core::guard", |path| path.starts_with("src/core/guard")),
    ] {
        let files = rust_files("src").into_iter().filter(|path| counts(path) && !is_test(path));
        let lines: usize = files.map(|path| lines_of_code(&read(&path))).sum();
        println!("{room}: {lines} lines of code");
        total += lines;
    }
    println!("together: {total} of {SUPERVISOR_LINES_MAX}");
    assert!(total <= SUPERVISOR_LINES_MAX, "{total} lines: more than an afternoon's reading");
}

/// Findings minus exceptions, for people.
fn settle(findings: &[Finding], exceptions: &[(&str, &str, usize, &str)]) -> Vec<String> {
    let mut weights: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for finding in findings {
        *weights.entry((finding.rule, &finding.path)).or_default() += finding.weight;
    }
    let excused = |finding: &&Finding| {
        let weight = weights[&(finding.rule, finding.path.as_str())];
        exceptions.iter().any(|e| (e.0, e.1, e.2) == (finding.rule, &finding.path, weight))
    };
    let mut complaints: Vec<String> = findings
        .iter()
        .filter(|finding| !excused(finding))
        .map(|f| format!("{}:{}: {}: {}", f.path, f.line, f.rule, f.what))
        .collect();
    for (rule, path, weight, reason) in exceptions {
        let found = weights.get(&(*rule, *path)).copied().unwrap_or(0);
        if found != *weight || reason.is_empty() {
            complaints.push(format!("exception {rule}, {path}: {weight} stands, {found} found"));
        }
    }
    complaints
}

fn check(path: &str, text: &str, crates: &[String]) -> Vec<Finding> {
    let mut findings = check_test(path, text);
    let code = without_tests(&without_words(text));
    findings.extend(wrong_directions(path, &code));
    findings.extend(wrong_crates(path, &code, crates));
    findings.extend(forbidden(path, &code));
    findings.extend(too_long(path, &code));
    findings
}

/// What holds for tests, too.
fn check_test(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = too_wide(path, text);
    findings.extend(unfinished(path, text));
    findings
}

/// A file below `tests/`, one of tests beside its code, or one whose module is declared under
/// `#[cfg(test)]`.
fn is_test(path: &str) -> bool {
    let (directory, file) = path.rsplit_once('/').unwrap_or_default();
    let declared = format!("#[cfg(test)]\nmod {};", file.trim_end_matches(".rs"));
    let declares = |file: &str| {
        let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        fs::read_to_string(full).is_ok_and(|text| text.contains(&declared))
    };
    path.contains("/tests/")
        || path.ends_with("_tests.rs")
        || declares(&format!("{directory}/mod.rs"))
        || declares(&format!("{directory}.rs"))
}

/// `src/core/lease.rs` → `["core", "lease"]`.
fn module(path: &str) -> Vec<&str> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main")).collect()
}

fn too_wide(path: &str, text: &str) -> Vec<Finding> {
    let wide = text.lines().enumerate().filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
    wide.map(|(i, _)| finding("line width", path, i, 1, "more than 100 columns")).collect()
}

fn unfinished(path: &str, text: &str) -> Vec<Finding> {
    let signs = ["todo!", "unimplemented!", "FIXME"];
    occurrences("unfinished", path, text, &signs)
}

fn forbidden(path: &str, code: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    if !path.starts_with("src/sys/") {
        found.extend(occurrences("unsafe", path, code, &["unsafe "]));
    }
    if path != "src/sys/clock.rs" {
        let reads = ["Instant::now", "SystemTime::now", "clock_gettime", "Timestamp::now"];
        found.extend(occurrences("clock read", path, code, &reads));
        found.extend(occurrences("clock read", path, code, &["Zoned::now", ".elapsed()"]));
    }
    if matches!(module(path).first(), Some(&("core" | "sim"))) {
        found.extend(occurrences("unordered map", path, code, &["HashMap", "HashSet"]));
    }
    found.extend(occurrences("unwrap", path, code, &[".unwrap()", ".unwrap_err()"]));
    for (at, _) in code.match_indices(".expect(") {
        if !code[at + ".expect(".len()..].trim_start().starts_with("\"invariant: ") {
            let what = "the message must begin with `invariant: `";
            found.push(finding("expect", path, line_of(code, at), 1, what));
        }
    }
    found
}

fn wrong_directions(path: &str, code: &str) -> Vec<Finding> {
    let Some(room) = module(path).first().copied() else { return Vec::new() };
    let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == room) else {
        return vec![finding("direction", path, 0, 1, &format!("the room {room} is unknown"))];
    };
    let mut found = Vec::new();
    for (at, used) in rooms_used(code, module(path).len()) {
        if used != room && !allowed.contains(&used.as_str()) {
            let what = format!("{room} must not use {used}");
            found.push(finding("direction", path, line_of(code, at), 1, &what));
        }
    }
    found
}

/// Every path from the crate's root: after `crate::`, or after as many `super::` as the module is
/// deep, the names in braces included.
fn rooms_used(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for root in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in code.match_indices(&root) {
            let before = code[..at].chars().next_back();
            let rest = &code[at + root.len()..];
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let names = match rest.strip_prefix('{') {
                Some(group) => first_names(group),
                None => vec![identifier(rest)],
            };
            let rooms = names.into_iter().filter(|n| n.starts_with(|c: char| c.is_lowercase()));
            used.extend(rooms.map(|name| (at, name)));
        }
    }
    used
}

/// The first names of a braced list, nested braces skipped.
fn first_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut begins) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && c.is_alphabetic() => {
                names.push(identifier(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn wrong_crates(path: &str, code: &str, crates: &[String]) -> Vec<Finding> {
    let room = module(path).first().copied().unwrap_or_default();
    let Some((_, allowed)) = CRATES.iter().find(|(name, _)| *name == room) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for name in crates.iter().filter(|name| !allowed.contains(&name.as_str())) {
        for (at, _) in code.match_indices(&format!("{name}::")) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
                let what = format!("{room} must not use the crate {name}");
                found.push(finding("crate", path, line_of(code, at), 1, &what));
            }
        }
    }
    found
}

/// Crate names of `[dependencies]` as code spells them.
fn dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| Some(line.split_once(" =")?.0.replace('-', "_"))).collect()
}

fn too_long(path: &str, code: &str) -> Vec<Finding> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    if lines.len() > FILE_LINES_MAX {
        let what = format!("{} lines without tests", lines.len());
        found.push(finding("file length", path, 0, lines.len(), &what));
    }
    for (i, line) in lines.iter().enumerate() {
        let length = function_length(&lines[i..]);
        if length > FUNCTION_LINES_MAX {
            let what = format!("{length} lines: {}", line.trim());
            found.push(finding("function length", path, i, length, &what));
        }
    }
    found
}

/// Lines of the function that begins on the first line; 0 if none does, or it has no body.
fn function_length(lines: &[&str]) -> usize {
    let line = lines[0].trim_start();
    let mut words = line.split('(').next().unwrap_or_default().split(' ');
    if !words.any(|word| word == "fn") || words.next().is_none() {
        return 0;
    }
    let end = format!("{}}}", " ".repeat(lines[0].len() - line.len()));
    for (i, line) in lines.iter().enumerate() {
        if *line == end || (i == 0 && line.ends_with('}')) {
            return i + 1;
        }
        if line.ends_with(';') && !lines[..=i].iter().any(|line| line.contains('{')) {
            return 0;
        }
    }
    0
}

fn lines_of_code(text: &str) -> usize {
    let code = without_tests(&without_words(text));
    code.lines().filter(|line| !line.trim().is_empty()).count()
}

/// The text without items under `#[cfg(test)]`; their lines are removed.
fn without_tests(code: &str) -> String {
    let (mut kept, mut skipping) = (String::new(), None);
    for line in code.lines() {
        let indent = line.len() - line.trim_start().len();
        if skipping.is_none() && line.trim_start() == "#[cfg(test)]" {
            skipping = Some(indent);
        } else if let Some(wanted) = skipping {
            let last = line.ends_with(['}', ';', ',']);
            if indent == wanted && last && !line.trim().is_empty() {
                skipping = None;
            }
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The text without comments and without the contents of strings and characters (a message that
/// begins with `invariant: ` stays); line ends stay.
fn without_words(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = token(rest, code.chars().next_back());
        let word = &rest[..taken];
        let keeps = taken == c.len_utf8() || word.starts_with("\"invariant: ");
        if keeps {
            code.push_str(word);
        } else {
            // What follows a string of several lines must not look like the start of an item.
            let breaks = word.matches('\n').count();
            code.push_str(&format!("\n{}", " ".repeat(COLUMNS_MAX)).repeat(breaks));
            if !word.starts_with('/') {
                code.push_str("\"\"");
            }
        }
        rest = &rest[taken..];
    }
    code.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// How many bytes the comment, string or character at the start takes; else one character.
fn token(rest: &str, before: Option<char>) -> usize {
    let one = rest.chars().next().map_or(0, char::len_utf8);
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |at| at + 2);
    }
    if rest.starts_with('"') {
        return string_length(rest);
    }
    let raw = rest.strip_prefix('r').filter(|raw| raw.starts_with(['#', '"']));
    if let Some(raw) = raw.filter(|_| !before.is_some_and(|c| c.is_alphanumeric() && c != 'b')) {
        let marks = raw.len() - raw.trim_start_matches('#').len();
        if raw[marks..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(marks));
            let body = 1 + marks + 1;
            return rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len());
        }
    }
    if let Some(inner) = rest.strip_prefix('\'') {
        let length = match inner.strip_prefix('\\') {
            Some(escaped) => {
                let skipped = escaped.chars().next().map_or(0, char::len_utf8);
                escaped[skipped..].find('\'').map(|at| 2 + skipped + at + 1)
            }
            None => {
                let width = inner.chars().next().map_or(0, char::len_utf8);
                inner[width..].starts_with('\'').then_some(1 + width + 1)
            }
        };
        return length.unwrap_or(one);
    }
    one
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn occurrences(rule: &'static str, path: &str, text: &str, wanted: &[&str]) -> Vec<Finding> {
    let places = wanted.iter().flat_map(|w| text.match_indices(w));
    places.map(|(at, word)| finding(rule, path, line_of(text, at), 1, word)).collect()
}

fn finding(rule: &'static str, path: &str, line: usize, weight: usize, what: &str) -> Finding {
    Finding { rule, path: path.to_owned(), line: line + 1, weight, what: what.to_owned() }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count()
}

fn read(path: &str) -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
}

/// All Rust files below a directory, relative to the package.
fn rust_files(below: &str) -> Vec<String> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    let mut files = Vec::new();
    for entry in fs::read_dir(full).expect("a directory of the package").flatten() {
        let path = format!("{below}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            files.extend(rust_files(&path));
        } else if path.ends_with(".rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Each rule on a bad example, and what must pass.
mod examples {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let crates = ["nix".to_owned(), "serde_json".to_owned()];
        check(path, text, &crates).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn bad_examples_are_found() {
        let long = format!("fn long() {{\n{}}}\n", "    x();\n".repeat(FUNCTION_LINES_MAX));
        let cases = [
            ("direction", "src/core/a.rs", "use crate::sys::clock;\n"),
            ("direction", "src/dcs/a.rs", "use crate::{core::lsn::Lsn, postgres::X};\n"),
            ("direction", "src/dcs/a.rs", "fn f() {\n    crate::agent::go();\n}\n"),
            ("direction", "src/link/a.rs", "use super::super::dcs::Dcs;\n"),
            ("direction", "src/other/a.rs", "fn f() {}\n"),
            ("crate", "src/core/a.rs", "use serde_json::Value;\n"),
            ("crate", "src/supervisor/a.rs", "fn f(v: serde_json::Value) {}\n"),
            ("unsafe", "src/agent/a.rs", "fn f() {\n    unsafe { g() }\n}\n"),
            ("clock read", "src/agent/a.rs", "fn f() {\n    let t = Instant::now();\n}\n"),
            ("clock read", "src/sys/cgroup.rs", "fn f() {\n    SystemTime::now();\n}\n"),
            ("clock read", "src/cli/a.rs", "fn f() {\n    jiff::Zoned::now();\n}\n"),
            ("clock read", "src/cli/a.rs", "fn f() {\n    begun.elapsed();\n}\n"),
            ("unordered map", "src/core/a.rs", "use std::collections::HashMap;\n"),
            ("unwrap", "src/api/a.rs", "fn f() {\n    g().unwrap();\n}\n"),
            ("expect", "src/api/a.rs", "fn f() {\n    g().expect(\"works\");\n}\n"),
            ("unfinished", "src/api/a.rs", "fn f() {\n    todo!()\n}\n"),
            ("unfinished", "src/api/a.rs", "// FIXME\n"),
            ("line width", "src/api/a.rs", &"x".repeat(COLUMNS_MAX + 1)),
            ("file length", "src/api/a.rs", &"x();\n".repeat(FILE_LINES_MAX + 1)),
            ("function length", "src/api/a.rs", &long),
        ];
        for (rule, path, text) in cases {
            assert_eq!(rules(path, text), [rule], "{text}");
        }
    }

    #[test]
    fn good_examples_pass() {
        let tests = "#[cfg(test)]\nmod tests {\n    fn f() {\n        g().unwrap();\n    }\n}\n";
        let strings = tests.replace("g()", "g(\"\n}\n\");\n        g()");
        let strings = strings.as_str();
        let pointer = format!("const F: fn() = x;\n{}", "x();\n".repeat(FUNCTION_LINES_MAX));
        let cases = [
            ("src/agent/a.rs", "use crate::{core::lsn::Lsn, dcs::{self, Dcs}};\n"),
            ("src/core/rules/a.rs", "use super::super::cluster::Cluster;\n"),
            ("src/api/a.rs", "fn f() {\n    g().expect(\n        \"invariant: x\",\n    );\n}\n"),
            ("src/api/a.rs", "// never .unwrap() here\nconst A: &str = \"Instant::now\";\n"),
            ("src/api/a.rs", "const A: char = '\"';\nconst B: &str = r#\"\".unwrap()\"#;\n"),
            ("src/api/a.rs", "fn f<'a>(x: &'a str) -> &'a str {\n    x\n}\n"),
            ("src/sys/clock.rs", "fn f() {\n    unsafe { clock_gettime() };\n}\n"),
            ("src/supervisor/a.rs", "use nix::unistd::Pid;\n"),
            ("src/main.rs", "use crate::supervisor::run;\n"),
            ("src/api/a.rs", tests),
            ("src/api/a.rs", strings),
            ("src/api/a.rs", &pointer),
        ];
        for (path, text) in cases {
            assert_eq!(rules(path, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn an_exception_is_exact() {
        let found =
            [finding("unwrap", "src/a.rs", 0, 1, "x"), finding("unwrap", "src/a.rs", 1, 1, "x")];
        assert_eq!(settle(&found, &[]).len(), 2);
        assert_eq!(settle(&found, &[("unwrap", "src/a.rs", 2, "reason")]), [""; 0]);
        assert_eq!(settle(&found, &[("unwrap", "src/a.rs", 3, "reason")]).len(), 3);
        assert_eq!(settle(&[], &[("unwrap", "src/a.rs", 1, "reason")]).len(), 1);
        assert_eq!(settle(&found, &[("unwrap", "src/a.rs", 2, "")]).len(), 1);
    }

    #[test]
    fn the_code_of_a_module_is_counted_without_words_and_tests() {
        let text = "//! Doc.\n\nfn f() {\n    // why\n    g();\n}\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(lines_of_code(text), 3);
    }

    #[test]
    fn dependencies_are_read_from_the_manifest() {
        let manifest =
            "[package]\nname = \"x\"\n[dependencies]\nsd-notify = \"1\"\n[dev]\na = \"1\"\n";
        assert_eq!(dependencies(manifest), ["sd_notify"]);
    }
}
