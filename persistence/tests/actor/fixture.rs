//! An engine with the subject, over each of the backends.

use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use perennial_persistence::command::{Answer, CommandId, Envelope, ReplyTo, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::journal::memory::faults::Faults;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::storage::{self, Storage, StorageOptions, StorageUrl};
use perennial_persistence::testing::postgres_server::TestDatabase;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};
use tokio::sync::oneshot;

use crate::stepped_journal::SteppedJournal;
use crate::subject::{Log, Script, Subject, update};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Backend {
    Memory,
    Sqlite,
    Postgres,
}

/// Makes a test of each function on each backend.
macro_rules! on_each_backend {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case(crate::fixture::Backend::Memory).await })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $case() { super::$case(crate::fixture::Backend::Sqlite).await })*
        }
        mod postgres {
            $(#[tokio::test] async fn $case() { super::$case(crate::fixture::Backend::Postgres).await })*
        }
    };
}

pub(crate) struct Fixture {
    pub(crate) engine: EntityEngine,
    pub(crate) log: Log,
    pub(crate) journal: Arc<SteppedJournal>,
    pub(crate) storage: Storage,
    memory: Option<MemoryStorage>,
    node: NodeNr,
    settings: EngineSettings,
    _keeper: Keeper,
}

/// Removes what a backend left when the test is over.
enum Keeper {
    Nothing,
    Directory(#[expect(dead_code, reason = "dropped")] tempfile::TempDir),
    Database(#[expect(dead_code, reason = "dropped")] TestDatabase),
}

impl Fixture {
    /// With the initial log of the cases, [a-1, a-2], from a first incarnation.
    pub(crate) async fn new(on: Backend, script: Script) -> Self {
        let mut fixture = Self::empty(on, Script::new(first_two)).await;
        fixture.ask("a").await.unwrap();
        fixture.restart(script).await;
        fixture
    }

    /// With an empty journal.
    pub(crate) async fn empty(on: Backend, script: Script) -> Self {
        Self::with(on, script, EngineSettings::default()).await
    }

    pub(crate) async fn with(on: Backend, script: Script, settings: EngineSettings) -> Self {
        let (storage, memory, keeper) = open(on).await;
        let journal = Arc::new(SteppedJournal::new(Arc::clone(&storage.journal)));
        let storage = Storage {
            journal: journal.clone(),
            ..storage
        };
        let node = storage.registry.mint_node().await.unwrap();
        let log = Log::default();
        let engine = start(&storage, node, &settings, &log, script).await;
        Self {
            engine,
            log,
            journal,
            storage,
            memory,
            node,
            settings,
            _keeper: keeper,
        }
    }

    /// Stops the engine and starts another over the same storage.
    pub(crate) async fn restart(&mut self, script: Script) {
        self.engine.stop().await;
        self.log.take();
        self.journal.forget_sent();
        self.engine = start(&self.storage, self.node, &self.settings, &self.log, script).await;
    }

    /// Another process of the same node: the former engine goes on, and is fenced.
    pub(crate) async fn begin_another(&mut self, script: Script) {
        self.engine = start(&self.storage, self.node, &self.settings, &self.log, script).await;
    }

    /// Of the in-memory backend.
    pub(crate) fn faults(&self) -> &Faults {
        self.memory.as_ref().unwrap().faults()
    }

    pub(crate) fn tell(&self, command: &str) -> oneshot::Receiver<Answer> {
        self.tell_with(command, None)
    }

    pub(crate) fn tell_with(&self, command: &str, id: Option<&str>) -> oneshot::Receiver<Answer> {
        send(&self.engine, command, id)
    }

    pub(crate) fn request(&self, request: Request) -> oneshot::Receiver<Answer> {
        deliver(&self.engine, request)
    }

    pub(crate) async fn ask(&self, command: &str) -> Result<Vec<String>, CommandError> {
        texts(answered(self.tell(command)).await)
    }

    /// Sends all at once, then waits for their answers. Every command is answered
    /// when its handler and its callbacks are over.
    pub(crate) async fn run(&self, commands: &[&str]) -> Vec<Result<Vec<String>, CommandError>> {
        let answers: Vec<_> = commands.iter().map(|command| self.tell(command)).collect();
        let mut replies = Vec::new();
        for answer in answers {
            replies.push(texts(answered(answer).await));
        }
        replies
    }

    /// Runs commands, whatever becomes of them, and returns what was observed.
    pub(crate) async fn observe(&self, commands: &[&str]) -> Vec<String> {
        self.run(commands).await;
        self.log.take()
    }

    /// Runs commands, whatever becomes of them, and returns the actor's texts.
    pub(crate) async fn state_after(&self, commands: &[&str]) -> Vec<String> {
        self.run(commands).await;
        self.ask("state?").await.unwrap()
    }

    pub(crate) async fn highest(&self) -> u64 {
        let bounds = self.storage.journal.bounds(&subject()).await.unwrap();
        bounds.highest.get()
    }

    /// Returns when everything sent before is handled as far as it can be: the worker
    /// answers this when it takes in what is new, and takes in nothing else before it has
    /// handled that.
    pub(crate) async fn until_handled(&self) {
        self.engine.describe(ShardNr(0), &subject()).await;
    }

    pub(crate) async fn passivate(&self) {
        self.engine.passivate(ShardNr(0), &subject()).await;
    }
}

fn first_two(_: &mut Subject, command: String, cx: &mut crate::subject::Cx<'_>) {
    let events = vec![format!("{command}-1"), format!("{command}-2")];
    cx.persist_all(events, update);
}

async fn open(on: Backend) -> (Storage, Option<MemoryStorage>, Keeper) {
    match on {
        Backend::Memory => {
            let memory = MemoryStorage::new(2);
            (memory.storage(), Some(memory), Keeper::Nothing)
        }
        Backend::Sqlite => {
            let directory = tempfile::tempdir().unwrap();
            let url = StorageUrl::Sqlite(directory.path().join("journal.db"));
            (open_new(&url).await, None, Keeper::Directory(directory))
        }
        Backend::Postgres => {
            let database = TestDatabase::new().await;
            let storage = open_new(&database.url()).await;
            (storage, None, Keeper::Database(database))
        }
    }
}

async fn open_new(url: &StorageUrl) -> Storage {
    storage::migrate(url).await.unwrap();
    let options = StorageOptions::default();
    Storage::open(url, &options).await.unwrap()
}

/// Panics that tests arrange are no news.
pub(crate) fn hush() {
    static HUSHED: Once = Once::new();
    HUSHED.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let message = panic.payload_as_str().unwrap_or_default();
            if !message.contains("told ") {
                usual(panic);
            }
        }));
    });
}

async fn start(
    storage: &Storage,
    node: NodeNr,
    settings: &EngineSettings,
    log: &Log,
    script: Script,
) -> EntityEngine {
    hush();
    let incarnation = storage.registry.begin_incarnation(node).await.unwrap();
    let itself = Arc::new(OnceLock::new());
    let mut types = EntityTypes::new();
    let (log, engine_of_actor) = (log.clone(), Arc::clone(&itself));
    let make = move |id: &str| {
        assert_eq!(id, "subject");
        assert!(!script.unmakeable, "told not to be made");
        Subject {
            texts: Vec::new(),
            log: log.clone(),
            counter: 0,
            kept: Vec::new(),
            script: script.clone(),
            engine: Arc::clone(&engine_of_actor),
        }
    };
    types.register_actor("texts", make).unwrap();
    let session = incarnation.session;
    let engine = EntityEngine::start(types, storage.clone(), session, settings.clone());
    itself.set(engine.clone()).ok().unwrap();
    engine
}

pub(crate) fn subject() -> PersistenceId {
    PersistenceId::new("texts", "subject").unwrap()
}

pub(crate) fn send(
    engine: &EntityEngine,
    command: &str,
    id: Option<&str>,
) -> oneshot::Receiver<Answer> {
    deliver(
        engine,
        Request::Command {
            payload: Payload::json(serde_json::to_vec(command).unwrap()),
            command_id: id.and_then(|id| CommandId::parse(id).unwrap()),
            expected_sequence_nr: None,
            metadata: None,
        },
    )
}

/// For actors whose commands are no texts.
pub(crate) fn send_json(
    engine: &EntityEngine,
    command: &impl serde::Serialize,
) -> oneshot::Receiver<Answer> {
    deliver(
        engine,
        Request::Command {
            payload: Payload::json(serde_json::to_vec(command).unwrap()),
            command_id: None,
            expected_sequence_nr: None,
            metadata: None,
        },
    )
}

fn deliver(engine: &EntityEngine, request: Request) -> oneshot::Receiver<Answer> {
    let (reply_to, answer) = ReplyTo::ask();
    engine.deliver(Envelope {
        trace: Trace::NONE,
        arrival: 0,
        persistence_id: subject(),
        shard: ShardNr(0),
        epoch: Epoch(1),
        request,
        deadline: None,
        reply_to,
    });
    answer
}

/// Every command is answered (I-8): waiting for long is a failure by itself.
pub(crate) async fn answered(answer: oneshot::Receiver<Answer>) -> Answer {
    tokio::time::timeout(Duration::from_secs(20), answer)
        .await
        .expect("I-8: no answer within 20 s")
        .expect("I-8: dropped without an answer")
}

/// The texts of a reply; none for the empty payload.
pub(crate) fn texts(answer: Answer) -> Result<Vec<String>, CommandError> {
    let bytes = answer?.payload.bytes;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(serde_json::from_slice(&bytes).unwrap())
}

/// The lines that begin with one of the prefixes, as when only their order counts.
pub(crate) fn only<'a>(lines: &'a [String], prefix: &str) -> Vec<&'a str> {
    let lines = lines.iter().map(String::as_str);
    lines.filter(|line| line.starts_with(prefix)).collect()
}

pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
        tokio::task::yield_now().await;
    }
}
