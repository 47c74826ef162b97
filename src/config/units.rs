//! PostgreSQL's grammar of settings: numbers with units, booleans, and how values print.

use serde_json::Value;

/// Base unit of a setting that is a size: bytes.
pub const BYTES: &str = "B";
/// Base unit of a setting that is a duration: seconds.
pub const SECONDS: &str = "s";
/// The same, as etcd counts.
pub const MILLISECONDS: &str = "ms";

/// `on/true/yes/1` and `off/false/no/0` in any case; `None` for anything else.
pub fn boolean(value: &Value) -> Option<bool> {
    match text(value)?.to_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A whole number of `base` units (`B kB MB GB TB`, `us ms s min h d`; "" = a bare number).
/// Decimal, octal (`0644`), hexadecimal; a fraction is rounded half to even, first to the next
/// smaller unit, as PostgreSQL does. `None`: not a number, unknown unit, out of range.
pub fn integer(value: &Value, base: &str) -> Option<i64> {
    if value.is_boolean() {
        return None;
    }
    parse_integer(&text(value)?, base)
}

/// As `integer`, from text.
pub fn parse_integer(text: &str, base: &str) -> Option<i64> {
    let text = text.trim();
    let (number, rest) = match split_integer(text) {
        Some((value, rest)) if !rest.starts_with(['.', 'e', 'E']) => (value as f64, rest),
        _ => split_float(text)?,
    };
    let unit = rest.trim_start();
    let number = if unit.is_empty() { number } else { convert(number, unit, base)? };
    let rounded = number.round_ties_even();
    // Beyond 2^53 a float no longer counts single units.
    (rounded.abs() <= 9_007_199_254_740_992.0).then_some(rounded as i64)
}

fn split_integer(text: &str) -> Option<(i64, &str)> {
    let (sign, body) = match text.strip_prefix('-') {
        Some(body) => (-1, body),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = body.strip_prefix("0x").or_else(|| body.strip_prefix("0X"));
    let (radix, digits) = match hex {
        Some(digits) => (16, digits),
        None if body.starts_with('0') && body[1..].starts_with(|c: char| c.is_digit(8)) => {
            (8, body)
        }
        None => (10, body),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let value = i64::from_str_radix(&digits[..end], radix).ok()?;
    Some((sign * value, &digits[end..]))
}

fn split_float(text: &str) -> Option<(f64, &str)> {
    let bytes = text.as_bytes();
    let digits =
        |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = digits(usize::from(text.starts_with(['+', '-'])));
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits((end + 1 + signed).min(bytes.len()));
        if exponent > end + 1 + signed {
            end = exponent;
        }
    }
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Units from large to small with their size in the smallest of the family.
const SIZES: [(&str, f64); 5] = [
    ("TB", 1_099_511_627_776.0),
    ("GB", 1_073_741_824.0),
    ("MB", 1_048_576.0),
    ("kB", 1024.0),
    ("B", 1.0),
];
const TIMES: [(&str, f64); 6] = [
    ("d", 86_400_000_000.0),
    ("h", 3_600_000_000.0),
    ("min", 60_000_000.0),
    ("s", 1_000_000.0),
    ("ms", 1000.0),
    ("us", 1.0),
];

fn convert(number: f64, unit: &str, base: &str) -> Option<f64> {
    let family: &[(&str, f64)] =
        if SIZES.iter().any(|(name, _)| *name == base) { &SIZES } else { &TIMES };
    let at = |name: &str| family.iter().position(|(n, _)| *n == name);
    let (from, to) = (at(unit)?, at(base)?);
    let value = number * family[from].1 / family[to].1;
    match family.get(from + 1) {
        Some((_, smaller)) => {
            let step = smaller / family[to].1;
            Some((value / step).round_ties_even() * step)
        }
        None => Some(value),
    }
}

/// A scalar as text: `on`/`off` for booleans, because that is valid for every boolean GUC.
/// `None` for null, lists and mappings.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Bool(b) => Some(if *b { "on" } else { "off" }.to_owned()),
        Value::Number(n) => Some(n.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A scalar as Python's `str` prints it, for arguments of users' scripts (`True`, `None`).
pub fn python_text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn integers_with_units() {
        for (value, base, expected) in [
            (json!("1"), "", Some(1)),
            (json!(" 0x400 MB "), "kB", Some(1_048_576)),
            (json!("0644"), "", Some(420)),
            (json!("08"), "", Some(8)),
            (json!("-1"), BYTES, Some(-1)),
            (json!(50), "", Some(50)),
            (json!(1.5), "", Some(2)),
            (json!("1MB"), "kB", Some(1024)),
            (json!("1MB"), "", None),
            (json!("1mb"), "kB", None),
            (json!("16MB"), BYTES, Some(16_777_216)),
            (json!("1000 ms"), SECONDS, Some(1)),
            (json!("30min"), SECONDS, Some(1800)),
            (json!("1d"), SECONDS, Some(86_400)),
            (json!("4097.4kB"), "kB", Some(4097)),
            (json!("4097.5kB"), "kB", Some(4098)),
            (json!("1e3"), "", Some(1000)),
            (json!(".5min"), SECONDS, Some(30)),
            (json!("1MB"), SECONDS, None),
            (json!("nonsense"), "", None),
            (json!(""), "", None),
            (json!("-"), "", None),
            (json!("1e400"), "", None),
            (json!("99999999999999999999"), "", None),
            (json!(true), "", None),
            (json!(null), "", None),
        ] {
            assert_eq!(integer(&value, base), expected, "{value} in {base:?}");
        }
    }

    #[test]
    fn booleans() {
        for yes in [json!(true), json!(1), json!("ON"), json!("Yes"), json!("1")] {
            assert_eq!(boolean(&yes), Some(true), "{yes}");
        }
        for no in [json!(false), json!(0), json!("off")] {
            assert_eq!(boolean(&no), Some(false), "{no}");
        }
        for neither in [json!(null), json!("maybe"), json!(2), json!([])] {
            assert_eq!(boolean(&neither), None, "{neither}");
        }
    }
}
