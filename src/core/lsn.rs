//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A WAL position; prints as PostgreSQL does, `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `earlier` to here; zero when `earlier` is ahead.
    pub fn bytes_after(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text was not of the form `X/Y` with two hexadecimal numbers of at most 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LsnParseError;

impl fmt::Display for LsnParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a WAL position of the form X/Y")
    }
}

impl std::error::Error for LsnParseError {}

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Lsn, LsnParseError> {
        let (high, low) = text.split_once('/').ok_or(LsnParseError)?;
        Ok(Lsn(half(high)? << 32 | half(low)?))
    }
}

fn half(text: &str) -> Result<u64, LsnParseError> {
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(LsnParseError);
    }
    u32::from_str_radix(text, 16).map(u64::from).map_err(|_| LsnParseError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_as_postgresql_does() {
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        for bad in ["", "/", "1", "1/", "/1", "+1/1", "1/100000000", "g/1"] {
            assert_eq!(bad.parse::<Lsn>(), Err(LsnParseError), "{bad}");
        }
    }
}
