//! Failures: O37 and 5.6.
//!
//! Absent: the variants with the supervisor's "resume", as a state is not trusted after
//! a panic; "no snapshot store", as a storage always has one; adapters and
//! at-least-once delivery, which are not the actor's.

use std::time::Duration;

use perennial_persistence::actor::{Context, PersistentActor, Recovered};
use perennial_persistence::codec::Json;
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::journal::{Append, AtomicWrite, NewEvent};
use perennial_persistence::payload::Payload;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::{Epoch, ShardNr, WriterUuid};

use crate::fixture::{Backend, Fixture, answered, subject, wait_until};
use crate::subject::{Script, show, update};

on_each_backend!(
    o37_the_restart_hook_hears_of_the_panic_and_the_command,
    case_5_6_a_persist_issued_before_a_panic_is_kept,
    case_5_6_a_panic_in_a_callback_restarts_and_the_event_is_replayed,
    case_5_6_a_panic_among_several_events_loses_none,
    an_event_that_is_too_large_is_rejected_in_its_place,
    case_5_6_another_author_of_the_stream_wins,
    case_5_6_a_fenced_actor_stops,
);

const MEMORY: Backend = Backend::Memory;

async fn o37_the_restart_hook_hears_of_the_panic_and_the_command(on: Backend) {
    let mut script = Script::new(|_, _, _| {});
    script.verbose = true;
    let f = Fixture::empty(on, script).await;
    let answers = f.run(&["boom", "state?"]).await;
    assert!(matches!(
        &answers[0],
        Err(CommandError::Panicked { message, applied: Applied::No }) if message == "told to panic"
    ));
    assert_eq!(
        f.log.take(),
        [
            "completed",
            "told to panic while processing boom",
            "post_stop",
            "completed"
        ]
    );
}

async fn case_5_6_a_persist_issued_before_a_panic_is_kept(on: Backend) {
    let script = Script::new(|_, x, cx| {
        cx.persist(x.clone(), update);
        assert_ne!(x, "err", "told to panic");
    });
    let f = Fixture::empty(on, script).await;
    let answers = f.run(&["a", "err", "b", "c"]).await;
    assert_eq!(answers[1].as_ref().unwrap_err().applied(), Applied::Unknown);
    assert!(answers[2].is_ok() && answers[3].is_ok());
    assert_eq!(f.ask("state?").await.unwrap(), ["a", "err", "b", "c"]);
}

async fn case_5_6_a_panic_in_a_callback_restarts_and_the_event_is_replayed(on: Backend) {
    let script = Script::new(|_, x, cx| {
        cx.persist(x, |subject, event, cx| {
            assert_ne!(event, "err", "told to panic");
            update(subject, event, cx);
        });
    });
    let f = Fixture::empty(on, script).await;
    let answers = f.run(&["a", "b", "err", "c", "d"]).await;
    assert_eq!(answers[2].as_ref().unwrap_err().applied(), Applied::Unknown);
    assert!(answers[3].is_ok() && answers[4].is_ok());
    assert_eq!(f.ask("state?").await.unwrap(), ["a", "b", "err", "c", "d"]);
}

async fn case_5_6_a_panic_among_several_events_loses_none(on: Backend) {
    let script = Script::new(|_, x, cx| {
        let events = (1..=3).map(|i| format!("{x}-{i}")).collect();
        cx.persist_all_async(events, |subject, event, cx| {
            cx.persist_async(format!("{event}-nested"), update);
            assert_ne!(event, "b-2", "told to panic");
            update(subject, event, cx);
        });
    });
    let f = Fixture::empty(on, script).await;
    assert_eq!(
        f.state_after(&["b"]).await,
        ["b-1", "b-2", "b-3", "b-1-nested", "b-2-nested"],
        "what was issued before the panic is stored"
    );
}

async fn an_event_that_is_too_large_is_rejected_in_its_place(on: Backend) {
    let settings = EngineSettings {
        max_payload: 20,
        ..EngineSettings::default()
    };
    let script = Script::new(|_, x, cx| {
        cx.persist("first".to_owned(), show);
        let long = "a text that is too long".to_owned();
        cx.persist_all(vec![x.clone(), long.clone()], show);
        if x == "alone" {
            return;
        }
        cx.persist("last".to_owned(), show);
    });
    let f = Fixture::with(on, script, settings).await;
    let answers = f.run(&["x"]).await;
    // A part of the command is stored, so it is not told that nothing happened.
    assert_eq!(answers[0].as_ref().unwrap_err().applied(), Applied::Unknown);
    let rejected = [
        "first",
        "Rejected: x",
        "Rejected: a text that is too long",
        "last",
    ];
    assert_eq!(f.log.take(), rejected);
    assert_eq!(f.highest().await, 2, "what is rejected takes no number");
}

/// Stores an event as another process would.
async fn write_foreign(f: &Fixture, text: &str) {
    let node = f.storage.registry.mint_node().await.unwrap();
    let other = f.storage.registry.begin_incarnation(node).await.unwrap();
    let append = Append {
        persistence_id: subject(),
        shard: ShardNr(0),
        epoch: Epoch(1),
        writer: WriterUuid(uuid::Uuid::from_u128(7)),
        first_sequence_nr: SequenceNr::new(f.highest().await + 1),
        writes: vec![AtomicWrite {
            events: vec![NewEvent {
                payload: Payload::json(serde_json::to_vec(text).unwrap()),
                tags: Vec::new(),
            }],
            command: None,
            metadata: None,
        }],
    };
    let stored = f.storage.journal.append(other.session, 0, &[append]).await;
    assert!(stored[0].failure.is_none(), "{stored:?}");
}

async fn case_5_6_another_author_of_the_stream_wins(on: Backend) {
    let f = Fixture::new(on, Script::new(|_, x, cx| cx.persist(x, update))).await;
    f.ask("state?").await.unwrap();
    write_foreign(&f, "theirs").await;
    let answers = f.run(&["ours", "next"]).await;
    // The hook replied, which is what the command is answered with.
    assert_eq!(answers[0].as_ref().unwrap(), &["Failure: ours"]);
    assert!(answers[1].is_ok(), "kept over the restart");
    assert_eq!(
        f.ask("state?").await.unwrap(),
        ["a-1", "a-2", "theirs", "next"]
    );
}

async fn case_5_6_a_fenced_actor_stops(on: Backend) {
    let script = Script::new(|_, x, cx| cx.persist_async(x, update));
    let mut f = Fixture::new(on, script.clone()).await;
    f.ask("state?").await.unwrap();
    let zombie = f.engine.clone();
    // A new process of the same node fences the session of the old one.
    f.begin_another(script).await;
    let refused = answered(crate::fixture::send(&zombie, "zombie", None)).await;
    assert_eq!(crate::fixture::texts(refused).unwrap(), ["Failure: zombie"]);
    tokio::time::timeout(Duration::from_secs(20), zombie.fenced())
        .await
        .unwrap();
    assert_eq!(f.ask("state?").await.unwrap(), ["a-1", "a-2"]);
}

#[tokio::test]
async fn case_5_6_a_damaged_event_fails_the_recovery() {
    let mut script = Script::new(|_, _, _| {});
    script.verbose = true;
    let f = Fixture::new(MEMORY, script).await;
    f.faults().at(Operation::ReadEvents, 1, Fault::Corrupt);
    let failed = f.ask("state?").await.unwrap_err();
    assert!(
        matches!(failed, CommandError::RecoveryFailed { .. }),
        "{failed}"
    );
    f.log.wait_for("post_stop").await;
    assert_eq!(f.log.take(), ["recovery failed", "post_stop"]);
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_stops_the_actor_without_back_off() {
    let mut script = Script::new(|_, _, _| {});
    script.verbose = true;
    let f = Fixture::new(MEMORY, script).await;
    f.faults().at(Operation::ReadEvents, 1, Fault::Fail);
    let failed = f.ask("state?").await.unwrap_err();
    assert!(
        matches!(failed, CommandError::JournalUnavailable { .. }),
        "{failed}"
    );
    f.log.wait_for("post_stop").await;
    assert_eq!(f.log.take(), ["recovery impossible", "post_stop"]);
    assert_eq!(f.ask("state?").await.unwrap(), ["a-1", "a-2"]);
}

#[tokio::test]
async fn case_5_6_a_persist_that_fails_runs_the_hook_and_stops() {
    let mut script = Script::new(|_, x, cx| cx.persist(format!("{x}-1"), update));
    script.verbose = true;
    let f = Fixture::empty(MEMORY, script).await;
    f.ask("state?").await.unwrap();
    f.faults().at(Operation::Write, 1, Fault::LoseAnswer);
    let answers = f.run(&["wrong", "behind"]).await;
    assert_eq!(answers[0].as_ref().unwrap(), &["Failure: wrong-1"]);
    assert!(matches!(answers[1], Err(CommandError::BackingOff { .. })));
    assert_eq!(f.log.take(), ["completed", "Failure: wrong-1", "post_stop"]);
    // What became of it shows after the recovery, which no back-off delays.
    assert_eq!(f.ask("state?").await.unwrap(), ["wrong-1"]);
}

#[tokio::test]
async fn case_5_6_a_persist_async_that_fails_runs_the_hook_for_its_batch() {
    let script = Script::new(|subject, x, cx| {
        subject.log.push(&x);
        cx.persist_async(subject.count(&x), show);
    });
    let f = Fixture::empty(MEMORY, script).await;
    f.ask("a").await.unwrap();
    f.faults().at(Operation::Write, 1, Fault::LoseAnswer);
    let answers = f.run(&["wrong", "behind"]).await;
    assert_eq!(answers[0].as_ref().unwrap(), &["Failure: wrong-2"]);
    // Its write was never sent.
    assert_eq!(answers[1].as_ref().unwrap_err().applied(), Applied::No);
    assert_eq!(
        f.log.take(),
        ["a", "a-1", "wrong", "behind", "Failure: wrong-2"]
    );
}

#[tokio::test]
async fn case_5_6_a_rejected_persist_runs_the_hook_for_each_event_and_goes_on() {
    let script = Script::new(|_, x, cx| {
        cx.persist_all(vec![format!("{x}-1"), format!("{x}-2")], update);
    });
    let f = Fixture::empty(MEMORY, script).await;
    f.faults().at_payload("wrong-2", Fault::Reject);
    let answers = f.run(&["wrong", "a"]).await;
    assert!(matches!(
        answers[0],
        Err(CommandError::PersistRejected { .. })
    ));
    assert_eq!(f.log.take(), ["Rejected: wrong-1", "Rejected: wrong-2"]);
    assert_eq!(f.ask("state?").await.unwrap(), ["a-1", "a-2"]);
    assert_eq!(f.highest().await, 2);
}

/// The writes behind it are stored, in their order, and so are their callbacks.
#[tokio::test]
async fn case_5_6_a_rejected_write_takes_no_other_along() {
    let script = Script::new(|subject, x, cx| {
        cx.persist_async(x.clone(), show);
        cx.defer_async(subject, format!("after {x}"), show);
    });
    let f = Fixture::empty(MEMORY, script).await;
    f.faults().at_payload("poison", Fault::Reject);
    f.journal.hold();
    let first = f.tell("first");
    wait_until("the first write", || f.journal.sent().len() == 1).await;
    let rest: Vec<_> = ["a", "poison", "b", "c"]
        .iter()
        .map(|x| f.tell(x))
        .collect();
    f.ask("state?").await.unwrap();
    f.journal.release();
    answered(first).await.unwrap();
    let mut refused = Vec::new();
    for answer in rest {
        refused.push(answered(answer).await.is_err());
    }
    assert_eq!(refused, [false, true, false, false]);
    assert_eq!(
        f.log.take(),
        [
            "first",
            "after first",
            "a",
            "after a",
            "Rejected: poison",
            "after poison",
            "b",
            "after b",
            "c",
            "after c"
        ]
    );
    f.passivate().await;
    assert_eq!(f.ask("state?").await.unwrap(), ["first", "a", "b", "c"]);
}

/// I-8: a retry shares the fate of its original while that is under way. A command whose
/// write was refused is new when it comes again.
#[tokio::test]
async fn i8_a_refused_command_can_be_retried() {
    let script = Script::new(|_, x, cx| cx.persist_async(x, update));
    let f = Fixture::empty(MEMORY, script).await;
    f.faults().at_payload("poison", Fault::Reject);
    f.journal.hold();
    let first = f.tell_with("first", Some("id-1"));
    wait_until("the first write", || f.journal.sent().len() == 1).await;
    let rest = [
        f.tell_with("poison", Some("id-2")),
        f.tell_with("last", Some("id-3")),
        f.tell_with("poison", Some("id-2")),
        f.tell_with("last", Some("id-3")),
    ];
    f.journal.release();
    assert!(!answered(first).await.unwrap().duplicate);
    let mut duplicates = Vec::new();
    for answer in rest {
        duplicates.push(answered(answer).await.ok().map(|reply| reply.duplicate));
    }
    assert_eq!(duplicates, [None, Some(false), None, Some(true)]);
    // The fault strikes once.
    let retry = answered(f.tell_with("poison", Some("id-2"))).await;
    assert!(!retry.unwrap().duplicate);
    assert_eq!(f.ask("state?").await.unwrap(), ["first", "last", "poison"]);
}

/// Nothing is stored, which is certain: the actor stays, as others do in an outage.
#[tokio::test]
async fn an_unreachable_journal_rejects_and_the_actor_stays() {
    let mut script = Script::new(|_, x, cx| cx.persist(x, update));
    script.verbose = true;
    let f = Fixture::empty(MEMORY, script).await;
    f.ask("a").await.unwrap();
    f.faults().set_outage(true);
    for x in ["b", "c"] {
        let refused = f.ask(x).await.unwrap_err();
        assert!(
            matches!(refused, CommandError::JournalUnavailable { .. }),
            "{refused}"
        );
    }
    f.faults().set_outage(false);
    f.ask("d").await.unwrap();
    assert_eq!(f.log.take(), ["completed", "Rejected: b", "Rejected: c"]);
    assert_eq!(f.ask("state?").await.unwrap(), ["a", "d"]);
}

/// Newest snapshots that cannot be read fall back to older ones, then to the events.
#[tokio::test]
async fn case_5_6_snapshots_that_are_not_understood_are_passed_over() {
    #[derive(Default)]
    struct Numbers(u64);
    impl PersistentActor for Numbers {
        type Command = u64;
        type Event = u64;
        type Snapshot = u64;
        type Reply = u64;
        type Codec = Json;
        fn receive_command(&mut self, add: u64, cx: &mut Context<'_, Self>) {
            cx.persist(add, |numbers: &mut Self, add, cx| {
                numbers.0 += add;
                cx.reply(&numbers.0);
            });
        }
        fn receive_recover(&mut self, recovered: Recovered<Self>, _: &mut Context<'_, Self>) {
            match recovered {
                Recovered::SnapshotOffer(offer) => self.0 = offer.snapshot,
                Recovered::Event(add) => self.0 += add,
                Recovered::Completed => {}
            }
        }
    }
    let memory = perennial_persistence::storage::memory::MemoryStorage::new(1);
    let storage = memory.storage();
    let node = storage.registry.mint_node().await.unwrap();
    let session = storage
        .registry
        .begin_incarnation(node)
        .await
        .unwrap()
        .session;
    let mut types = perennial_persistence::entity_types::EntityTypes::new();
    types
        .register_actor("texts", |_| Numbers::default())
        .unwrap();
    let right = perennial_persistence::journal::WriteRight {
        session,
        shard: ShardNr(0),
        epoch: Epoch(1),
    };
    let engine = perennial_persistence::engine::EntityEngine::start(
        types,
        storage.clone(),
        session,
        EngineSettings::default(),
    );
    let ask = |add: u64| answered(crate::fixture::send_json(&engine, &add));
    for add in 1..=3 {
        ask(add).await.unwrap();
    }
    for (nr, text) in [(1, "1"), (2, "\"damaged\""), (3, "damaged")] {
        let payload = Payload::json(text);
        let (id, nr) = (subject(), SequenceNr::new(nr));
        storage
            .snapshots
            .save(right, &id, nr, &payload)
            .await
            .unwrap();
    }
    engine.passivate(ShardNr(0), &subject()).await;
    let reply = ask(4).await.unwrap();
    assert_eq!(reply.payload.bytes, "10");
}
