//! A node on a database, as far as its storage goes.

use std::time::Duration;

use perennial_persistence::journal::{Append, Appended, AtomicWrite, EventRange, NewEvent};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::{Storage, StorageOptions, StorageUrl, migrate};
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

/// Far longer than anything here should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One node on a database.
pub(crate) struct Node {
    pub(crate) storage: Storage,
    pub(crate) session: SessionUuid,
    pub(crate) writer: WriterUuid,
}

impl Node {
    pub(crate) async fn start(url: &StorageUrl) -> Self {
        migrate(url).await.unwrap();
        Self::start_with(url, &StorageOptions::default()).await
    }

    pub(crate) async fn start_with(url: &StorageUrl, options: &StorageOptions) -> Self {
        let storage = Storage::open(url, options).await.unwrap();
        let node = storage.registry.mint_node().await.unwrap();
        let session = storage
            .registry
            .begin_incarnation(node)
            .await
            .unwrap()
            .session;
        Self {
            storage,
            session,
            writer: WriterUuid(Uuid::new_v4()),
        }
    }

    /// An append of one event per atomic write.
    pub(crate) fn to_append(&self, name: &str, first: u64, texts: &[&str]) -> Append {
        let write = |text: &&str| AtomicWrite {
            events: vec![NewEvent {
                payload: Payload::json(text.as_bytes().to_vec()),
                tags: Vec::new(),
            }],
            command: None,
            metadata: None,
        };
        Append {
            persistence_id: id(name),
            shard: ShardNr(1),
            epoch: Epoch(1),
            writer: self.writer,
            first_sequence_nr: SequenceNr::new(first),
            writes: texts.iter().map(write).collect(),
        }
    }

    pub(crate) async fn append(&self, append: Append) -> Appended {
        let append = [append];
        let appended = self.storage.journal.append(self.session, 0, &append);
        let mut outcomes = tokio::time::timeout(PATIENCE, appended).await.unwrap();
        outcomes.pop().unwrap()
    }

    pub(crate) async fn texts(&self, name: &str) -> Vec<String> {
        let range = EventRange {
            persistence_id: id(name),
            from: SequenceNr::ZERO,
            to: SequenceNr::MAX,
            max_events: 1000,
            max_bytes: usize::MAX,
        };
        let events = self.storage.journal.read_events(&range).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        events
            .iter()
            .map(|event| text(&event.payload.bytes))
            .collect()
    }
}

pub(crate) fn id(name: &str) -> PersistenceId {
    PersistenceId::new("counter", name).unwrap()
}

pub(crate) fn assert_stored(appended: &Appended) {
    assert!(appended.failure.is_none(), "{appended:?}");
}

/// Ends the connections named after a session; how many there were.
pub(crate) async fn end_connections(control: &mut PgConnection, session: SessionUuid) -> i64 {
    sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1",
    )
    .bind(format!("perennial {session}"))
    .fetch_one(control)
    .await
    .unwrap()
}

/// Waits until a query that counts something counts at least one.
pub(crate) async fn until_any(control: &mut PgConnection, count: &str) {
    let found = async {
        while sqlx::query_scalar::<_, i64>(count)
            .fetch_one(&mut *control)
            .await
            .unwrap()
            == 0
        {
            tokio::task::yield_now().await;
        }
    };
    let within = tokio::time::timeout(PATIENCE, found).await;
    within.unwrap_or_else(|_| panic!("never counted any: {count}"));
}
