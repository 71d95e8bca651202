//! Group commit: what waits together is stored together, within bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::journal::{Append, Appended, Journal};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::testing::around_journal::AroundJournal;
use perennial_persistence::writer::SessionUuid;
use tokio::time::Instant;

use crate::fixture::{Fixture, add, answered};

/// How long a batch takes, however large it is.
const ROUND_TRIP: Duration = Duration::from_millis(10);

/// A batch as the journal got it.
#[derive(Debug, Clone, Copy)]
struct Batch {
    events: usize,
    bytes: usize,
}

#[derive(Default)]
struct Seen {
    batches: Vec<Batch>,
    /// Streams with an append under way.
    under_way: BTreeSet<PersistenceId>,
    lanes: BTreeMap<PersistenceId, usize>,
}

/// A journal that takes its time and remembers what it was given.
struct Observed {
    inner: Arc<dyn Journal>,
    seen: Mutex<Seen>,
}

impl Observed {
    fn batches(&self) -> Vec<Batch> {
        self.seen.lock().unwrap().batches.clone()
    }
}

#[async_trait]
impl AroundJournal for Observed {
    fn inner(&self) -> &dyn Journal {
        &*self.inner
    }

    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        {
            let mut seen = self.seen.lock().unwrap();
            seen.batches.push(Batch {
                events: batch.iter().map(Append::event_count).sum(),
                bytes: batch.iter().map(Append::payload_len).sum(),
            });
            for append in batch {
                let id = &append.persistence_id;
                let is_only_one = seen.under_way.insert(id.clone());
                assert!(is_only_one, "{id} has two appends under way");
                let own = *seen.lanes.entry(id.clone()).or_insert(lane);
                assert_eq!(own, lane, "{id} has changed its lane");
            }
        }
        tokio::time::sleep(ROUND_TRIP).await;
        let outcomes = self.inner.append(session, lane, batch).await;
        let mut seen = self.seen.lock().unwrap();
        for append in batch {
            seen.under_way.remove(&append.persistence_id);
        }
        outcomes
    }
}

async fn fixture() -> (Fixture, Arc<Observed>) {
    let memory = MemoryStorage::new(2);
    let mut storage = memory.storage();
    let observed = Arc::new(Observed {
        inner: storage.journal,
        seen: Mutex::default(),
    });
    storage.journal = observed.clone();
    let settings = EngineSettings {
        max_payload: 16 * 1024 * 1024,
        ..EngineSettings::default()
    };
    (Fixture::over(memory, storage, settings).await, observed)
}

/// Nobody waits for company.
#[tokio::test(start_paused = true)]
async fn one_command_alone_is_stored_at_once() {
    let (f, observed) = fixture().await;
    let began = Instant::now();
    for nr in 1..=5 {
        f.ask("a", &add("x")).await.unwrap();
        assert_eq!(observed.batches().len(), nr);
    }
    assert!(began.elapsed() < ROUND_TRIP * 6, "{:?}", began.elapsed());
}

/// A burst costs few round trips, and the streams keep their lanes and their order.
#[tokio::test(start_paused = true)]
async fn a_burst_is_stored_in_few_batches() {
    let (f, observed) = fixture().await;
    let answers: Vec<_> = (0..4)
        .flat_map(|_| (0..250).map(|id| f.tell(&id.to_string(), &add("x"))))
        .collect();
    for answer in answers {
        answered(answer).await.unwrap();
    }
    let batches = observed.batches();
    let events: usize = batches.iter().map(|batch| batch.events).sum();
    assert_eq!(events, 1000);
    assert!(batches.len() <= 20, "{} batches", batches.len());
    for id in 0..250 {
        assert_eq!(f.list(&id.to_string()).await.len(), 4);
    }
}

/// I-10: a batch has a largest number of events and of bytes; what is larger by
/// itself goes alone.
#[tokio::test(start_paused = true)]
async fn i10_batches_are_bounded() {
    const EVENTS: usize = 1024;
    const BYTES: usize = 4 * 1024 * 1024;
    let (f, observed) = fixture().await;
    let small = (0..3000).map(|id| (format!("s{id}"), 1));
    let large = (0..100).map(|id| (format!("l{id}"), 200 * 1024));
    let huge = (0..2).map(|id| (format!("h{id}"), BYTES + 1));
    let answers: Vec<_> = small
        .chain(large)
        .chain(huge)
        .map(|(id, len)| f.tell(&id, &add(&"x".repeat(len))))
        .collect();
    for answer in answers {
        answered(answer).await.unwrap();
    }
    let batches = observed.batches();
    let fullest = batches.iter().map(|batch| batch.events).max();
    assert_eq!(fullest, Some(EVENTS), "batches fill up, and no further");
    let over: Vec<_> = batches.iter().filter(|batch| batch.bytes > BYTES).collect();
    assert_eq!(over.len(), 2, "{over:?}");
    assert!(over.iter().all(|batch| batch.events == 1), "{over:?}");
}
