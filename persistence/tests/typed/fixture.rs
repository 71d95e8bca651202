//! A node over a memory journal that runs the entity types of a test.

use std::time::Duration;

use perennial_persistence::codec::Codec;
use perennial_persistence::command::{Answer, Envelope, ReplyTo, Request};
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
use perennial_persistence::writer::{Epoch, ShardNr};
use tokio::sync::oneshot;

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
        let payload = Payload {
            codec: <E::Codec as Codec<E::Command>>::ID,
            ..Payload::json(<E::Codec as Codec<E::Command>>::encode(command).unwrap())
        };
        let request = Request::Command {
            payload,
            command_id: None,
            expected_sequence_nr: None,
            metadata: None,
        };
        Asked {
            answer: self.request(E::ENTITY_TYPE, id, request),
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
        self.engine.deliver(Envelope {
            persistence_id: PersistenceId::new(entity_type, id).unwrap(),
            shard: SHARD,
            epoch: Epoch(1),
            request,
            deadline: None,
            reply_to,
        });
        answer
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
