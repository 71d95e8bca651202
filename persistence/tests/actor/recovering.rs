//! Recovery and its customisation: O36, O38 to O40, and the snapshot rows of 5.6.
//!
//! Absent: "a snapshot ahead of its journal", where the originals go on behind it; here
//! the recovery fails, because events are missing (see the replay filter's checks).
//! O38's null has no counterpart, and a blank id is an id like others.

use perennial_persistence::actor::Recovery;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::SnapshotCriteria;

use crate::fixture::{Backend, Fixture, send};
use crate::subject::{Cx, Script, Subject, update};

on_each_backend!(
    o36_persisting_when_recovered_and_while_replaying,
    o39_a_panic_in_the_recovery_handler_stops_the_actor,
    o40_messages_sent_during_recovery_come_after_it,
    case_5_6_the_newest_snapshot_is_offered,
    case_5_6_a_declined_snapshot_is_replaced_by_all_events,
    case_5_6_recovery_to_a_sequence_number,
    case_5_6_recovery_from_an_older_snapshot,
    case_5_6_recovery_without_snapshot,
    case_5_6_recovery_of_a_limited_number_of_events,
    case_5_6_no_recovery_at_all_continues_the_numbers,
    a_panic_when_recovery_completes_fails_it,
    an_actor_that_cannot_be_made_fails_its_recovery,
);

async fn o36_persisting_when_recovered_and_while_replaying(on: Backend) {
    let mut script = Script::new(|_, x, cx| cx.persist(x, update));
    script.completed = |_, cx| {
        cx.persist_async("rc-1".to_owned(), update);
        cx.persist("rc-2".to_owned(), update);
        cx.persist_async("rc-3".to_owned(), update);
    };
    script.replayed = |_, event, cx| {
        if event == "invalid" {
            cx.persist("nested".to_owned(), |_, _, _| {});
        }
    };
    let f = Fixture::new(on, script).await;
    let first = f.ask("state?").await.unwrap();
    assert_eq!(first[..4], ["a-1", "a-2", "rc-1", "rc-2"]);
    assert_eq!(
        f.state_after(&["invalid"]).await,
        ["a-1", "a-2", "rc-1", "rc-2", "rc-3", "invalid"]
    );
    let answers = f.run(&["boom", "state?"]).await;
    let failed = answers[1].as_ref().unwrap_err();
    assert!(
        matches!(failed, CommandError::RecoveryFailed { .. }),
        "{failed}"
    );
    assert!(
        failed.to_string().contains("while its past was replayed"),
        "{failed}"
    );
    assert_eq!(
        f.highest().await,
        6,
        "nothing was stored by the failed recovery"
    );
}

/// It fails where the id is made, before anything starts.
#[test]
fn o38_an_empty_id_is_an_error() {
    assert!(PersistenceId::new("texts", "").is_err());
}

async fn o39_a_panic_in_the_recovery_handler_stops_the_actor(on: Backend) {
    let mut script = Script::new(|_, _, _| {});
    script.replayed = |_, event, _| assert_ne!(event, "a-2", "told to panic");
    script.verbose = true;
    let f = Fixture::new(on, script).await;
    let failed = f.ask("state?").await.unwrap_err();
    assert!(
        matches!(failed, CommandError::RecoveryFailed { .. }),
        "{failed}"
    );
    let message = failed.to_string();
    assert!(
        message.contains("event 2") && message.contains("told to panic"),
        "{message}"
    );
    f.log.wait_for("post_stop").await;
    assert_eq!(f.log.take(), ["a-1", "recovery failed", "post_stop"]);
    let again = f.ask("state?").await.unwrap_err();
    assert!(matches!(again, CommandError::BackingOff { .. }), "{again}");
}

async fn o40_messages_sent_during_recovery_come_after_it(on: Backend) {
    let mut script = Script::new(|subject, x, cx| match x.as_str() {
        "snap" => cx.save_snapshot(&subject.texts),
        _ => subject.log.push(x),
    });
    let mut f = Fixture::new(on, script.clone()).await;
    f.run(&["snap"]).await;
    f.log.wait_for("saved@2").await;
    script.replayed = |subject, _, _| {
        let engine = subject.engine.get().unwrap();
        drop(send(engine, "I am the stashed", None));
        drop(send(engine, "I am the recovered", None));
    };
    script.verbose = true;
    f.restart(script).await;
    f.ask("state?").await.unwrap();
    f.log.wait_for("I am the recovered").await;
    assert_eq!(
        f.log.take(),
        [
            "offer@2",
            "completed",
            "I am the stashed",
            "I am the recovered"
        ]
    );
}

fn persist_or_snap(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
    match x.as_str() {
        "snap" => cx.save_snapshot(&subject.texts),
        _ => cx.persist(x, update),
    }
}

/// Six events, with snapshots at 1, 2 and 4; then what a recovery shows.
async fn recovered_with(on: Backend, change: impl FnOnce(&mut Script)) -> (Fixture, Vec<String>) {
    let mut script = Script::new(persist_or_snap);
    let mut f = Fixture::empty(on, script.clone()).await;
    for (i, event) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        f.ask(event).await.unwrap();
        if [0, 1, 3].contains(&i) {
            f.run(&["snap"]).await;
            f.log.wait_for(&format!("saved@{}", i + 1)).await;
        }
    }
    script.verbose = true;
    change(&mut script);
    f.restart(script).await;
    f.ask("state?").await.unwrap();
    let shown = f.log.take();
    (f, shown)
}

fn up_to(nr: u64) -> Option<SnapshotCriteria> {
    Some(SnapshotCriteria::up_to(SequenceNr::new(nr)))
}

async fn case_5_6_the_newest_snapshot_is_offered(on: Backend) {
    let (f, shown) = recovered_with(on, |_| {}).await;
    assert_eq!(shown, ["offer@4", "e", "f", "completed"]);
    assert_eq!(
        f.ask("state?").await.unwrap(),
        ["a", "b", "c", "d", "e", "f"]
    );
}

/// Older ones are offered before.
async fn case_5_6_a_declined_snapshot_is_replaced_by_all_events(on: Backend) {
    let (f, shown) = recovered_with(on, |script| script.declines_snapshots = true).await;
    let expected = [
        "declined@4",
        "declined@2",
        "declined@1",
        "a",
        "b",
        "c",
        "d",
        "e",
        "f",
        "completed",
    ];
    assert_eq!(shown, expected);
    assert_eq!(
        f.ask("state?").await.unwrap(),
        ["a", "b", "c", "d", "e", "f"]
    );
}

async fn case_5_6_recovery_to_a_sequence_number(on: Backend) {
    for (to, expected) in [
        (3, vec!["offer@2", "c", "completed"]),
        (4, vec!["offer@4", "completed"]),
    ] {
        let to_sequence_nr = SequenceNr::new(to);
        let (_, shown) = recovered_with(on, |script| {
            script.recovery.to_sequence_nr = to_sequence_nr;
        })
        .await;
        assert_eq!(shown, expected);
    }
}

async fn case_5_6_recovery_from_an_older_snapshot(on: Backend) {
    let (_, shown) = recovered_with(on, |script| script.recovery.from_snapshot = up_to(2)).await;
    assert_eq!(shown, ["offer@2", "c", "d", "e", "f", "completed"]);
    let (_, shown) = recovered_with(on, |script| {
        script.recovery.from_snapshot = up_to(2);
        script.recovery.to_sequence_nr = SequenceNr::new(3);
    })
    .await;
    assert_eq!(shown, ["offer@2", "c", "completed"]);
}

async fn case_5_6_recovery_without_snapshot(on: Backend) {
    let (_, shown) = recovered_with(on, |script| {
        script.recovery.from_snapshot = None;
        script.recovery.to_sequence_nr = SequenceNr::new(3);
    })
    .await;
    assert_eq!(shown, ["a", "b", "c", "completed"]);
}

async fn case_5_6_recovery_of_a_limited_number_of_events(on: Backend) {
    let (_, shown) = recovered_with(on, |script| script.recovery.replay_max = 1).await;
    assert_eq!(shown, ["offer@4", "e", "completed"]);
}

async fn case_5_6_no_recovery_at_all_continues_the_numbers(on: Backend) {
    let (f, shown) = recovered_with(on, |script| script.recovery = Recovery::none()).await;
    assert_eq!(shown, ["completed"]);
    assert_eq!(f.state_after(&["g"]).await, ["g"]);
    assert_eq!(f.highest().await, 7);
}

async fn a_panic_when_recovery_completes_fails_it(on: Backend) {
    let mut script = Script::new(|_, _, _| {});
    script.completed = |_, _| panic!("told to panic");
    let f = Fixture::new(on, script).await;
    let failed = f.ask("state?").await.unwrap_err();
    assert!(
        matches!(failed, CommandError::RecoveryFailed { .. }),
        "{failed}"
    );
}

/// The panic of the function that makes actors does not hurt its worker.
async fn an_actor_that_cannot_be_made_fails_its_recovery(on: Backend) {
    let mut script = Script::new(|_, _, _| {});
    script.unmakeable = true;
    let f = Fixture::new(on, script).await;
    let failed = f.ask("state?").await.unwrap_err();
    assert!(
        matches!(failed, CommandError::RecoveryFailed { .. }),
        "{failed}"
    );
    let again = f.ask("state?").await.unwrap_err();
    assert!(matches!(again, CommandError::BackingOff { .. }), "{again}");
}
