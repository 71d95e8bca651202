//! What a read that is refused for now leaves as it was.

use perennial_persistence::command_error::CommandError;
use perennial_persistence::journal::memory::faults::Operation;

use crate::{ASIDE, Command, Guard, Node, add, answered, notes, texts};

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
