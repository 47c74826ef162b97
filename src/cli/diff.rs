//! Unified differences with the choices of Python's difflib, so that `edit-config` shows what
//! patronictl shows.

/// Lines of context around a change.
const CONTEXT: usize = 3;

/// A run of lines in the old text and what stands in its place in the new one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    equal: bool,
    old: (usize, usize),
    new: (usize, usize),
}

/// The difference with empty file names, one entry a line; empty if the texts are equal.
pub fn unified(old: &str, new: &str) -> Vec<String> {
    let old: Vec<&str> = old.lines().collect();
    let new: Vec<&str> = new.lines().collect();
    let mut lines = Vec::new();
    for hunk in hunks(&spans(&old, &new)) {
        if lines.is_empty() {
            lines.extend(["--- ".to_owned(), "+++ ".to_owned()]);
        }
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
        let old_range = range(first.old.0, last.old.1);
        let new_range = range(first.new.0, last.new.1);
        lines.push(format!("@@ -{old_range} +{new_range} @@"));
        for span in hunk {
            if span.equal {
                lines.extend(old[span.old.0..span.old.1].iter().map(|line| format!(" {line}")));
            } else {
                lines.extend(old[span.old.0..span.old.1].iter().map(|line| format!("-{line}")));
                lines.extend(new[span.new.0..span.new.1].iter().map(|line| format!("+{line}")));
            }
        }
    }
    lines
}

/// As `diff -u` writes a range: one line has no length, an empty one starts a line earlier.
fn range(start: usize, end: usize) -> String {
    match end - start {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        length => format!("{},{length}", start + 1),
    }
}

/// The whole of both texts as alternating equal and changed spans.
fn spans(old: &[&str], new: &[&str]) -> Vec<Span> {
    let mut blocks = Vec::new();
    matching(old, new, (0, old.len()), (0, new.len()), &mut blocks);
    blocks.push((old.len(), new.len(), 0));
    let mut spans: Vec<Span> = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (a, b, length) in blocks {
        if i < a || j < b {
            spans.push(Span { equal: false, old: (i, a), new: (j, b) });
        }
        (i, j) = (a + length, b + length);
        match spans.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.equal => (last.old.1, last.new.1) = (i, j),
            _ => spans.push(Span { equal: true, old: (a, i), new: (b, j) }),
        }
    }
    spans
}

/// The longest common block, then the same on either side of it.
fn matching(
    old: &[&str],
    new: &[&str],
    in_old: (usize, usize),
    in_new: (usize, usize),
    blocks: &mut Vec<(usize, usize, usize)>,
) {
    let Some((a, b, length)) = longest(old, new, in_old, in_new) else { return };
    matching(old, new, (in_old.0, a), (in_new.0, b), blocks);
    blocks.push((a, b, length));
    matching(old, new, (a + length, in_old.1), (b + length, in_new.1), blocks);
}

/// The longest block; among equals the one that starts first in the old text, then in the new.
fn longest(
    old: &[&str],
    new: &[&str],
    in_old: (usize, usize),
    in_new: (usize, usize),
) -> Option<(usize, usize, usize)> {
    let mut best = None;
    let mut best_length = 0;
    // lengths[j] = length of the common block that ends at the previous old line and new line j.
    let mut lengths = vec![0; in_new.1 + 1];
    for (i, old_line) in old.iter().enumerate().take(in_old.1).skip(in_old.0) {
        let mut next = vec![0; in_new.1 + 1];
        for (j, new_line) in new.iter().enumerate().take(in_new.1).skip(in_new.0) {
            if old_line != new_line {
                continue;
            }
            let length = lengths[j] + 1;
            next[j + 1] = length;
            if length > best_length {
                best_length = length;
                best = Some((i + 1 - length, j + 1 - length, length));
            }
        }
        lengths = next;
    }
    best
}

/// Changes with their context; those that are close together share a hunk.
fn hunks(spans: &[Span]) -> Vec<Vec<Span>> {
    let mut hunks: Vec<Vec<Span>> = Vec::new();
    let mut current: Vec<Span> = Vec::new();
    for (i, span) in spans.iter().enumerate() {
        if !span.equal {
            current.push(*span);
            continue;
        }
        let (first, last) = (i == 0, i + 1 == spans.len());
        let length = span.old.1 - span.old.0;
        let head = Span {
            old: (span.old.0, span.old.1.min(span.old.0 + CONTEXT)),
            new: (span.new.0, span.new.1.min(span.new.0 + CONTEXT)),
            ..*span
        };
        let tail = Span {
            old: (span.old.0.max(span.old.1.saturating_sub(CONTEXT)), span.old.1),
            new: (span.new.0.max(span.new.1.saturating_sub(CONTEXT)), span.new.1),
            ..*span
        };
        if first {
            current.push(tail);
        } else if last {
            current.push(head);
        } else if length > 2 * CONTEXT {
            current.push(head);
            hunks.push(std::mem::replace(&mut current, vec![tail]));
        } else {
            current.push(*span);
        }
    }
    if current.iter().any(|span| !span.equal) {
        hunks.push(current);
    }
    hunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(old: &str, new: &str) -> String {
        unified(old, new).join("\n")
    }

    const CONFIG: &str = "loop_wait: 3\nmaximum_lag_on_failover: 1048576\npostgresql:\n  \
        parameters:\n    max_connections: 50\n    wal_level: logical\n  use_pg_rewind: true\n\
        retry_timeout: 5\nttl: 20\n";

    #[test]
    fn equals_captured_output() {
        let new = CONFIG.replace("50", "60");
        assert_eq!(
            diff(CONFIG, &new),
            "--- \n+++ \n@@ -2,7 +2,7 @@\n maximum_lag_on_failover: 1048576\n postgresql:\n   \
             parameters:\n-    max_connections: 50\n+    max_connections: 60\n     wal_level: \
             logical\n   use_pg_rewind: true\n retry_timeout: 5"
        );
        let with = CONFIG.replace("logical\n", "logical\n    work_mem: 4MB\n");
        assert_eq!(
            diff(&with, CONFIG),
            "--- \n+++ \n@@ -4,7 +4,6 @@\n   parameters:\n     max_connections: 50\n     \
             wal_level: logical\n-    work_mem: 4MB\n   use_pg_rewind: true\n retry_timeout: 5\n \
             ttl: 20"
        );
        let sync = CONFIG.replace("ttl", "synchronous_mode: true\nttl");
        assert_eq!(
            diff(CONFIG, &sync),
            "--- \n+++ \n@@ -6,4 +6,5 @@\n     wal_level: logical\n   use_pg_rewind: true\n \
             retry_timeout: 5\n+synchronous_mode: true\n ttl: 20"
        );
    }

    #[test]
    fn ranges_and_hunks_equal_difflib() {
        assert_eq!(diff(CONFIG, CONFIG), "");
        assert_eq!(diff("", "a\n"), "--- \n+++ \n@@ -0,0 +1 @@\n+a");
        assert_eq!(diff("a\nb\n", ""), "--- \n+++ \n@@ -1,2 +0,0 @@\n-a\n-b");
        let old: String = (0..20).map(|i| format!("{i}\n")).collect();
        let new = old.replacen("1\n", "x\n", 1).replace("18\n", "y\n");
        assert_eq!(
            diff(&old, &new),
            "--- \n+++ \n@@ -1,5 +1,5 @@\n 0\n-1\n+x\n 2\n 3\n 4\n@@ -16,5 +16,5 @@\n 15\n 16\n \
             17\n-18\n+y\n 19"
        );
    }
}
