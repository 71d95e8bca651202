//! Deleting entities for good, wherever in their life they are, and in order with
//! their commands.

use std::time::Duration;

use perennial_persistence::command::{Answer, Request};
use perennial_persistence::command_error::{Applied, CommandError, StashLimit};
use perennial_persistence::engine::{EngineSettings, EntityState};
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::journal::{StoredEvent, StreamBounds};
use perennial_persistence::payload::Payload;
use perennial_persistence::retention::RetentionSettings;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::SnapshotCriteria;
use perennial_persistence::writer::{Epoch, WriterUuid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::fixture::{Command, Fixture, add, answered, error, notes, nr, shard, texts};

/// More than anything here takes, on the slowest of machines.
const SOON: Duration = Duration::from_secs(60);

type Deleted = Result<SequenceNr, CommandError>;

impl Fixture {
    async fn delete(&self, id: &str) -> Deleted {
        self.engine.delete(shard(id), Epoch(1), &notes(id)).await
    }

    /// Asked for now; the outcome can be awaited later.
    fn begin_delete(&self, id: &str) -> JoinHandle<Deleted> {
        let (engine, id) = (self.engine.clone(), id.to_owned());
        tokio::spawn(async move { engine.delete(shard(&id), Epoch(1), &notes(&id)).await })
    }

    async fn state(&self, id: &str) -> Answer {
        answered(self.request(id, Request::State)).await
    }

    async fn state_at(&self, id: &str, nr: u64) -> Answer {
        self.engine.state_at(&notes(id), SequenceNr::new(nr)).await
    }

    async fn waits_for(&self, id: &str, what: &str) {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let described = self.engine.describe(shard(id), &notes(id)).await;
            if described.waiting_for.contains(what) {
                return;
            }
            let waits_for = described.waiting_for;
            assert!(tokio::time::Instant::now() < deadline, "{waits_for:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Nothing is left but the number.
    async fn expect_gone(&self, id: &str, number: u64) {
        let id = notes(id);
        let bounds = self.storage.journal.bounds(&id).await.unwrap();
        let number = SequenceNr::new(number);
        let expected = StreamBounds {
            highest: number,
            deleted_to: number,
            tombstone: number,
        };
        assert_eq!(bounds, expected);
        let all = SnapshotCriteria::ALL;
        let snapshot = self.storage.snapshots.load(&id, all).await.unwrap();
        assert_eq!(snapshot, None);
        let listed = self.storage.journal.list_entities("notes", None, 100).await;
        let is_it =
            |line: &&perennial_persistence::journal::EntityListing| line.persistence_id == id;
        assert!(listed.unwrap().iter().find(is_it).is_none());
    }
}

fn with_snapshots() -> EngineSettings {
    EngineSettings {
        retention: RetentionSettings {
            every: 1,
            ..RetentionSettings::default()
        },
        ..EngineSettings::default()
    }
}

/// In memory or not: the next life begins in the initial state, at the number kept.
#[tokio::test(start_paused = true)]
async fn a_live_and_a_passive_entity_begin_anew() {
    for passivate in [false, true] {
        let f = Fixture::with(with_snapshots()).await;
        f.ask("n", &add("a")).await.unwrap();
        f.ask("n", &add("b")).await.unwrap();
        if passivate {
            f.passivate("n").await;
        }
        assert_eq!(f.delete("n").await, Ok(SequenceNr::new(2)));
        f.expect_gone("n", 2).await;
        let state = f.state("n").await.unwrap();
        assert_eq!((texts(&state).len(), state.sequence_nr.get()), (0, 2));
        // To look at it is not to make it exist again.
        f.passivate("n").await;
        f.expect_gone("n", 2).await;
        let added = f.ask("n", &add("c")).await;
        assert_eq!(nr(&added).get(), 3);
        assert_eq!(texts(&added.unwrap()), ["c"]);
        f.engine.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn deleting_again_changes_nothing() {
    let f = Fixture::new().await;
    assert_eq!(f.delete("n").await, Ok(SequenceNr::ZERO), "never written");
    f.ask("n", &add("a")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(f.delete("n").await, Ok(SequenceNr::new(1)));
    }
    let both = (f.begin_delete("n"), f.begin_delete("n"));
    assert_eq!(both.0.await.unwrap(), Ok(SequenceNr::new(1)));
    assert_eq!(both.1.await.unwrap(), Ok(SequenceNr::new(1)));
}

/// What was accepted before is finished before: its answers are those of the life
/// that ends.
#[tokio::test(start_paused = true)]
async fn a_recovering_entity_finishes_what_it_accepted() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    f.passivate("n").await;
    let delay = Fault::Delay(Duration::from_secs(1));
    f.faults().at(Operation::Bounds, 1, delay);
    let before = f.tell("n", &add("b"));
    f.waits_for("n", "recovery").await;
    let deletion = f.begin_delete("n");
    let before = answered(before).await.unwrap();
    assert_eq!(texts(&before), ["a", "b"]);
    assert_eq!(deletion.await.unwrap(), Ok(SequenceNr::new(2)));
    f.expect_gone("n", 2).await;
}

/// The same while its events are being stored.
#[tokio::test(start_paused = true)]
async fn an_entity_that_stores_finishes_what_it_accepted() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    f.faults()
        .at(Operation::Write, 1, Fault::Delay(Duration::from_secs(1)));
    let before = f.tell("n", &add("b"));
    let behind = f.tell("n", &add("c"));
    f.waits_for("n", "store").await;
    let deletion = f.begin_delete("n");
    assert_eq!(nr(&answered(before).await).get(), 2);
    assert_eq!(nr(&answered(behind).await).get(), 3);
    assert_eq!(deletion.await.unwrap(), Ok(SequenceNr::new(3)));
    assert!(f.list("n").await.is_empty());
}

/// An entity that cannot be recovered can be deleted, and is not kept down for what
/// it failed for.
#[tokio::test(start_paused = true)]
async fn an_entity_that_backs_off_is_deleted() {
    let f = Fixture::new().await;
    f.memory.import([StoredEvent {
        persistence_id: notes("n"),
        sequence_nr: SequenceNr::new(1),
        writer: WriterUuid(uuid::Uuid::new_v4()),
        payload: Payload::json("not an event"),
        tags: Vec::new(),
        metadata: None,
        command_id: None,
        created_at: std::time::SystemTime::UNIX_EPOCH,
    }]);
    let failed = error(f.ask("n", &add("a")).await);
    assert!(
        matches!(failed, CommandError::RecoveryFailed { .. }),
        "{failed}"
    );
    let described = f.engine.describe(shard("n"), &notes("n")).await;
    assert_eq!(described.state, EntityState::BackingOff);
    assert_eq!(f.delete("n").await, Ok(SequenceNr::new(1)));
    assert_eq!(nr(&f.ask("n", &add("a")).await).get(), 2);
    assert_eq!(f.list("n").await, ["a"]);
}

/// What arrives meanwhile is for the next life, in order, and no more of it than fits
/// into a stash (I-10).
#[tokio::test(start_paused = true)]
async fn commands_are_held_until_it_is_deleted() {
    let f = Fixture::with(EngineSettings {
        stash_capacity: 2,
        ..EngineSettings::default()
    })
    .await;
    f.ask("n", &add("a")).await.unwrap();
    let delay = Fault::Delay(Duration::from_secs(1));
    f.faults().at(Operation::DeleteEntity, 1, delay);
    let deletion = f.begin_delete("n");
    f.waits_for("n", "deletion").await;
    let held = [f.tell("n", &add("b")), f.tell("n", &add("c"))];
    let refused = error(f.ask("n", &add("d")).await);
    assert!(
        matches!(refused, CommandError::StashFull(StashLimit::Entity(2))),
        "{refused}"
    );
    let described = f.engine.describe(shard("n"), &notes("n")).await;
    assert_eq!(described.queued, 2);
    assert_eq!(
        f.ask("other", &add("x")).await.unwrap().sequence_nr.get(),
        1
    );
    assert_eq!(deletion.await.unwrap(), Ok(SequenceNr::new(1)));
    let [b, c] = held.map(answered);
    assert_eq!(texts(&b.await.unwrap()), ["b"]);
    assert_eq!(texts(&c.await.unwrap()), ["b", "c"]);
}

/// Killed between tombstone and rows: nothing of the former life comes back, and
/// asking again deletes what is left.
#[tokio::test(start_paused = true)]
async fn an_interrupted_deletion_brings_nothing_back() {
    for kill in [false, true] {
        let mut f = Fixture::with(with_snapshots()).await;
        for text in ["a", "b", "c"] {
            f.ask_with("n", &add(text), text).await.unwrap();
        }
        f.faults().at(Operation::DeleteEntityRows, 1, Fault::Fail);
        let unfinished = f.delete("n").await.unwrap_err();
        assert!(
            matches!(unfinished, CommandError::DeletionUnfinished { .. }),
            "{unfinished}"
        );
        assert_eq!(unfinished.applied(), Applied::Unknown);
        let snapshots = &f.storage.snapshots;
        let left = snapshots.load(&notes("n"), SnapshotCriteria::ALL).await;
        assert!(left.unwrap().is_some(), "rows are left");
        if kill {
            f.restart().await;
        }
        let state = f.state("n").await.unwrap();
        assert_eq!((texts(&state).len(), state.sequence_nr.get()), (0, 3));
        assert!(matches!(
            f.state_at("n", 2).await,
            Err(CommandError::HistoryDeleted { .. })
        ));
        assert_eq!(nr(&f.ask("n", &add("d")).await).get(), 4);
        f.passivate("n").await;
        assert_eq!(f.list("n").await, ["d"]);
        assert_eq!(f.delete("n").await, Ok(SequenceNr::new(4)));
        f.engine.stop().await;
        f.restart().await;
        f.expect_gone("n", 4).await;
    }
}

/// A journal out of reach: it is as it was, and says so.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_fails_at_once_leaves_everything() {
    let f = Fixture::with(with_snapshots()).await;
    f.ask("n", &add("a")).await.unwrap();
    f.faults().at(Operation::DeleteEntity, 1, Fault::Fail);
    let unfinished = f.delete("n").await.unwrap_err();
    assert!(
        matches!(unfinished, CommandError::DeletionUnfinished { .. }),
        "{unfinished}"
    );
    assert_eq!(f.list("n").await, ["a"]);
    // The circuit breaker is open: nothing is tried, and it stays in memory.
    f.faults().set_outage(true);
    for i in 0..20 {
        error(f.ask(&format!("other {i}"), &Command::List).await);
    }
    let refused = f.delete("n").await.unwrap_err();
    assert!(
        matches!(refused, CommandError::JournalUnavailable { .. }),
        "{refused}"
    );
    assert_eq!(refused.applied(), Applied::No);
    let described = f.engine.describe(shard("n"), &notes("n")).await;
    assert_eq!(described.state, EntityState::Live);
}

/// I-2: who has lost the shard deletes nothing.
#[tokio::test(start_paused = true)]
async fn i2_a_fenced_node_deletes_nothing() {
    let mut f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    let former = f.restart().await;
    for _ in 0..2 {
        let refused = former.delete(shard("n"), Epoch(1), &notes("n")).await;
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, CommandError::ShardUnavailable { .. }),
            "{refused}"
        );
    }
    assert_eq!(f.list("n").await, ["a"]);
}

/// A snapshot that is being saved is waited for, so that it is deleted too.
#[tokio::test(start_paused = true)]
async fn a_snapshot_under_way_is_deleted_too() {
    let f = Fixture::with(with_snapshots()).await;
    let delay = Fault::Delay(Duration::from_secs(5));
    f.faults().at(Operation::SaveSnapshot, 1, delay);
    f.ask("n", &add("a")).await.unwrap();
    assert_eq!(f.delete("n").await, Ok(SequenceNr::new(1)));
    f.engine.stop().await;
    f.expect_gone("n", 1).await;
}

/// The ids of its commands are new ones, before and after the next passivation.
#[tokio::test(start_paused = true)]
async fn command_ids_are_new_again() {
    let f = Fixture::new().await;
    f.ask_with("n", &add("a"), "once").await.unwrap();
    assert!(f.ask_with("n", &add("a"), "once").await.unwrap().duplicate);
    f.delete("n").await.unwrap();
    let again = f.ask_with("n", &add("a"), "once").await.unwrap();
    assert!(!again.duplicate && again.sequence_nr.get() == 2);
    assert!(f.ask_with("n", &add("a"), "once").await.unwrap().duplicate);
    f.passivate("n").await;
    assert!(f.ask_with("n", &add("a"), "once").await.unwrap().duplicate);
}

/// I-6: an append of unknown outcome that takes effect after the deletion would be
/// an event of a state that is gone. Its number counts as used instead.
#[tokio::test(start_paused = true)]
async fn i6_a_late_append_does_not_reach_the_next_life() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    let late = Fault::Late {
        after_operations: 1_000,
    };
    f.faults().at_payload("late", late);
    let unknown = error(f.ask("n", &add("late")).await);
    assert!(
        matches!(unknown, CommandError::PersistFailed { .. }),
        "{unknown}"
    );
    assert_eq!(f.delete("n").await, Ok(SequenceNr::new(2)));
    f.faults().release_late_appends();
    assert!(f.list("n").await.is_empty());
    f.expect_gone("n", 2).await;
    assert_eq!(nr(&f.ask("n", &add("b")).await).get(), 3);
    assert_eq!(f.list("n").await, ["b"]);
}

/// The past from before is gone; at its number the next life begins.
#[tokio::test(start_paused = true)]
async fn past_states_are_gone() {
    let f = Fixture::with(with_snapshots()).await;
    for text in ["a", "b", "c"] {
        f.ask("n", &add(text)).await.unwrap();
    }
    f.delete("n").await.unwrap();
    f.ask("n", &add("d")).await.unwrap();
    f.ask("n", &add("e")).await.unwrap();
    for past in [1, 2] {
        let gone = f.state_at("n", past).await.unwrap_err();
        let deleted_to = SequenceNr::new(3);
        assert_eq!(gone, CommandError::HistoryDeleted { deleted_to });
    }
    for (past, expected) in [(3, &[][..]), (4, &["d"]), (5, &["d", "e"])] {
        let state = f.state_at("n", past).await.unwrap();
        assert_eq!(texts(&state), expected);
        assert_eq!(state.sequence_nr.get(), past);
    }
}

/// A stopping engine finishes what it was asked.
#[tokio::test(start_paused = true)]
async fn stopping_finishes_deletions() {
    let mut f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    let delay = Fault::Delay(Duration::from_secs(5));
    f.faults().at(Operation::DeleteEntityRows, 1, delay);
    let deletion = f.begin_delete("n");
    f.waits_for("n", "deletion").await;
    let held = f.tell("n", &add("b"));
    f.engine.stop().await;
    assert_eq!(deletion.await.unwrap(), Ok(SequenceNr::new(1)));
    let refused = error(answered(held).await);
    assert!(
        matches!(refused, CommandError::ShardUnavailable { .. }),
        "{refused}"
    );
    f.restart().await;
    f.expect_gone("n", 1).await;
}

/// Whatever one client does in whichever order: what it sees is a list that is
/// emptied by deletions, and numbers that only grow.
#[tokio::test(start_paused = true)]
async fn random_lives_equal_the_model() {
    for seed in 0..30 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut f = Fixture::with(EngineSettings {
            retention: RetentionSettings {
                every: random.random_range(0..4),
                ..RetentionSettings::default()
            },
            ..EngineSettings::default()
        })
        .await;
        let (mut model, mut highest) = (Vec::new(), 0);
        for step in 0..60 {
            match random.random_range(0..10) {
                0 => f.passivate("n").await,
                1 => {
                    f.restart().await.stop().await;
                }
                2 | 3 => {
                    if random.random_bool(0.3) {
                        let phase = match random.random_bool(0.5) {
                            true => Operation::DeleteEntity,
                            false => Operation::DeleteEntityRows,
                        };
                        f.faults().at(phase, 1, Fault::Fail);
                        f.delete("n").await.unwrap_err();
                        if phase == Operation::DeleteEntityRows {
                            model.clear();
                        }
                    } else {
                        assert_eq!(f.delete("n").await, Ok(SequenceNr::new(highest)));
                        model.clear();
                        f.expect_gone_or_unwritten("n", highest).await;
                    }
                }
                _ => {
                    let text = step.to_string();
                    model.push(text.clone());
                    highest += 1;
                    let added = f.ask("n", &add(&text)).await.unwrap();
                    assert_eq!(
                        (texts(&added), added.sequence_nr.get()),
                        (model.clone(), highest)
                    );
                }
            }
            assert_eq!(f.list("n").await, model, "seed {seed}, step {step}");
        }
        f.engine.stop().await;
    }
}

impl Fixture {
    async fn expect_gone_or_unwritten(&self, id: &str, number: u64) {
        if number > 0 {
            self.expect_gone(id, number).await;
        }
    }
}
