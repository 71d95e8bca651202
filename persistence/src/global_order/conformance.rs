//! What every [`EventsInOrder`](super::EventsInOrder) must do, case by case, like
//! [`journal::conformance`](crate::journal::conformance). Other cases may store
//! events in the same database meanwhile, so each looks at its own streams only.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use crate::global_order::{OrderedEvent, Position};
use crate::journal::conformance::{Stream, assert_stored, new_session, write};
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;

/// Makes a `#[test]` of every case; see
/// [`journal_conformance_tests`](crate::journal_conformance_tests).
#[macro_export]
macro_rules! global_order_conformance_tests {
    ($run:path) => {
        $crate::global_order_conformance_tests! { @each $run:
            g01_each_event_once_and_streams_in_order, g02_byte_limit, g03_deleted_events_are_left_out,
        }
    };
    (@each $run:path: $($case:ident),+ $(,)?) => {
        $(#[test] fn $case() { $run($crate::global_order::conformance::$case); })+
    };
}

/// Reads from the start in pages of so many until the given number of events of
/// these streams has been seen, or there are no more.
async fn read(storage: &Storage, streams: &[&Stream<'_>], page: usize) -> Vec<OrderedEvent> {
    let mut position = Position::START;
    let mut read = Vec::new();
    loop {
        let order = &storage.order;
        let events = order
            .events_after(position, page, usize::MAX)
            .await
            .unwrap();
        assert!(events.len() <= page, "at most {page} events of a page");
        let Some(last) = events.last() else {
            return read;
        };
        for event in &events {
            assert!(event.position > position, "positions ascend");
            position = event.position;
        }
        assert_eq!(position, last.position);
        let is_ours = |e: &OrderedEvent| streams.iter().any(|s| s.id == e.event.persistence_id);
        read.extend(events.into_iter().filter(is_ours));
    }
}

/// Waits until no other case's transaction holds these events back.
async fn read_all(
    storage: &Storage,
    streams: &[&Stream<'_>],
    page: usize,
    expected: usize,
) -> Vec<OrderedEvent> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let events = read(storage, streams, page).await;
        assert!(events.len() <= expected, "more than was stored: {events:?}");
        if events.len() == expected {
            return events;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "only {} of {expected} events can be read in order",
            events.len()
        );
        tokio::task::yield_now().await;
    }
}

/// Two streams written in turns are read whole, each in its order, whatever the
/// size of the pages.
pub async fn g01_each_event_once_and_streams_in_order(storage: &Storage) {
    let session = new_session(storage).await;
    let (a, b) = (Stream::of(storage, session), Stream::of(storage, session));
    for round in 0..5 {
        assert_stored(&a.append(round * 2 + 1, vec![write(&["x", "y"])]).await);
        assert_stored(&b.append(round + 1, vec![write(&["z"])]).await);
    }
    for page in [1, 3, 1000] {
        let events = read_all(storage, &[&a, &b], page, 15).await;
        let places: BTreeSet<Position> = events.iter().map(|event| event.position).collect();
        assert_eq!(places.len(), 15, "each has a place of its own");
        for (stream, count) in [(&a, 10), (&b, 5)] {
            let of_stream = events
                .iter()
                .filter(|e| e.event.persistence_id == stream.id);
            let numbers: Vec<u64> = of_stream.map(|e| e.event.sequence_nr.get()).collect();
            assert_eq!(numbers, (1..=count).collect::<Vec<u64>>());
        }
        let stored = a.read(1, u64::MAX, 100).await;
        let first = events
            .iter()
            .find(|e| e.event.persistence_id == a.id)
            .unwrap();
        assert_eq!(first.event, stored[0], "the same as the stream's own");
    }
}

/// A page ends with the event that reaches the limit, and has at least one.
pub async fn g02_byte_limit(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    assert_stored(
        &stream
            .append(1, vec![write(&["1234567890", "1234567890", "1234567890"])])
            .await,
    );
    let all = read_all(storage, &[&stream], 1000, 3).await;
    for (max_bytes, first) in [(0, 1), (10, 1), (11, 2), (20, 2)] {
        let before = all[0].position;
        let page = storage
            .order
            .events_after(before, 2, max_bytes)
            .await
            .unwrap();
        let expected = first.min(2);
        assert_eq!(page.len(), expected, "within {max_bytes} bytes");
    }
}

/// What was deleted is not read, and the rest keeps its place.
pub async fn g03_deleted_events_are_left_out(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    let before = read_all(storage, &[&stream], 1000, 5).await;
    stream.delete(3).await;
    let after = read_all(storage, &[&stream], 1000, 2).await;
    assert_eq!(after, before[3..]);
    assert_eq!(after[0].event.sequence_nr, SequenceNr::new(4));
}
