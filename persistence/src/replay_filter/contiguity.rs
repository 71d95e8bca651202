//! Whether a stream lacks events: its distinct numbers must follow each other
//! without a gap from where the replay starts to the highest number.
//!
//! Checked on the raw numbers, before the replay filter, because the filter
//! discards events on purpose. Perennial itself leaves no gaps; a gap means that
//! events were lost (a database that failed over to a copy without its last
//! commits) or removed by hand, and a state folded over it would be wrong.

use crate::journal::StreamBounds;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;

/// The check of one replay.
#[derive(Debug)]
pub struct Contiguity {
    persistence_id: PersistenceId,
    /// Every number up to this one is accounted for.
    seen: SequenceNr,
}

/// Events that should be in the stream and are not. Fail the recovery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamGap {
    /// Events between others, or after the last one read, are missing.
    #[error(
        "stream {persistence_id}: events {first} to {last} are missing, up to {} everything is there: \
         restore them from a backup, or delete the entity", .first.previous()
    )]
    Missing {
        /// The stream.
        persistence_id: PersistenceId,
        /// The first number that is missing.
        first: SequenceNr,
        /// The last number that is missing, inclusive.
        last: SequenceNr,
    },
    /// The snapshot contains events that the stream never had, as far as the
    /// journal knows.
    #[error(
        "stream {persistence_id}: the snapshot at {snapshot} is ahead of the journal, whose highest number is \
         {highest}: events {} to {snapshot} are missing; restore them from a backup, or delete the snapshot", .highest.next()
    )]
    SnapshotAhead {
        /// The stream.
        persistence_id: PersistenceId,
        /// The snapshot's number.
        snapshot: SequenceNr,
        /// The highest number the journal knows for the stream.
        highest: SequenceNr,
    },
}

impl Contiguity {
    /// The check of a replay on top of a snapshot, or of none
    /// ([`SequenceNr::ZERO`]). The first event expected is
    /// [`Contiguity::next`].
    ///
    /// A snapshot below `deleted_to` passes, as no snapshot does, because an
    /// entity may delete its history on purpose and begin anew. Falling back to
    /// an older snapshot because a newer one cannot be read is no such case:
    /// there the caller must see to it that the older one is not below
    /// `deleted_to`, or events between them are lost.
    ///
    /// # Errors
    /// [`StreamGap::SnapshotAhead`] when the snapshot is above the journal's
    /// highest number, which deletion does not lower.
    pub fn new(
        persistence_id: PersistenceId,
        snapshot: SequenceNr,
        bounds: StreamBounds,
    ) -> Result<Self, StreamGap> {
        if snapshot > bounds.highest {
            return Err(StreamGap::SnapshotAhead {
                persistence_id,
                snapshot,
                highest: bounds.highest,
            });
        }
        Ok(Self {
            persistence_id,
            seen: snapshot.max(bounds.deleted_to),
        })
    }

    /// The number from which events are to be read.
    #[must_use]
    pub fn next(&self) -> SequenceNr {
        self.seen.next()
    }

    /// The next event of the stream has this number. A number that was seen
    /// before is no gap: it is the replay filter's business.
    ///
    /// # Errors
    /// [`StreamGap::Missing`] when it leaves out numbers.
    pub fn check(&mut self, sequence_nr: SequenceNr) -> Result<(), StreamGap> {
        if sequence_nr > self.next() {
            return Err(self.missing_to(sequence_nr.previous()));
        }
        self.seen = self.seen.max(sequence_nr);
        Ok(())
    }

    /// The replay has ended, which was to reach `to`: the journal's highest
    /// number, or less where only a part was asked for.
    ///
    /// # Errors
    /// [`StreamGap::Missing`] when it did not reach it.
    pub fn finish(&self, to: SequenceNr) -> Result<(), StreamGap> {
        if self.seen < to {
            return Err(self.missing_to(to));
        }
        Ok(())
    }

    fn missing_to(&self, last: SequenceNr) -> StreamGap {
        StreamGap::Missing {
            persistence_id: self.persistence_id.clone(),
            first: self.next(),
            last,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream() -> PersistenceId {
        PersistenceId::new("counter", "a").unwrap()
    }

    fn nr(nr: u64) -> SequenceNr {
        SequenceNr::new(nr)
    }

    fn replay(
        snapshot: u64,
        deleted_to: u64,
        highest: u64,
        numbers: &[u64],
    ) -> Result<(), StreamGap> {
        let bounds = StreamBounds {
            highest: nr(highest),
            deleted_to: nr(deleted_to),
            ..StreamBounds::default()
        };
        let mut check = Contiguity::new(stream(), nr(snapshot), bounds)?;
        for &number in numbers {
            check.check(nr(number))?;
        }
        check.finish(nr(highest))
    }

    fn missing(first: u64, last: u64) -> Result<(), StreamGap> {
        Err(StreamGap::Missing {
            persistence_id: stream(),
            first: nr(first),
            last: nr(last),
        })
    }

    #[test]
    fn whole_streams_pass() {
        assert_eq!(replay(0, 0, 0, &[]), Ok(()));
        assert_eq!(replay(0, 0, 3, &[1, 2, 3]), Ok(()));
        assert_eq!(replay(2, 0, 3, &[3]), Ok(()));
        assert_eq!(replay(3, 0, 3, &[]), Ok(()));
        assert_eq!(replay(0, 2, 3, &[3]), Ok(()));
        assert_eq!(replay(2, 3, 4, &[4]), Ok(()));
        assert_eq!(replay(3, 2, 4, &[4]), Ok(()));
        assert_eq!(replay(0, 4, 4, &[]), Ok(()));
    }

    #[test]
    fn each_gap_is_named_by_its_numbers() {
        assert_eq!(replay(0, 0, 5, &[1, 2, 5]), missing(3, 4));
        assert_eq!(replay(0, 0, 3, &[2, 3]), missing(1, 1));
        assert_eq!(replay(0, 0, 3, &[]), missing(1, 3));
        assert_eq!(replay(0, 0, 3, &[1, 2]), missing(3, 3));
        assert_eq!(replay(2, 0, 5, &[5]), missing(3, 4));
        assert_eq!(replay(0, 2, 5, &[4, 5]), missing(3, 3));
        let text = replay(0, 0, 5, &[1, 2, 5]).unwrap_err().to_string();
        assert!(text.contains("counter|a"), "{text}");
        assert!(
            text.contains("events 3 to 4 are missing, up to 2 everything is there"),
            "{text}"
        );
    }

    #[test]
    fn numbers_written_twice_are_no_gap() {
        assert_eq!(replay(0, 0, 4, &[1, 2, 3, 3, 4, 4]), Ok(()));
        assert_eq!(replay(0, 0, 4, &[1, 2, 3, 4, 3, 4]), Ok(()));
        assert_eq!(replay(2, 0, 3, &[1, 2, 3]), Ok(()));
        assert_eq!(replay(0, 0, 5, &[1, 2, 3, 2, 5]), missing(4, 4));
    }

    #[test]
    fn a_replay_may_read_beyond_a_highest_number_read_before_it() {
        assert_eq!(replay(0, 0, 2, &[1, 2, 3]), Ok(()));
    }

    #[test]
    fn a_snapshot_ahead_of_its_journal_is_refused() {
        let error = replay(4711, 0, 0, &[]).unwrap_err();
        assert_eq!(
            error,
            StreamGap::SnapshotAhead {
                persistence_id: stream(),
                snapshot: nr(4711),
                highest: nr(0),
            }
        );
        assert!(
            error.to_string().contains("events 1 to 4711 are missing"),
            "{error}"
        );
        assert!(replay(5, 0, 4, &[]).is_err());
        // All events are deleted, and the journal knows how far they went.
        assert_eq!(replay(4711, 4711, 4711, &[]), Ok(()));
    }

    #[test]
    fn the_first_number_to_read_is_after_snapshot_and_deleted_events() {
        for (snapshot, deleted_to, expected) in [(0, 0, 1), (7, 3, 8), (3, 7, 8)] {
            let bounds = StreamBounds {
                highest: nr(9),
                deleted_to: nr(deleted_to),
                ..StreamBounds::default()
            };
            let check = Contiguity::new(stream(), nr(snapshot), bounds).unwrap();
            assert_eq!(check.next(), nr(expected));
        }
    }

    proptest! {
        /// An ascending stream with repetitions passes if and only if the set of
        /// its numbers is whole, and otherwise the first hole is named.
        #[test]
        fn agrees_with_the_set_of_numbers(
            start in 0_u64..5,
            highest in 5_u64..25,
            mut numbers in prop::collection::vec(1_u64..25, 0..80),
        ) {
            numbers.retain(|number| (start + 1..=highest).contains(number));
            numbers.sort_unstable();
            let first_hole = (start + 1..=highest).find(|number| !numbers.contains(number));
            match (first_hole, replay(start, 0, highest, &numbers)) {
                (None, outcome) => prop_assert_eq!(outcome, Ok(())),
                (Some(hole), Err(StreamGap::Missing { first, last, .. })) => {
                    prop_assert_eq!(first, nr(hole));
                    prop_assert!((hole..=last.get()).all(|number| !numbers.contains(&number)));
                    prop_assert!(last.get() == highest || numbers.contains(&(last.get() + 1)));
                }
                (Some(hole), outcome) => prop_assert!(false, "{hole} is missing: {outcome:?}"),
            }
        }
    }
}
