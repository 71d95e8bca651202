//! Recoveries in storms, beside huge streams, and in bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::journal::{EventRange, Journal, JournalError, StoredEvent};
use perennial_persistence::payload::Payload;
use perennial_persistence::recovery_reader::{Beginning, BeginningLimits, RecoveryReader, Wanted};
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::testing::around_journal::AroundJournal;
use perennial_persistence::writer::WriterUuid;

use crate::fixture::{Command, Fixture, add, answered, error, notes, shard, texts};

/// Counts calls, entities and what is under way at once.
struct Counted {
    inner: Arc<dyn RecoveryReader>,
    calls: AtomicUsize,
    entities: AtomicUsize,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
    events_max: AtomicUsize,
    /// How long a call takes.
    delay: Duration,
}

impl Counted {
    fn over(memory: &MemoryStorage, delay: Duration) -> Arc<Self> {
        Arc::new(Self {
            inner: memory.storage().recoveries,
            calls: AtomicUsize::default(),
            entities: AtomicUsize::default(),
            under_way: AtomicUsize::default(),
            under_way_max: AtomicUsize::default(),
            events_max: AtomicUsize::default(),
            delay,
        })
    }
}

#[async_trait]
impl RecoveryReader for Counted {
    fn concurrency(&self) -> usize {
        2
    }

    async fn read_beginnings(
        &self,
        wanted: &[Wanted],
        limits: BeginningLimits,
    ) -> Vec<Result<Option<Beginning>, JournalError>> {
        let under_way = self.under_way.fetch_add(wanted.len(), Ordering::SeqCst) + wanted.len();
        self.under_way_max.fetch_max(under_way, Ordering::SeqCst);
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.entities.fetch_add(wanted.len(), Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        let read = self.inner.read_beginnings(wanted, limits).await;
        for beginning in read.iter().flatten().flatten() {
            self.events_max
                .fetch_max(beginning.events.len(), Ordering::SeqCst);
        }
        self.under_way.fetch_sub(wanted.len(), Ordering::SeqCst);
        read
    }
}

/// As many events, one text each, as if an earlier process had stored them.
fn import(memory: &MemoryStorage, id: &str, count: u64) {
    memory.import((1..=count).map(|nr| StoredEvent {
        persistence_id: notes(id),
        sequence_nr: SequenceNr::new(nr),
        writer: WriterUuid(uuid::Uuid::from_u128(1)),
        payload: Payload::json(br#"{"Added":"x"}"#.as_slice()),
        tags: Vec::new(),
        metadata: None,
        command_id: None,
        created_at: std::time::SystemTime::UNIX_EPOCH,
    }));
}

async fn fixture(delay: Duration, settings: EngineSettings) -> (Fixture, Arc<Counted>) {
    let memory = MemoryStorage::new(2);
    let mut storage = memory.storage();
    let counted = Counted::over(&memory, delay);
    storage.recoveries = counted.clone();
    (Fixture::over(memory, storage, settings).await, counted)
}

/// I-11: two thousand entities at once with three permits: all recover, never more
/// than three at a time, and those that wait together are read together.
#[tokio::test(start_paused = true)]
async fn i11_a_storm_with_few_permits() {
    let settings = EngineSettings {
        max_concurrent_recoveries: 3,
        ..EngineSettings::default()
    };
    let (f, counted) = fixture(Duration::from_millis(1), settings).await;
    for i in 0..2000 {
        import(&f.memory, &i.to_string(), i % 5);
    }
    let reads: Vec<_> = (0..2000)
        .map(|i| f.tell(&i.to_string(), &Command::List))
        .collect();
    for (i, read) in reads.into_iter().enumerate() {
        assert_eq!(texts(&answered(read).await.unwrap()).len(), i % 5);
    }
    assert_eq!(counted.entities.load(Ordering::SeqCst), 2000);
    let under_way_max = counted.under_way_max.load(Ordering::SeqCst);
    assert!(under_way_max <= 3, "{under_way_max} at once");
    let calls = counted.calls.load(Ordering::SeqCst);
    assert!(calls <= 1001, "{calls} calls for 2000 entities");
}

/// A recovery alone is read at once, and a burst behind it in few calls.
#[tokio::test(start_paused = true)]
async fn what_waits_together_is_read_together() {
    let (f, counted) = fixture(Duration::from_millis(10), EngineSettings::default()).await;
    let reads: Vec<_> = (0..51)
        .map(|i| f.tell(&i.to_string(), &Command::List))
        .collect();
    for read in reads {
        answered(read).await.unwrap();
    }
    let calls = counted.calls.load(Ordering::SeqCst);
    assert!(calls <= 4, "{calls} calls for 51 entities");
}

/// Huge streams do not hold up small ones: with a permit for each, the small ones
/// are there before the huge ones have read half of theirs.
#[tokio::test(start_paused = true)]
async fn a_huge_stream_does_not_hold_up_small_ones() {
    let settings = EngineSettings {
        max_concurrent_recoveries: 110,
        ..EngineSettings::default()
    };
    let (f, _) = fixture(Duration::from_millis(1), settings).await;
    // Every page takes a while, the first one of each entity, too.
    let page = Fault::Delay(Duration::from_millis(50));
    import(&f.memory, "huge", 20_000);
    for i in 0..100 {
        import(&f.memory, &i.to_string(), 10);
    }
    for nth in 1..=200 {
        f.faults().at(Operation::ReadEvents, nth, page);
    }
    let mut huge = f.tell("huge", &Command::List);
    let small: Vec<_> = (0..100)
        .map(|i| f.tell(&i.to_string(), &Command::List))
        .collect();
    for read in small {
        assert_eq!(texts(&answered(read).await.unwrap()).len(), 10);
    }
    assert!(huge.try_recv().is_err(), "it should still be reading");
    // The first pages of all, and few more of the huge one.
    let pages = f.faults().count(Operation::ReadEvents);
    assert!(pages < 101 + 10, "{pages} pages by then");
    assert_eq!(texts(&answered(huge).await.unwrap()).len(), 20_000);
}

/// A journal that says how many events it handed out at once.
struct PageCounting {
    inner: Arc<dyn Journal>,
    under_way: AtomicUsize,
    events_max: AtomicUsize,
}

#[async_trait]
impl AroundJournal for PageCounting {
    fn inner(&self) -> &dyn Journal {
        &*self.inner
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        let others = self.under_way.fetch_add(1, Ordering::SeqCst);
        assert_eq!(
            others, 0,
            "I-10: a page is asked for before the last was folded"
        );
        let read = self.inner.read_events(range).await;
        tokio::task::yield_now().await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let events = read.as_ref().map_or(0, Vec::len);
        self.events_max.fetch_max(events, Ordering::SeqCst);
        read
    }
}

/// I-10: a long stream is in memory page by page, never as a whole.
#[tokio::test(start_paused = true)]
async fn i10_a_long_stream_is_read_in_pages() {
    let memory = MemoryStorage::new(2);
    let counted = Counted::over(&memory, Duration::ZERO);
    let mut storage = memory.storage();
    let pages = Arc::new(PageCounting {
        inner: storage.journal,
        under_way: AtomicUsize::default(),
        events_max: AtomicUsize::default(),
    });
    storage.journal = pages.clone();
    storage.recoveries = counted.clone();
    let f = Fixture::over(memory, storage, EngineSettings::default()).await;
    import(&f.memory, "n", 100_000);
    let read = f.tell("n", &Command::List);
    assert_eq!(texts(&answered(read).await.unwrap()).len(), 100_000);
    let first = counted.events_max.load(Ordering::SeqCst);
    assert!(
        (1..=128).contains(&first),
        "{first} events of the first page"
    );
    let largest = pages.events_max.load(Ordering::SeqCst);
    assert!((1..=500).contains(&largest), "{largest} events of one page");
}

/// What is wrong with one entity is no other's business, though they are read
/// together.
#[tokio::test(start_paused = true)]
async fn one_damaged_entity_fails_alone() {
    let (f, counted) = fixture(Duration::from_millis(1), EngineSettings::default()).await;
    for i in 0..40 {
        import(&f.memory, &i.to_string(), 2);
    }
    f.faults().at(Operation::ReadEvents, 20, Fault::Corrupt);
    let reads: Vec<_> = (0..40)
        .map(|i| f.tell(&i.to_string(), &Command::List))
        .collect();
    let mut damaged = 0;
    for read in reads {
        match answered(read).await {
            Ok(reply) => assert_eq!(texts(&reply).len(), 2),
            Err(failed) => {
                assert!(matches!(failed, CommandError::RecoveryFailed { .. }));
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
    assert!(counted.calls.load(Ordering::SeqCst) < 10);
}

/// A snapshot too large to be read with others is read by itself, and the events
/// after it.
#[tokio::test(start_paused = true)]
async fn a_large_snapshot_is_read_by_itself() {
    let settings = EngineSettings {
        max_payload: 32 * 1024 * 1024,
        ..EngineSettings::default()
    };
    let (f, counted) = fixture(Duration::ZERO, settings).await;
    let large = "x".repeat(17 * 1024 * 1024);
    f.ask("n", &Command::ThenSnapshot(large)).await.unwrap();
    f.ask("n", &add("y")).await.unwrap();
    f.passivate("n").await;
    let before = f.faults().count(Operation::LoadSnapshot);
    assert_eq!(f.list("n").await.len(), 2);
    assert_eq!(counted.calls.load(Ordering::SeqCst), 2);
    assert_eq!(f.faults().count(Operation::LoadSnapshot), before + 2);
}

/// I-8, I-11: a call that never returns costs those it was for an error, and later
/// ones nothing.
#[tokio::test(start_paused = true)]
async fn i11_a_call_that_hangs_costs_only_its_own() {
    let settings = EngineSettings {
        recovery_event_timeout: Duration::from_secs(1),
        max_concurrent_recoveries: 1,
        ..EngineSettings::default()
    };
    let (f, _) = fixture(Duration::ZERO, settings).await;
    let forever = Fault::Delay(Duration::from_secs(1_000_000));
    f.faults().at(Operation::Bounds, 1, forever);
    let hangs = f.tell("a", &Command::List);
    let behind = f.tell("b", &Command::List);
    let failed = error(answered(hangs).await);
    assert!(matches!(failed, CommandError::JournalUnavailable { .. }));
    answered(behind).await.unwrap();
}

/// I-11: a recovery that waited and is read at last is not given up half-way, when
/// another one could begin beside what is read of it.
#[tokio::test(start_paused = true)]
async fn i11_a_recovery_keeps_its_permit_until_its_call_is_over() {
    let settings = EngineSettings {
        recovery_event_timeout: Duration::from_secs(1),
        max_concurrent_recoveries: 3,
        ..EngineSettings::default()
    };
    let (f, counted) = fixture(Duration::from_millis(900), settings).await;
    let mut reads = Vec::new();
    // Two are read at once: the third waits for 400 ms, and is still read when the
    // last three come, more than a second after it asked.
    for (id, pause) in [
        ("a", 400),
        ("b", 100),
        ("c", 1_050),
        ("d", 0),
        ("e", 0),
        ("f", 0),
    ] {
        reads.push(f.tell(id, &Command::List));
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let mut recovered = 0;
    for read in reads {
        recovered += usize::from(answered(read).await.is_ok());
    }
    let under_way_max = counted.under_way_max.load(Ordering::SeqCst);
    assert!(under_way_max <= 3, "{under_way_max} at once");
    assert_eq!(recovered, 6);
}

/// I-2: what an entity has asked for is not read once its shard has left: whoever owns
/// it then may not recover yet, and nobody waits for what is read.
#[tokio::test(start_paused = true)]
async fn i2_a_recovery_nobody_waits_for_is_not_begun() {
    // Two are read at once: the third waits for a permit, or with it for its turn.
    for permits in [2, 3] {
        let settings = EngineSettings {
            max_concurrent_recoveries: permits,
            ..EngineSettings::default()
        };
        let (f, counted) = fixture(Duration::from_secs(1), settings).await;
        let mut reads = Vec::new();
        for id in ["a", "b", "c"] {
            reads.push(f.tell(id, &Command::List));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let read = || counted.entities.load(Ordering::SeqCst);
        assert_eq!(read(), 2);
        let limit = Duration::from_secs(1);
        for mut stop in f.engine.stop_shards(&[shard("c")], limit).await {
            stop.all_left().await;
        }
        // Of another shard, and behind it.
        f.ask("other", &Command::List).await.unwrap();
        assert_eq!(read(), 3, "with {permits} permits");
        f.ask("c", &Command::List).await.unwrap();
        assert_eq!(read(), 4, "with {permits} permits");
    }
}
