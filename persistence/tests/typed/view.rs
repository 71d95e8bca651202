//! Views: they follow an entity's events and write nothing to the journal.

use std::time::Duration;

use perennial_persistence::codec::Json;
use perennial_persistence::journal::WriteRight;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::retention::RetentionSettings;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::SnapshotCriteria;
use perennial_persistence::view::{View, ViewError, ViewHandle, ViewSettings, ViewSnapshots};
use perennial_persistence::writer::Epoch;

use crate::counter::{Command, Counter, Event};
use crate::fixture::{Node, SHARD};

/// The numbers at which the counter was incremented.
struct Increments;

impl View for Increments {
    type Entity = Counter;
    type State = Vec<u64>;
    type Codec = Json;

    fn apply(&self, state: &mut Vec<u64>, event: Event, at: SequenceNr) {
        match event {
            Event::Incremented => state.push(at.get()),
            Event::Updated(13) => panic!("told to panic"),
            _ => {}
        }
    }
}

fn when_asked() -> ViewSettings {
    ViewSettings {
        update_interval: None,
        ..ViewSettings::default()
    }
}

fn entity() -> PersistenceId {
    PersistenceId::new("counter", "c").unwrap()
}

fn view_id() -> PersistenceId {
    PersistenceId::new("increments-view", "c").unwrap()
}

fn follow(node: &Node, settings: ViewSettings) -> ViewHandle<Increments> {
    ViewHandle::start(Increments, entity(), &node.storage, settings)
}

async fn increment(node: &Node, times: usize) {
    for _ in 0..times {
        node.ask::<Counter>("c", &Command::Increment).await.unwrap();
    }
}

async fn state(view: &ViewHandle<Increments>) -> (Vec<u64>, u64) {
    let look = |state: &Vec<u64>, at: SequenceNr| (state.clone(), at.get());
    view.read(look).await.unwrap()
}

/// Settings with snapshots every 2 events, of which 1 is kept.
async fn with_snapshots(node: &Node) -> ViewSettings {
    let registry = &node.storage.registry;
    let place = registry.mint_node().await.unwrap();
    let session = registry.begin_incarnation(place).await.unwrap().session;
    ViewSettings {
        snapshots: Some(ViewSnapshots {
            view_id: view_id(),
            right: WriteRight {
                session,
                shard: SHARD,
                epoch: Epoch(1),
            },
            retention: RetentionSettings {
                every: 2,
                keep: 1,
                delete_events: true,
            },
        }),
        ..when_asked()
    }
}

#[tokio::test]
async fn a_view_is_updated_when_asked() {
    let node = Node::running(Counter).await;
    let view = follow(&node, when_asked());
    assert_eq!(view.update().await.unwrap().get(), 0);
    increment(&node, 2).await;
    assert_eq!(state(&view).await, (vec![], 0));
    assert_eq!(view.update().await.unwrap().get(), 2);
    node.ask::<Counter>("c", &Command::Deactivate)
        .await
        .unwrap();
    node.ask::<Counter>("c", &Command::Activate).await.unwrap();
    increment(&node, 1).await;
    assert_eq!(view.update().await.unwrap().get(), 5);
    assert_eq!(state(&view).await, (vec![1, 2, 5], 5));
}

/// However often it is read. It writes nothing to the journal: the entity's stream is as it
/// was, and there is no stream of the view's.
#[tokio::test]
async fn a_view_updates_itself_and_writes_nothing() {
    let node = Node::running(Counter).await;
    increment(&node, 3).await;
    let before = (
        node.faults().count(Operation::Append),
        node.events::<Counter>("c").await,
    );
    let settings = ViewSettings {
        update_interval: Some(Duration::from_millis(50)),
        ..with_snapshots(&node).await
    };
    let view = follow(&node, settings);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while state(&view).await.1 < 3 {
        assert!(tokio::time::Instant::now() < deadline, "not updated");
    }
    let after = (
        node.faults().count(Operation::Append),
        node.events::<Counter>("c").await,
    );
    assert_eq!(before, after);
    let bounds = node.storage.journal.bounds(&view_id()).await.unwrap();
    assert_eq!(bounds.highest, SequenceNr::ZERO);
}

#[tokio::test]
async fn an_update_reads_as_much_as_it_may() {
    let node = Node::running(Counter).await;
    increment(&node, 5).await;
    let settings = ViewSettings {
        replay_max: 2,
        ..when_asked()
    };
    let view = follow(&node, settings);
    for seen in [2, 4, 5, 5] {
        assert_eq!(view.update().await.unwrap().get(), seen);
    }
}

/// I-6: from its own snapshot and later events it gets where it was, also when the events
/// before are gone; without the snapshot it says so.
#[tokio::test]
async fn i6_a_view_goes_on_from_its_own_snapshot() {
    let node = Node::running(Counter).await;
    let settings = with_snapshots(&node).await;
    let right = settings.snapshots.as_ref().unwrap().right;
    let view = follow(&node, settings.clone());
    for _ in 0..5 {
        increment(&node, 1).await;
        view.update().await.unwrap();
    }
    let live = state(&view).await;
    drop(view);
    let snapshots = &node.storage.snapshots;
    let load = async |max| {
        let criteria = SnapshotCriteria::up_to(SequenceNr::new(max));
        let loaded = snapshots.load(&view_id(), criteria).await.unwrap();
        loaded.map(|snapshot| snapshot.sequence_nr.get())
    };
    assert_eq!(
        (load(9).await, load(3).await),
        (Some(4), None),
        "one is kept"
    );
    let journal = &node.storage.journal;
    let to = SequenceNr::new(4);
    journal.delete_events(right, &entity(), to).await.unwrap();
    let view = follow(&node, settings);
    view.update().await.unwrap();
    assert_eq!(state(&view).await, live);

    let late = follow(&node, when_asked());
    let missed = late.update().await.unwrap_err();
    let deleted_to = to;
    assert!(
        matches!(missed, ViewError::HistoryDeleted { seen: SequenceNr::ZERO, deleted_to: to } if to == deleted_to),
        "{missed}"
    );
}

/// What fails leaves the state, and the next update tries again.
#[tokio::test]
async fn a_failing_journal_leaves_the_view_as_it_was() {
    let node = Node::running(Counter).await;
    increment(&node, 1).await;
    let view = follow(&node, when_asked());
    view.update().await.unwrap();
    increment(&node, 1).await;
    for operation in [Operation::Bounds, Operation::ReadEvents] {
        node.faults().at(operation, 1, Fault::Fail);
        let failed = view.update().await.unwrap_err();
        assert!(matches!(failed, ViewError::Unreadable(_)), "{failed}");
        assert_eq!(state(&view).await, (vec![1], 1));
    }
    view.update().await.unwrap();
    assert_eq!(state(&view).await, (vec![1, 2], 2));
}

/// A view that cannot fold an event says which, and lives.
#[tokio::test]
async fn a_panic_of_the_view_is_told() {
    let node = Node::running(Counter).await;
    increment(&node, 1).await;
    node.ask::<Counter>("c", &Command::Update(13))
        .await
        .unwrap();
    let view = follow(&node, when_asked());
    for _ in 0..2 {
        let failed = view.update().await.unwrap_err();
        assert!(
            matches!(failed, ViewError::Event { sequence_nr, .. } if sequence_nr.get() == 2),
            "{failed}"
        );
    }
    increment(&node, 1).await;
    assert_eq!(state(&view).await, (vec![1], 1));
}
