//! What a plain YAML scalar means to PyYAML: YAML 1.1 with PyYAML's own regular expressions.

use serde_json::{Number, Value};

/// Resolves an unquoted scalar as PyYAML's `safe_load` does.
///
/// Dates stay text, as Patroni would print them. The error says why PyYAML would fail on the
/// scalar, or what we do not represent (a time of day, infinity, integers beyond 64 bits).
pub fn resolve(text: &str) -> Result<Value, &'static str> {
    if let Some(word) = word(text) {
        return Ok(word);
    }
    if let Some(value) = integer(text)? {
        return Ok(value);
    }
    if let Some(value) = float(text)? {
        return Ok(value);
    }
    if is_date_time(text) {
        return Err("is a date with a time of day: put it in quotes");
    }
    match text {
        "=" | "<<" => Err("has a special meaning here: put it in quotes"),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// Whether PyYAML reads the unquoted scalar as text.
pub fn is_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let date = bytes.len() == 10
        && bytes.iter().enumerate().all(|(i, b)| match i {
            4 | 7 => *b == b'-',
            _ => b.is_ascii_digit(),
        });
    !date && matches!(resolve(text), Ok(Value::String(_)))
}

fn word(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Some(Value::Bool(true))
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Some(Value::Bool(false))
        }
        _ => None,
    }
}

fn unsign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn all(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(|b| b == b'_' || allowed(b))
}

/// The first character is a digit within `first`, the rest digits and underscores.
fn decimal(text: &str, first: std::ops::RangeInclusive<u8>) -> bool {
    text.as_bytes().first().is_some_and(|b| first.contains(b)) && all(text, |b| b.is_ascii_digit())
}

/// One part of a base-60 number after the first: `[0-5]?[0-9]`.
fn sexagesimal_part(text: &str) -> bool {
    match text.as_bytes() {
        [b] => b.is_ascii_digit(),
        [a, b] => (b'0'..=b'5').contains(a) && b.is_ascii_digit(),
        _ => false,
    }
}

fn integer(text: &str) -> Result<Option<Value>, &'static str> {
    let (negative, digits) = unsign(text);
    let (radix, body) = if let Some(body) = digits.strip_prefix("0b") {
        if !all(body, |b| matches!(b, b'0' | b'1')) {
            return Ok(None);
        }
        (2, body)
    } else if let Some(body) = digits.strip_prefix("0x") {
        if !all(body, |b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        (16, body)
    } else if digits.len() > 1 && digits.starts_with('0') {
        if !all(&digits[1..], |b| (b'0'..=b'7').contains(&b)) {
            return Ok(None);
        }
        (8, digits)
    } else if digits == "0" || decimal(digits, b'1'..=b'9') {
        (10, digits)
    } else {
        return sexagesimal(negative, digits);
    };
    let body: String = body.chars().filter(|c| *c != '_').collect();
    if body.is_empty() {
        return Err("is a number without digits");
    }
    let value = i128::from_str_radix(&body, radix).map_err(|_| TOO_LARGE)?;
    number(negative, value).map(Some)
}

const TOO_LARGE: &str = "is an integer beyond 64 bits: put it in quotes";

fn number(negative: bool, value: i128) -> Result<Value, &'static str> {
    let value = if negative { -value } else { value };
    if let Ok(v) = i64::try_from(value) {
        return Ok(Value::from(v));
    }
    u64::try_from(value).map(Value::from).map_err(|_| TOO_LARGE)
}

fn sexagesimal(negative: bool, digits: &str) -> Result<Option<Value>, &'static str> {
    let mut parts = digits.split(':');
    let head = parts.next().unwrap_or_default();
    let tail: Vec<&str> = parts.collect();
    if !decimal(head, b'1'..=b'9') || tail.is_empty() || !tail.iter().all(|p| sexagesimal_part(p)) {
        return Ok(None);
    }
    let mut value: i128 = head.replace('_', "").parse().map_err(|_| TOO_LARGE)?;
    for part in tail {
        let part: i128 = part.parse().map_err(|_| TOO_LARGE)?;
        value = value.checked_mul(60).and_then(|v| v.checked_add(part)).ok_or(TOO_LARGE)?;
    }
    number(negative, value).map(Some)
}

fn float(text: &str) -> Result<Option<Value>, &'static str> {
    let (negative, body) = unsign(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err("is not a finite number: put it in quotes");
    }
    let value = if let Some(value) = sexagesimal_float(body) {
        value
    } else if is_float(text, body) {
        body.replace('_', "").parse::<f64>().map_err(|_| "is not a number")?
    } else {
        return Ok(None);
    };
    let value = if negative { -value } else { value };
    let number = Number::from_f64(value).ok_or("is not a finite number: put it in quotes")?;
    Ok(Some(Value::Number(number)))
}

/// `1.5`, `1.`, `.5` (no sign before the point), exponents only with a sign: `1.0e+3`.
fn is_float(text: &str, body: &str) -> bool {
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return false;
        }
    }
    let Some((whole, fraction)) = mantissa.split_once('.') else { return false };
    if whole.is_empty() {
        return text.starts_with('.') && decimal(fraction, b'0'..=b'9');
    }
    decimal(whole, b'0'..=b'9') && (fraction.is_empty() || all(fraction, |b| b.is_ascii_digit()))
}

/// `1:30.5`: `[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*`.
fn sexagesimal_float(body: &str) -> Option<f64> {
    let (whole, fraction) = body.split_once('.')?;
    let mut parts: Vec<&str> = whole.split(':').collect();
    let last = parts.pop()?;
    let head = parts.first()?;
    if !decimal(head, b'0'..=b'9')
        || !parts[1..].iter().all(|p| sexagesimal_part(p))
        || !sexagesimal_part(last)
        || !(fraction.is_empty() || all(fraction, |b| b.is_ascii_digit()))
    {
        return None;
    }
    let mut value = 0.0;
    for part in parts {
        value = (value + part.replace('_', "").parse::<f64>().ok()?) * 60.0;
    }
    let last = format!("{last}.{fraction}").replace('_', "");
    Some(value + last.parse::<f64>().ok()?)
}

/// The timestamp forms with a time of day (a bare date is handled as text).
fn is_date_time(text: &str) -> bool {
    let Some(split) = text.find(['T', 't', ' ', '\t']) else { return false };
    let date: Vec<&str> = text[..split].split('-').collect();
    let time = text[split + 1..].trim_start_matches([' ', '\t']);
    let digits = |s: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit())
    };
    let [year, month, day] = date[..] else { return false };
    let clock: Vec<&str> = time.splitn(3, ':').collect();
    let [hour, minute, rest] = clock[..] else { return false };
    let seconds = rest.get(..2).unwrap_or_default();
    digits(year, 4..=4)
        && digits(month, 1..=2)
        && digits(day, 1..=2)
        && digits(hour, 1..=2)
        && digits(minute, 2..=2)
        && digits(seconds, 2..=2)
        && is_fraction_and_zone(&rest[2..])
}

fn is_fraction_and_zone(text: &str) -> bool {
    let text = match text.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => text,
    };
    let zone = text.trim_start_matches([' ', '\t']);
    if zone.is_empty() {
        return text.is_empty();
    }
    let Some(offset) = zone.strip_prefix(['+', '-']) else { return zone == "Z" };
    let (hours, minutes) = offset.split_once(':').unwrap_or((offset, "00"));
    (1..=2).contains(&hours.len())
        && minutes.len() == 2
        && hours.bytes().chain(minutes.bytes()).all(|b| b.is_ascii_digit())
}
