//! Deleting events, snapshots and their signals: O32 to O34, and save, load, delete.

use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::SnapshotCriteria;

use crate::fixture::{Backend, Fixture};
use crate::subject::{Cx, Script, Subject, update};

on_each_backend!(
    o32_deleted_events_are_not_replayed,
    o33_all_events_deleted_numbers_go_on,
    o34_a_deletion_beyond_the_stream_deletes_nothing,
    snapshots_are_saved_loaded_and_deleted,
    a_snapshot_is_numbered_by_what_has_happened_not_by_what_is_issued,
);

fn store(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
    let nr = |text: &str| SequenceNr::new(text.parse().unwrap());
    match x.split_once(' ') {
        Some(("delete", "all")) => cx.delete_events(SequenceNr::MAX),
        Some(("delete", to)) => cx.delete_events(nr(to)),
        Some(("load", to)) => cx.load_snapshot(SnapshotCriteria::up_to(nr(to))),
        Some(("forget", at)) => cx.delete_snapshot(nr(at)),
        Some(("forget-to", to)) => cx.delete_snapshots(SnapshotCriteria::up_to(nr(to))),
        _ if x == "snap" => cx.save_snapshot(&subject.texts),
        _ => cx.persist_all(vec![format!("{x}-1"), format!("{x}-2")], update),
    }
}

async fn o32_deleted_events_are_not_replayed(on: Backend) {
    let f = Fixture::new(on, Script::new(store)).await;
    f.run(&["b", "delete 2"]).await;
    f.log.wait_for("events deleted<=2").await;
    assert_eq!(f.state_after(&["boom"]).await, ["b-1", "b-2"]);
}

async fn o33_all_events_deleted_numbers_go_on(on: Backend) {
    let f = Fixture::new(on, Script::new(store)).await;
    f.run(&["b", "delete all"]).await;
    f.log
        .wait_for(&format!("events deleted<={}", SequenceNr::MAX))
        .await;
    assert_eq!(f.state_after(&["boom"]).await, [""; 0]);
    f.ask("c").await.unwrap();
    assert_eq!(f.highest().await, 6);
    assert_eq!(f.state_after(&["boom"]).await, ["c-1", "c-2"]);
}

async fn o34_a_deletion_beyond_the_stream_deletes_nothing(on: Backend) {
    let f = Fixture::new(on, Script::new(store)).await;
    f.run(&["b", "delete 5"]).await;
    let what =
        "events can be deleted up to a number less than or equal to lastSequenceNr 4, not up to 5";
    f.log
        .wait_for(&format!("events not deleted<=5: {what}"))
        .await;
    assert_eq!(f.state_after(&["boom"]).await, ["a-1", "a-2", "b-1", "b-2"]);
}

async fn snapshots_are_saved_loaded_and_deleted(on: Backend) {
    let mut script = Script::new(store);
    script.verbose = true;
    let mut f = Fixture::new(on, script.clone()).await;
    f.run(&["snap"]).await;
    f.log.wait_for("saved@2").await;
    f.run(&["b", "snap"]).await;
    f.log.wait_for("saved@4").await;
    f.run(&["load 3"]).await;
    f.log.wait_for("loaded@2: [\"a-1\", \"a-2\"]").await;
    f.restart(script.clone()).await;
    assert_eq!(f.state_after(&[]).await, ["a-1", "a-2", "b-1", "b-2"]);
    assert_eq!(f.log.take(), ["offer@4", "completed"]);
    f.run(&["forget 4"]).await;
    f.log.wait_for("deleted@4").await;
    f.restart(script.clone()).await;
    assert_eq!(f.state_after(&[]).await, ["a-1", "a-2", "b-1", "b-2"]);
    assert_eq!(f.log.take(), ["offer@2", "b-1", "b-2", "completed"]);
    f.run(&["forget-to 9"]).await;
    f.log.wait_for("deleted<=9").await;
    f.run(&["load 9"]).await;
    f.log.wait_for("no snapshot").await;
}

/// The originals number it with the last event issued, and lose at recovery what was
/// issued and not yet applied.
async fn a_snapshot_is_numbered_by_what_has_happened_not_by_what_is_issued(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            cx.persist_async(x, update);
            assert_eq!(cx.last_sequence_nr().get(), 3);
            assert_eq!(cx.snapshot_sequence_nr().get(), 2);
            cx.save_snapshot(&subject.texts);
        }),
    )
    .await;
    f.run(&["b"]).await;
    f.log.wait_for("saved@2").await;
    assert_eq!(f.state_after(&["boom"]).await, ["a-1", "a-2", "b"]);
}

/// Faults are arranged in memory only.
#[tokio::test]
async fn case_5_6_an_actor_hears_that_its_storage_failed() {
    let f = Fixture::new(Backend::Memory, Script::new(store)).await;
    f.ask("state?").await.unwrap();
    f.faults().at(Operation::SaveSnapshot, 1, Fault::Fail);
    f.faults().at(Operation::LoadSnapshot, 1, Fault::Fail);
    f.faults().at(Operation::DeleteSnapshots, 1, Fault::Fail);
    f.faults().at(Operation::DeleteSnapshots, 2, Fault::Fail);
    f.run(&["snap", "load 9"]).await;
    f.log.wait_for("not loaded").await;
    f.run(&["forget 1"]).await;
    f.log.wait_for("snapshot not deleted").await;
    f.run(&["forget-to 1"]).await;
    f.log.wait_for("snapshots not deleted").await;
    assert!(
        f.log
            .lines()
            .iter()
            .any(|line| line.starts_with("not saved@2"))
    );
    assert_eq!(f.ask("state?").await.unwrap(), ["a-1", "a-2"]);
}
