//! Numbers with PostgreSQL's units, as query parameters and request bodies carry them.

const BYTES: &[(&str, f64)] = &[
    ("B", 1.0),
    ("kB", 1024.0),
    ("MB", 1_048_576.0),
    ("GB", 1_073_741_824.0),
    ("TB", 1_099_511_627_776.0),
];

const SECONDS: &[(&str, f64)] =
    &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)];

/// Bytes; a number without unit is bytes. `None`: not such a number.
pub fn bytes(text: &str) -> Option<i64> {
    parse(text, BYTES)
}

/// Seconds, rounded; a number without unit is seconds. `None`: not such a number.
pub fn seconds(text: &str) -> Option<i64> {
    parse(text, SECONDS)
}

fn parse(text: &str, units: &[(&str, f64)]) -> Option<i64> {
    let (value, rest) = number(text.trim())?;
    let unit = rest.trim();
    let factor = match unit {
        "" => 1.0,
        _ => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    // The cast saturates: an absurdly large limit is the largest one.
    Some((value * factor).round() as i64)
}

/// The number that the text begins with, as C's strtol and strtod read it, and what follows it.
fn number(text: &str) -> Option<(f64, &str)> {
    let unsigned = text.trim_start_matches(['+', '-']);
    let sign_len = text.len() - unsigned.len();
    if sign_len > 1 {
        return None;
    }
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    let hex = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X"));
    if let Some(hex) = hex.filter(|h| h.starts_with(|c: char| c.is_ascii_hexdigit())) {
        let (digits, rest) = split(hex, |c| c.is_ascii_hexdigit());
        return Some((sign * i64::from_str_radix(digits, 16).ok()? as f64, rest));
    }
    let (digits, rest) = split(unsigned, |c| c.is_ascii_digit());
    if !rest.starts_with(['.', 'e', 'E']) && digits.len() > 1 && digits.starts_with('0') {
        return Some((sign * i64::from_str_radix(digits, 8).ok()? as f64, rest));
    }
    let (decimal, rest) = split(unsigned, |c| c.is_ascii_digit() || c == '.');
    let (decimal, rest) = exponent(unsigned, decimal, rest);
    Some((sign * decimal.parse::<f64>().ok()?, rest))
}

/// Takes an exponent (`e-3`) along if one follows the decimal number.
fn exponent<'a>(whole: &'a str, decimal: &'a str, rest: &'a str) -> (&'a str, &'a str) {
    let Some(tail) = rest.strip_prefix(['e', 'E']) else { return (decimal, rest) };
    let (digits, after) =
        split(tail.strip_prefix(['+', '-']).unwrap_or(tail), |c| c.is_ascii_digit());
    if digits.is_empty() {
        return (decimal, rest);
    }
    (&whole[..whole.len() - after.len()], after)
}

fn split(text: &str, accept: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !accept(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_bytes_and_seconds_as_postgresql_does() {
        let cases = [
            ("0", Some(0)),
            ("10MB", Some(10_485_760)),
            (" 1 kB ", Some(1024)),
            ("1.5kB", Some(1536)),
            ("1e3", Some(1000)),
            ("0x10", Some(16)),
            ("010", Some(8)),
            ("-5", Some(-5)),
            ("99999999TB", Some(i64::MAX)),
            ("1mb", None),
            ("5s", None),
            ("", None),
            ("MB", None),
            ("--1", None),
            ("1.2.3", None),
            ("0x", None),
            ("1e", None),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
        for (text, expected) in [("5", Some(5)), ("2min", Some(120)), ("1500ms", Some(2))] {
            assert_eq!(seconds(text), expected, "{text:?}");
        }
    }
}
