// What the examples of the crate's manual share: an entity, and a node in memory that
// runs it.
// (Included in the middle of them, so this is no doc comment.)

use perennial_persistence::codec::Json;
use perennial_persistence::command::{Answer, CommandId, Envelope, ReplyTo, Request};
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};

/// Adds what it is told; asked to add nothing it tells its value.
#[derive(Debug)]
pub struct Counter;

impl EventSourced for Counter {
    const ENTITY_TYPE: &'static str = "counter";
    type State = i64;
    type Command = i64;
    type Event = i64;
    type Reply = i64;
    type Codec = Json;

    fn handle(&self, value: &i64, add: i64) -> Effect<Self> {
        match value.checked_add(add) {
            _ if add == 0 => Effect::reply(*value),
            Some(_) => Effect::persist(add).then_reply(|value| *value),
            None => Effect::reject("OVERFLOW", "the sum has no place in 64 bits"),
        }
    }

    fn apply(&self, value: &mut i64, add: i64) {
        *value += add;
    }
}

/// An engine over a journal in memory.
#[allow(missing_debug_implementations)]
pub struct Node {
    /// Where it stores events; faults can be arranged.
    pub memory: MemoryStorage,
    /// What runs the counters.
    pub engine: EntityEngine,
}

impl Node {
    /// Starts it.
    pub async fn start() -> Self {
        let memory = MemoryStorage::new(1);
        let storage = memory.storage();
        let node = storage.registry.mint_node().await.unwrap();
        let session = storage
            .registry
            .begin_incarnation(node)
            .await
            .unwrap()
            .session;
        let mut types = EntityTypes::new();
        types.register(Counter).unwrap();
        let engine = EntityEngine::start(types, storage, session, EngineSettings::default());
        Self { memory, engine }
    }

    /// Sends a command to a counter and waits for the answer.
    pub async fn add(&self, id: &str, add: i64, command_id: &str) -> Answer {
        let (reply_to, answer) = ReplyTo::ask();
        self.engine.deliver(Envelope {
            trace: Trace::NONE,
            arrival: 0,
            persistence_id: PersistenceId::new("counter", id).unwrap(),
            shard: ShardNr(0),
            epoch: Epoch(1),
            request: Request::Command {
                payload: Payload::json(add.to_string()),
                command_id: CommandId::parse(command_id).unwrap(),
                expected_sequence_nr: None,
                metadata: None,
            },
            deadline: None,
            reply_to,
        });
        answer.await.unwrap()
    }
}
