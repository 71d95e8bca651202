//! What happens when the journal or the entity's own code fails.

use std::time::Duration;

use perennial_persistence::backoff::BackoffSettings;
use perennial_persistence::command_error::{Applied, CommandError, StashLimit};
use perennial_persistence::engine::{EngineSettings, EntityState};
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::journal::{Append, AtomicWrite, NewEvent};
use perennial_persistence::payload::Payload;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::{Epoch, WriterUuid};

use crate::fixture::{Command, Fixture, add, answered, error, notes, shard};

/// 5.6 of the cases: nothing was stored, the entity goes on when the journal does.
#[tokio::test]
async fn an_unreachable_journal_refuses_and_nothing_is_applied() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    f.faults().at(Operation::Write, 1, Fault::Fail);
    let refused = error(f.ask("n", &add("b")).await);
    assert!(matches!(refused, CommandError::JournalUnavailable { .. }));
    assert_eq!(refused.applied(), Applied::No);
    assert_eq!(f.list("n").await, ["a"]);
    f.faults().set_outage(true);
    f.passivate("n").await;
    let refused = error(f.ask("n", &add("c")).await);
    assert!(matches!(refused, CommandError::JournalUnavailable { .. }));
    f.faults().set_outage(false);
    f.ask("n", &add("d")).await.unwrap();
    assert_eq!(f.list("n").await, ["a", "d"]);
}

/// An append of unknown outcome: the client is told so, and what it became shows
/// after the entity's next recovery.
#[tokio::test]
async fn an_unknown_outcome_is_told_and_then_seen() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    f.faults().at(Operation::Write, 1, Fault::LoseAnswer);
    let unknown = error(f.ask("n", &add("b")).await);
    assert!(matches!(unknown, CommandError::PersistFailed { .. }));
    assert_eq!(unknown.applied(), Applied::Unknown);
    // No back-off: an outage of the journal is not the entity's fault.
    assert_eq!(f.list("n").await, ["a", "b"]);
}

/// I-8: a retry with the same id after an unknown outcome has one effect.
#[tokio::test]
async fn i8_a_retry_after_an_unknown_outcome_has_one_effect() {
    let f = Fixture::new().await;
    f.faults().at(Operation::Write, 1, Fault::LoseAnswer);
    f.ask_with("n", &add("a"), "id").await.unwrap_err();
    let retry = f.ask_with("n", &add("a"), "id").await.unwrap();
    assert!(retry.duplicate);
    assert_eq!(f.highest("n").await, 1);
}

/// An append that lands after its client gave up: whichever comes first wins, and
/// the loser restarts from what is there (I-3).
#[tokio::test]
async fn i3_a_late_append_cannot_split_the_stream() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    f.faults().at(
        Operation::Write,
        1,
        Fault::Late {
            after_operations: 1_000_000,
        },
    );
    f.ask_with("n", &add("late"), "late").await.unwrap_err();
    assert_eq!(f.list("n").await, ["a"]);
    f.faults().release_late_appends();
    let conflict = f.ask("n", &add("b")).await;
    if let Err(error) = &conflict {
        assert!(
            matches!(error, CommandError::WriterConflict { .. }),
            "{error}"
        );
    }
    let list = f.list("n").await;
    assert_eq!(list.len() as u64, f.highest("n").await);
    assert!(
        f.ask_with("n", &add("late"), "late")
            .await
            .unwrap()
            .duplicate
            || !list.contains(&"late".to_owned())
    );
}

#[tokio::test]
async fn a_write_the_journal_rejects_leaves_its_neighbours() {
    let f = Fixture::new().await;
    f.faults().at_payload("poison", Fault::Reject);
    f.faults()
        .at(Operation::Write, 1, Fault::Delay(Duration::from_millis(20)));
    let answers: Vec<_> = ["first", "a", "poison", "b"]
        .iter()
        .map(|text| f.tell("n", &add(text)))
        .collect();
    let other = f.tell("other", &add("x"));
    let mut refused = Vec::new();
    for answer in answers {
        refused.push(answered(answer).await.err());
    }
    assert!(
        matches!(
            refused[..],
            [None, None, Some(CommandError::PersistRejected { .. }), None]
        ),
        "{refused:?}"
    );
    answered(other).await.unwrap();
    assert_eq!(f.list("n").await, ["first", "a", "b"]);
    assert_eq!(f.highest("n").await, 3);
}

/// A panic is caught at the cell; the entity backs off, the others go on.
#[tokio::test]
async fn a_panic_is_caught_and_the_entity_recovers_after_its_back_off() {
    let backoff = BackoffSettings {
        min: Duration::from_millis(200),
        max: Duration::from_secs(1),
        random_factor: 0.0,
    };
    let settings = EngineSettings {
        backoff,
        ..EngineSettings::default()
    };
    let f = Fixture::with(settings).await;
    f.ask("n", &add("a")).await.unwrap();
    for command in [Command::PanicInHandler, Command::PanicInApply] {
        let stored = f.tell("n", &add("b"));
        let panicked = f.tell("n", &command);
        let behind = f.tell("n", &add("c"));
        answered(stored).await.unwrap();
        let panicked = error(answered(panicked).await);
        assert!(matches!(
            panicked,
            CommandError::Panicked {
                applied: Applied::No,
                ..
            }
        ));
        let behind = error(answered(behind).await);
        assert!(
            matches!(behind, CommandError::BackingOff { .. }),
            "{behind}"
        );
        assert!(
            behind
                .retry_after()
                .is_some_and(|left| left > Duration::ZERO)
        );
        let described = f.engine.describe(shard("n"), &notes("n")).await;
        assert_eq!(described.state, EntityState::BackingOff);
        f.ask("other", &add("x")).await.unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while let Err(error) = f.ask("n", &Command::List).await {
            assert!(matches!(error, CommandError::BackingOff { .. }));
            assert!(tokio::time::Instant::now() < deadline, "still backing off");
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(f.list("n").await, ["a", "b", "b"]);
    assert_eq!(f.highest("n").await, 3);
}

/// 5.6: an event that cannot be replayed stops its entity only, and the error
/// names entity, number and manifest.
#[tokio::test]
async fn a_damaged_event_fails_the_recovery_of_its_entity_only() {
    let f = Fixture::new().await;
    f.ask("good", &add("a")).await.unwrap();
    write_foreign(&f, "bad", b"not an event").await;
    let failed = error(f.ask("bad", &Command::List).await);
    assert!(
        matches!(failed, CommandError::RecoveryFailed { .. }),
        "{failed}"
    );
    let message = failed.to_string();
    assert!(
        message.contains("notes|bad")
            && message.contains("event 1")
            && message.contains("\"foreign\""),
        "{message}"
    );
    let again = error(f.ask("bad", &Command::List).await);
    assert!(matches!(again, CommandError::BackingOff { .. }));
    assert_eq!(f.list("good").await, ["a"]);
}

/// Who has mended what an entity failed of does not wait for the end of its back-off.
#[tokio::test]
async fn an_entity_that_is_passivated_does_not_back_off() {
    let long = Duration::from_secs(3600);
    let backoff = BackoffSettings {
        min: long,
        max: long,
        random_factor: 0.0,
    };
    let settings = EngineSettings {
        backoff,
        ..EngineSettings::default()
    };
    let f = Fixture::with(settings).await;
    f.ask("n", &add("a")).await.unwrap();
    error(f.ask("n", &Command::PanicInHandler).await);
    let refused = error(f.ask("n", &Command::List).await);
    assert!(
        matches!(refused, CommandError::BackingOff { .. }),
        "{refused}"
    );
    f.passivate("n").await;
    assert_eq!(f.list("n").await, ["a"]);
}

/// I-2, I-3: a process that does not know it was replaced is fenced; its clients
/// get an error, nothing of it is visible.
#[tokio::test]
async fn i2_a_fenced_session_writes_nothing() {
    let mut f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    let zombie = f.restart().await;
    let new = std::mem::replace(&mut f.engine, zombie.clone());
    let refused = error(f.ask("n", &add("zombie")).await);
    assert!(
        matches!(refused, CommandError::ShardUnavailable { .. }),
        "{refused}"
    );
    tokio::time::timeout(Duration::from_secs(10), zombie.fenced())
        .await
        .unwrap();
    f.engine = new;
    assert_eq!(f.list("n").await, ["a"]);
}

/// I-3: when another author was first, the loser's write fails as a whole and it
/// starts over from what is there.
#[tokio::test]
async fn i3_the_second_author_loses_and_recovers() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    write_foreign(&f, "n", br#"{"Added":"theirs"}"#).await;
    let conflict = error(f.ask("n", &add("b")).await);
    assert!(
        matches!(conflict, CommandError::WriterConflict { .. }),
        "{conflict}"
    );
    f.ask("n", &add("c")).await.unwrap();
    assert_eq!(f.list("n").await, ["a", "theirs", "c"]);
}

#[tokio::test]
async fn the_stash_is_bounded() {
    let settings = EngineSettings {
        stash_capacity: 10,
        ..EngineSettings::default()
    };
    let f = Fixture::with(settings).await;
    f.faults().at(
        Operation::Bounds,
        1,
        Fault::Delay(Duration::from_millis(100)),
    );
    let answers: Vec<_> = (0..20).map(|i| f.tell("n", &add(&i.to_string()))).collect();
    let mut refused = 0;
    for answer in answers {
        if let Err(error) = answered(answer).await {
            assert_eq!(error, CommandError::StashFull(StashLimit::Entity(10)));
            refused += 1;
        }
    }
    assert_eq!(refused, 10);
    assert_eq!(f.list("n").await.len(), 10);
}

#[tokio::test]
async fn case_5_6_a_recovery_that_hears_nothing_times_out() {
    let settings = EngineSettings {
        recovery_event_timeout: Duration::from_millis(50),
        ..EngineSettings::default()
    };
    let f = Fixture::with(settings).await;
    f.faults().at(
        Operation::Bounds,
        1,
        Fault::Delay(Duration::from_secs(3600)),
    );
    let failed = error(f.ask("n", &Command::List).await);
    assert!(
        matches!(failed, CommandError::JournalUnavailable { .. }),
        "{failed}"
    );
    f.ask("n", &add("a")).await.unwrap();
}

/// Writes one event behind the engine's back, as another author would.
async fn write_foreign(f: &Fixture, id: &str, bytes: &'static [u8]) {
    let node: NodeNr = f.storage.registry.mint_node().await.unwrap();
    let session = f
        .storage
        .registry
        .begin_incarnation(node)
        .await
        .unwrap()
        .session;
    let highest = f.highest(id).await;
    let append = Append {
        persistence_id: notes(id),
        shard: shard(id),
        epoch: Epoch(1),
        writer: WriterUuid(uuid::Uuid::from_u128(7)),
        first_sequence_nr: SequenceNr::new(highest + 1),
        writes: vec![AtomicWrite {
            events: vec![NewEvent {
                payload: Payload {
                    manifest: "foreign".into(),
                    ..Payload::json(bytes)
                },
                tags: Vec::new(),
            }],
            command: None,
            metadata: None,
        }],
    };
    let outcome = f.storage.journal.append(session, 0, &[append]).await;
    assert!(outcome[0].failure.is_none());
}
