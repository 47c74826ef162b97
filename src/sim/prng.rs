//! The random numbers of the simulator: SplitMix64, written out here so that a seed means the same
//! run for ever, whatever libraries do.

/// A stream of random numbers that its seed determines.
#[derive(Clone, Debug)]
pub struct Prng(u64);

impl Prng {
    pub fn new(seed: u64) -> Prng {
        Prng(seed ^ 0x5851_F42D_4C95_7F2D)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// True in so many of a thousand draws.
    pub fn per_mille(&mut self, share: u64) -> bool {
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
