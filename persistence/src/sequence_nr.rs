//! Position of an event in its stream: 1 for the first, no gaps.
//!
//! Bounds that are sequence numbers are inclusive everywhere in Perennial.

use std::fmt;

/// Number of an event in its stream, starting at 1; 0 means "before the first".
///
/// Always within `i64`, so that it fits a database's signed 64-bit column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SequenceNr(u64);

impl SequenceNr {
    /// Before the first event: the number of an entity that was never written.
    pub const ZERO: Self = Self(0);
    /// The largest number, also used as "no upper bound".
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Clamps to [`SequenceNr::MAX`]: a larger bound means the same as "no bound".
    #[must_use]
    pub const fn new(nr: u64) -> Self {
        if nr > Self::MAX.0 {
            Self::MAX
        } else {
            Self(nr)
        }
    }

    /// The number as stored; negative numbers, which no journal holds, become 0.
    #[must_use]
    pub const fn from_i64(nr: i64) -> Self {
        if nr < 0 { Self::ZERO } else { Self(nr as u64) }
    }

    /// For a database column.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number `count` events later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self::new(self.0.saturating_add(count))
    }

    /// The number of the next event.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The number of the event before, 0 at the start of the stream.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for SequenceNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
