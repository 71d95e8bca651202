//! A server that goes away under a working engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use perennial_persistence::codec::Json;
use perennial_persistence::command::{Answer, CommandId, Envelope, ReplyTo, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::{EngineSettings, EntityEngine, EntityState};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::journal::EventRange;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::{Storage, StorageOptions, migrate};
use perennial_persistence::testing::postgres_server::{PostgresServer, TestDatabase};
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr, WriterUuid};

use crate::node::PATIENCE;

/// Counts commands; the state is their number.
struct Tally;

impl EventSourced for Tally {
    const ENTITY_TYPE: &'static str = "tally";
    type State = u64;
    type Command = ();
    type Event = ();
    type Reply = u64;
    type Codec = Json;

    fn handle(&self, _: &u64, (): ()) -> Effect<Self> {
        Effect::persist(()).then_reply(|count| *count)
    }

    fn apply(&self, count: &mut u64, (): ()) {
        *count += 1;
    }
}

const CLIENTS: usize = 12;

/// How long a client may have to wait after the server's return.
const SERVED_AGAIN: Duration = Duration::from_secs(2);

/// One entity and the client that commands it, one command after the other.
struct Client {
    nr: usize,
    engine: EntityEngine,
}

impl Client {
    fn id(&self) -> PersistenceId {
        PersistenceId::new("tally", &self.nr.to_string()).unwrap()
    }

    fn shard(&self) -> ShardNr {
        ShardNr(self.nr as u32)
    }

    async fn ask(&self, request: Request) -> Answer {
        let (reply_to, answer) = ReplyTo::ask();
        self.engine.deliver(Envelope {
            trace: Trace::NONE,
            arrival: 0,
            persistence_id: self.id(),
            shard: self.shard(),
            epoch: Epoch(1),
            request,
            deadline: None,
            reply_to,
        });
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        answer.expect("I-8: no answer").expect("I-8: dropped")
    }

    /// Commands until told to stop, and then once more. Each must be answered with
    /// the number of commands so far. Returns that and when each answer came.
    async fn work(self, stop: Arc<AtomicBool>) -> (u64, Vec<Instant>) {
        let mut answers = Vec::new();
        loop {
            let last = stop.load(Ordering::Relaxed);
            let count = answers.len() as u64 + 1;
            let answer = self.ask(add(count)).await;
            let reply = answer.unwrap_or_else(|error| panic!("{}, {count}: {error}", self.id()));
            assert_eq!(reply.sequence_nr, SequenceNr::new(count), "I-5");
            answers.push(Instant::now());
            if last {
                return (count, answers);
            }
        }
    }
}

/// The command with this number.
fn add(count: u64) -> Request {
    Request::Command {
        payload: Payload::json("null"),
        command_id: CommandId::parse(&format!("command-{count}")).unwrap(),
        expected_sequence_nr: None,
        metadata: None,
    }
}

/// I-5, I-8: for five seconds there is no server. Nothing acknowledged is lost, no
/// command fails, no entity stops, and each client is served soon after.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_five_seconds_stops_no_entity() {
    an_outage(Duration::from_secs(5)).await;
}

/// An entity whose command was certainly not stored stays, and tells its state while
/// there is no server.
#[tokio::test(flavor = "multi_thread")]
async fn entities_stay_and_tell_their_state() {
    let server = PostgresServer::start();
    let options = StorageOptions {
        append_timeout: Duration::from_millis(500),
        ..StorageOptions::default()
    };
    let database = TestDatabase::on(&server.url_text()).await;
    let (engine, storage) = start(&database, &options).await;
    let client = |nr| Client {
        nr,
        engine: engine.clone(),
    };
    for nr in 0..CLIENTS {
        client(nr).ask(add(1)).await.unwrap();
    }
    server.stop_immediately();
    let mut certain = Vec::new();
    for nr in 0..CLIENTS {
        let error = client(nr).ask(add(2)).await.unwrap_err();
        match error {
            CommandError::JournalUnavailable { .. } => certain.push(client(nr)),
            // Its connection was lost, so nobody knows.
            CommandError::PersistFailed { .. } => {}
            error => panic!("{error}"),
        }
    }
    assert!(!certain.is_empty(), "the later ones are not sent at all");
    for client in &certain {
        let state = client.ask(Request::State).await.unwrap();
        assert_eq!(&state.payload.bytes[..], b"1", "{}", client.id());
    }
    server.start_again();
    let deadline = Instant::now() + PATIENCE;
    while client(0).ask(add(3)).await.is_err() {
        assert!(Instant::now() < deadline, "the server is back");
    }
    for client in &certain {
        client.ask(add(3)).await.unwrap();
        let (events, writers) = stored(&storage, client.id()).await;
        assert_eq!(events, 2, "I-5");
        assert_eq!(writers.len(), 1, "the entity did not stop: one incarnation");
    }
    engine.stop().await;
}

/// I-5, I-8: the same when the server restarts at once, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_under_load_lose_nothing() {
    for _ in 0..3 {
        an_outage(Duration::ZERO).await;
    }
}

async fn start(database: &TestDatabase, options: &StorageOptions) -> (EntityEngine, Storage) {
    migrate(&database.url()).await.unwrap();
    let storage = Storage::open(&database.url(), options).await.unwrap();
    let node = storage.registry.mint_node().await.unwrap();
    let incarnation = storage.registry.begin_incarnation(node).await.unwrap();
    let mut types = EntityTypes::new();
    types.register(Tally).unwrap();
    let settings = EngineSettings::default();
    let engine = EntityEngine::start(types, storage.clone(), incarnation.session, settings);
    (engine, storage)
}

/// The numbers of an entity's events, and who wrote them.
async fn stored(storage: &Storage, id: PersistenceId) -> (u64, BTreeSet<WriterUuid>) {
    let range = EventRange {
        persistence_id: id,
        from: SequenceNr::ZERO,
        to: SequenceNr::MAX,
        max_events: usize::MAX,
        max_bytes: usize::MAX,
    };
    let events = storage.journal.read_events(&range).await.unwrap();
    let writers = events.iter().map(|event| event.writer).collect();
    (events.len() as u64, writers)
}

async fn an_outage(length: Duration) {
    let server = Arc::new(PostgresServer::start());
    let database = TestDatabase::on(&server.url_text()).await;
    let (engine, storage) = start(&database, &StorageOptions::default()).await;
    let client = |nr| Client {
        nr,
        engine: engine.clone(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let working: Vec<_> = (0..CLIENTS)
        .map(|nr| tokio::spawn(client(nr).work(stop.clone())))
        .collect();

    // The load is on when every entity has stored something.
    let deadline = Instant::now() + PATIENCE;
    for nr in 0..CLIENTS {
        let id = client(nr).id();
        while storage.journal.bounds(&id).await.unwrap().highest < SequenceNr::new(5) {
            assert!(Instant::now() < deadline, "the load should be on");
        }
    }
    let restarted = server.clone();
    let restart = move || {
        restarted.stop_immediately();
        let gone = Instant::now();
        #[expect(
            clippy::disallowed_methods,
            reason = "the length of the outage is the subject"
        )]
        std::thread::sleep(length);
        restarted.start_again();
        (gone, Instant::now())
    };
    let (gone, back) = tokio::task::spawn_blocking(restart).await.unwrap();
    for nr in 0..CLIENTS {
        let client = client(nr);
        let described = engine.describe(client.shard(), &client.id()).await;
        assert_eq!(described.state, EntityState::Live, "{}", client.id());
    }
    stop.store(true, Ordering::Relaxed);
    for (nr, working) in working.into_iter().enumerate() {
        let (count, answers) = working.await.unwrap();
        let (first, last) = (answers[0], answers[answers.len() - 1]);
        assert!(first < gone && last > gone, "the outage was in the middle");
        assert!(
            last < back + SERVED_AGAIN,
            "{nr}: served again only {:?} after the return",
            last - back
        );
        let (events, writers) = stored(&storage, client(nr).id()).await;
        assert_eq!(events, count, "I-5: all that was acknowledged");
        assert_eq!(writers.len(), 1, "the entity did not stop: one incarnation");
    }
    engine.stop().await;
}
