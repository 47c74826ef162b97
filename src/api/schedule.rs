//! Operators' times: read with their time zone, written as Patroni writes them.

use jiff::{Timestamp, civil::DateTime};
use serde_json::Value;

use crate::core::time::Wall;

use super::snapshot::Reply;

/// Patroni's answer to a text that is not a time.
pub const UNPARSABLE: &str = "Unable to parse scheduled timestamp. \
                              It should be in an unambiguous format, e.g. ISO 8601";

/// A time in the future with its time zone. `what` (`restart`, `switchover`) goes into the
/// refusals, which are Patroni's.
pub fn parse(value: &Value, what: &str, now: Wall) -> Result<Wall, Reply> {
    let text = value.as_str().map(str::trim).unwrap_or_default();
    if let Ok(at) = text.parse::<Timestamp>() {
        let at = Wall(at.as_microsecond());
        if at < now {
            return Err(Reply::text(422, format!("Cannot schedule {what} in the past")));
        }
        return Ok(at);
    }
    if text.parse::<DateTime>().is_ok() {
        let text = format!("Timezone information is mandatory for the scheduled {what}");
        return Err(Reply::text(400, text));
    }
    Err(Reply::text(422, UNPARSABLE))
}

/// `2100-01-01T00:00:00+00:00`, microseconds only if there are some.
pub fn iso(at: Wall) -> String {
    let Ok(at) = Timestamp::from_microsecond(at.0) else { return at.0.to_string() };
    let form = if at.subsec_nanosecond() == 0 { "%FT%T" } else { "%FT%T.%6f" };
    format!("{}+00:00", at.strftime(form))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_time_to_come_with_its_zone_is_accepted() {
        let now = Wall(1_795_256_543_000_000);
        for text in ["2100-01-01T00:00:00Z", "2100-01-01 02:00:00+02:00", "2100-01-01T01:00+01"] {
            assert_eq!(parse(&json!(text), "restart", now), Ok(Wall(4_102_444_800_000_000)));
        }
        let zone = "Timezone information is mandatory for the scheduled restart";
        let cases = [
            (json!("2000-01-01T00:00:00Z"), 422, "Cannot schedule restart in the past"),
            (json!("2100-01-01T00:00:00"), 400, zone),
            (json!("2100-01-01"), 400, zone),
            (json!("rubbish"), 422, UNPARSABLE),
            (json!(""), 422, UNPARSABLE),
            (json!(7), 422, UNPARSABLE),
            (json!(null), 422, UNPARSABLE),
        ];
        for (value, status, text) in cases {
            let refused = parse(&value, "restart", now);
            assert_eq!(refused, Err(Reply::text(status, text)), "{value}");
        }
    }

    #[test]
    fn times_look_as_in_patroni() {
        assert_eq!(iso(Wall(4_102_444_800_000_000)), "2100-01-01T00:00:00+00:00");
        assert_eq!(iso(Wall(1_500_000)), "1970-01-01T00:00:01.500000+00:00");
    }
}
