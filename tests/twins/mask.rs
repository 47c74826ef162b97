//! What two answers to one question cannot have in common is replaced by a sign for its kind, so
//! that everything else, order and spaces included, can be compared.

/// Of these fields the value differs from moment to moment or from member to member. Numbers and
/// texts stay distinguishable.
const FIELDS: &[&str] = &[
    "postmaster_start_time",
    "dcs_last_seen",
    "location",
    "received_location",
    "replayed_location",
    "replayed_timestamp",
    "timeline",
];

/// Of these metrics, too.
const METRICS: &[&str] = &[
    "patroni_postmaster_start_time",
    "patroni_xlog_location",
    "patroni_xlog_received_location",
    "patroni_xlog_replayed_location",
    "patroni_xlog_replayed_timestamp",
    "patroni_postgres_timeline",
    "patroni_dcs_last_seen",
];

pub fn mask(answer: &str) -> String {
    let mut text = answer.to_owned();
    for number in 1..=3 {
        text = text.replace(&format!("10.77.0.1{number}"), "10.77.0.1x");
        text = names(&text, number);
    }
    // Null, or zero, when nothing was replayed since PostgreSQL's start.
    text = text.replace("\"replayed_timestamp\": null", "\"replayed_timestamp\": \"<text>\"");
    for field in FIELDS {
        text = values(&text, field);
    }
    metrics(&times(&text))
}

/// Zero stays: it says that the value does not apply.
fn metrics(text: &str) -> String {
    let line = |line: &str| match line.split_once('{').zip(line.rsplit_once("} ")) {
        Some(((name, _), (labels, value)))
            if METRICS.contains(&name) && (value != "0" || name.ends_with("timestamp")) =>
        {
            format!("{labels}}} <number>")
        }
        _ => line.to_owned(),
    };
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

/// The member's name, where it stands by itself.
fn names(text: &str, number: u8) -> String {
    let name = format!("m{number}");
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(&name) {
        let (before, found) = rest.split_at(at);
        let after = &found[name.len()..];
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let alone = !before.chars().next_back().is_some_and(word) && !after.starts_with(word);
        out.push_str(before);
        out.push_str(if alone { "mX" } else { &name });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The value of a JSON field: `"<text>"` or `<number>`; `null` and lists stay.
fn values(text: &str, field: &str) -> String {
    let key = format!("\"{field}\": ");
    let mut parts = text.split(&key);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(&key);
        let quoted = part.strip_prefix('"').and_then(|rest| rest.find('"').map(|end| end + 2));
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        match (quoted, digits) {
            (Some(end), _) => {
                out.push_str("\"<text>\"");
                out.push_str(&part[end..]);
            }
            (None, 0) => out.push_str(part),
            (None, end) => {
                out.push_str("<number>");
                out.push_str(&part[end..]);
            }
        }
    }
    out
}

/// What a command prints of timelines and positions, and all of it after a change of the leader:
/// what members are doing at that instant is a matter of luck.
pub fn positions(text: &str) -> String {
    let text = text.split_inclusive('\n').map(position_line).collect::<String>();
    match text.split_once("Successfully ") {
        Some((before, after)) => {
            let told = after.lines().next().unwrap_or_default();
            format!("{before}Successfully {told}\n<the members now>\n")
        }
        None => text,
    }
}

fn position_line(line: &str) -> String {
    let words = line.split_inclusive([' ', '\t', '"', ',', '\n']).map(|word| {
        let lsn = word.trim_end_matches([' ', '\t', '"', ',', '\n']);
        let hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
        match lsn.split_once('/') {
            Some((high, low)) if hex(high) && hex(low) => word.replacen(lsn, "<lsn>", 1),
            _ => word.to_owned(),
        }
    });
    let line = values(&words.collect::<String>(), "TL");
    // The fifth column of a table, the sixth of separated values.
    for (separator, column) in [("|", 5), ("\t", 5)] {
        let mut cells: Vec<&str> = line.split(separator).collect();
        let number = |cell: &&&str| cell.trim().parse::<u32>().is_ok();
        if cells.get(column).filter(number).is_some() {
            cells[column] = " TL ";
            return cells.join(separator);
        }
    }
    line
}

/// `2026-11-21 10:24:12`, with a `T`, a fraction and an offset from UTC if they are there.
fn times(text: &str) -> String {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00";
    let bytes = text.as_bytes();
    let fits = |at: usize| {
        bytes.get(at..at + SHAPE.len()).is_some_and(|found| {
            found.iter().zip(SHAPE).all(|(&b, &s)| match s {
                b'0' => b.is_ascii_digit(),
                b' ' => b == b' ' || b == b'T',
                _ => b == s,
            })
        })
    };
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let (mut out, mut from, mut at) = (String::new(), 0, 0);
    while at < bytes.len() {
        if !fits(at) || text[at..].starts_with("2100") {
            at += 1;
            continue;
        }
        out.push_str(&text[from..at]);
        out.push_str("<time>");
        at += SHAPE.len();
        if bytes.get(at) == Some(&b'.') && digit(at + 1) {
            at += 1;
            while digit(at) {
                at += 1;
            }
        }
        from = at;
    }
    out.push_str(&text[from..]);
    out
}

/// Without the object `vigil` that stands last in a JSON object; `None` if there is none.
pub fn without_vigil(text: &str) -> Option<String> {
    let at = text.find(", \"vigil\": {")?;
    let mut depth = 0;
    let end = text[at..].find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == '}' && depth == 0
    })?;
    Some(format!("{}{}", &text[..at], &text[at + end + 1..]))
}

/// Without the lines of these metrics; `None` if there are none.
pub fn without_metrics(text: &str, named: impl Fn(&str) -> bool) -> Option<String> {
    let of = |line: &&str| {
        let line = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        line.split([' ', '{']).next().is_some_and(&named)
    };
    let kept: Vec<&str> = text.split('\n').filter(|line| !of(line)).collect();
    let kept = kept.join("\n");
    (kept != text).then_some(kept)
}

/// Without what is ours alone, which changes from moment to moment.
pub fn without_own(text: &str) -> String {
    let text = without_vigil(text).unwrap_or_else(|| text.to_owned());
    without_metrics(&text, |name| name.starts_with("pgvigil_")).unwrap_or(text)
}

#[test]
fn only_what_must_differ_is_masked() {
    let text = "{\"name\": \"m1\", \"mem1\": \"m10\", \"host\": \"10.77.0.12\", \
                \"dcs_last_seen\": 17, \"at\": \"2026-11-21 10:24:12.23+00:00\", \"n\": 3}";
    let masked = "{\"name\": \"mX\", \"mem1\": \"m10\", \"host\": \"10.77.0.1x\", \
                  \"dcs_last_seen\": <number>, \"at\": \"<time>+00:00\", \"n\": 3}";
    assert_eq!(mask(text), masked);
    assert_eq!(mask("\"replayed_timestamp\": null"), "\"replayed_timestamp\": \"<text>\"");
    assert_eq!(mask("patroni_xlog_location{a=\"b\"} 9\nx{} 9"), {
        "patroni_xlog_location{a=\"b\"} <number>\nx{} 9"
    });
    let row = "| m | h | Leader | running |  2 |  0/4024270 |";
    assert_eq!(positions(row), "| m | h | Leader | running | TL |  <lsn> |");
    assert_eq!(positions("lab\tm\th\tLeader\trunning\t2\t0/1\n"), {
        "lab\tm\th\tLeader\trunning\t TL \t<lsn>\n"
    });
    let done = "<time> Successfully switched over to \"mX\"\n| a table";
    assert!(positions(done).ends_with("over to \"mX\"\n<the members now>\n"));
    let ours = "{\"a\": 1, \"vigil\": {\"b\": {}, \"c\": 2}}";
    assert_eq!(without_vigil(ours).as_deref(), Some("{\"a\": 1}"));
    assert_eq!(mask("at 2100-01-01T00:00:00+00:00"), "at 2100-01-01T00:00:00+00:00");
}
