//! J1 to J18, J20 to J22, and what else concerns reading and deleting.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fixture::{Stream, assert_stored, event, payload, write};
use crate::journal::{AtomicWrite, EventRange, JournalError, NewEvent};
use crate::payload::{CodecId, Payload};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;

/// "No bound."
const OPEN: u64 = i64::MAX as u64;

macro_rules! reading_cases {
    ($($(#[$doc:meta])* $name:ident: delete $delete:expr, ($from:expr, $to:expr, $max:expr) -> $numbers:expr;)+) => {$(
        $(#[$doc])*
        pub async fn $name(storage: &Storage) {
            let stream = Stream::of_five(storage).await;
            if let Some(to) = $delete {
                stream.delete(to).await;
            }
            stream.expect(($from, $to, $max), &$numbers, 5).await;
        }
    )+};
}
const KEEP: Option<u64> = None;

reading_cases! {
    /// J1: all events.
    j01_all_events: delete KEEP, (1, OPEN, usize::MAX) -> [1, 2, 3, 4, 5];
    /// J2: a lower bound.
    j02_lower_bound: delete KEEP, (3, OPEN, usize::MAX) -> [3, 4, 5];
    /// J3: an upper bound; the highest number is that of the stream all the same.
    j03_upper_bound: delete KEEP, (1, 3, usize::MAX) -> [1, 2, 3];
    /// J4: a limit.
    j04_count_limit: delete KEEP, (1, OPEN, 3) -> [1, 2, 3];
    /// J5: both bounds.
    j05_lower_and_upper_bound: delete KEEP, (2, 3, usize::MAX) -> [2, 3];
    /// J6: both bounds and a limit.
    j06_lower_and_upper_bound_and_limit: delete KEEP, (2, 5, 2) -> [2, 3];
    /// J7: a range of one.
    j07_lower_equals_upper: delete KEEP, (2, 2, usize::MAX) -> [2];
    /// J8: a limit of one.
    j08_limit_of_one: delete KEEP, (2, 4, 1) -> [2];
    /// J9: a limit of zero.
    j09_limit_of_zero: delete KEEP, (2, 4, 0) -> [0u64; 0];
    /// J10: an empty range.
    j10_lower_above_upper: delete KEEP, (3, 2, usize::MAX) -> [0u64; 0];
    /// J12: deleted events are gone.
    j12_range_deletion: delete Some(3), (1, OPEN, usize::MAX) -> [4, 5];
    /// J14: the highest number stays when all events are deleted.
    j14_highest_stays_after_cleanup: delete Some(OPEN), (0, OPEN, usize::MAX) -> [0u64; 0];
    /// J15: a lower bound that is the last deleted number.
    j15_from_last_deleted: delete Some(3), (3, OPEN, usize::MAX) -> [4, 5];
    /// J16: an upper bound inside what is deleted.
    j16_to_inside_the_deleted: delete Some(3), (1, 2, usize::MAX) -> [0u64; 0];
    /// J17: an upper bound that is the last deleted number.
    j17_to_last_deleted: delete Some(3), (1, 3, usize::MAX) -> [0u64; 0];
    /// J18: a lower bound that is the first surviving number.
    j18_from_first_surviving: delete Some(3), (4, OPEN, usize::MAX) -> [4, 5];
    /// J22: a window over deleted and surviving events.
    j22_window_over_a_deleted_prefix: delete Some(3), (1, 4, usize::MAX) -> [4];
}

/// J11: a stream that was never written.
pub async fn j11_unknown_stream(storage: &Storage) {
    Stream::empty(storage)
        .await
        .expect((0, OPEN, usize::MAX), &[], 0)
        .await;
}

/// J13: the highest number stays after a deletion, and the deletion is known.
pub async fn j13_highest_stays_after_deletion(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    stream
        .expect((0, OPEN, usize::MAX), &[1, 2, 3, 4, 5], 5)
        .await;
    stream.delete(3).await;
    stream.expect((0, OPEN, usize::MAX), &[4, 5], 5).await;
    let bounds = storage.journal.bounds(&stream.id).await.unwrap();
    assert_eq!(bounds.deleted_to.get(), 3);
    stream.delete(1).await;
    let bounds = storage.journal.bounds(&stream.id).await.unwrap();
    assert_eq!(
        bounds.deleted_to.get(),
        3,
        "a smaller deletion takes nothing back"
    );
}

/// J20: bytes, codec, manifest and tags come back as they were.
pub async fn j20_payloads_come_back(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    let odd = NewEvent {
        payload: Payload {
            codec: CodecId(-7),
            manifest: "a 'manifest' \\ with \"quotes\", {braces} and ☂".into(),
            bytes: (0..=255).collect::<Vec<u8>>().into(),
        },
        tags: vec![
            String::new(),
            "a,b".into(),
            "\"q\" \\ {}".into(),
            "NULL".into(),
            "ü".into(),
        ],
    };
    let empty = event("");
    let writes = vec![AtomicWrite {
        events: vec![odd.clone(), empty.clone()],
        command: None,
        metadata: None,
    }];
    assert_stored(&stream.append(1, writes).await);
    let read = stream.read(1, OPEN, 10).await;
    assert_eq!((&read[0].payload, &read[0].tags), (&odd.payload, &odd.tags));
    assert_eq!(
        (&read[1].payload, &read[1].tags),
        (&empty.payload, &empty.tags)
    );
}

/// J21: metadata comes back with each event of the write, and is absent elsewhere.
pub async fn j21_metadata_comes_back(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    let pairs = [("trace", "a \"b\" \\ c"), ("", ""), ("ключ", "значение")];
    let metadata = Some(Arc::new(BTreeMap::from(
        pairs.map(|(k, v)| (k.into(), v.into())),
    )));
    let mut tagged = write(&["a-6", "a-7"]);
    tagged.metadata = metadata.clone();
    assert_stored(&stream.append(6, vec![tagged, write(&["a-8"])]).await);
    let read = stream.read(6, OPEN, 10).await;
    assert_eq!(read.len(), 3);
    assert_eq!(
        (&read[0].metadata, &read[1].metadata),
        (&metadata, &metadata)
    );
    assert_eq!(read[2].metadata, None);
}

/// A stream of ten thousand events is read in pages without a gap.
pub async fn x10_long_stream_in_pages(storage: &Storage) {
    const EVENTS: u64 = 10_000;
    let stream = Stream::empty(storage).await;
    for first in (1..=EVENTS).step_by(500) {
        let texts: Vec<String> = (first..first + 500).map(|nr| format!("a-{nr}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_stored(&stream.append(first, vec![write(&texts)]).await);
    }
    let mut next = 1;
    loop {
        let page = stream.read(next, OPEN, 700).await;
        assert!(page.len() <= 700);
        let Some(last) = page.last() else { break };
        for (event, expected) in page.iter().zip(next..) {
            assert_eq!(event.sequence_nr.get(), expected);
            assert_eq!(event.payload, payload(&format!("a-{expected}")));
        }
        next = last.sequence_nr.get() + 1;
    }
    assert_eq!(next, EVENTS + 1);
}

/// A page ends with the event that reaches the byte limit, and has at least one.
pub async fn x11_byte_limit(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    let text = "x".repeat(1000);
    assert_stored(&stream.append(1, vec![write(&[text.as_str(); 10])]).await);
    for (max_bytes, expected) in [
        (0, 1),
        (1, 1),
        (1000, 1),
        (1001, 2),
        (2500, 3),
        (usize::MAX, 10),
    ] {
        let range = EventRange {
            persistence_id: stream.id.clone(),
            from: SequenceNr::ZERO,
            to: SequenceNr::MAX,
            max_events: 100,
            max_bytes,
        };
        let page = storage.journal.read_events(&range).await.unwrap();
        assert_eq!(page.len(), expected, "with at most {max_bytes} bytes");
    }
}

/// Who reads the highest number first and then up to it sees exactly that much,
/// although another writes on.
pub async fn x12_reading_while_writing(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    let writing = async {
        for nr in 1..=50 {
            assert_stored(&stream.append(nr, vec![write(&[&format!("a-{nr}")])]).await);
        }
    };
    let reading = async {
        loop {
            let highest = storage
                .journal
                .bounds(&stream.id)
                .await
                .unwrap()
                .highest
                .get();
            let read = stream.read(1, highest, usize::MAX).await;
            let numbers: Vec<u64> = read.iter().map(|event| event.sequence_nr.get()).collect();
            assert_eq!(numbers, (1..=highest).collect::<Vec<u64>>());
            if highest == 50 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    futures::future::join(writing, reading).await;
}

/// A deletion beyond the end is refused and deletes nothing.
pub async fn x13_deletion_beyond_the_stream(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    let beyond = storage
        .journal
        .delete_events(stream.right, &stream.id, SequenceNr::new(6))
        .await;
    let Err(JournalError::DeleteBeyondStream { asked, highest }) = beyond else {
        panic!("should be refused: {beyond:?}");
    };
    assert_eq!((asked.get(), highest.get()), (6, 5));
    stream
        .expect((1, OPEN, usize::MAX), &[1, 2, 3, 4, 5], 5)
        .await;
    stream.delete(5).await;
    stream.expect((1, OPEN, usize::MAX), &[], 5).await;
}

/// Listings are in byte order, paged, of one type, with the highest numbers, and
/// without entities of which nothing is left.
pub async fn x20_listing(storage: &Storage) {
    let right = Stream::empty(storage).await.right;
    let entity_type = format!("list-{}", uuid::Uuid::new_v4().simple());
    let other_type = format!("{entity_type}x");
    let names = ["Z", "a", "a-b", "ab", "~", "é", "日", "gone", "snapped"];
    let stream_of = |entity_type: &str, name: &str| {
        let mut stream = Stream::of(storage, right.session);
        stream.id = PersistenceId::new(entity_type, name).unwrap();
        stream
    };
    for (count, name) in (1..).zip(names) {
        let texts = vec!["event"; count];
        assert_stored(
            &stream_of(&entity_type, name)
                .append(1, vec![write(&texts)])
                .await,
        );
    }
    assert_stored(
        &stream_of(&other_type, "other")
            .append(1, vec![write(&["event"])])
            .await,
    );
    stream_of(&entity_type, "gone").delete(OPEN).await;
    let snapped = stream_of(&entity_type, "snapped");
    storage
        .snapshots
        .save(right, &snapped.id, SequenceNr::new(9), &payload("state"))
        .await
        .unwrap();
    snapped.delete(OPEN).await;

    let mut expected: Vec<(String, u64)> = (1..)
        .zip(names)
        .map(|(count, name)| (name.to_owned(), count))
        .collect();
    expected.retain(|(name, _)| name != "gone");
    expected.sort();
    for page_len in [1, 3, 100] {
        let mut listed: Vec<(String, u64)> = Vec::new();
        loop {
            let after = listed.last().map(|(name, _)| name.as_str());
            let page = storage
                .journal
                .list_entities(&entity_type, after, page_len)
                .await
                .unwrap();
            assert!(page.len() <= page_len);
            if page.is_empty() {
                break;
            }
            let line = |line: &crate::journal::EntityListing| {
                (
                    line.persistence_id.entity_id().to_owned(),
                    line.sequence_nr.get(),
                )
            };
            listed.extend(page.iter().map(line));
        }
        assert_eq!(listed, expected, "in pages of {page_len}");
    }
    assert!(
        storage
            .journal
            .list_entities(&entity_type, None, 0)
            .await
            .unwrap()
            .is_empty()
    );
}
