//! JSON as Python's `json.dumps` writes it: scripts compare these bytes.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// Separators `", "` and `": "`, everything outside printable ASCII escaped.
pub fn python(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, Python);
    value.serialize(&mut serializer).expect("invariant: a JSON value serialises into memory");
    String::from_utf8(out).expect("invariant: the output is ASCII")
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            if matches!(c, ' '..='~') {
                out.write_all(&[c as u8])?;
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_the_bytes_of_python() {
        let cases = [
            (json!({}), "{}"),
            (json!([]), "[]"),
            (json!({"b": 1, "a": [1, null, true, 0.5]}), r#"{"b": 1, "a": [1, null, true, 0.5]}"#),
            (json!("\u{e9}\u{1f600}\u{7f}"), r#""\u00e9\ud83d\ude00\u007f""#),
            (json!("a\"\\/\n\u{1}"), r#""a\"\\/\n\u0001""#),
        ];
        for (value, expected) in cases {
            assert_eq!(python(&value), expected);
        }
    }
}
