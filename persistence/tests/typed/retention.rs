//! The retention traces of section 5.7 of the cases, through the real engine: which
//! snapshots are stored, and what is deleted after them.
//!
//! `s3` is a snapshot stored at 3; `d3` deletes snapshots up to 3, `e3` events.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use perennial_persistence::codec::Json;
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::entity_types::{EntityTypes, RegistrationError};
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::journal::{Journal, JournalError, WriteRight};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::retention::RetentionSettings;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
use perennial_persistence::storage::Storage;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::testing::around_journal::AroundJournal;

use crate::fixture::{Node, wait_until};

/// When a type takes snapshots.
trait Criteria: Send + Sync + 'static {
    const RETENTION: RetentionSettings;
    const WHEN: &'static [u64] = &[];
}

/// Counts; a command adds so many events in one atomic write.
struct Counter<C>(PhantomData<C>);

impl<C: Criteria> EventSourced for Counter<C> {
    const ENTITY_TYPE: &'static str = "counter";
    type State = u64;
    type Command = usize;
    type Event = ();
    type Reply = u64;
    type Codec = Json;

    fn handle(&self, _state: &u64, count: usize) -> Effect<Self> {
        Effect::persist_all(vec![(); count]).then_reply(|state: &u64| *state)
    }

    fn apply(&self, state: &mut u64, _event: ()) {
        *state += 1;
    }

    fn retention() -> Option<RetentionSettings> {
        Some(C::RETENTION)
    }

    fn snapshot_when(&self, state: &u64, sequence_nr: SequenceNr) -> bool {
        assert_eq!(*state, sequence_nr.get());
        C::WHEN.contains(state)
    }
}

const fn retention(every: u32, keep: u32) -> RetentionSettings {
    RetentionSettings {
        every,
        keep,
        delete_events: false,
    }
}

const fn with_events(every: u32, keep: u32) -> RetentionSettings {
    RetentionSettings {
        every,
        keep,
        delete_events: true,
    }
}

macro_rules! criteria {
    ($($name:ident = $retention:expr, $when:expr;)+) => {$(
        struct $name;
        impl Criteria for $name {
            const RETENTION: RetentionSettings = $retention;
            const WHEN: &'static [u64] = $when;
        }
    )+};
}
criteria! {
    Every3Keep2 = retention(3, 2), &[];
    Every3Keep2Events = with_events(3, 2), &[];
    Every5Keep1When = retention(5, 1), &[3, 13];
    Every2Keep3EventsWhen = with_events(2, 3), &[3, 13];
    WhenAlone = retention(0, 1), &[2, 4, 6];
    Every1 = retention(1, 1), &[];
    Never = retention(0, 1), &[];
    KeepNone = retention(1, 0), &[];
}

/// What was stored and deleted, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: char, nr: SequenceNr) {
        self.0.lock().unwrap().push(format!("{what}{nr}"));
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().join(" ")
    }
}

/// Notes what succeeds.
struct Noted<T: ?Sized> {
    inner: Arc<T>,
    log: Log,
}

#[async_trait]
impl SnapshotStore for Noted<dyn SnapshotStore> {
    async fn load(
        &self,
        id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Option<Snapshot>, JournalError> {
        self.inner.load(id, criteria).await
    }

    async fn save(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        nr: SequenceNr,
        payload: &Payload,
    ) -> Result<(), JournalError> {
        self.inner.save(right, id, nr, payload).await?;
        self.log.note('s', nr);
        Ok(())
    }

    async fn delete(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<(), JournalError> {
        self.inner.delete(right, id, criteria).await?;
        self.log.note('d', criteria.max_sequence_nr);
        Ok(())
    }
}

#[async_trait]
impl AroundJournal for Noted<dyn Journal> {
    fn inner(&self) -> &dyn Journal {
        &*self.inner
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        self.inner.delete_events(right, id, to).await?;
        self.log.note('e', to);
        Ok(())
    }
}

async fn start<C: Criteria>(criteria: C) -> (Node, Log) {
    drop(criteria);
    let log = Log::default();
    let memory = MemoryStorage::default();
    let inner = memory.storage();
    let storage = Storage {
        journal: Arc::new(Noted {
            inner: inner.journal,
            log: log.clone(),
        }),
        snapshots: Arc::new(Noted {
            inner: inner.snapshots,
            log: log.clone(),
        }),
        ..memory.storage()
    };
    let mut types = EntityTypes::new();
    types.register(Counter::<C>(PhantomData)).unwrap();
    // The node's own settings are others, and are overridden.
    let settings = EngineSettings {
        retention: retention(7, 1),
        ..EngineSettings::default()
    };
    let node = Node::over(memory, storage, settings, types).await;
    (node, log)
}

/// Runs a trace: after so many events in all, this is new in the log. What is due at
/// one number is waited for before the next event, so that no chain overlaps another.
async fn check<C: Criteria>(criteria: C, trace: &[(u64, &str)]) {
    let (node, log) = start(criteria).await;
    let mut expected: Vec<&str> = Vec::new();
    let mut at = 0;
    for (to, new) in trace {
        while at < *to {
            at = node.ask::<Counter<C>>("c", &1).await.unwrap();
            if at < *to {
                assert_eq!(log.text(), expected.join(" "), "at {at}");
            }
        }
        expected.extend(new.split_whitespace());
        let reached = || log.0.lock().unwrap().len() >= expected.len();
        wait_until("the log to grow", reached).await;
        assert_eq!(log.text(), expected.join(" "), "at {to}");
    }
    node.engine.stop().await;
    assert_eq!(log.text(), expected.join(" "), "at the end");
}

#[tokio::test]
async fn case_5_7_every_3_keep_2() {
    let trace = [
        (3, "s3"),
        (6, "s6"),
        (9, "s9 d3"),
        (10, ""),
        (12, "s12 d6"),
        (13, ""),
        (15, "s15 d9"),
        (16, ""),
        (18, "s18 d12"),
        (20, ""),
    ];
    check(Every3Keep2, &trace).await;
}

#[tokio::test]
async fn case_5_7_every_3_keep_2_with_events() {
    let trace = [
        (3, "s3"),
        (6, "s6"),
        (9, "s9 e3 d2"),
        (10, ""),
        (12, "s12 e6 d5"),
        (15, "s15 e9 d8"),
        (18, "s18 e12 d11"),
        (20, ""),
    ];
    check(Every3Keep2Events, &trace).await;
}

#[tokio::test]
async fn case_5_7_every_5_keep_1_and_when() {
    let trace = [
        (3, "s3"),
        (5, "s5"),
        (10, "s10 d5"),
        (13, "s13"),
        (15, "s15 d10"),
        (16, ""),
    ];
    check(Every5Keep1When, &trace).await;
}

#[tokio::test]
async fn case_5_7_every_2_keep_3_with_events_and_when() {
    let trace = [
        (2, "s2"),
        (3, "s3"),
        (4, "s4"),
        (6, "s6"),
        (8, "s8 e2 d1"),
        (10, "s10 e4 d3"),
        (12, "s12 e6 d5"),
        (13, "s13"),
        (14, "s14 e8 d7"),
        (16, "s16 e10 d9"),
    ];
    check(Every2Keep3EventsWhen, &trace).await;
}

#[tokio::test]
async fn case_5_7_when_alone_deletes_nothing() {
    let trace = [(2, "s2"), (4, "s4"), (6, "s6"), (8, "")];
    check(WhenAlone, &trace).await;
}

#[tokio::test]
async fn case_5_7_every_1() {
    let trace = [(1, "s1"), (2, "s2 d1"), (3, "s3 d2")];
    check(Every1, &trace).await;
}

/// A type's own retention wins over the node's also when it says "never".
#[tokio::test]
async fn never() {
    check(Never, &[(20, "")]).await;
}

#[tokio::test]
async fn case_5_7_an_atomic_write_gets_one_snapshot_at_its_end() {
    let (node, log) = start(Every3Keep2).await;
    node.ask::<Counter<Every3Keep2>>("c", &8).await.unwrap();
    wait_until("the snapshot", || log.text() == "s8 d2").await;
    node.engine.stop().await;
    assert_eq!(log.text(), "s8 d2");
}

/// As many events as would have been due, replayed without a snapshot, are worth one.
#[tokio::test]
async fn case_5_7_a_long_recovery_ends_with_a_snapshot() {
    let (mut node, log) = start(Never).await;
    node.ask::<Counter<Never>>("c", &4).await.unwrap();
    node.restart(Counter::<Every3Keep2>(PhantomData)).await;
    let state = node.ask::<Counter<Every3Keep2>>("c", &0).await.unwrap();
    assert_eq!(state, 4);
    wait_until("the snapshot", || log.text() == "s4").await;
}

#[test]
fn a_retention_that_keeps_nothing_is_not_registered() {
    let refused = EntityTypes::new().register(Counter::<KeepNone>(PhantomData));
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, RegistrationError::Retention { .. }),
        "{refused}"
    );
}
