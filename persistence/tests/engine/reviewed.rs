//! Things that went wrong once, or nearly: each with the circumstances it takes.
//!
//! Time is virtual: it passes only when nothing else can happen, so a sleep ends
//! when everything under way has come as far as it can.

use std::time::Duration;

use perennial_persistence::backoff::BackoffSettings;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::journal::StoredEvent;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::payload::Payload;
use perennial_persistence::retention::RetentionSettings;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::Storage;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::writer::WriterUuid;

use crate::fixture::{Command, Fixture, add, answered, error, notes, texts};

fn snapshots_every(every: u32) -> EngineSettings {
    EngineSettings {
        retention: RetentionSettings {
            every,
            ..RetentionSettings::default()
        },
        ..EngineSettings::default()
    }
}

/// I-5: incarnations of different sessions never draw the same writer, or the
/// replay filter would take the newer for the older.
#[tokio::test(start_paused = true)]
async fn i5_an_equal_seed_repeats_no_writer() {
    let settings = EngineSettings {
        seed: Some(1),
        ..EngineSettings::default()
    };
    let mut f = Fixture::with(settings).await;
    for round in 0..3 {
        f.ask("n", &add(&format!("{round}.a"))).await.unwrap();
        f.passivate("n").await;
        f.ask("n", &add(&format!("{round}.b"))).await.unwrap();
        f.restart().await.stop().await;
    }
    assert_eq!(f.list("n").await.len(), 6);
}

/// I-6: where snapshot and bounds are two reads, what lies between them may be
/// deleted in between.
#[tokio::test(start_paused = true)]
async fn i6_a_deletion_during_a_recovery_loses_nothing() {
    let settings = EngineSettings {
        retention: RetentionSettings {
            every: 1,
            keep: 1,
            delete_events: true,
        },
        ..EngineSettings::default()
    };
    let memory = MemoryStorage::new(2);
    let storage = memory.storage();
    let storage = Storage::composed(
        storage.journal,
        storage.snapshots,
        storage.states,
        storage.registry,
        storage.order,
        storage.deletion,
    );
    let mut f = Fixture::over(memory, storage, settings).await;
    f.ask("n", &add("a")).await.unwrap();
    f.passivate("n").await;
    let delay = Fault::Delay(Duration::from_millis(100));
    f.faults().at(Operation::Bounds, 1, delay);
    let read = f.tell("n", &Command::List);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let _former = f.restart().await;
    for text in ["b", "c", "d"] {
        f.ask("n", &add(text)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let list = texts(&answered(read).await.unwrap());
    assert_eq!(list, ["a", "b", "c", "d"]);
}

/// I-8: what the index said before the entity started over is of no use after it,
/// where the command ids from before the snapshot are not in memory.
#[tokio::test(start_paused = true)]
async fn i8_an_old_look_up_does_not_outlive_a_restart() {
    let mut f = Fixture::with(snapshots_every(1)).await;
    f.ask_with("n", &add("a"), "id-a").await.unwrap();
    f.restart().await.stop().await;
    f.ask("n", &Command::List).await.unwrap();
    // Stores nothing, so that the index is asked about it and all behind it.
    let _first = f.tell_with("n", &Command::List, Some("id-list"));
    let original = f.tell_with("n", &Command::AddOnce("b".into()), Some("id-b"));
    let stop = f.tell("n", &Command::ThenStop("c".into()));
    let retry = f.tell_with("n", &Command::AddOnce("b".into()), Some("id-b"));
    assert!(!answered(original).await.unwrap().duplicate);
    answered(stop).await.unwrap();
    assert!(answered(retry).await.unwrap().duplicate);
}

/// A panic on a tentative state that never came to be is not the entity's end:
/// the command is handled again on the state there is.
#[tokio::test(start_paused = true)]
async fn a_failure_on_a_state_that_never_was_is_forgotten() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    f.faults().at_payload("poison", Fault::Reject);
    let poison = f.tell("n", &add("poison"));
    let panic = f.tell("n", &Command::PanicWith("poison".into()));
    let behind = f.tell("n", &add("b"));
    let refused = error(answered(poison).await);
    assert!(matches!(refused, CommandError::PersistRejected { .. }));
    answered(panic).await.unwrap();
    answered(behind).await.unwrap();
    assert_eq!(f.list("n").await, ["a", "b"]);
}

/// I-8: a retry whose handler would panic today gets the reply it had then.
#[tokio::test(start_paused = true)]
async fn i8_a_retry_does_not_panic_for_its_own_effect() {
    let mut f = Fixture::with(snapshots_every(1)).await;
    let command = Command::PanicUnlessNew("a".into());
    f.ask_with("n", &command, "id").await.unwrap();
    f.restart().await.stop().await;
    let before = f.tell("n", &add("b"));
    let retry = f.tell_with("n", &command, Some("id"));
    let behind = f.tell("n", &add("c"));
    answered(before).await.unwrap();
    assert!(answered(retry).await.unwrap().duplicate);
    answered(behind).await.unwrap();
    let panicked = error(f.ask_with("n", &command, "another id").await);
    assert!(matches!(panicked, CommandError::Panicked { .. }));
}

/// I-12: the index may know more than the entity, when an append of unknown
/// outcome landed late. Who is told so must not read an older state after it.
#[tokio::test(start_paused = true)]
async fn i12_a_late_append_found_by_a_retry_is_seen_by_the_next_read() {
    let mut f = Fixture::with(snapshots_every(1)).await;
    f.ask_with("n", &add("a"), "id-a").await.unwrap();
    f.restart().await.stop().await;
    let late = Fault::Late {
        after_operations: 1_000_000,
    };
    f.faults().at(Operation::Write, 1, late);
    let unknown = error(f.ask_with("n", &add("b"), "id-b").await);
    assert!(matches!(unknown, CommandError::PersistFailed { .. }));
    assert_eq!(f.list("n").await, ["a"]);
    f.faults().release_late_appends();
    // Stores nothing, so that the index is asked about it and all behind it.
    let _first = f.tell_with("n", &Command::List, Some("id-list"));
    let retry = f.tell_with("n", &add("b"), Some("id-b"));
    let read = f.tell("n", &Command::List);
    assert!(answered(retry).await.unwrap().duplicate);
    assert_eq!(texts(&answered(read).await.unwrap()), ["a", "b"]);
}

/// A passivation that meets a recovering entity does not send it back to start.
#[tokio::test(start_paused = true)]
async fn a_passivation_does_not_interrupt_a_recovery() {
    let f = Fixture::new().await;
    let delay = Fault::Delay(Duration::from_millis(50));
    f.faults().at(Operation::Bounds, 1, delay);
    let answer = f.tell("n", &add("a"));
    tokio::time::sleep(Duration::from_millis(10)).await;
    f.passivate("n").await;
    answered(answer).await.unwrap();
    assert_eq!(f.faults().count(Operation::Bounds), 1);
}

/// I-8: what waits for a worker when it stops is answered, however much it is.
#[tokio::test]
async fn i8_a_long_queue_is_answered_by_stop() {
    let f = Fixture::with(EngineSettings {
        workers: 1,
        ..EngineSettings::default()
    })
    .await;
    let answers: Vec<_> = (0..5_000)
        .map(|i| f.tell(&i.to_string(), &add("a")))
        .collect();
    f.engine.stop().await;
    for answer in answers {
        let answer = answered(answer).await;
        assert!(matches!(
            answer,
            Ok(_) | Err(CommandError::ShardUnavailable { .. })
        ));
    }
    assert_eq!(f.engine.live_entities(), 0);
}

/// An entity that is never left in peace does not keep the engine from stopping.
#[tokio::test(start_paused = true)]
async fn stop_ends_while_commands_keep_coming() {
    let f = Fixture::new().await;
    for nth in 1..1_000 {
        let delay = Fault::Delay(Duration::from_millis(5));
        f.faults().at(Operation::Write, nth, delay);
    }
    let mut answers = vec![f.tell("n", &add("a"))];
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut stop = std::pin::pin!(f.engine.stop());
    let mut sent = 0;
    while futures::poll!(stop.as_mut()).is_pending() {
        assert!(sent < 500, "it does not stop");
        sent += 1;
        answers.push(f.tell("n", &add("b")));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for answer in answers {
        let answer = answered(answer).await;
        assert!(matches!(
            answer,
            Ok(_) | Err(CommandError::ShardUnavailable { .. })
        ));
    }
}

/// Whoever stops the engine second waits as long as the first; and who gives up
/// waiting breaks nothing off.
#[tokio::test(start_paused = true)]
async fn i8_stop_may_be_given_up_and_asked_again() {
    let f = Fixture::new().await;
    let delay = Fault::Delay(Duration::from_secs(5));
    f.faults().at(Operation::Write, 1, delay);
    let answer = f.tell("n", &add("a"));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let given_up = tokio::time::timeout(Duration::from_secs(1), f.engine.stop()).await;
    assert!(given_up.is_err());
    let second = tokio::spawn({
        let engine = f.engine.clone();
        async move { engine.stop().await }
    });
    f.engine.stop().await;
    assert_eq!(f.engine.live_entities(), 0);
    second.await.unwrap();
    answered(answer).await.unwrap();
}

/// An outage of the journal while an entity is started again after a failure
/// neither counts as one nor keeps the earlier ones from being forgotten.
#[tokio::test(start_paused = true)]
async fn an_outage_does_not_keep_failures_in_mind() {
    let settings = EngineSettings {
        backoff: BackoffSettings {
            min: Duration::from_secs(1),
            max: Duration::from_secs(60),
            random_factor: 0.0,
        },
        ..EngineSettings::default()
    };
    let f = Fixture::with(settings).await;
    let fails = || async {
        error(f.ask("n", &Command::PanicInHandler).await);
        let behind = error(f.ask("n", &Command::List).await);
        assert!(matches!(behind, CommandError::BackingOff { .. }));
        behind.retry_after().unwrap()
    };
    assert_eq!(fails().await, Duration::from_secs(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    f.faults().set_outage(true);
    let refused = error(f.ask("n", &Command::List).await);
    assert!(matches!(refused, CommandError::JournalUnavailable { .. }));
    f.faults().set_outage(false);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(fails().await, Duration::from_secs(1));
}

/// I-10: replies are stored with the events and wait in memory for the commit, so
/// a round is bounded in their bytes, too.
#[tokio::test(start_paused = true)]
async fn i10_large_replies_end_a_round() {
    let f = Fixture::new().await;
    f.ask("n", &add(&"x".repeat(300_000))).await.unwrap();
    let before = f.faults().count(Operation::Append);
    let answers: Vec<_> = (0..40)
        .map(|i| f.tell_with("n", &add("y"), Some(&i.to_string())))
        .collect();
    for answer in answers {
        answered(answer).await.unwrap();
    }
    let appends = f.faults().count(Operation::Append) - before;
    assert!(appends >= 10, "{appends} appends for 12 MB");
}

/// I-6: the past is read like the present: without what the replay filter discards,
/// and not at all when events are missing.
#[tokio::test(start_paused = true)]
async fn i6_the_past_is_read_through_filter_and_check() {
    let f = Fixture::new().await;
    let event = |id: &str, nr: u64, writer: u128, text: &str| StoredEvent {
        persistence_id: notes(id),
        sequence_nr: SequenceNr::new(nr),
        writer: WriterUuid(uuid::Uuid::from_u128(writer)),
        payload: Payload::json(format!("{{\"Added\":\"{text}\"}}")),
        tags: Vec::new(),
        metadata: None,
        command_id: None,
        created_at: std::time::SystemTime::UNIX_EPOCH,
    };
    f.memory.import([
        event("two", 1, 1, "a"),
        event("two", 2, 2, "b"),
        event("two", 2, 1, "old"),
        event("two", 3, 2, "c"),
        event("gap", 1, 1, "a"),
        event("gap", 3, 1, "c"),
    ]);
    let live = f.list("two").await;
    assert_eq!(live, ["a", "b", "c"]);
    let past = |id, nr| {
        let (engine, id) = (f.engine.clone(), notes(id));
        async move { engine.state_at(&id, SequenceNr::new(nr)).await }
    };
    assert_eq!(texts(&past("two", 3).await.unwrap()), live);
    assert_eq!(texts(&past("two", 1).await.unwrap()), ["a"]);
    let missing = error(past("gap", 3).await);
    assert!(matches!(missing, CommandError::RecoveryFailed { .. }));
    assert_eq!(texts(&past("gap", 1).await.unwrap()), ["a"]);
}
