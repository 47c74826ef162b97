//! Times that operators read and write.

use jiff::civil;
use jiff::tz::{Offset, TimeZone};
use jiff::{Span, Timestamp, Zoned};

use crate::core::time::Wall;
use crate::sys::clock;

use super::Failure;

/// When something is to happen, with the offset that the operator meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled(Zoned);

impl Scheduled {
    /// As Python's `isoformat`: `2100-01-01T00:00:00+00:00`.
    pub fn iso(&self) -> String {
        format!("{}{}", python(self.0.datetime(), 'T'), offset(self.0.offset()))
    }

    /// As Python's `str`: `2100-01-01 00:00:00+00:00`.
    pub fn text(&self) -> String {
        format!("{}{}", python(self.0.datetime(), ' '), offset(self.0.offset()))
    }

    /// The same instant without its offset.
    pub fn wall(&self) -> Wall {
        Wall(self.0.timestamp().as_microsecond())
    }
}

/// What the operator wrote; empty and `now` mean at once. A time without a zone is local.
pub fn parse(text: &str) -> Result<Option<Scheduled>, Failure> {
    let text = text.trim();
    if text.is_empty() || text == "now" {
        return Ok(None);
    }
    match moment(text, &TimeZone::system()) {
        Some(zoned) => Ok(Some(Scheduled(zoned))),
        None => Err(Failure::Message(format!(
            "Unable to parse scheduled timestamp ({text}). \
             It should be in an unambiguous format (e.g. ISO 8601)"
        ))),
    }
}

fn moment(text: &str, local: &TimeZone) -> Option<Zoned> {
    if let Ok(pieces) = jiff::fmt::temporal::DateTimeParser::new().parse_pieces(text) {
        let civil = pieces.date().to_datetime(pieces.time().unwrap_or_default());
        return match pieces.to_numeric_offset() {
            Some(offset) => {
                offset.to_timestamp(civil).ok().map(|at| at.to_zoned(offset.to_time_zone()))
            }
            None if pieces.offset().is_some() => civil.to_zoned(TimeZone::UTC).ok(),
            None => civil.to_zoned(local.clone()).ok(),
        };
    }
    let time: civil::Time = text.parse().ok()?;
    local_now().with_time_zone(local.clone()).date().to_datetime(time).to_zoned(local.clone()).ok()
}

/// Local time for messages: `2026-11-21 10:24:12.36166`, five digits as patronictl cuts them.
pub fn now_precise() -> String {
    let now = local_now();
    let fraction = now.subsec_nanosecond() / 10_000;
    format!("{}.{fraction:05}", now.strftime("%Y-%m-%d %H:%M:%S"))
}

/// Local time to the second.
pub fn now() -> String {
    local_now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The example in prompts: an hour from now, `2026-11-21T11:24`.
pub fn next_hour() -> String {
    let later = local_now().saturating_add(Span::new().hours(1));
    later.strftime("%Y-%m-%dT%H:%M").to_string()
}

fn local_now() -> Zoned {
    let now = Timestamp::from_microsecond(clock::wall().0).unwrap_or_default();
    now.to_zoned(TimeZone::system())
}

fn python(at: civil::DateTime, between: char) -> String {
    let mut text = at.strftime("%Y-%m-%d").to_string();
    text.push(between);
    text.push_str(&at.strftime("%H:%M:%S").to_string());
    match at.subsec_nanosecond() / 1_000 {
        0 => text,
        micros => format!("{text}.{micros:06}"),
    }
}

fn offset(offset: Offset) -> String {
    let seconds = offset.seconds();
    let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_what_operators_write() {
        let local = TimeZone::fixed(jiff::tz::offset(2));
        for (text, expected) in [
            ("2100-01-01T00:00:00Z", "2100-01-01T00:00:00+00:00"),
            ("2100-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"),
            ("2100-01-01 00:00:00.5-03:30", "2100-01-01T00:00:00.500000-03:30"),
            ("2100-01-01T00:00", "2100-01-01T00:00:00+02:00"),
            ("2100-01-01", "2100-01-01T00:00:00+02:00"),
        ] {
            let zoned = moment(text, &local).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(Scheduled(zoned).iso(), expected, "{text}");
        }
        assert!(moment("12:30", &local).is_some());
        for bad in ["soon", "2100-13-01", "1", "2100-01-01T25:00"] {
            assert!(moment(bad, &local).is_none(), "{bad}");
        }
        assert_eq!(parse(" now ").unwrap(), None);
        assert_eq!(parse("").unwrap(), None);
        assert!(matches!(parse("soon"), Err(Failure::Message(m)) if m.contains("(soon)")));
    }

    #[test]
    fn messages_and_examples_have_patronictls_lengths() {
        assert_eq!(now_precise().len(), "2026-11-21 10:24:12.36166".len());
        assert_eq!(now().len(), "2026-11-21 10:23:19".len());
        assert_eq!(next_hour().len(), "2026-11-21T11:24".len());
    }
}
