//! What every recovery reader must do, case by case; see `journal/conformance.rs`
//! for how the kits are used.

#![allow(clippy::unwrap_used)]

use crate::journal::conformance::{Stream, assert_stored, payload, write};
use crate::journal::{AtomicWrite, JournalError, NewEvent, StreamBounds};
use crate::payload::{CodecId, Payload};
use crate::persistence_id::PersistenceId;
use crate::recovery_reader::{Beginning, BeginningLimits, Wanted};
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::SnapshotCriteria;
use crate::storage::Storage;

/// Makes a `#[test]` of every case; see [`crate::journal_conformance_tests`].
#[macro_export]
macro_rules! recovery_reader_conformance_tests {
    ($run:path) => {
        $crate::recovery_reader_conformance_tests! { @each $run:
            r01_nothing_there, r02_events_only, r03_snapshot_and_events_after_it,
            r04_snapshot_at_the_end, r05_lower_snapshot, r06_no_snapshot_of_use,
            r07_events_deleted, r08_everything_deleted, r09_limit_of_events, r10_limit_of_bytes,
            r11_large_snapshot, r12_answers_are_in_order, r13_events_come_back_whole,
            r14_nobody_asked, r15_snapshot_ahead_of_its_journal, r16_one_moment,
        }
    };
    (@each $run:path: $($case:ident),+ $(,)?) => {
        $(#[test] fn $case() { $run($crate::recovery_reader::conformance::$case); })+
    };
}

/// More than any case but those about limits asks for.
const WIDE: BeginningLimits = BeginningLimits {
    events_each: 100,
    bytes: 64 * 1024 * 1024,
};

type Answer = Result<Option<Beginning>, JournalError>;

async fn read(storage: &Storage, wanted: &[Wanted], limits: BeginningLimits) -> Vec<Answer> {
    let answers = storage.recoveries.read_beginnings(wanted, limits).await;
    assert_eq!(answers.len(), wanted.len(), "one answer for each");
    answers
}

async fn read_one(storage: &Storage, wanted: Wanted, limits: BeginningLimits) -> Beginning {
    let mut answers = read(storage, &[wanted], limits).await;
    answers.pop().unwrap().unwrap().unwrap()
}

fn up_to(id: &PersistenceId, snapshot_max: u64) -> Wanted {
    Wanted {
        persistence_id: id.clone(),
        snapshot_max: SequenceNr::new(snapshot_max),
    }
}

/// A stream with `count` events and snapshots at these numbers.
async fn stream_with(storage: &Storage, count: u64, snapshots: &[u64]) -> PersistenceId {
    let stream = Stream::empty(storage).await;
    fill(&stream, count, snapshots).await;
    stream.id
}

async fn fill(stream: &Stream<'_>, count: u64, snapshots: &[u64]) {
    let texts: Vec<String> = (1..=count).map(|nr| format!("a-{nr}")).collect();
    let writes: Vec<AtomicWrite> = texts.iter().map(|text| write(&[text])).collect();
    assert_stored(&stream.append(1, writes).await);
    for &nr in snapshots {
        save(stream, nr, &payload(&format!("s-{nr}"))).await;
    }
}

async fn save(stream: &Stream<'_>, nr: u64, state: &Payload) {
    let snapshots = &stream.storage.snapshots;
    snapshots
        .save(stream.right, &stream.id, SequenceNr::new(nr), state)
        .await
        .unwrap();
}

/// Bounds as (highest, deleted), the number of the snapshot, 0 for none, and those
/// of the events. Payloads are checked.
fn numbers(beginning: &Beginning) -> ((u64, u64), u64, Vec<u64>) {
    if let Some(snapshot) = &beginning.snapshot {
        assert_eq!(
            snapshot.payload,
            payload(&format!("s-{}", snapshot.sequence_nr))
        );
    }
    for event in &beginning.events {
        assert_eq!(event.payload, payload(&format!("a-{}", event.sequence_nr)));
    }
    let StreamBounds {
        highest,
        deleted_to,
        ..
    } = beginning.bounds;
    let events = beginning.events.iter();
    (
        (highest.get(), deleted_to.get()),
        beginning.snapshot_nr().get(),
        events.map(|event| event.sequence_nr.get()).collect(),
    )
}

/// R1: an entity that was never written begins with nothing, and that is all.
pub async fn r01_nothing_there(storage: &Storage) {
    let id = Stream::empty(storage).await.id;
    let beginning = read_one(storage, Wanted::latest(id), WIDE).await;
    assert_eq!(numbers(&beginning), ((0, 0), 0, vec![]));
    assert!(beginning.is_complete());
}

/// R2: without a snapshot, the events from the first on.
pub async fn r02_events_only(storage: &Storage) {
    let id = stream_with(storage, 5, &[]).await;
    let beginning = read_one(storage, Wanted::latest(id), WIDE).await;
    assert_eq!(numbers(&beginning), ((5, 0), 0, vec![1, 2, 3, 4, 5]));
    assert!(beginning.is_complete());
}

/// R3: the latest snapshot and the events after it.
pub async fn r03_snapshot_and_events_after_it(storage: &Storage) {
    let id = stream_with(storage, 5, &[1, 3]).await;
    let latest = storage.snapshots.load(&id, SnapshotCriteria::ALL).await;
    let beginning = read_one(storage, Wanted::latest(id), WIDE).await;
    assert_eq!(numbers(&beginning), ((5, 0), 3, vec![4, 5]));
    assert_eq!(beginning.snapshot, latest.unwrap(), "its time, too");
    assert!(beginning.is_complete());
}

/// R4: a snapshot at the end leaves no events.
pub async fn r04_snapshot_at_the_end(storage: &Storage) {
    let id = stream_with(storage, 5, &[5]).await;
    let beginning = read_one(storage, Wanted::latest(id), WIDE).await;
    assert_eq!(numbers(&beginning), ((5, 0), 5, vec![]));
    assert!(beginning.is_complete());
}

/// R5: a lower snapshot, when the latest is of no use.
pub async fn r05_lower_snapshot(storage: &Storage) {
    let id = stream_with(storage, 5, &[2, 4]).await;
    let beginning = read_one(storage, up_to(&id, 3), WIDE).await;
    assert_eq!(numbers(&beginning), ((5, 0), 2, vec![3, 4, 5]));
    let beginning = read_one(storage, up_to(&id, 4), WIDE).await;
    assert_eq!(numbers(&beginning), ((5, 0), 4, vec![5]), "inclusive");
}

/// R6: all events, when no snapshot is of use.
pub async fn r06_no_snapshot_of_use(storage: &Storage) {
    let id = stream_with(storage, 3, &[2, 3]).await;
    let beginning = read_one(storage, up_to(&id, 0), WIDE).await;
    assert_eq!(numbers(&beginning), ((3, 0), 0, vec![1, 2, 3]));
}

/// R7: the events after what is deleted, whether or not a snapshot stands for it.
pub async fn r07_events_deleted(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    fill(&stream, 5, &[2, 4]).await;
    stream.delete(3).await;
    let beginning = read_one(storage, Wanted::latest(stream.id.clone()), WIDE).await;
    assert_eq!(numbers(&beginning), ((5, 3), 4, vec![5]));
    let beginning = read_one(storage, up_to(&stream.id, 3), WIDE).await;
    assert_eq!(numbers(&beginning), ((5, 3), 2, vec![4, 5]));
    assert!(beginning.is_complete());
}

/// R8: the highest number outlives its event.
pub async fn r08_everything_deleted(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    fill(&stream, 5, &[]).await;
    stream.delete(u64::MAX).await;
    let beginning = read_one(storage, Wanted::latest(stream.id), WIDE).await;
    assert_eq!(numbers(&beginning), ((5, 5), 0, vec![]));
    assert!(beginning.is_complete());
}

/// R9: at most so many events, the bounds being those of the whole stream.
pub async fn r09_limit_of_events(storage: &Storage) {
    let id = stream_with(storage, 5, &[1]).await;
    for (events_each, expected) in [(1, 1), (3, 3), (4, 4), (5, 4)] {
        let limits = BeginningLimits {
            events_each,
            ..WIDE
        };
        let beginning = read_one(storage, Wanted::latest(id.clone()), limits).await;
        let events = (2..2 + expected).collect();
        assert_eq!(numbers(&beginning), ((5, 0), 1, events));
        assert_eq!(beginning.is_complete(), expected == 4);
    }
}

/// R10: the payloads of all events together stay below the limit, small entities
/// beside large ones come whole, and what comes has no gap.
pub async fn r10_limit_of_bytes(storage: &Storage) {
    let large = Stream::empty(storage).await;
    let text = "x".repeat(100_000);
    let writes = vec![write(&["a-1"]), write(&[text.as_str(); 20]), write(&["z"])];
    assert_stored(&large.append(1, writes).await);
    let small = stream_with(storage, 5, &[]).await;
    let wanted = [Wanted::latest(large.id), Wanted::latest(small)];
    let limits = BeginningLimits {
        events_each: 100,
        bytes: 1_000_000,
    };
    let mut answers = read(storage, &wanted, limits).await.into_iter();
    let beginning = answers.next().unwrap().unwrap().unwrap();
    assert_eq!(beginning.bounds.highest.get(), 22);
    assert!(!beginning.is_complete());
    for (event, expected) in beginning.events.iter().zip(1..) {
        assert_eq!(event.sequence_nr.get(), expected);
    }
    let bytes = |beginning: &Beginning| -> usize {
        let events = beginning.events.iter();
        events.map(|event| event.payload.bytes.len()).sum()
    };
    assert!(bytes(&beginning) <= limits.bytes / 2);
    let beginning = answers.next().unwrap().unwrap().unwrap();
    assert_eq!(numbers(&beginning), ((5, 0), 0, vec![1, 2, 3, 4, 5]));
}

/// R11: a snapshot larger than its share is left to be read by itself.
pub async fn r11_large_snapshot(storage: &Storage) {
    let large = Stream::empty(storage).await;
    fill(&large, 2, &[]).await;
    save(&large, 1, &payload("s-1")).await;
    save(&large, 2, &payload(&"x".repeat(100_000))).await;
    let small = stream_with(storage, 2, &[1]).await;
    let wanted = [
        Wanted::latest(large.id.clone()),
        Wanted::latest(small),
        up_to(&large.id, 1),
    ];
    let limits = BeginningLimits {
        events_each: 10,
        bytes: 100_000,
    };
    let answers = read(storage, &wanted, limits).await;
    assert!(matches!(answers[0], Ok(None)), "{:?}", answers[0]);
    for answer in &answers[1..] {
        let beginning = answer.as_ref().unwrap().as_ref().unwrap();
        assert_eq!(numbers(beginning), ((2, 0), 1, vec![2]));
    }
}

/// R12: answers are in the order of the questions, many at once, the same entity
/// twice, known and unknown ones mixed.
pub async fn r12_answers_are_in_order(storage: &Storage) {
    let session = Stream::empty(storage).await.right.session;
    let mut wanted = Vec::new();
    for count in 0..150_u64 {
        let stream = Stream::of(storage, session);
        if count % 3 != 0 {
            fill(&stream, count % 7 + 1, &[]).await;
        }
        wanted.push(Wanted::latest(stream.id));
    }
    wanted.push(wanted[1].clone());
    let answers = read(storage, &wanted, WIDE).await;
    for ((answer, wanted), nr) in answers.iter().zip(&wanted).zip(0..) {
        let beginning = answer.as_ref().unwrap().as_ref().unwrap();
        let count = if nr == 150 { 1 } else { nr };
        let highest = if count % 3 == 0 { 0 } else { count % 7 + 1 };
        let events = (1..=highest).collect();
        assert_eq!(numbers(beginning), ((highest, 0), 0, events), "{wanted:?}");
        for event in &beginning.events {
            assert_eq!(event.persistence_id, wanted.persistence_id);
        }
    }
}

/// R13: events are what the journal says they are, in every field.
pub async fn r13_events_come_back_whole(storage: &Storage) {
    use crate::journal::conformance::commanded;
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
            "ü".into(),
        ],
    };
    let pairs = [("trace", "a \"b\" \\ c"), ("", ""), ("ключ", "значение")];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let writes = vec![
        write(&["a-1"]),
        AtomicWrite {
            events: vec![odd.clone(), odd],
            command: None,
            metadata: Some(std::sync::Arc::new(pairs.into())),
        },
        commanded(&["", "x"], "a \"command\" ☂", "reply"),
        write(&["a-6"]),
    ];
    assert_stored(&stream.append(1, writes).await);
    let expected = stream.read(1, u64::MAX, 100).await;
    assert_eq!(expected.len(), 6);
    let beginning = read_one(storage, Wanted::latest(stream.id), WIDE).await;
    assert_eq!(beginning.events, expected);
}

/// R14: asking for nobody is answered with nothing.
pub async fn r14_nobody_asked(storage: &Storage) {
    assert!(read(storage, &[], WIDE).await.is_empty());
}

/// R15: a snapshot without the events it stands for comes as it is; the recovery
/// refuses it.
pub async fn r15_snapshot_ahead_of_its_journal(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    save(&stream, 7, &payload("s-7")).await;
    let beginning = read_one(storage, Wanted::latest(stream.id), WIDE).await;
    assert_eq!(numbers(&beginning), ((0, 0), 7, vec![]));
}

/// R16: bounds, snapshot and events are of one moment, although another writes,
/// saves snapshots and deletes what they stand for meanwhile.
pub async fn r16_one_moment(storage: &Storage) {
    const ROUNDS: u64 = 60;
    let stream = Stream::empty(storage).await;
    let writing = async {
        for nr in 1..=ROUNDS {
            assert_stored(&stream.append(nr, vec![write(&[&format!("a-{nr}")])]).await);
            if nr % 3 == 0 {
                save(&stream, nr, &payload(&format!("s-{nr}"))).await;
                stream.delete(nr).await;
            }
        }
    };
    let reading = async {
        loop {
            let beginning = read_one(storage, Wanted::latest(stream.id.clone()), WIDE).await;
            let ((highest, deleted_to), snapshot, events) = numbers(&beginning);
            assert!(snapshot >= deleted_to, "{snapshot} < {deleted_to}");
            assert_eq!(events, (snapshot + 1..=highest).collect::<Vec<u64>>());
            if deleted_to == ROUNDS {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    futures::future::join(writing, reading).await;
}
