//! Ends of streams that a connection has stored itself: pure.
//!
//! An append needs its predecessor in the journal. To look for it costs a fifth of
//! the whole append, and nearly always it was stored a moment ago, by the same
//! incarnation, through the same connection. So a connection remembers what it
//! stored last of each stream, and [`APPEND_ALL`](super::statement::APPEND_ALL)
//! looks for a predecessor that is not remembered, or that another backend stored.
//!
//! Why that decides the same as looking (I-3), with n the first number of an append:
//!
//! * Event n - 1 was committed by this backend, and this client has heard so; a server
//!   that has lost commits is another one, or has been started anew. So n - 1 is
//!   there, or was deleted since, and deleting leaves the highest number in `streams`.
//!   An incarnation that is remembered has not recovered since, and one whose
//!   append was not answered, or not as a whole, is not remembered: its connection is
//!   closed, or what it stored was never entered here.
//! * Looking accepts n if n - 1 is there. The statement accepts it too, unless
//!   `streams` says n or higher; then n itself is there, because deletions take what
//!   comes first, and the primary key would have refused it.
//! * Looking accepts n if n - 1 is gone and the highest number is n - 1; refuses it if
//!   that is higher, and somebody else has stored n since. So does the statement.
//! * Whether the session is fenced (I-2) is not asked here: every statement does.
//!
//! What looking finds and this does not is a row that was removed by hand under a
//! living entity; its next recovery does. A proxy that leads one connection to two
//! primaries in turn is not guarded against: such a database has no one stream.

use xxhash_rust::xxh3::xxh3_64;

use super::statement::Piece;
use crate::sequence_nr::SequenceNr;
use crate::writer::WriterUuid;

/// Streams remembered, in 2.5 MiB from when the connection first stores something. Two
/// streams in one place forget one another, which costs a look: with 10,000 streams
/// on a connection that is about one append in fifteen.
const PLACES: usize = 1 << 16;

/// The ends of some streams.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    /// Empty, or one for each place.
    places: Vec<Option<Tail>>,
}

/// Which incarnation of which stream stored an event last, and the number after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail {
    writer: WriterUuid,
    stream: u64,
    next: SequenceNr,
}

impl Tails {
    /// Whether the event before the piece is the last that its incarnation stored, and
    /// was stored through this connection.
    pub(super) fn precede(&self, piece: &Piece<'_>) -> bool {
        let tail = Tail::of(piece, piece.first);
        self.places.get(tail.place()) == Some(&Some(tail))
    }

    /// All of the pieces were committed through this connection, in one statement.
    pub(super) fn remember(&mut self, pieces: &[Piece<'_>]) {
        self.places.resize(PLACES, None);
        for piece in pieces {
            let tail = Tail::of(piece, piece.last().next());
            self.places[tail.place()] = Some(tail);
        }
    }
}

impl Tail {
    fn of(piece: &Piece<'_>, next: SequenceNr) -> Self {
        let append = piece.append;
        Self {
            writer: append.writer,
            stream: xxh3_64(append.persistence_id.as_str().as_bytes()),
            next,
        }
    }

    fn place(&self) -> usize {
        // A stream's lane follows from the low bits of the same hash.
        (self.stream >> 32) as usize % PLACES
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::journal::{Append, AtomicWrite, NewEvent};
    use crate::payload::Payload;
    use crate::persistence_id::PersistenceId;
    use crate::writer::{Epoch, ShardNr};

    fn append(id: &str, writer: u128, first: u64, events: usize) -> Append {
        let event = NewEvent {
            payload: Payload::json("1"),
            tags: Vec::new(),
        };
        Append {
            persistence_id: PersistenceId::new("t", id).unwrap(),
            shard: ShardNr(1),
            epoch: Epoch(1),
            writer: WriterUuid(Uuid::from_u128(writer)),
            first_sequence_nr: SequenceNr::new(first),
            writes: vec![AtomicWrite {
                events: vec![event; events],
                command: None,
                metadata: None,
            }],
        }
    }

    fn piece(append: &Append) -> Piece<'_> {
        Piece {
            append,
            writes: &append.writes,
            first: append.first_sequence_nr,
        }
    }

    #[test]
    fn only_the_next_number_of_the_same_incarnation_follows() {
        let mut tails = Tails::default();
        assert!(!tails.precede(&piece(&append("a", 1, 4, 1))));
        let stored = [append("a", 1, 4, 3), append("b", 2, 1, 1)];
        tails.remember(&stored.each_ref().map(piece));
        assert!(tails.precede(&piece(&append("a", 1, 7, 1))));
        assert!(tails.precede(&piece(&append("b", 2, 2, 2))));
        for wrong in [
            append("a", 1, 4, 3),
            append("a", 1, 6, 1),
            append("a", 1, 8, 1),
            append("a", 2, 7, 1),
            append("b", 1, 7, 1),
        ] {
            assert!(!tails.precede(&piece(&wrong)), "{wrong:?}");
        }
        tails.remember(&[piece(&append("a", 1, 7, 1))]);
        assert!(!tails.precede(&piece(&append("a", 1, 7, 1))));
        assert!(tails.precede(&piece(&append("a", 1, 8, 1))));
    }

    #[test]
    fn streams_in_one_place_forget_one_another() {
        let mut tails = Tails::default();
        let all: Vec<Append> = (0..2 * PLACES)
            .map(|nr| append(&nr.to_string(), nr as u128, 1, 1))
            .collect();
        let pieces: Vec<Piece<'_>> = all.iter().map(piece).collect();
        tails.remember(&pieces);
        assert_eq!(tails.places.len(), PLACES);
        let known = (0..2 * PLACES)
            .filter(|nr| tails.precede(&piece(&append(&nr.to_string(), *nr as u128, 2, 1))));
        let known = known.count();
        assert!((PLACES / 2..=PLACES).contains(&known), "{known}");
    }
}
