//! Durable states (3.5 of the cases), through the real engine.

use std::time::Duration;

use perennial_persistence::codec::Json;
use perennial_persistence::command::Request;
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::durable_state::{Change, Durable, DurableState};
use perennial_persistence::durable_state_store::StateWrite;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::journal::WriteRight;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::writer::Epoch;
use serde::{Deserialize, Serialize};

use crate::counter::{Command as CounterCommand, Counter};
use crate::fixture::{Node, SHARD, answered, command_request};

struct Register;

#[derive(Serialize, Deserialize)]
enum Command {
    Add(i64),
    /// Refused when there is nothing.
    Forget,
    Get,
}

impl DurableState for Register {
    const ENTITY_TYPE: &'static str = "register";
    type State = Option<i64>;
    type Command = Command;
    type Reply = Option<i64>;
    type Codec = Json;

    fn handle(&self, state: &Option<i64>, command: Command) -> Change<Self> {
        let change = match (command, state) {
            (Command::Add(n), state) => Change::set(Some(state.unwrap_or(0) + n)),
            (Command::Forget, Some(_)) => Change::delete(),
            (Command::Forget, None) => return Change::reject("NOTHING", "there is nothing"),
            (Command::Get, _) => Change::none(),
        };
        change.then_reply(|state| *state)
    }
}

type Entity = Durable<Register>;

fn types() -> EntityTypes {
    let mut types = EntityTypes::new();
    types.register_durable_state(Register).unwrap();
    types.register(Counter).unwrap();
    types
}

async fn node() -> Node {
    Node::of_types(EngineSettings::default(), types()).await
}

fn id() -> PersistenceId {
    PersistenceId::new("register", "r").unwrap()
}

async fn ask(node: &Node, command: Command) -> Result<Option<i64>, CommandError> {
    node.ask::<Entity>("r", &command).await
}

async fn revision(node: &Node) -> u64 {
    let stored = node.storage.states.load(&id()).await.unwrap();
    stored.map_or(0, |stored| stored.revision.get())
}

/// The state comes back, with its revision; events there are none.
#[tokio::test]
async fn i6_the_latest_state_is_recovered() {
    let node = node().await;
    assert_eq!(ask(&node, Command::Get).await.unwrap(), None);
    ask(&node, Command::Add(1)).await.unwrap();
    ask(&node, Command::Add(2)).await.unwrap();
    node.passivate::<Entity>("r").await;
    assert_eq!(ask(&node, Command::Get).await.unwrap(), Some(3));
    let state = answered(node.request("register", "r", Request::State)).await;
    assert_eq!(state.unwrap().sequence_nr.get(), 2);
    assert_eq!(revision(&node).await, 2);
    assert!(node.events::<Entity>("r").await.is_empty());
}

#[tokio::test]
async fn a_deleted_state_is_the_initial_one_and_its_revision_goes_on() {
    let node = node().await;
    let refused = ask(&node, Command::Forget).await.unwrap_err();
    assert!(matches!(refused, CommandError::Rejected { .. }));
    ask(&node, Command::Add(1)).await.unwrap();
    assert_eq!(ask(&node, Command::Forget).await.unwrap(), None);
    node.passivate::<Entity>("r").await;
    assert_eq!(ask(&node, Command::Get).await.unwrap(), None);
    assert_eq!(revision(&node).await, 2);
    assert_eq!(ask(&node, Command::Add(5)).await.unwrap(), Some(5));
    assert_eq!(revision(&node).await, 3);
}

/// I-4, I-12: many commands at once are answered in order and stored in few writes.
#[tokio::test]
async fn i12_a_busy_state_is_stored_in_few_writes() {
    let node = node().await;
    let delay = Fault::Delay(Duration::from_millis(20));
    node.faults().at(Operation::WriteState, 1, delay);
    let asked: Vec<_> = (0..100)
        .map(|_| node.tell::<Entity>("r", &Command::Add(1)))
        .collect();
    for (n, asked) in (1..).zip(asked) {
        assert_eq!(asked.reply().await.unwrap(), Some(n));
    }
    assert!(node.faults().count(Operation::WriteState) <= 3);
    assert_eq!(revision(&node).await, 100);
}

/// The revision is the sequence number that a client can expect.
#[tokio::test]
async fn an_expected_revision_is_checked() {
    let node = node().await;
    ask(&node, Command::Add(1)).await.unwrap();
    let add = |expected| {
        let Request::Command { payload, .. } = command_request::<Entity>(&Command::Add(1), "")
        else {
            unreachable!()
        };
        let request = Request::Command {
            payload,
            command_id: None,
            expected_sequence_nr: Some(SequenceNr::new(expected)),
            metadata: None,
        };
        answered(node.request("register", "r", request))
    };
    let refused = add(0).await.unwrap_err();
    assert!(matches!(refused, CommandError::SequenceNrMismatch { .. }));
    assert_eq!(add(1).await.unwrap().sequence_nr.get(), 2);
}

/// I-2, I-3: another writer was first. The command is refused, and the next one sees
/// what is there.
#[tokio::test]
async fn i3_another_writers_state_is_not_overwritten() {
    let memory = MemoryStorage::default();
    let storage = memory.storage();
    let rival = storage.registry.mint_node().await.unwrap();
    let rival = storage.registry.begin_incarnation(rival).await.unwrap();
    let node = Node::over(memory, storage, EngineSettings::default(), types()).await;
    ask(&node, Command::Add(1)).await.unwrap();
    let write = StateWrite {
        persistence_id: id(),
        replaces: SequenceNr::new(1),
        revision: SequenceNr::new(2),
        payload: Some(Payload::json("40")),
    };
    let right = WriteRight {
        session: rival.session,
        shard: SHARD,
        epoch: Epoch(1),
    };
    node.storage.states.write(right, &write).await.unwrap();
    let refused = ask(&node, Command::Add(1)).await.unwrap_err();
    assert!(
        matches!(refused, CommandError::WriterConflict { .. }),
        "{refused}"
    );
    assert_eq!(ask(&node, Command::Add(2)).await.unwrap(), Some(42));
}

#[tokio::test]
async fn an_unreachable_store_refuses_and_nothing_is_applied() {
    let node = node().await;
    ask(&node, Command::Add(1)).await.unwrap();
    node.faults().at(Operation::WriteState, 1, Fault::Fail);
    let refused = ask(&node, Command::Add(1)).await.unwrap_err();
    assert!(matches!(refused, CommandError::JournalUnavailable { .. }));
    assert_eq!(refused.applied(), Applied::No);
    assert_eq!(ask(&node, Command::Get).await.unwrap(), Some(1));
}

/// A state whose code is gone fails the recovery and stays.
#[tokio::test]
async fn a_state_that_is_not_understood_fails_the_recovery() {
    let node = node().await;
    ask(&node, Command::Add(1)).await.unwrap();
    node.passivate::<Entity>("r").await;
    let rival = node.storage.registry.mint_node().await.unwrap();
    let rival = node.storage.registry.begin_incarnation(rival).await;
    let write = StateWrite {
        persistence_id: id(),
        replaces: SequenceNr::new(1),
        revision: SequenceNr::new(2),
        payload: Some(Payload::json("[]")),
    };
    let right = WriteRight {
        session: rival.unwrap().session,
        shard: SHARD,
        epoch: Epoch(1),
    };
    node.storage.states.write(right, &write).await.unwrap();
    let failed = ask(&node, Command::Get).await.unwrap_err();
    assert!(
        matches!(failed, CommandError::RecoveryFailed { .. }),
        "{failed}"
    );
    assert_eq!(revision(&node).await, 2);
}

/// Both kinds of entities in one engine, one batch, and past states of neither's.
#[tokio::test]
async fn durable_states_and_events_live_side_by_side() {
    let node = node().await;
    let states: Vec<_> = (0..20)
        .map(|i| node.tell::<Entity>(&i.to_string(), &Command::Add(i)))
        .collect();
    let counters: Vec<_> = (0..20)
        .map(|i| node.tell::<Counter>(&i.to_string(), &CounterCommand::Increment))
        .collect();
    for (i, asked) in (0..).zip(states) {
        assert_eq!(asked.reply().await.unwrap(), Some(i));
    }
    for asked in counters {
        assert_eq!(asked.reply().await.unwrap().0, 1);
    }
    let id = PersistenceId::new("register", "7").unwrap();
    let now = node.engine.state_at(&id, SequenceNr::new(1)).await;
    assert_eq!(&*now.unwrap().payload.bytes, b"7");
    let past = node.engine.state_at(&id, SequenceNr::ZERO).await;
    assert!(
        matches!(past, Err(CommandError::HistoryDeleted { .. })),
        "{past:?}"
    );
}
