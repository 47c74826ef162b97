//! Prints YAML as PyYAML's `safe_dump(sort_keys, block style, width 200)` does, which is how
//! `patronictl show-config` and `edit-config` show a configuration. serde_yaml quotes and folds
//! in other ways, and scripts compare this output.

use serde_json::{Map, Value};

use super::scalar;

/// Lines are folded at the first space beyond this column, as patronictl has it.
const WIDTH: usize = 200;
/// Longer keys get the form `? key`.
const SIMPLE_KEY_CHARS: usize = 128;

/// One document; ends with a line end.
pub fn to_yaml(value: &Value) -> String {
    let mut emitter = Emitter { out: String::new(), column: 0 };
    match value {
        Value::Object(map) if !map.is_empty() => emitter.mapping(map, 0, true),
        Value::Array(list) if !list.is_empty() => emitter.sequence(list, 0, true),
        other => {
            emitter.scalar(other, 2, false);
            let plain =
                !other.is_array() && !other.is_object() && !emitter.out.starts_with(['\'', '"']);
            if plain {
                // The end of a bare scalar at the top has to be marked.
                emitter.out.push_str("\n...");
            }
        }
    }
    emitter.out.push('\n');
    emitter.out
}

struct Emitter {
    out: String,
    /// Characters on the current line.
    column: usize,
}

impl Emitter {
    fn write(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn new_line(&mut self, indent: usize) {
        self.out.push('\n');
        self.column = 0;
        self.write(&" ".repeat(indent));
    }

    /// `first`: the cursor already stands where the first key goes.
    fn mapping(&mut self, map: &Map<String, Value>, indent: usize, mut first: bool) {
        let mut entries: Vec<_> = map.iter().collect();
        entries.sort_by_key(|(name, _)| *name);
        for (name, value) in entries {
            if !std::mem::take(&mut first) {
                self.new_line(indent);
            }
            let simple = !name.is_empty()
                && name.chars().count() < SIMPLE_KEY_CHARS
                && !name.contains(BREAKS);
            if simple {
                self.string(name, indent, true);
            } else {
                self.write("? ");
                self.string(name, indent + 2, false);
                self.new_line(indent);
            }
            self.write(":");
            match value {
                Value::Object(map) if !map.is_empty() => self.mapping(map, indent + 2, false),
                // A list stands at its key's own indentation.
                Value::Array(list) if !list.is_empty() => self.sequence(list, indent, false),
                other => {
                    self.write(" ");
                    self.scalar(other, indent + 2, false);
                }
            }
        }
    }

    fn sequence(&mut self, list: &[Value], indent: usize, mut first: bool) {
        for value in list {
            if !std::mem::take(&mut first) {
                self.new_line(indent);
            }
            self.write("- ");
            match value {
                Value::Object(map) if !map.is_empty() => self.mapping(map, indent + 2, true),
                Value::Array(list) if !list.is_empty() => self.sequence(list, indent + 2, true),
                other => self.scalar(other, indent + 2, false),
            }
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize, key: bool) {
        match value {
            Value::String(s) => self.string(s, indent, key),
            Value::Number(n) if n.is_f64() => self.write(&float(n.as_f64().unwrap_or_default())),
            Value::Array(_) => self.write("[]"),
            Value::Object(_) => self.write("{}"),
            other => self.write(&other.to_string()),
        }
    }

    /// `indent`: of the lines that continue a folded text; keys are not folded.
    fn string(&mut self, text: &str, indent: usize, key: bool) {
        let shape = Shape::of(text);
        if shape.plain && scalar::is_text(text) {
            self.plain(text, indent, key);
        } else if shape.single_quoted {
            self.single_quoted(text, indent, key);
        } else {
            self.double_quoted(text, indent, key);
        }
    }

    fn plain(&mut self, text: &str, indent: usize, key: bool) {
        for piece in pieces(text) {
            if piece == " " && self.column > WIDTH && !key {
                self.new_line(indent);
            } else {
                self.write(piece);
            }
        }
    }

    fn single_quoted(&mut self, text: &str, indent: usize, key: bool) {
        self.write("'");
        let pieces: Vec<&str> = pieces(text).collect();
        for (i, piece) in pieces.iter().enumerate() {
            let inside = i > 0 && i + 1 < pieces.len();
            if *piece == " " && self.column > WIDTH && inside && !key {
                self.new_line(indent);
            } else if piece.contains(BREAKS) {
                // One break is read as a space: it takes two to mean one.
                if piece.starts_with('\n') {
                    self.out.push('\n');
                }
                self.out.push_str(piece);
                self.column = 0;
                self.write(&" ".repeat(indent));
            } else {
                self.write(&piece.replace('\'', "''"));
            }
        }
        self.write("'");
    }

    fn double_quoted(&mut self, text: &str, indent: usize, key: bool) {
        self.write("\"");
        let chars: Vec<char> = text.chars().collect();
        // `pending` characters are not written yet: a fold may come before them.
        let mut pending = String::new();
        for (i, c) in chars.iter().enumerate() {
            let escaped = escape(*c);
            if let Some(escaped) = &escaped {
                self.write(&std::mem::take(&mut pending));
                self.write(escaped);
            }
            // PyYAML counts an escape that it has just written as one column less.
            let boundary = *c == ' ' || pending.is_empty();
            let column = self.column + pending.chars().count() - usize::from(escaped.is_some());
            if i > 0 && i + 1 < chars.len() && boundary && column > WIDTH && !key {
                self.write(&std::mem::take(&mut pending));
                self.write("\\");
                self.new_line(indent);
                let next = if escaped.is_some() { chars[i + 1] } else { *c };
                if next == ' ' {
                    self.write("\\");
                }
            }
            if escaped.is_none() {
                pending.push(*c);
            }
        }
        self.write(&pending);
        self.write("\"");
    }
}

const BREAKS: [char; 4] = ['\n', '\u{85}', '\u{2028}', '\u{2029}'];

/// Runs of spaces, runs of line breaks, and the words between them.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let class = |c: char| if c == ' ' { 0 } else { 1 + usize::from(BREAKS.contains(&c)) };
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = class(rest.chars().next()?);
        let end = rest.find(|c| class(c) != first).unwrap_or(rest.len());
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        Some(piece)
    })
}

/// Which ways of writing a text its characters permit, whatever it would be read as.
struct Shape {
    plain: bool,
    single_quoted: bool,
}

impl Shape {
    fn of(text: &str) -> Shape {
        let chars: Vec<char> = text.chars().collect();
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || BREAKS.contains(c));
        let special = chars.iter().any(|c| is_special(*c));
        let around = |first: &[char], second: &[char]| {
            chars.windows(2).any(|w| first.contains(&w[0]) && second.contains(&w[1]))
        };
        let space_break = around(&[' '], &BREAKS);
        let break_space = around(&BREAKS, &[' ']);
        let plain = !edge(chars.first())
            && !edge(chars.last())
            && !special
            && !text.contains(BREAKS)
            && !has_indicator(text, &chars);
        Shape { plain, single_quoted: !space_break && !break_space && !special }
    }
}

/// Characters that PyYAML writes only as escapes (with `allow_unicode`).
fn is_special(c: char) -> bool {
    let printable = matches!(c, '\n' | ' '..='~' | '\u{85}' | '\u{A0}'..='\u{FFFD}')
        || ('\u{10000}'..'\u{10FFFF}').contains(&c);
    !printable || c == '\u{FEFF}'
}

fn has_indicator(text: &str, chars: &[char]) -> bool {
    let space_at = |i: usize| {
        chars.get(i).is_none_or(|c| matches!(c, '\0' | ' ' | '\t' | '\r') || BREAKS.contains(c))
    };
    if text.starts_with("---") || text.starts_with("...") {
        return true;
    }
    chars.iter().enumerate().any(|(i, c)| match (i, c) {
        (0, '?' | ':' | '-') => space_at(1),
        (0, c) => "#,[]{}&*!|>'\"%@`".contains(*c),
        (_, ':') => space_at(i + 1),
        (_, '#') => space_at(i - 1),
        _ => false,
    })
}

fn escape(c: char) -> Option<String> {
    let short = match c {
        '\0' => '0',
        '\u{07}' => 'a',
        '\u{08}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{0B}' => 'v',
        '\u{0C}' => 'f',
        '\r' => 'r',
        '\u{1B}' => 'e',
        '"' | '\\' => c,
        '\u{85}' => 'N',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        ' '..='~' => return None,
        '\u{A0}'..='\u{FFFD}' if c != '\u{FEFF}' => return None,
        _ => {
            let code = u32::from(c);
            return Some(match code {
                0..=0xFF => format!("\\x{code:02X}"),
                0x100..=0xFFFF => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            });
        }
    };
    Some(format!("\\{short}"))
}

/// As Python's `repr`, with the point that YAML 1.1 wants before an exponent.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if value == 0.0 || (-4..16).contains(&exponent) {
        return format!("{value:?}");
    }
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}{point}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values and what PyYAML 6.0.3 printed for them (width 200, allow_unicode, block style).
    const PYYAML: &str = include_str!("../../tests/data/emit.jsonl");

    #[test]
    fn prints_as_pyyaml() {
        for line in PYYAML.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            assert_eq!(to_yaml(&case["v"]), case["y"].as_str().unwrap(), "{line}");
        }
    }
}
