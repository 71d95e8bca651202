//! What follows a decision that stores nothing, and replies that are too large.

use perennial_persistence::codec::Json;
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::{EngineSettings, EntityState};
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::SnapshotCriteria;
use perennial_persistence::testing::event_sourced_kit::EventSourcedKit;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::fixture::{Acks, Node, SHARD, wait_until};

/// A list of numbers.
struct Numbers;

/// The same without a copy.
struct Uncopied;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Command {
    Add(u32),
    /// Adds it, and replies with so many bytes.
    AddVerbosely(u32, usize),
    RejectAndStop,
    RejectAndSnapshot,
    NothingButSnapshot,
    UnhandledAndUnstash,
    Stash,
    Get,
}

use Command::{
    Add, AddVerbosely, Get, NothingButSnapshot, RejectAndSnapshot, RejectAndStop, Stash,
    UnhandledAndUnstash,
};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Reply {
    numbers: Vec<u32>,
    padding: String,
}

fn decide<E>(numbers: &[u32], command: Command) -> Effect<E>
where
    E: EventSourced<Event = u32, State = Vec<u32>, Reply = Reply>,
{
    let reply = |padding: usize| {
        move |numbers: &Vec<u32>| Reply {
            numbers: numbers.clone(),
            padding: "x".repeat(padding),
        }
    };
    match command {
        Add(number) => Effect::persist(number).then_reply(reply(0)),
        AddVerbosely(number, padding) => Effect::persist(number).then_reply(reply(padding)),
        RejectAndStop => Effect::reject("NO", "no").then_stop(),
        RejectAndSnapshot => Effect::reject("NO", "no").then_snapshot(),
        NothingButSnapshot => Effect::none().then_snapshot().then_reply(reply(0)),
        UnhandledAndUnstash => Effect::unhandled().then_unstash_all(),
        Stash if numbers.contains(&1) => Effect::persist(2).then_reply(reply(0)),
        Stash => Effect::stash(),
        Get => Effect::none().then_reply(reply(0)),
    }
}

macro_rules! numbers {
    ($entity:ident, $keeps_copy:literal) => {
        impl EventSourced for $entity {
            const ENTITY_TYPE: &'static str = "numbers";
            const KEEPS_COPY: bool = $keeps_copy;
            type State = Vec<u32>;
            type Command = Command;
            type Event = u32;
            type Reply = Reply;
            type Codec = Json;

            fn handle(&self, numbers: &Vec<u32>, command: Command) -> Effect<Self> {
                decide(numbers, command)
            }

            fn apply(&self, numbers: &mut Vec<u32>, number: u32) {
                numbers.push(number);
            }
        }
    };
}
numbers!(Numbers, true);
numbers!(Uncopied, false);

fn id() -> PersistenceId {
    PersistenceId::new("numbers", "n").unwrap()
}

async fn numbers<E>(node: &Node) -> Vec<u32>
where
    E: EventSourced<Command = Command, Reply = Reply>,
{
    node.ask::<E>("n", &Get).await.unwrap().numbers
}

async fn expect_rejection(node: &Node, command: &Command) {
    let error = node.ask::<Numbers>("n", command).await.unwrap_err();
    assert!(matches!(error, CommandError::Rejected { .. }), "{error}");
}

#[tokio::test]
async fn a_rejection_may_be_followed_by_a_stop() {
    let node = Node::with(EngineSettings::default(), Numbers).await;
    node.ask::<Numbers>("n", &Add(1)).await.unwrap();
    expect_rejection(&node, &RejectAndStop).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while node.engine.describe(SHARD, &id()).await.state != EntityState::Passive {
        assert!(tokio::time::Instant::now() < deadline, "it should leave");
    }
    assert_eq!(numbers::<Numbers>(&node).await, [1]);
}

#[tokio::test]
async fn a_snapshot_needs_no_event_but_a_past() {
    let node = Node::with(EngineSettings::default(), Numbers).await;
    let saves = || node.faults().count(Operation::SaveSnapshot);
    expect_rejection(&node, &RejectAndSnapshot).await;
    node.ask::<Numbers>("n", &Add(1)).await.unwrap();
    assert_eq!(saves(), 0);
    for (expected, command) in [(1, RejectAndSnapshot), (2, NothingButSnapshot)] {
        let _ = node.ask::<Numbers>("n", &command).await;
        wait_until("a snapshot", || saves() == expected).await;
    }
    node.engine.stop().await;
    let all = SnapshotCriteria::up_to(SequenceNr::MAX);
    let snapshot = node.storage.snapshots.load(&id(), all).await.unwrap();
    assert_eq!(snapshot.unwrap().sequence_nr, SequenceNr::new(1));
}

#[tokio::test]
async fn what_is_unhandled_may_unstash() {
    let node = Node::with(EngineSettings::default(), Numbers).await;
    let mut acks = Acks::new();
    acks.tell::<Numbers>(&node, "n", "stashed", &Stash);
    node.ask::<Numbers>("n", &Add(1)).await.unwrap();
    let error = node.ask::<Numbers>("n", &UnhandledAndUnstash).await;
    assert!(matches!(error, Err(CommandError::Unhandled { .. })));
    acks.expect(["stashed"]).await;
    assert_eq!(numbers::<Numbers>(&node).await, [1, 2]);
}

#[test]
fn the_kit_sees_what_follows_a_rejection() {
    let mut kit = EventSourcedKit::new(Numbers);
    assert!(kit.run(RejectAndStop).then_stop);
    assert!(kit.run(RejectAndSnapshot).then_snapshot);
    assert!(kit.run(UnhandledAndUnstash).then_unstash_all);
}

/// A reply that is too large is known to be so before its events are stored: the command
/// is refused with nothing stored, and the entity does not fail.
#[tokio::test]
async fn a_reply_that_is_too_large_costs_its_command_only() {
    too_large::<Numbers>(Numbers).await;
}

/// Without a copy it reads its past again.
#[tokio::test]
async fn a_reply_that_is_too_large_costs_a_recovery_without_a_copy() {
    too_large::<Uncopied>(Uncopied).await;
}

async fn too_large<E>(entity: E)
where
    E: EventSourced<Command = Command, Reply = Reply>,
{
    let settings = EngineSettings {
        max_payload: 1_000,
        ..EngineSettings::default()
    };
    let node = Node::with(settings, entity).await;
    let refused = node.ask::<E>("n", &AddVerbosely(1, 1_000)).await;
    assert_too_large(&refused.unwrap_err());
    assert_eq!(numbers::<E>(&node).await, [0; 0]);
    // In the middle of a round, with others before and after it.
    let delay = Fault::Delay(Duration::from_millis(20));
    node.faults().at(Operation::Write, 1, delay);
    let mut acks = Acks::new();
    for (name, command) in [
        ("first", Add(2)),
        ("before", Add(3)),
        ("too large", AddVerbosely(4, 1_000)),
        ("after", Add(5)),
        ("read", Get),
    ] {
        acks.tell::<E>(&node, "n", name, &command);
    }
    acks.expect(["first", "before"]).await;
    let (name, answer) = acks.next().await;
    assert_eq!(name, "too large");
    assert_too_large(&answer.unwrap_err());
    acks.expect(["after", "read"]).await;
    assert_eq!(numbers::<E>(&node).await, [2, 3, 5]);
}

fn assert_too_large(error: &CommandError) {
    assert!(
        matches!(error, CommandError::PayloadTooLarge { what, .. } if what == "the reply"),
        "{error}"
    );
    assert_eq!(error.applied(), Applied::No);
}

/// A refused write is survived without a copy, too, if the journal can be read.
#[tokio::test]
async fn without_a_copy_a_refused_write_costs_a_recovery() {
    let node = Node::with(EngineSettings::default(), Uncopied).await;
    node.ask::<Uncopied>("n", &Add(1)).await.unwrap();
    let before = node.faults().count(Operation::Bounds);
    node.faults().at(Operation::Write, 1, Fault::Fail);
    let refused = node.ask::<Uncopied>("n", &Add(2)).await.unwrap_err();
    assert!(
        matches!(refused, CommandError::JournalUnavailable { .. }),
        "{refused}"
    );
    assert_eq!(numbers::<Uncopied>(&node).await, [1]);
    assert_eq!(node.faults().count(Operation::Bounds), before + 1);
}
