//! Streams that two incarnations wrote, in a real Postgres: what recoveries make of
//! them in each mode of the replay filter, what is logged, and what a verification
//! reports. Such streams come from merged, imported or badly restored journals; here
//! the unique key is dropped and the rows of a second writer are put in by hand.
//!
//! The cases are those of the filter's own vectors, by number, with streams that
//! begin at 1.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_persistence::codec::Json;
use perennial_persistence::command::{Answer, Envelope, ReplyTo, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::payload::{CodecId, Payload};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::replay_filter::ReplayFilterMode;
use perennial_persistence::retention::RetentionSettings;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::{Storage, StorageOptions, migrate};
use perennial_persistence::testing::postgres_server::TestDatabase;
use perennial_persistence::trace::Trace;
use perennial_persistence::verification::{Finding, Verified, Witness, verify};
use perennial_persistence::writer::{Epoch, ShardNr};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Executor};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

use ReplayFilterMode::{Fail, Off, RepairByDiscardOld, Warn};

/// A list of texts: the state is what was replayed, in order.
struct Texts;

impl EventSourced for Texts {
    const ENTITY_TYPE: &'static str = "texts";
    type State = Vec<String>;
    type Command = String;
    type Event = String;
    type Reply = Vec<String>;
    type Codec = Json;

    fn handle(&self, _: &Vec<String>, text: String) -> Effect<Self> {
        Effect::persist(text).then_reply(Clone::clone)
    }

    fn apply(&self, state: &mut Vec<String>, text: String) {
        state.push(text);
    }
}

/// A row of a stream: number, who wrote it, what it says.
type Event = (i64, char, &'static str);

/// What a recovery in one mode leads to: the state, or a failure.
type Expected = (ReplayFilterMode, Option<Vec<&'static str>>, usize);

struct Case {
    name: &'static str,
    /// In the order of storing.
    stream: Vec<Event>,
    expected: Vec<Expected>,
    /// Events that others contradict, as a verification counts them.
    contradicted: u64,
}

/// Which mode does what to the stream of a case: the repaired state and its warnings,
/// the warnings of mode `warn`, which keeps all.
fn case(
    name: &'static str,
    stream: Vec<Event>,
    repaired: &[&'static str],
    discarded: usize,
    warnings: usize,
) -> Case {
    let mut in_order = stream.clone();
    in_order.sort_by_key(|(number, ..)| *number);
    let all = || Some(in_order.iter().map(|(_, _, text)| *text).collect());
    let failure = match warnings {
        0 => all(),
        _ => None,
    };
    Case {
        name,
        expected: vec![
            (RepairByDiscardOld, Some(repaired.to_vec()), discarded),
            (Warn, all(), warnings),
            (Off, all(), 0),
            (Fail, failure, 0),
        ],
        stream,
        contradicted: warnings as u64,
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Healthy: one incarnation after the other.
        case(
            "u-r1",
            vec![(1, 'A', "a"), (2, 'A', "b"), (3, 'A', "c")],
            &["a", "b", "c"],
            0,
            0,
        ),
        // Events from before writers were recorded.
        case(
            "u-r2",
            vec![(1, '\0', "a"), (2, '\0', "b"), (3, 'A', "c")],
            &["a", "b", "c"],
            0,
            0,
        ),
        case(
            "u-r3",
            vec![(1, 'A', "a"), (2, 'A', "b"), (3, 'B', "c")],
            &["a", "b", "c"],
            0,
            0,
        ),
        // One number twice.
        case(
            "u-r4",
            vec![(1, 'A', "a"), (2, 'A', "b"), (3, 'A', "c"), (3, 'B', "c'")],
            &["a", "b", "c'"],
            1,
            1,
        ),
        // The old writer goes on after the new one.
        case(
            "u-r5",
            vec![
                (1, 'A', "a"),
                (2, 'A', "b"),
                (3, 'B', "c"),
                (3, 'A', "c'"),
                (4, 'A', "d"),
            ],
            &["a", "b", "c"],
            2,
            2,
        ),
        // Three writers.
        case(
            "u-r6",
            vec![
                (1, 'A', "a"),
                (2, 'B', "b"),
                (3, 'C', "c"),
                (2, 'A', "b'"),
                (3, 'A', "c'"),
                (3, 'B', "c''"),
                (4, 'C', "d"),
            ],
            &["a", "b", "c", "d"],
            3,
            3,
        ),
        // The zombie: what the first writer stored beside the second is discarded,
        // whether both took turns or one came after the other.
        case(
            "u-e1",
            vec![
                (1, '1', "a-1"),
                (2, '1', "a-2"),
                (3, '1', "b-1"),
                (3, '2', "c-1"),
                (4, '1', "b-2"),
                (4, '2', "c-2"),
            ],
            &["a-1", "a-2", "c-1", "c-2"],
            2,
            2,
        ),
        case(
            "u-e2",
            vec![
                (1, '1', "a-1"),
                (2, '1', "a-2"),
                (3, '1', "b-1"),
                (4, '1', "b-2"),
                (3, '2', "c-1"),
                (4, '2', "c-2"),
            ],
            &["a-1", "a-2", "c-1", "c-2"],
            2,
            2,
        ),
    ]
}

/// A database whose streams may have two authors.
async fn foreign_database() -> (TestDatabase, PgConnection) {
    let database = TestDatabase::new().await;
    migrate(&database.url()).await.unwrap();
    let mut control = database.connect_options().connect().await.unwrap();
    let drop_key = "ALTER TABLE perennial.events DROP CONSTRAINT events_pkey; \
                    CREATE INDEX events_merged ON perennial.events (persistence_id, sequence_nr)";
    control.execute(drop_key).await.unwrap();
    (database, control)
}

fn id(name: &str) -> PersistenceId {
    PersistenceId::new("texts", name).unwrap()
}

async fn insert(control: &mut PgConnection, name: &str, number: i64, writer: char, text: &str) {
    sqlx::query(
        "INSERT INTO perennial.events (persistence_id, sequence_nr, tx, writer_uuid, shard, write_len, codec, manifest, \
                                       payload) \
         VALUES ($1, $2, 1, $3, 1, 1, 1, '', $4)",
    )
    .bind(id(name).as_str())
    .bind(number)
    .bind(Uuid::from_u128(u128::from(u32::from(writer))))
    .bind(serde_json::to_vec(text).unwrap())
    .execute(control)
    .await
    .unwrap();
}

struct Engine(EntityEngine);

impl Engine {
    async fn start(database: &TestDatabase, mode: ReplayFilterMode) -> Self {
        let options = StorageOptions::default();
        let storage = Storage::open(&database.url(), &options).await.unwrap();
        let node = storage.registry.mint_node().await.unwrap();
        let incarnation = storage.registry.begin_incarnation(node).await.unwrap();
        let mut types = EntityTypes::new();
        types.register(Texts).unwrap();
        let mut settings = EngineSettings {
            retention: RetentionSettings {
                every: 0,
                ..RetentionSettings::default()
            },
            ..EngineSettings::default()
        };
        settings.replay_filter.mode = mode;
        Self(EntityEngine::start(
            types,
            storage,
            incarnation.session,
            settings,
        ))
    }

    async fn ask(&self, name: &str, request: Request) -> Answer {
        let (reply_to, answer) = ReplyTo::ask();
        self.0.deliver(Envelope {
            trace: Trace::NONE,
            arrival: 0,
            persistence_id: id(name),
            shard: ShardNr(1),
            epoch: Epoch(1),
            request,
            deadline: None,
            reply_to,
        });
        let answer = tokio::time::timeout(Duration::from_secs(30), answer).await;
        answer.expect("I-8: no answer").expect("I-8: dropped")
    }

    async fn state(&self, name: &str) -> Result<Vec<String>, CommandError> {
        let reply = self.ask(name, Request::State).await?;
        Ok(serde_json::from_slice(&reply.payload.bytes).unwrap())
    }

    async fn add(&self, name: &str, text: &str) -> Answer {
        let command = Request::Command {
            payload: Payload::json(serde_json::to_vec(text).unwrap()),
            command_id: None,
            expected_sequence_nr: None,
            metadata: None,
        };
        self.ask(name, command).await
    }
}

/// What is logged by the current thread, on which all tasks of a test run.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen() -> (Self, DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        (log, guard)
    }

    /// Records about events that contradict each other, by level, since the last look.
    fn take(&self) -> (usize, usize) {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        let of = |level: &str| {
            let is_it = |line: &&str| {
                line.contains(level) && line.contains("Invalid replayed event [sequenceNr=")
            };
            text.lines().filter(is_it).count()
        };
        (of("WARN"), of("ERROR"))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[derive(Default)]
struct Found(Vec<Finding>);

impl Witness for Found {
    fn found(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    fn progressed(&mut self, _: Verified) {}
}

impl Found {
    async fn of(database: &TestDatabase) -> Self {
        let mut found = Self::default();
        verify(&database.url(), [CodecId::JSON], &mut found)
            .await
            .unwrap();
        found
    }

    /// Events of a stream that others contradict, and how many authors it has.
    fn contradicted(&self, name: &str) -> Option<(u64, usize)> {
        self.0.iter().find_map(|finding| match finding {
            Finding::TwoAuthors {
                persistence_id,
                numbers,
                authors,
            } if persistence_id == id(name).as_str() => Some((numbers.count, authors.len())),
            _ => None,
        })
    }
}

/// Every case in every mode: the state, what is logged, and how it goes on.
#[tokio::test]
async fn each_mode_recovers_as_specified() {
    let (database, mut control) = foreign_database().await;
    let (log, _guard) = Log::listen();
    for case in cases() {
        for (mode, expected, warnings) in &case.expected {
            let name = format!("{}-{mode:?}", case.name).to_lowercase();
            for (number, writer, text) in &case.stream {
                insert(&mut control, &name, *number, *writer, text).await;
            }
            let engine = Engine::start(&database, *mode).await;
            let highest = case
                .stream
                .iter()
                .map(|(number, ..)| *number)
                .max()
                .unwrap();
            log.take();
            let state = engine.state(&name).await;
            let logged = log.take();
            let Some(expected) = expected else {
                assert!(
                    matches!(state, Err(CommandError::RecoveryFailed { .. })),
                    "{name}: {state:?}"
                );
                let message = state.unwrap_err().to_string();
                for part in [
                    "Invalid replayed event",
                    "journal verify",
                    id(&name).as_str(),
                ] {
                    assert!(message.contains(part), "{name}: {message}");
                }
                assert_eq!(logged, (0, 1), "{name}: one error, no warning");
                engine.0.stop().await;
                continue;
            };
            // Equal numbers without a key between them come in the order of storing.
            assert_eq!(state.unwrap(), *expected, "{name}");
            assert_eq!(logged, (*warnings, 0), "{name}: warnings and errors");
            // It goes on after the highest number there is, whoever stored that.
            let added = engine.add(&name, "new").await.unwrap();
            assert_eq!(
                added.sequence_nr,
                SequenceNr::new(highest as u64 + 1),
                "{name}"
            );
            engine.0.passivate(ShardNr(1), &id(&name)).await;
            let state = engine.state(&name).await.unwrap();
            assert_eq!(state[..expected.len()], *expected, "{name}, again");
            assert_eq!(state[expected.len()..], ["new"], "{name}, again");
            assert_eq!(log.take(), (*warnings, 0), "{name}, again");
            engine.0.stop().await;
        }
    }
    let found = Found::of(&database).await;
    for case in cases() {
        let name = format!("{}-{Fail:?}", case.name).to_lowercase();
        let reported = found.contradicted(&name).map(|(count, _)| count);
        let expected = (case.contradicted > 0).then_some(case.contradicted);
        assert_eq!(reported, expected, "{name}");
    }
    let is_missing = |finding: &Finding| matches!(finding, Finding::UniqueKeyMissing { .. });
    assert!(found.0.iter().any(is_missing));
}

/// U-E1 over many pages: the second writer began where nothing was expected, beside
/// the ends of pages and far from them.
#[tokio::test]
async fn u_e1_in_a_long_stream() {
    let (database, mut control) = foreign_database().await;
    let (log, _guard) = Log::listen();
    // The first page ends at 128, the next ones 499 later.
    for second_from in [128, 129, 450, 627, 628] {
        let name = format!("from-{second_from}");
        let both_to = second_from + 250;
        for number in 1..=both_to {
            insert(&mut control, &name, number, 'A', &format!("a-{number}")).await;
            if number >= second_from {
                insert(&mut control, &name, number, 'B', &format!("b-{number}")).await;
            }
        }
        let engine = Engine::start(&database, RepairByDiscardOld).await;
        let state = engine.state(&name).await.unwrap();
        let text = |number| match number < second_from {
            true => format!("a-{number}"),
            false => format!("b-{number}"),
        };
        let expected: Vec<String> = (1..=both_to).map(text).collect();
        assert!(state == expected, "{name}");
        assert_eq!(log.take(), (251, 0), "{name}");
        engine.0.stop().await;
    }
    let found = Found::of(&database).await;
    assert_eq!(found.contradicted("from-450"), Some((251, 2)));
}

/// A stream that cannot be repaired can be deleted, by which it has one author again.
#[tokio::test]
async fn a_foreign_stream_can_be_deleted() {
    let (database, mut control) = foreign_database().await;
    for (number, writer) in [(1, 'A'), (2, 'A'), (2, 'B'), (3, 'A')] {
        insert(&mut control, "bad", number, writer, "x").await;
    }
    let engine = Engine::start(&database, Fail).await;
    engine.state("bad").await.unwrap_err();
    let deleted = engine.0.delete(ShardNr(1), Epoch(1), &id("bad")).await;
    assert_eq!(deleted, Ok(SequenceNr::new(3)));
    let added = engine.add("bad", "good").await.unwrap();
    assert_eq!(added.sequence_nr.get(), 4);
    engine.0.stop().await;
    assert_eq!(Found::of(&database).await.contradicted("bad"), None);
}
