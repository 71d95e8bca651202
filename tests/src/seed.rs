//! Randomness that can be repeated: every run prints its seed.

use std::time::SystemTime;

/// A small seeded generator (SplitMix64).
#[derive(Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Takes the seed from `PERENNIAL_TEST_SEED`, or a new one, and prints it.
    #[must_use]
    pub fn from_environment() -> Self {
        let given = std::env::var("PERENNIAL_TEST_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(0, |since| since.as_nanos() as u64)
        });
        println!("repeat with PERENNIAL_TEST_SEED={seed}");
        Self::new(seed)
    }

    /// The same seed gives the same numbers.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number, any of 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// A number from the range.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }
}
