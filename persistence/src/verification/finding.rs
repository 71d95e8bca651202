//! What can be wrong with a journal.

use std::time::SystemTime;

use crate::payload::CodecId;
use crate::sequence_nr::SequenceNr;
use crate::writer::WriterUuid;

/// One thing that is wrong with one stream, however many rows it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Events contradict those of another writer, as the replay filter finds them: a
    /// recovery discards some of them, or fails.
    TwoAuthors {
        /// The stream.
        persistence_id: String,
        /// The events that others contradict.
        numbers: Numbers,
        /// Who wrote them and what contradicts them, at most [`Author::LISTED_MAX`].
        authors: Vec<Author>,
    },
    /// One writer stored a number more than once.
    RepeatedNumber {
        /// The stream.
        persistence_id: String,
        /// The events that are there too often.
        numbers: Numbers,
    },
    /// Events are missing, both inclusive. A recovery that has no snapshot above them
    /// fails.
    Gap {
        /// The stream.
        persistence_id: String,
        /// The first that is missing.
        first: SequenceNr,
        /// The last that is missing.
        last: SequenceNr,
    },
    /// Nothing in this program reads what this codec wrote.
    UnknownCodec {
        /// The stream.
        persistence_id: String,
        /// Events or snapshots.
        stored: Stored,
        /// The codec.
        codec: CodecId,
        /// Which.
        numbers: Numbers,
    },
    /// A snapshot contains events that the stream never had, as far as is known.
    SnapshotAhead {
        /// The stream.
        persistence_id: String,
        /// The snapshot's number.
        snapshot: SequenceNr,
        /// The stream's.
        highest: SequenceNr,
    },
    /// Rows that are deleted are still there: a deletion was interrupted.
    LeftOver {
        /// The stream.
        persistence_id: String,
        /// Events or snapshots.
        stored: Stored,
        /// Up to where they are deleted, inclusive.
        deleted_to: SequenceNr,
        /// Which.
        numbers: Numbers,
    },
    /// The id is none that an entity can have.
    MalformedId {
        /// As stored.
        persistence_id: String,
    },
    /// The database does not keep two authors apart any more (I-3).
    UniqueKeyMissing {
        /// What is missing.
        key: &'static str,
    },
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stored {
    /// Events.
    Events,
    /// Snapshots.
    Snapshots,
}

/// Which rows of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The lowest.
    pub first: SequenceNr,
    /// The highest.
    pub last: SequenceNr,
    /// How many rows.
    pub count: u64,
}

impl Numbers {
    /// One row.
    #[must_use]
    pub fn one(nr: SequenceNr) -> Self {
        Self {
            first: nr,
            last: nr,
            count: 1,
        }
    }

    pub(super) fn add(&mut self, nr: SequenceNr) {
        self.first = self.first.min(nr);
        self.last = self.last.max(nr);
        self.count += 1;
    }
}

/// What one writer stored in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The incarnation.
    pub writer: WriterUuid,
    /// Its events.
    pub numbers: Numbers,
    /// When the first of them was stored.
    pub first_at: SystemTime,
    /// When the last of them was stored.
    pub last_at: SystemTime,
}

impl Author {
    /// Authors listed with one finding.
    pub const LISTED_MAX: usize = 8;
}
