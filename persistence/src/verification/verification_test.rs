//! Rows in, findings out.

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::journal::StreamBounds;
use crate::persistence_id::PersistenceId;
use crate::replay_filter::{Contiguity, ReplayFilter, ReplayFilterMode, ReplayFilterSettings};

const ID: &str = "counter|a";

fn nr(nr: u64) -> SequenceNr {
    SequenceNr::new(nr)
}

fn writer(name: u8) -> WriterUuid {
    WriterUuid(Uuid::from_u128(u128::from(name)))
}

/// The time at which the event of this place was stored.
fn at(place: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(place)
}

fn event(id: &str, number: u64, by: u8, place: u64) -> Row {
    Row::Event {
        persistence_id: id.to_owned(),
        sequence_nr: nr(number),
        writer: writer(by),
        codec: CodecId::JSON,
        created_at: at(place),
        deleted_to: SequenceNr::ZERO,
    }
}

/// Events of one stream: numbers and who wrote them, in the order of reading.
fn events(of: &[(u64, u8)]) -> Vec<Row> {
    (1..)
        .zip(of)
        .map(|(place, (number, by))| event(ID, *number, *by, place))
        .collect()
}

fn deleted_to(mut rows: Vec<Row>, number: u64) -> Vec<Row> {
    for row in &mut rows {
        if let Row::Event { deleted_to, .. } = row {
            *deleted_to = nr(number);
        }
    }
    rows
}

fn snapshot(number: u64, highest: u64, tombstone: u64) -> Row {
    Row::Snapshot {
        persistence_id: ID.to_owned(),
        sequence_nr: nr(number),
        codec: CodecId::JSON,
        highest: nr(highest),
        tombstone: nr(tombstone),
    }
}

fn stream(highest: u64, deleted_to: u64, last_event: u64) -> Row {
    Row::Stream {
        persistence_id: ID.to_owned(),
        highest: nr(highest),
        deleted_to: nr(deleted_to),
        last_event: nr(last_event),
    }
}

fn verified(rows: impl IntoIterator<Item = Row>) -> (Verified, Vec<Finding>) {
    let mut verification = Verification::new([CodecId::JSON, CodecId::PROTOBUF]);
    let mut findings = Vec::new();
    for row in rows {
        verification.take(row, &mut findings);
    }
    let verified = verification.finish(&mut findings);
    assert_eq!(verified.findings, findings.len() as u64);
    (verified, findings)
}

fn findings(rows: impl IntoIterator<Item = Row>) -> Vec<Finding> {
    verified(rows).1
}

fn numbers(first: u64, last: u64, count: u64) -> Numbers {
    Numbers {
        first: nr(first),
        last: nr(last),
        count,
    }
}

fn gap(first: u64, last: u64) -> Finding {
    Finding::Gap {
        persistence_id: ID.to_owned(),
        first: nr(first),
        last: nr(last),
    }
}

#[test]
fn a_whole_journal_has_no_findings() {
    let rows = [
        event("account|b", 1, 1, 1),
        event("account|b", 2, 1, 2),
        event("counter|a", 1, 1, 3),
        // Another incarnation went on.
        event("counter|a", 2, 2, 4),
        event("counter|a", 3, 3, 5),
        snapshot(3, 3, 0),
    ];
    let (verified, findings) = verified(rows);
    assert_eq!(findings, []);
    let expected = Verified {
        streams: 2,
        events: 5,
        snapshots: 1,
        findings: 0,
    };
    assert_eq!(verified, expected);
}

#[test]
fn an_empty_journal_is_whole() {
    assert_eq!(verified([]), (Verified::default(), Vec::new()));
}

/// The stream of U-E1: who, what and when.
#[test]
fn u_e1_two_authors_are_named_with_numbers_and_times() {
    let rows = events(&[(1, 1), (2, 1), (3, 1), (3, 2), (4, 1), (4, 2)]);
    let author = |by, numbers, first, last| Author {
        writer: writer(by),
        numbers,
        first_at: at(first),
        last_at: at(last),
    };
    let expected = Finding::TwoAuthors {
        persistence_id: ID.to_owned(),
        numbers: numbers(3, 4, 2),
        authors: vec![
            author(1, numbers(1, 4, 4), 1, 5),
            author(2, numbers(3, 4, 2), 4, 6),
        ],
    };
    assert_eq!(findings(rows), [expected]);
}

/// An old writer that went on, without a number stored twice.
#[test]
fn an_old_writer_after_a_newer_is_one_of_two_authors() {
    let found = findings(events(&[(1, 1), (2, 2), (3, 1), (4, 2)]));
    let [
        Finding::TwoAuthors {
            numbers: found,
            authors,
            ..
        },
    ] = &found[..]
    else {
        panic!("{found:?}");
    };
    assert_eq!(*found, numbers(3, 3, 1));
    assert_eq!(authors.len(), 2);
}

#[test]
fn a_number_repeated_by_its_writer_is_found() {
    let found = findings(events(&[(1, 1), (2, 1), (2, 1), (2, 1), (3, 1)]));
    let expected = Finding::RepeatedNumber {
        persistence_id: ID.to_owned(),
        numbers: numbers(2, 2, 2),
    };
    assert_eq!(found, [expected]);
}

/// Of a huge stream of several writers, those that contradict each other are listed,
/// and not more than a few of them.
#[test]
fn authors_are_bounded() {
    let mut of = Vec::new();
    for number in 1..=5000 {
        of.push((number, (number % 250) as u8));
        of.push((number, (number % 250) as u8 + 1));
    }
    let found = findings(events(&of));
    let [
        Finding::TwoAuthors {
            authors, numbers, ..
        },
    ] = &found[..]
    else {
        panic!("{found:?}");
    };
    assert_eq!(authors.len(), Author::LISTED_MAX);
    assert!(numbers.count >= 4000, "{numbers:?}");
}

#[test]
fn gaps_are_named_by_their_numbers() {
    assert_eq!(findings(events(&[(1, 1), (4, 1)])), [gap(2, 3)]);
    assert_eq!(
        findings(events(&[(3, 1), (4, 1), (6, 1)])),
        [gap(1, 2), gap(5, 5)]
    );
    assert_eq!(findings(deleted_to(events(&[(3, 1)]), 2)), []);
    assert_eq!(findings(deleted_to(events(&[(4, 1)]), 2)), [gap(3, 3)]);
    // Events that were there when others were deleted.
    assert_eq!(findings([stream(5, 2, 5)]), []);
    assert_eq!(findings([stream(5, 5, 0)]), []);
    assert_eq!(findings([stream(5, 5, 9)]), []);
    assert_eq!(findings([stream(5, 2, 4)]), [gap(5, 5)]);
    assert_eq!(findings([stream(5, 2, 0)]), [gap(3, 5)]);
}

/// A stream of nothing but gaps does not fill the memory.
#[test]
fn gaps_are_bounded() {
    let of: Vec<_> = (1..=1000).map(|number| (number * 2, 1)).collect();
    let found = findings(events(&of));
    assert_eq!(found.len(), 100);
    assert_eq!(found[0], gap(1, 1));
    assert_eq!(found[99], gap(199, 1999));
}

#[test]
fn unknown_codecs_are_found() {
    let mut rows = events(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
    for place in [1, 3] {
        if let Row::Event { codec, .. } = &mut rows[place] {
            *codec = CodecId(77);
        }
    }
    rows.push(Row::Snapshot {
        persistence_id: ID.to_owned(),
        sequence_nr: nr(4),
        codec: CodecId(78),
        highest: nr(4),
        tombstone: nr(0),
    });
    let unknown = |stored, codec, numbers| Finding::UnknownCodec {
        persistence_id: ID.to_owned(),
        stored,
        codec: CodecId(codec),
        numbers,
    };
    let expected = [
        unknown(Stored::Events, 77, numbers(2, 4, 2)),
        unknown(Stored::Snapshots, 78, numbers(4, 4, 1)),
    ];
    assert_eq!(findings(rows), expected);
}

#[test]
fn a_snapshot_ahead_of_its_events_is_found() {
    let ahead = |snapshot, highest| Finding::SnapshotAhead {
        persistence_id: ID.to_owned(),
        snapshot: nr(snapshot),
        highest: nr(highest),
    };
    assert_eq!(findings([snapshot(4711, 0, 0)]), [ahead(4711, 0)]);
    assert_eq!(findings([snapshot(5, 4, 0)]), [ahead(5, 4)]);
    // All its events are deleted, and the stream knows.
    assert_eq!(findings([snapshot(5, 5, 0)]), []);
}

#[test]
fn what_a_deletion_left_is_found() {
    let left = |stored, deleted_to, numbers| Finding::LeftOver {
        persistence_id: ID.to_owned(),
        stored,
        deleted_to: nr(deleted_to),
        numbers,
    };
    let rows = deleted_to(events(&[(2, 1), (3, 1), (4, 1)]), 3);
    assert_eq!(findings(rows), [left(Stored::Events, 3, numbers(2, 3, 2))]);
    let rows = [snapshot(3, 6, 5), snapshot(5, 6, 5), snapshot(6, 6, 5)];
    let expected = [
        left(Stored::Snapshots, 5, numbers(3, 3, 1)),
        left(Stored::Snapshots, 5, numbers(5, 5, 1)),
    ];
    assert_eq!(findings(rows), expected);
}

#[test]
fn a_malformed_id_is_found() {
    let found = findings([event("nonsense", 1, 1, 1)]);
    let persistence_id = "nonsense".to_owned();
    assert_eq!(found, [Finding::MalformedId { persistence_id }]);
}

/// Streams do not run into each other.
#[test]
fn each_stream_is_judged_by_itself() {
    let rows = [
        event("counter|a", 1, 1, 1),
        event("counter|a", 2, 2, 2),
        event("counter|b", 1, 1, 3),
        event("counter|b", 2, 1, 4),
        event("counter|b", 4, 1, 5),
    ];
    let expected = Finding::Gap {
        persistence_id: "counter|b".to_owned(),
        first: nr(3),
        last: nr(3),
    };
    assert_eq!(findings(rows), [expected]);
}

proptest! {
    /// It finds something in a stream exactly if a recovery that accepts no two
    /// authors would fail, or a number is there twice.
    #[test]
    fn agrees_with_a_recovery(of in prop::collection::vec((1_u64..8, 1_u8..4), 0..16)) {
        let mut of = of;
        of.sort_by_key(|(number, _)| *number);
        let found = findings(events(&of));

        let id = PersistenceId::parse(ID).unwrap();
        let settings = ReplayFilterSettings { mode: ReplayFilterMode::Fail, ..Default::default() };
        let mut filter = ReplayFilter::new(id.clone(), settings);
        let mut gaps = Contiguity::new(id, SequenceNr::ZERO, StreamBounds::default()).unwrap();
        let (mut out, mut issues) = (Vec::new(), Vec::new());
        let mut fails = false;
        for (number, by) in &of {
            fails |= gaps.check(nr(*number)).is_err();
            let event = FilterEvent(nr(*number), writer(*by));
            fails |= filter.push(event, &mut out, &mut issues).is_err();
        }
        fails |= of.windows(2).any(|pair| pair[0] == pair[1]);
        prop_assert_eq!(!found.is_empty(), fails, "{:?}: {:?}", of, found);
    }
}

#[derive(Clone, Copy)]
struct FilterEvent(SequenceNr, WriterUuid);

impl crate::replay_filter::Replayed for FilterEvent {
    fn sequence_nr(&self) -> SequenceNr {
        self.0
    }

    fn writer(&self) -> WriterUuid {
        self.1
    }
}
