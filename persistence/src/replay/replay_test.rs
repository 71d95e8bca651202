//! Pages must not matter: wherever they end, an entity sees the same.

use std::time::SystemTime;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::*;
use crate::payload::Payload;
use crate::replay_filter::ReplayFilterMode;
use crate::writer::WriterUuid;

fn id() -> PersistenceId {
    PersistenceId::new("counter", "a").unwrap()
}

fn event(number: u64, writer: u8, len: usize) -> StoredEvent {
    StoredEvent {
        persistence_id: id(),
        sequence_nr: SequenceNr::new(number),
        writer: WriterUuid(Uuid::from_u128(u128::from(writer))),
        payload: Payload::json(vec![b'x'; len]),
        tags: Vec::new(),
        metadata: None,
        command_id: None,
        created_at: SystemTime::UNIX_EPOCH,
    }
}

/// What a journal answers.
fn read(stream: &[StoredEvent], range: &EventRange) -> Vec<StoredEvent> {
    let mut bytes = 0;
    let in_range = stream
        .iter()
        .filter(|event| (range.from..=range.to).contains(&event.sequence_nr))
        .take(range.max_events)
        .take_while(|event| {
            let wanted = bytes < range.max_bytes;
            bytes += event.payload.bytes.len();
            wanted
        });
    in_range.cloned().collect()
}

/// Replays in pages: what the entity sees, how many issues there were, how many
/// events were read.
fn replay(
    stream: &[StoredEvent],
    first_page: usize,
    mode: ReplayFilterMode,
) -> (Vec<StoredEvent>, usize, usize) {
    let highest = stream
        .last()
        .map_or(SequenceNr::ZERO, |event| event.sequence_nr);
    let bounds = StreamBounds {
        highest,
        ..StreamBounds::default()
    };
    let settings = ReplayFilterSettings {
        mode,
        ..ReplayFilterSettings::default()
    };
    let mut replay = Replay::new(&id(), SequenceNr::ZERO, bounds, highest, settings).unwrap();
    let (mut seen, mut issues, mut count) = (Vec::new(), Vec::new(), 0);
    let mut page = match first_page {
        0 => read(stream, &replay.next_page().unwrap()),
        len => stream[..len.min(stream.len())].to_vec(),
    };
    loop {
        count += page.len();
        seen.extend(replay.take_page(page, &mut issues).unwrap());
        let Some(range) = replay.next_page() else {
            assert!(replay.is_over());
            return (seen, issues.len(), count);
        };
        page = read(stream, &range);
    }
}

/// What the filter says of the whole stream at once.
fn whole(stream: &[StoredEvent], mode: ReplayFilterMode) -> (Vec<StoredEvent>, usize) {
    let settings = ReplayFilterSettings {
        mode,
        ..ReplayFilterSettings::default()
    };
    let mut filter = ReplayFilter::new(id(), settings);
    let (mut seen, mut issues) = (Vec::new(), Vec::new());
    for event in stream {
        filter.push(event.clone(), &mut seen, &mut issues).unwrap();
    }
    filter.finish(&mut seen).unwrap();
    (seen, issues.len())
}

fn assert_equal(stream: &[StoredEvent], first_page: usize) -> usize {
    let mut count = 0;
    for mode in [ReplayFilterMode::RepairByDiscardOld, ReplayFilterMode::Warn] {
        let (seen, issues, read) = replay(stream, first_page, mode);
        let (expected, expected_issues) = whole(stream, mode);
        assert!(seen == expected, "{mode:?}: other events");
        assert_eq!(issues, expected_issues, "{mode:?}");
        count = read;
    }
    count
}

/// A second writer begins before, at and after the end of a page, in the middle of
/// the stream and at its end.
#[test]
fn two_authors_at_the_end_of_a_page() {
    for border in [BEGINNING_EVENTS_MAX, PAGE_EVENTS_MAX] {
        for second_from in border - 3..border + 3 {
            for length in [
                second_from,
                second_from + 1,
                second_from + 5,
                2 * border + 1,
            ] {
                let mut stream = Vec::new();
                for number in 1..=length {
                    stream.push(event(number as u64, 1, 10));
                    if number >= second_from {
                        stream.push(event(number as u64, 2, 10));
                    }
                }
                assert_equal(&stream, BEGINNING_EVENTS_MAX);
                assert_equal(&stream, 0);
            }
        }
    }
}

#[test]
fn random_streams_are_the_same_in_pages() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut stream = Vec::new();
        let mut writer = 1;
        for number in 1..=random.random_range(1..1200) {
            for _ in 0..if random.random_bool(0.05) { 3 } else { 1 } {
                if random.random_bool(0.02) {
                    writer = random.random_range(1..6);
                }
                let len = match random.random_bool(0.01) {
                    true => random.random_range(0..2 * PAGE_BYTES_MAX),
                    false => random.random_range(0..4000),
                };
                stream.push(event(number, writer, len));
            }
        }
        assert_equal(
            &stream,
            if random.random_bool(0.5) {
                0
            } else {
                BEGINNING_EVENTS_MAX
            },
        );
    }
}

/// One number, more often than a page is long: it comes to an end.
#[test]
fn a_number_that_fills_pages() {
    let mut stream = vec![event(1, 1, 1); 3 * PAGE_EVENTS_MAX];
    stream.push(event(2, 1, 1));
    let (seen, issues, _) = replay(&stream, 0, ReplayFilterMode::Warn);
    assert_eq!(seen.last().unwrap().sequence_nr.get(), 2);
    assert_eq!((seen.len(), issues), (PAGE_EVENTS_MAX + 1, 0));
}

/// A healthy stream costs one event a page more.
#[test]
fn little_is_read_twice() {
    let stream: Vec<_> = (1..=10_000).map(|number| event(number, 1, 10)).collect();
    let read = assert_equal(&stream, BEGINNING_EVENTS_MAX);
    assert!(
        read <= 10_000 + 10_000 / (PAGE_EVENTS_MAX - 1) + 2,
        "{read}"
    );
    let short: Vec<_> = (1..=100).map(|number| event(number, 1, 10)).collect();
    assert_eq!(assert_equal(&short, BEGINNING_EVENTS_MAX), 100);
}
