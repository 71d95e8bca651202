//! A node over a memory journal that runs the entity types of a test.

use std::time::{Duration, Instant};

use perennial_persistence::codec::Codec;
use perennial_persistence::command::{Answer, CommandId, Envelope, ReplyTo, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::journal::memory::faults::Faults;
use perennial_persistence::journal::{EventRange, StoredEvent};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::Storage;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};
use tokio::sync::{mpsc, oneshot};

/// What waiting for anything may take before it counts as a failure.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SHARD: ShardNr = ShardNr(1);

pub(crate) struct Node {
    pub(crate) memory: MemoryStorage,
    pub(crate) storage: Storage,
    pub(crate) engine: EntityEngine,
    node: NodeNr,
    settings: EngineSettings,
}

impl Node {
    /// A node that runs one entity type.
    pub(crate) async fn running<E: EventSourced>(entity: E) -> Self {
        Self::with(EngineSettings::default(), entity).await
    }

    pub(crate) async fn with<E: EventSourced>(settings: EngineSettings, entity: E) -> Self {
        let mut types = EntityTypes::new();
        types.register(entity).unwrap();
        Self::of_types(settings, types).await
    }

    pub(crate) async fn of_types(settings: EngineSettings, types: EntityTypes) -> Self {
        let memory = MemoryStorage::new(2);
        let storage = memory.storage();
        Self::over(memory, storage, settings, types).await
    }

    /// A node over a storage that the test has put something around.
    pub(crate) async fn over(
        memory: MemoryStorage,
        storage: Storage,
        settings: EngineSettings,
        types: EntityTypes,
    ) -> Self {
        let node = storage.registry.mint_node().await.unwrap();
        let engine = start(&storage, node, types, settings.clone()).await;
        Self {
            memory,
            storage,
            engine,
            node,
            settings,
        }
    }

    /// Stops the process and starts it again, with another version of the code.
    pub(crate) async fn restart<E: EventSourced>(&mut self, entity: E) {
        let mut types = EntityTypes::new();
        types.register(entity).unwrap();
        self.engine.stop().await;
        self.engine = start(&self.storage, self.node, types, self.settings.clone()).await;
    }

    pub(crate) fn faults(&self) -> &Faults {
        self.memory.faults()
    }

    /// Sends a command; the answer can be awaited later.
    pub(crate) fn tell<E: EventSourced>(&self, id: &str, command: &E::Command) -> Asked<E> {
        Asked {
            answer: self.request(E::ENTITY_TYPE, id, command_request::<E>(command, "")),
            entity_type: std::marker::PhantomData,
        }
    }

    pub(crate) fn request(
        &self,
        entity_type: &str,
        id: &str,
        request: Request,
    ) -> oneshot::Receiver<Answer> {
        let (reply_to, answer) = ReplyTo::ask();
        self.deliver(entity_type, id, request, reply_to, None);
        answer
    }

    pub(crate) fn deliver(
        &self,
        entity_type: &str,
        id: &str,
        request: Request,
        reply_to: ReplyTo,
        deadline: Option<Instant>,
    ) {
        self.engine.deliver(Envelope {
            trace: Trace::NONE,
            arrival: 0,
            persistence_id: PersistenceId::new(entity_type, id).unwrap(),
            shard: SHARD,
            epoch: Epoch(1),
            request,
            deadline,
            reply_to,
        });
    }

    pub(crate) async fn ask<E: EventSourced>(
        &self,
        id: &str,
        command: &E::Command,
    ) -> Result<E::Reply, CommandError> {
        self.tell::<E>(id, command).reply().await
    }

    /// What the journal holds of an entity.
    pub(crate) async fn events<E: EventSourced>(&self, id: &str) -> Vec<StoredEvent> {
        let range = EventRange {
            persistence_id: PersistenceId::new(E::ENTITY_TYPE, id).unwrap(),
            from: SequenceNr::ZERO,
            to: SequenceNr::MAX,
            max_events: 10_000,
            max_bytes: usize::MAX,
        };
        self.storage.journal.read_events(&range).await.unwrap()
    }

    pub(crate) async fn passivate<E: EventSourced>(&self, id: &str) {
        let id = PersistenceId::new(E::ENTITY_TYPE, id).unwrap();
        tokio::time::timeout(PATIENCE, self.engine.passivate(SHARD, &id))
            .await
            .expect("the entity did not leave");
    }
}

async fn start(
    storage: &Storage,
    node: NodeNr,
    types: EntityTypes,
    settings: EngineSettings,
) -> EntityEngine {
    let incarnation = storage.registry.begin_incarnation(node).await.unwrap();
    EntityEngine::start(types, storage.clone(), incarnation.session, settings)
}

/// A command, with a command id if that is not empty.
pub(crate) fn command_request<E: EventSourced>(command: &E::Command, id: &str) -> Request {
    Request::Command {
        payload: Payload {
            codec: <E::Codec as Codec<E::Command>>::ID,
            ..Payload::json(<E::Codec as Codec<E::Command>>::encode(command).unwrap())
        },
        command_id: CommandId::parse(id).unwrap(),
        expected_sequence_nr: None,
        metadata: None,
    }
}

/// Commands whose answers are seen in the order in which they are given.
pub(crate) struct Acks {
    answers: mpsc::Receiver<(u64, Answer)>,
    places: mpsc::Sender<(u64, Answer)>,
    names: Vec<String>,
}

impl Acks {
    pub(crate) fn new() -> Self {
        let (places, answers) = mpsc::channel(100_000);
        let names = Vec::new();
        Self {
            answers,
            places,
            names,
        }
    }

    /// Sends a command under a name.
    pub(crate) fn tell<E: EventSourced>(
        &mut self,
        node: &Node,
        id: &str,
        name: &str,
        command: &E::Command,
    ) {
        let reply_to = ReplyTo::Stream {
            place: self.places.clone().try_reserve_owned().unwrap(),
            correlation_id: self.names.len() as u64,
        };
        self.names.push(name.to_owned());
        let request = command_request::<E>(command, "");
        node.deliver(E::ENTITY_TYPE, id, request, reply_to, None);
    }

    /// The next answer and the name of its command.
    pub(crate) async fn next(&mut self) -> (&str, Answer) {
        let next = tokio::time::timeout(PATIENCE, self.answers.recv()).await;
        let (number, answer) = next.expect("I-8: no answer in time").unwrap();
        (&self.names[number as usize], answer)
    }

    /// The next answers are replies to these, in this order.
    pub(crate) async fn expect<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for expected in names {
            let (name, answer) = self.next().await;
            assert_eq!(name, expected, "the order of answers ({answer:?})");
            answer.unwrap_or_else(|error| panic!("{expected}: {error}"));
        }
    }

    /// No answer has come that was not expected.
    pub(crate) fn expect_nothing(&mut self) {
        assert!(self.answers.try_recv().is_err());
    }
}

/// Waits for a condition.
pub(crate) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
        tokio::task::yield_now().await;
    }
}

/// A command under way.
pub(crate) struct Asked<E> {
    answer: oneshot::Receiver<Answer>,
    entity_type: std::marker::PhantomData<fn(E)>,
}

impl<E: EventSourced> Asked<E> {
    /// Every command is answered (I-8): waiting for long is a failure by itself.
    pub(crate) async fn reply(self) -> Result<E::Reply, CommandError> {
        let reply = answered(self.answer).await?;
        Ok(<E::Codec as Codec<E::Reply>>::decode(&reply.payload.bytes).unwrap())
    }
}

pub(crate) async fn answered(answer: oneshot::Receiver<Answer>) -> Answer {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("I-8: no answer in time")
        .expect("I-8: dropped without an answer")
}
