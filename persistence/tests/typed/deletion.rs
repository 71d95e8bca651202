//! Deleting entities that keep commands for later, durable states, and what views see
//! of it.

use perennial_persistence::codec::Json;
use perennial_persistence::command::Request;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::durable_state::{Change, Durable, DurableState};
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::view::{View, ViewHandle, ViewSettings};
use perennial_persistence::writer::Epoch;

use crate::counter::{Command, Counter, Event};
use crate::fixture::{Node, SHARD, answered};

async fn delete(node: &Node, entity_type: &str, id: &str) -> Result<SequenceNr, CommandError> {
    let id = PersistenceId::new(entity_type, id).unwrap();
    node.engine.delete(SHARD, Epoch(1), &id).await
}

/// What an entity has put aside is for its next life, in order: nobody answers it
/// otherwise (I-8).
#[tokio::test]
async fn i8_commands_put_aside_are_for_the_next_life() {
    let node = Node::running(Counter).await;
    node.ask::<Counter>("c", &Command::Update(7)).await.unwrap();
    node.ask::<Counter>("c", &Command::Deactivate)
        .await
        .unwrap();
    let aside = [(); 3].map(|()| node.tell::<Counter>("c", &Command::Increment));
    // It has them all when this is answered.
    let state = node.ask::<Counter>("c", &Command::Get).await;
    assert_eq!(state.unwrap(), (7, false));
    assert_eq!(delete(&node, "counter", "c").await, Ok(SequenceNr::new(2)));
    for (place, increment) in (1..).zip(aside) {
        assert_eq!(increment.reply().await.unwrap(), (place, true));
    }
    let events = node.events::<Counter>("c").await;
    let numbers: Vec<u64> = events.iter().map(|event| event.sequence_nr.get()).collect();
    assert_eq!(numbers, [3, 4, 5]);
}

/// A name that is remembered.
struct Name;

impl DurableState for Name {
    const ENTITY_TYPE: &'static str = "name";
    type State = String;
    type Command = String;
    type Reply = String;
    type Codec = Json;

    fn handle(&self, _: &String, name: String) -> Change<Self> {
        Change::set(name).then_reply(Clone::clone)
    }
}

async fn node_of_names() -> Node {
    let mut types = EntityTypes::new();
    types.register_durable_state(Name).unwrap();
    types.register(Counter).unwrap();
    Node::of_types(EngineSettings::default(), types).await
}

async fn set(node: &Node, name: &str) -> Result<String, CommandError> {
    node.ask::<Durable<Name>>("n", &name.to_owned()).await
}

/// A durable state is deleted; its revision goes on.
#[tokio::test]
async fn a_durable_state_is_deleted() {
    let node = node_of_names().await;
    assert_eq!(delete(&node, "name", "n").await, Ok(SequenceNr::ZERO));
    set(&node, "ada").await.unwrap();
    set(&node, "eve").await.unwrap();
    for _ in 0..2 {
        assert_eq!(delete(&node, "name", "n").await, Ok(SequenceNr::new(2)));
    }
    let id = PersistenceId::new("name", "n").unwrap();
    let stored = node.storage.states.load(&id).await.unwrap().unwrap();
    assert_eq!((stored.revision.get(), stored.payload), (2, None));
    let listed = node.storage.states.list_entities("name", None, 10).await;
    assert!(listed.unwrap().is_empty());
    let state = answered(node.request("name", "n", Request::State)).await;
    let state = state.unwrap();
    assert_eq!(
        (state.sequence_nr.get(), &*state.payload.bytes),
        (2, &b"\"\""[..])
    );
    assert_eq!(set(&node, "bob").await.unwrap(), "bob");
    let stored = node.storage.states.load(&id).await.unwrap().unwrap();
    assert_eq!(stored.revision.get(), 3);
}

/// One that cannot be written stays, and the deletion says that it is not known.
#[tokio::test]
async fn a_durable_state_that_cannot_be_deleted_stays() {
    let node = node_of_names().await;
    set(&node, "ada").await.unwrap();
    node.faults().at(Operation::WriteState, 1, Fault::Fail);
    let unfinished = delete(&node, "name", "n").await;
    assert!(
        matches!(unfinished, Err(CommandError::DeletionUnfinished { .. })),
        "{unfinished:?}"
    );
    let state = answered(node.request("name", "n", Request::State)).await;
    assert_eq!(&*state.unwrap().payload.bytes, b"\"ada\"");
    assert_eq!(delete(&node, "name", "n").await, Ok(SequenceNr::new(1)));
}

/// The numbers at which the counter was incremented.
struct Increments;

impl View for Increments {
    type Entity = Counter;
    type State = Vec<u64>;
    type Codec = Json;

    fn apply(&self, state: &mut Vec<u64>, event: Event, at: SequenceNr) {
        if matches!(event, Event::Incremented) {
            state.push(at.get());
        }
    }
}

/// A view forgets an entity that is deleted, whether it had seen all of it or not.
#[tokio::test]
async fn a_view_begins_anew_with_the_next_life() {
    for seen_before in [true, false] {
        let node = Node::running(Counter).await;
        let settings = ViewSettings {
            update_interval: None,
            ..ViewSettings::default()
        };
        let id = PersistenceId::new("counter", "c").unwrap();
        let view = ViewHandle::start(Increments, id, &node.storage, settings);
        let seen = async || {
            let at = view.update().await.unwrap().get();
            let look = |state: &Vec<u64>, _| state.clone();
            (view.read(look).await.unwrap(), at)
        };
        node.ask::<Counter>("c", &Command::Increment).await.unwrap();
        assert_eq!(seen().await, (vec![1], 1));
        node.ask::<Counter>("c", &Command::Increment).await.unwrap();
        if seen_before {
            assert_eq!(seen().await, (vec![1, 2], 2));
        }
        delete(&node, "counter", "c").await.unwrap();
        assert_eq!(seen().await, (vec![], 2));
        node.ask::<Counter>("c", &Command::Increment).await.unwrap();
        assert_eq!(seen().await, (vec![3], 3));
        assert_eq!(seen().await, (vec![3], 3));
    }
}
