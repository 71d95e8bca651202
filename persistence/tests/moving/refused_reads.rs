//! What a read that is refused for now leaves as it was.

use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::retention::RetentionSettings;
use perennial_persistence::storage::memory::MemoryStorage;

use crate::{ASIDE, Command, Guard, Node, add, answered, is_unavailable, notes, texts};

/// Who leaves while the journal is out of reach cannot come back.
#[tokio::test]
async fn a_read_that_the_journal_cannot_confirm_leaves_its_entity_in_memory() {
    let node = Node::guarded(Guard::Journal).await;
    let (idle, waiting) = (notes("idle"), notes("waiting"));
    texts(node.ask(&idle, &add("a")).await);
    let aside = node.tell(&waiting, &Command::AddToOthers("b".into()));
    node.waiting_for(&waiting, ASIDE).await;
    let faults = node.memory.faults();
    let recoveries = faults.count(Operation::Bounds);
    faults.set_outage(true);
    for id in [&idle, &waiting] {
        let read = node.ask(id, &Command::List).await;
        assert!(
            matches!(read, Err(CommandError::JournalUnavailable { .. })),
            "I-12: {read:?}"
        );
        assert!(node.live(id).await, "{id}");
    }
    faults.set_outage(false);
    assert_eq!(texts(node.ask(&idle, &Command::List).await), ["a"]);
    let others = Command::AddForOthers("a".into());
    node.ask(&waiting, &others).await.unwrap();
    answered(aside).await.unwrap();
    assert_eq!(texts(node.ask(&waiting, &Command::List).await), ["a", "b"]);
    assert_eq!(
        faults.count(Operation::Bounds),
        recoveries,
        "nobody recovered"
    );
}

/// A snapshot that comes to nothing with the answer it was asked for with does not
/// keep the next one from being taken.
#[tokio::test]
async fn snapshots_are_taken_after_a_read_that_was_not_given() {
    let settings = EngineSettings {
        retention: RetentionSettings {
            every: 2,
            ..RetentionSettings::default()
        },
        ..EngineSettings::default()
    };
    let by_lease = Node::with(&MemoryStorage::new(1), Guard::Lease, settings.clone()).await;
    let id = notes("a");
    texts(by_lease.ask(&id, &add("a")).await);
    by_lease.lease.end();
    let answer = by_lease.ask(&id, &Command::ListAndKeep).await;
    assert!(is_unavailable(&answer), "I-12: {answer:?}");
    texts(by_lease.ask(&id, &add("b")).await);
    by_lease.kept(&id, 2).await;

    let by_journal = Node::with(&MemoryStorage::new(1), Guard::Journal, settings).await;
    texts(by_journal.ask(&id, &add("a")).await);
    let faults = by_journal.memory.faults();
    faults.at(Operation::MayWrite, 1, Fault::Fail);
    by_journal
        .ask(&id, &Command::ListAndKeep)
        .await
        .unwrap_err();
    texts(by_journal.ask(&id, &add("b")).await);
    by_journal.kept(&id, 2).await;
}
