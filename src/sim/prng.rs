//! The random numbers of the simulator: SplitMix64, written out here so that a seed means the same
//! run for ever, whatever libraries do.

/// A stream of random numbers that its seed determines; `None`: always the middle.
#[derive(Clone, Debug)]
pub struct Prng(Option<u64>);

impl Prng {
    pub fn new(seed: u64) -> Prng {
        Prng(Some(seed ^ 0x5851_F42D_4C95_7F2D))
    }

    /// No dice: nothing rare happens, and what takes its time takes the middle of it.
    pub fn still() -> Prng {
        Prng(None)
    }

    pub fn next(&mut self) -> u64 {
        let Some(state) = &mut self.0 else { return u64::MAX / 2 };
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        if self.0.is_none() {
            return low + (high - low) / 2;
        }
        low + self.next() % (high - low + 1)
    }

    /// True in so many of a thousand draws.
    pub fn per_mille(&mut self, share: u64) -> bool {
        if self.0.is_none() {
            return share > 500;
        }
        self.next() % 1000 < share
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let last = from.len() as u64 - 1;
        &from[self.between(0, last) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_stay_valid() {
        let mut prng = Prng::new(7);
        let first: Vec<u64> = (0..3).map(|_| prng.next()).collect();
        assert_eq!(
            first,
            [18_078_348_960_434_068_816, 7_046_236_936_444_258_700, 11_572_677_092_435_907_128]
        );
    }
}
