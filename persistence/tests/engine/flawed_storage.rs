//! A journal that breaks its contract, as one of a plugin's author may: it costs
//! the commands that met it an error, and nobody else anything.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::command::CommandId;
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::journal::{
    Append, Appended, EntityListing, Journal, JournalError, StoredCommand, StreamBounds, WriteRight,
};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::retention::RetentionSettings;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
use perennial_persistence::storage::Storage;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::testing::around_journal::AroundJournal;
use perennial_persistence::writer::SessionUuid;

use crate::fixture::{Command, Fixture, add, answered, error, texts};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    FindPanics,
    FindHangs,
    FindForgets,
    BoundsPanics,
    AppendStoresTooMuch,
    AppendHidesItsFailure,
    SavePanics,
    ListHangs,
    ListPanics,
}

/// Strikes once.
#[derive(Clone)]
struct Flaws(Arc<Mutex<Option<Flaw>>>);

impl Flaws {
    fn strikes(&self, flaw: Flaw) -> bool {
        let mut next = self.0.lock().unwrap();
        next.take_if(|next| *next == flaw).is_some()
    }

    fn has_struck(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }
}

struct FlawedJournal(Arc<dyn Journal>, Flaws);

#[async_trait]
impl AroundJournal for FlawedJournal {
    fn inner(&self) -> &dyn Journal {
        &*self.0
    }

    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        let mut appended = self.0.append(session, lane, batch).await;
        if self.1.strikes(Flaw::AppendStoresTooMuch) {
            appended[0].stored_writes += 1;
        }
        if self.1.strikes(Flaw::AppendHidesItsFailure) {
            appended[0].stored_writes -= 1;
        }
        appended
    }

    async fn bounds(&self, id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        assert!(!self.1.strikes(Flaw::BoundsPanics), "told to panic");
        self.0.bounds(id).await
    }

    async fn find_commands(
        &self,
        id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        assert!(!self.1.strikes(Flaw::FindPanics), "told to panic");
        if self.1.strikes(Flaw::FindHangs) {
            std::future::pending::<()>().await;
        }
        if self.1.strikes(Flaw::FindForgets) {
            return Ok(Vec::new());
        }
        self.0.find_commands(id, command_ids).await
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        assert!(!self.1.strikes(Flaw::ListPanics), "told to panic");
        if self.1.strikes(Flaw::ListHangs) {
            std::future::pending::<()>().await;
        }
        self.0.list_entities(entity_type, after, limit).await
    }
}

struct FlawedSnapshots(Arc<dyn SnapshotStore>, Flaws);

#[async_trait]
impl SnapshotStore for FlawedSnapshots {
    async fn load(
        &self,
        id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Option<Snapshot>, JournalError> {
        self.0.load(id, criteria).await
    }

    async fn save(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        nr: SequenceNr,
        payload: &Payload,
    ) -> Result<(), JournalError> {
        assert!(!self.1.strikes(Flaw::SavePanics), "told to panic");
        self.0.save(right, id, nr, payload).await
    }

    async fn delete(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<(), JournalError> {
        self.0.delete(right, id, criteria).await
    }
}

/// With an entity that has events, snapshots and a command id, and is in memory
/// without knowing all command ids.
async fn fixture(flaw: Flaw) -> (Fixture, Flaws) {
    let settings = EngineSettings {
        retention: RetentionSettings {
            every: 1,
            ..RetentionSettings::default()
        },
        recovery_event_timeout: Duration::from_secs(1),
        ..EngineSettings::default()
    };
    let memory = MemoryStorage::new(1);
    let storage = memory.storage();
    let flaws = Flaws(Arc::default());
    let storage = Storage::composed(
        Arc::new(FlawedJournal(storage.journal, flaws.clone())),
        Arc::new(FlawedSnapshots(storage.snapshots, flaws.clone())),
        storage.states,
        storage.registry,
        storage.order,
        storage.deletion,
    );
    let mut f = Fixture::over(memory, storage, settings).await;
    f.ask_with("n", &add("a"), "id-a").await.unwrap();
    f.restart().await.stop().await;
    f.ask("n", &Command::List).await.unwrap();
    *flaws.0.lock().unwrap() = Some(flaw);
    (f, flaws)
}

/// I-8: no look-up leaves its entity waiting for ever.
#[tokio::test(start_paused = true)]
async fn i8_a_flawed_look_up_is_an_unavailable_journal() {
    for flaw in [Flaw::FindPanics, Flaw::FindHangs, Flaw::FindForgets] {
        let (f, flaws) = fixture(flaw).await;
        let asked = error(f.ask_with("n", &Command::List, "id-list").await);
        assert!(
            matches!(asked, CommandError::JournalUnavailable { .. }),
            "{flaw:?}: {asked}"
        );
        assert!(flaws.has_struck());
        let retry = f.ask_with("n", &add("a"), "id-a").await.unwrap();
        assert!(retry.duplicate && texts(&retry) == ["a"]);
        f.engine.stop().await;
    }
}

/// I-8, I-11: no recovery leaves its entity waiting for ever.
#[tokio::test(start_paused = true)]
async fn i8_a_recovery_that_panics_is_an_unavailable_journal() {
    let (f, flaws) = fixture(Flaw::BoundsPanics).await;
    f.passivate("n").await;
    let asked = error(f.ask("n", &Command::List).await);
    assert!(matches!(asked, CommandError::JournalUnavailable { .. }));
    assert!(flaws.has_struck());
    assert_eq!(f.list("n").await, ["a"]);
    f.engine.stop().await;
}

/// I-4: an outcome that cannot be is an unknown one.
#[tokio::test(start_paused = true)]
async fn i4_an_impossible_outcome_of_an_append_is_unknown() {
    for flaw in [Flaw::AppendStoresTooMuch, Flaw::AppendHidesItsFailure] {
        let (f, flaws) = fixture(flaw).await;
        let answers = ["b", "c"].map(|text| f.tell("n", &add(text)));
        for answer in answers {
            let unknown = error(answered(answer).await);
            assert_eq!(unknown.applied(), Applied::Unknown, "{flaw:?}: {unknown}");
        }
        assert!(flaws.has_struck());
        assert_eq!(f.list("n").await, ["a", "b", "c"]);
        f.engine.stop().await;
    }
}

/// The next snapshot is taken after one that panicked.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_panics_is_not_the_last() {
    let (f, flaws) = fixture(Flaw::SavePanics).await;
    f.ask("n", &add("b")).await.unwrap();
    while !flaws.has_struck() {
        tokio::task::yield_now().await;
    }
    f.ask("n", &add("c")).await.unwrap();
    f.engine.stop().await;
    let id = crate::fixture::notes("n");
    let all = SnapshotCriteria::ALL;
    let saved = f.storage.snapshots.load(&id, all).await.unwrap();
    assert_eq!(saved.unwrap().sequence_nr.get(), 3);
}

/// A probe of the circuit breaker that never ends is not the last one.
#[tokio::test(start_paused = true)]
async fn a_flawed_probe_is_not_the_last() {
    for flaw in [Flaw::ListHangs, Flaw::ListPanics] {
        let (f, flaws) = fixture(flaw).await;
        f.faults().set_outage(true);
        for i in 0..20 {
            error(f.ask(&format!("other {i}"), &Command::List).await);
        }
        // In memory, so that nothing but a probe can find the journal again.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(300);
        error(f.ask("n", &add("refused")).await);
        while !flaws.has_struck() {
            assert!(tokio::time::Instant::now() < deadline, "{flaw:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        f.faults().set_outage(false);
        while let Err(refused) = f.ask("n", &add("stored")).await {
            assert!(matches!(refused, CommandError::JournalUnavailable { .. }));
            assert!(tokio::time::Instant::now() < deadline, "{flaw:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
