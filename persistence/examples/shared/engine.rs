//! An engine over the in-memory journal with one actor in it, as every example needs.

use std::error::Error;

use perennial_persistence::actor::PersistentActor;
use perennial_persistence::command::{Answer, Envelope, ReplyTo, Request};
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};
use serde::Serialize;
use tokio::sync::oneshot;

pub(crate) type Done<T = ()> = Result<T, Box<dyn Error>>;

/// An engine with the entity "example|1".
pub(crate) struct Example {
    engine: EntityEngine,
}

/// An answer on its way.
pub(crate) struct Asked(oneshot::Receiver<Answer>);

impl Example {
    pub(crate) async fn start<A: PersistentActor>(
        make: impl Fn(&str) -> A + Send + Sync + 'static,
    ) -> Done<Self> {
        let storage = MemoryStorage::new(1).storage();
        let node = storage.registry.mint_node().await?;
        let session = storage.registry.begin_incarnation(node).await?.session;
        let mut types = EntityTypes::new();
        types.register_actor("example", make)?;
        let settings = EngineSettings::default();
        let engine = EntityEngine::start(types, storage, session, settings);
        Ok(Self { engine })
    }

    /// Sends a command; commands of one caller arrive in their order.
    pub(crate) fn tell(&self, command: &impl Serialize) -> Done<Asked> {
        let (reply_to, answer) = ReplyTo::ask();
        self.engine.deliver(Envelope {
            trace: Trace::NONE,
            arrival: 0,
            persistence_id: PersistenceId::new("example", "1")?,
            shard: ShardNr(0),
            epoch: Epoch(1),
            request: Request::Command {
                payload: Payload::json(serde_json::to_vec(command)?),
                command_id: None,
                expected_sequence_nr: None,
                metadata: None,
            },
            deadline: None,
            reply_to,
        });
        Ok(Asked(answer))
    }

    /// Sends a command and waits for its reply, as JSON.
    #[allow(dead_code)]
    pub(crate) async fn ask(&self, command: &impl Serialize) -> Done<String> {
        self.tell(command)?.reply().await
    }

    /// Takes the entity out of memory: the next command recovers it.
    #[allow(dead_code)]
    pub(crate) async fn passivate(&self) -> Done {
        let id = PersistenceId::new("example", "1")?;
        self.engine.passivate(ShardNr(0), &id).await;
        Ok(())
    }
}

impl Asked {
    /// The reply, as JSON; empty when the actor gave none.
    pub(crate) async fn reply(self) -> Done<String> {
        let reply = self.0.await??;
        Ok(String::from_utf8(reply.payload.bytes.to_vec())?)
    }
}
