//! An engine over a memory journal, and an entity that does what it is told.

use std::time::Duration;

use perennial_persistence::codec::Json;
use perennial_persistence::command::{Answer, CommandId, Envelope, Reply, ReplyTo, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::journal::memory::faults::Faults;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::Storage;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// A list of texts; the state shows exactly what was applied, in order.
pub(crate) struct Notes;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    Add(String),
    AddAll(Vec<String>),
    /// Refused when the text is there already.
    AddOnce(String),
    List,
    PanicInHandler,
    PanicInApply,
    /// Panics when the text is there, else stores nothing.
    PanicWith(String),
    /// Panics when the text is there, else adds it.
    PanicUnlessNew(String),
    ThenStop(String),
    ThenSnapshot(String),
    Unhandled,
    /// An event that JSON cannot express.
    Unencodable,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    Added(String),
    Poison,
    Keyed(std::collections::BTreeMap<(u8, u8), u8>),
}

impl EventSourced for Notes {
    const ENTITY_TYPE: &'static str = "notes";
    type State = Vec<String>;
    type Command = Command;
    type Event = Event;
    type Reply = Vec<String>;
    type Codec = Json;

    fn handle(&self, state: &Vec<String>, command: Command) -> Effect<Self> {
        match command {
            Command::Add(text) => Effect::persist(Event::Added(text)).then_reply(Clone::clone),
            Command::AddAll(texts) => {
                Effect::persist_all(texts.into_iter().map(Event::Added).collect())
                    .then_reply(Clone::clone)
            }
            Command::AddOnce(text) if state.contains(&text) => {
                Effect::reject("ALREADY_THERE", "it is there already")
            }
            Command::AddOnce(text) => Effect::persist(Event::Added(text)).then_reply(Clone::clone),
            Command::List => Effect::reply(state.clone()),
            Command::PanicInHandler => panic!("told to panic"),
            Command::PanicInApply => Effect::persist(Event::Poison),
            Command::PanicWith(text) | Command::PanicUnlessNew(text) if state.contains(&text) => {
                panic!("told to panic")
            }
            Command::PanicWith(_) => Effect::none(),
            Command::PanicUnlessNew(text) => Effect::persist(Event::Added(text)),
            Command::ThenStop(text) => Effect::persist(Event::Added(text)).then_stop(),
            Command::ThenSnapshot(text) => Effect::persist(Event::Added(text)).then_snapshot(),
            Command::Unhandled => Effect::unhandled(),
            Command::Unencodable => Effect::persist(Event::Keyed([((1, 2), 3)].into())),
        }
    }

    fn apply(&self, state: &mut Vec<String>, event: Event) {
        match event {
            Event::Added(text) => state.push(text),
            Event::Poison => panic!("cannot apply this"),
            Event::Keyed(_) => {}
        }
    }
}

pub(crate) struct Fixture {
    pub(crate) memory: MemoryStorage,
    pub(crate) storage: Storage,
    pub(crate) engine: EntityEngine,
    node: NodeNr,
    settings: EngineSettings,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(EngineSettings::default()).await
    }

    pub(crate) async fn with(settings: EngineSettings) -> Self {
        let memory = MemoryStorage::new(2);
        let storage = memory.storage();
        Self::over(memory, storage, settings).await
    }

    /// Over a storage that is not quite the memory's.
    pub(crate) async fn over(
        memory: MemoryStorage,
        storage: Storage,
        settings: EngineSettings,
    ) -> Self {
        let node = storage.registry.mint_node().await.unwrap();
        let engine = start(&storage, node, &settings).await;
        Self {
            memory,
            storage,
            engine,
            node,
            settings,
        }
    }

    pub(crate) fn faults(&self) -> &Faults {
        self.memory.faults()
    }

    pub(crate) fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// A new process of the same node: the former session is fenced, the former
    /// engine is left as it is.
    pub(crate) async fn restart(&mut self) -> EntityEngine {
        let engine = start(&self.storage, self.node, &self.settings).await;
        std::mem::replace(&mut self.engine, engine)
    }

    /// Sends a command; the answer can be awaited later.
    pub(crate) fn tell(&self, id: &str, command: &Command) -> oneshot::Receiver<Answer> {
        self.tell_with(id, command, None)
    }

    pub(crate) fn tell_with(
        &self,
        id: &str,
        command: &Command,
        command_id: Option<&str>,
    ) -> oneshot::Receiver<Answer> {
        let payload = Payload::json(serde_json::to_vec(command).unwrap());
        self.request(
            id,
            Request::Command {
                payload,
                command_id: command_id.and_then(|id| CommandId::parse(id).unwrap()),
                expected_sequence_nr: None,
                metadata: None,
            },
        )
    }

    pub(crate) fn request(&self, id: &str, request: Request) -> oneshot::Receiver<Answer> {
        let (reply_to, answer) = ReplyTo::ask();
        self.engine.deliver(Envelope {
            trace: Trace::NONE,
            arrival: 0,
            persistence_id: notes(id),
            shard: shard(id),
            epoch: Epoch(1),
            request,
            deadline: None,
            reply_to,
        });
        answer
    }

    pub(crate) async fn ask(&self, id: &str, command: &Command) -> Answer {
        answered(self.tell(id, command)).await
    }

    pub(crate) async fn ask_with(&self, id: &str, command: &Command, command_id: &str) -> Answer {
        answered(self.tell_with(id, command, Some(command_id))).await
    }

    pub(crate) async fn list(&self, id: &str) -> Vec<String> {
        texts(&self.ask(id, &Command::List).await.unwrap())
    }

    /// What the journal holds, whoever wrote it.
    pub(crate) async fn highest(&self, id: &str) -> u64 {
        let bounds = self.storage.journal.bounds(&notes(id)).await.unwrap();
        bounds.highest.get()
    }

    pub(crate) async fn passivate(&self, id: &str) {
        self.engine.passivate(shard(id), &notes(id)).await;
    }
}

async fn start(storage: &Storage, node: NodeNr, settings: &EngineSettings) -> EntityEngine {
    let incarnation = storage.registry.begin_incarnation(node).await.unwrap();
    let mut types = EntityTypes::new();
    types.register(Notes).unwrap();
    EntityEngine::start(
        types,
        storage.clone(),
        incarnation.session,
        settings.clone(),
    )
}

/// Every command is answered (I-8): waiting for long is a failure by itself.
pub(crate) async fn answered(answer: oneshot::Receiver<Answer>) -> Answer {
    tokio::time::timeout(Duration::from_secs(20), answer)
        .await
        .expect("I-8: no answer within 20 s")
        .expect("I-8: dropped without an answer")
}

pub(crate) fn notes(id: &str) -> PersistenceId {
    PersistenceId::new("notes", id).unwrap()
}

pub(crate) fn shard(id: &str) -> ShardNr {
    ShardNr(id.len() as u32)
}

pub(crate) fn texts(reply: &Reply) -> Vec<String> {
    serde_json::from_slice(&reply.payload.bytes).unwrap()
}

pub(crate) fn add(text: &str) -> Command {
    Command::Add(text.to_owned())
}

pub(crate) fn nr(answer: &Answer) -> SequenceNr {
    answer.as_ref().unwrap().sequence_nr
}

pub(crate) fn error(answer: Answer) -> CommandError {
    answer.unwrap_err()
}
