#![allow(clippy::unwrap_used)]

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};
use uuid::Uuid;

use crate::journal::{Append, AppendError, AtomicWrite, EventRange, NewEvent};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::{Storage, StorageOptions, StorageUrl, migrate};
use crate::writer::{Epoch, ShardNr, WriterUuid};

/// What the trigger of the test refuses.
const REFUSED: &str = "refused";

fn write(events: usize, refused: Option<usize>) -> AtomicWrite {
    let event = |nr| NewEvent {
        payload: Payload {
            manifest: if refused == Some(nr) { REFUSED } else { "m" }.into(),
            ..Payload::json(&b"{}"[..])
        },
        tags: Vec::new(),
    };
    AtomicWrite {
        events: (0..events).map(event).collect(),
        command: None,
        metadata: None,
    }
}

fn append(name: usize, writes: Vec<AtomicWrite>) -> Append {
    Append {
        persistence_id: PersistenceId::new("test", &name.to_string()).unwrap(),
        shard: ShardNr(1),
        epoch: Epoch(1),
        writer: WriterUuid(Uuid::nil()),
        first_sequence_nr: SequenceNr::new(1),
        writes,
    }
}

/// I-7: what the file refuses fails alone, with the later writes of its append, and
/// is not stored in part, wherever it is in a statement and however large it is.
#[tokio::test]
async fn what_is_refused_leaves_its_neighbours_alone() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("journal.sqlite");
    let url = StorageUrl::parse(&format!("sqlite:{}", path.display())).unwrap();
    migrate(&url).await.unwrap();
    let options = SqliteConnectOptions::new().filename(&path);
    let trigger = format!(
        "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.manifest = '{REFUSED}' \
         BEGIN SELECT RAISE(ABORT, 'no'); END"
    );
    let mut connection = options.connect().await.unwrap();
    connection.execute(trigger.as_str()).await.unwrap();
    let storage = Storage::open(&url, &StorageOptions::default())
        .await
        .unwrap();
    let node = storage.registry.mint_node().await.unwrap();
    let began = storage.registry.begin_incarnation(node).await.unwrap();

    // Of each append: its writes, how many of them are stored, and their events.
    let small = || vec![write(1, None), write(2, None), write(1, None)];
    let mut cases: Vec<(Vec<AtomicWrite>, usize, usize)> =
        (0..60).map(|_| (small(), 3, 4)).collect();
    for refused in [0, 7, 8, 31, 59] {
        let writes = vec![write(1, None), write(2, Some(1)), write(1, None)];
        cases[refused] = (writes, 1, 1);
    }
    cases[20] = (vec![write(70, None), write(1, None)], 2, 71);
    cases[21] = (
        vec![write(1, None), write(70, Some(65)), write(1, None)],
        1,
        1,
    );
    cases[22] = (vec![write(1, Some(0)); 40], 0, 0);

    let numbered = cases.iter().enumerate();
    let batch: Vec<Append> = numbered
        .map(|(name, (writes, ..))| append(name, writes.clone()))
        .collect();
    let outcomes = storage.journal.append(began.session, 0, &batch).await;
    for (nr, (outcome, (writes, stored, events))) in outcomes.iter().zip(&cases).enumerate() {
        assert_eq!(outcome.stored_writes, *stored, "{nr}: {outcome:?}");
        let rejected = matches!(outcome.failure, Some(AppendError::Rejected { .. }));
        assert_eq!(rejected, *stored < writes.len(), "{nr}: {outcome:?}");
        let range = EventRange {
            persistence_id: batch[nr].persistence_id.clone(),
            from: SequenceNr::new(1),
            to: SequenceNr::MAX,
            max_events: 1000,
            max_bytes: usize::MAX,
        };
        let read = storage.journal.read_events(&range).await.unwrap();
        let numbers = read.iter().map(|event| event.sequence_nr.get());
        assert!(numbers.eq(1..=*events as u64), "{nr}: {read:?}");
    }
}
