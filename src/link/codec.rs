//! The encoding: fixed-width little-endian numbers, counted strings and lists, one byte for an
//! enum's variant. Both ends are always one build, so there are no field tags and no versions.

use std::time::Duration;

use crate::core::time::Boot;

/// Longest datagram that is sent or accepted.
pub const DATAGRAM_MAX: usize = 64 * 1024;

/// The datagram is not one of ours: cut short, with trailing bytes, or out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed or oversized message on the link")]
pub struct Malformed;

/// A type that has an encoding.
pub(super) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn get(from: &mut &[u8]) -> Result<Self, Malformed>;
}

/// One whole message.
#[allow(private_bounds)]
pub fn encode<T: Wire>(message: &T) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(512);
    message.put(&mut out);
    if out.len() <= DATAGRAM_MAX { Ok(out) } else { Err(Malformed) }
}

/// One whole message, nothing after it.
#[allow(private_bounds)]
pub fn decode<T: Wire>(mut datagram: &[u8]) -> Result<T, Malformed> {
    if datagram.len() > DATAGRAM_MAX {
        return Err(Malformed);
    }
    let message = T::get(&mut datagram)?;
    if datagram.is_empty() { Ok(message) } else { Err(Malformed) }
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Wire for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(from: &mut &[u8]) -> Result<$t, Malformed> {
                let (number, rest) = from.split_first_chunk().ok_or(Malformed)?;
                *from = rest;
                Ok(<$t>::from_le_bytes(*number))
            }
        }
    )*};
}
numbers!(u8, u32, i32, u64, i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(from: &mut &[u8]) -> Result<bool, Malformed> {
        match u8::get(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(from: &mut &[u8]) -> Result<Option<T>, Malformed> {
        Ok(if bool::get(from)? { Some(T::get(from)?) } else { None })
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        // A list too long for the count is too long for a datagram, too, and `encode` says so.
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(from: &mut &[u8]) -> Result<Vec<T>, Malformed> {
        let count = u32::get(from)? as usize;
        // Every item takes at least a byte, so the datagram itself bounds what is allocated.
        if count > from.len() {
            return Err(Malformed);
        }
        (0..count).map(|_| T::get(from)).collect()
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn get(from: &mut &[u8]) -> Result<String, Malformed> {
        let length = u32::get(from)? as usize;
        let (text, rest) = from.split_at_checked(length).ok_or(Malformed)?;
        *from = rest;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(from: &mut &[u8]) -> Result<(A, B), Malformed> {
        Ok((A::get(from)?, B::get(from)?))
    }
}

/// In nanoseconds; longer than 584 years is shortened to that.
impl Wire for Duration {
    fn put(&self, out: &mut Vec<u8>) {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).put(out);
    }
    fn get(from: &mut &[u8]) -> Result<Duration, Malformed> {
        u64::get(from).map(Duration::from_nanos)
    }
}

impl Wire for Boot {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn get(from: &mut &[u8]) -> Result<Boot, Malformed> {
        u64::get(from).map(Boot)
    }
}
