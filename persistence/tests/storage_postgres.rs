//! What only a database with a network and several writers has: lost connections,
//! stalled ones, rivals, a server that goes away.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use perennial_persistence::command::CommandId;
use perennial_persistence::journal::{
    Append, AppendError, Appended, AtomicWrite, CommandRecord, EventRange, NewEvent,
};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::{Storage, StorageOptions, StorageUrl, migrate};
use perennial_persistence::testing::postgres_server::{PostgresServer, TestDatabase};
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// Far longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One node on a database.
struct Node {
    storage: Storage,
    session: SessionUuid,
    writer: WriterUuid,
}

impl Node {
    async fn start(url: &StorageUrl) -> Self {
        migrate(url).await.unwrap();
        Self::start_with(url, &StorageOptions::default()).await
    }

    async fn start_with(url: &StorageUrl, options: &StorageOptions) -> Self {
        let storage = Storage::open(url, options).await.unwrap();
        let node = storage.registry.mint_node().await.unwrap();
        let session = storage
            .registry
            .begin_incarnation(node)
            .await
            .unwrap()
            .session;
        Self {
            storage,
            session,
            writer: WriterUuid(Uuid::new_v4()),
        }
    }

    /// An append of one event per atomic write.
    fn to_append(&self, name: &str, first: u64, texts: &[&str]) -> Append {
        let write = |text: &&str| AtomicWrite {
            events: vec![NewEvent {
                payload: Payload::json(text.as_bytes().to_vec()),
                tags: Vec::new(),
            }],
            command: None,
            metadata: None,
        };
        Append {
            persistence_id: id(name),
            shard: ShardNr(1),
            epoch: Epoch(1),
            writer: self.writer,
            first_sequence_nr: SequenceNr::new(first),
            writes: texts.iter().map(write).collect(),
        }
    }

    async fn append(&self, append: Append) -> Appended {
        let append = [append];
        let appended = self.storage.journal.append(self.session, 0, &append);
        let mut outcomes = tokio::time::timeout(PATIENCE, appended).await.unwrap();
        outcomes.pop().unwrap()
    }

    async fn texts(&self, name: &str) -> Vec<String> {
        let range = EventRange {
            persistence_id: id(name),
            from: SequenceNr::ZERO,
            to: SequenceNr::MAX,
            max_events: 1000,
            max_bytes: usize::MAX,
        };
        let events = self.storage.journal.read_events(&range).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        events
            .iter()
            .map(|event| text(&event.payload.bytes))
            .collect()
    }
}

fn id(name: &str) -> PersistenceId {
    PersistenceId::new("counter", name).unwrap()
}

fn assert_stored(appended: &Appended) {
    assert!(appended.failure.is_none(), "{appended:?}");
}

/// Ends the connections named after a session; how many there were.
async fn end_connections(control: &mut PgConnection, session: SessionUuid) -> i64 {
    sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1",
    )
    .bind(format!("perennial {session}"))
    .fetch_one(control)
    .await
    .unwrap()
}

/// I-2: a fence does not wait for ever for the one it fences.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_ends_a_connection_of_the_session_that_stalls() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    let options = database
        .connect_options()
        .application_name(&format!("perennial {}", node.session));
    let mut stalled = options.connect().await.unwrap();
    stalled.execute("BEGIN").await.unwrap();
    stalled
        .execute("SELECT FROM perennial.writer_sessions WHERE lane = 1 FOR SHARE")
        .await
        .unwrap();

    let fence = node.storage.registry.fence(node.session, None);
    tokio::time::timeout(PATIENCE, fence)
        .await
        .unwrap()
        .unwrap();

    assert!(
        stalled.execute("COMMIT").await.is_err(),
        "the stalled connection should be gone"
    );
    let appended = node.append(node.to_append("a", 1, &["1"])).await;
    assert!(
        matches!(appended.failure, Some(AppendError::Fenced { .. })),
        "{appended:?}"
    );
}

/// A fence that is blocked by somebody else waits for him.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_leaves_connections_of_others_alone() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    let mut other = database.connect_options().connect().await.unwrap();
    other.execute("BEGIN").await.unwrap();
    other
        .execute("SELECT FROM perennial.writer_sessions FOR SHARE")
        .await
        .unwrap();
    let (registry, session) = (node.storage.registry.clone(), node.session);
    let fence = tokio::spawn(async move { registry.fence(session, None).await });
    let mut control = database.connect_options().connect().await.unwrap();
    // It has waited longer than it lets its own session stall.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND clock_timestamp() - query_start > interval '800 ms'";
    let waiting = async {
        while sqlx::query_scalar::<_, i64>(waits)
            .fetch_one(&mut control)
            .await
            .unwrap()
            == 0
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert!(!fence.is_finished());
    other.execute("COMMIT").await.unwrap();
    fence.await.unwrap().unwrap();
}

/// I-5: a connection that was lost between two appends costs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_are_replaced() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    let mut control = database.connect_options().connect().await.unwrap();
    for nr in 1..=5 {
        let text = nr.to_string();
        assert_stored(&node.append(node.to_append("a", nr, &[&text])).await);
        assert_eq!(end_connections(&mut control, node.session).await, 1);
        // Readers too.
        let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE application_name LIKE 'perennial re%'";
        control.execute(all).await.unwrap();
        assert_eq!(node.texts("a").await.len() as u64, nr);
        node.storage.registry.mint_node().await.unwrap();
    }
    assert_eq!(node.texts("a").await, ["1", "2", "3", "4", "5"]);
}

/// Passes bytes on. When armed, it lets the next request through and closes the
/// connection in place of the answer.
struct Proxy {
    port: u16,
    armed: Arc<AtomicBool>,
}

impl Proxy {
    async fn to(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicBool::new(false));
        let arm = armed.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server_port))
                    .await
                    .unwrap();
                tokio::spawn(pass_on(client, server, arm.clone()));
            }
        });
        Self { port, armed }
    }
}

async fn pass_on(client: TcpStream, server: TcpStream, armed: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests =
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut answer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from_server.read(&mut answer).await {
        // The answer to a statement that was executed, not to its preparation:
        // with "CommandComplete" in it.
        let complete = answer[..len].windows(6).any(|window| window == b"INSERT");
        if complete && armed.swap(false, Ordering::SeqCst) {
            break;
        }
        if to_client.write_all(&answer[..len]).await.is_err() {
            break;
        }
    }
    requests.abort();
}

/// I-8: the answer to an append is lost after the commit; it is asked again and
/// known as stored, with everything stored once.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_is_lost_is_found_stored() {
    let database = TestDatabase::new().await;
    migrate(&database.url()).await.unwrap();
    let direct = database.connect_options();
    let proxy = Proxy::to(direct.get_port()).await;
    let through_proxy = database.url_text().replace(
        &format!(":{}/", direct.get_port()),
        &format!(":{}/", proxy.port),
    );
    let url = StorageUrl::parse(&through_proxy).unwrap();
    let node = Node::start_with(&url, &StorageOptions::default()).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);

    proxy.armed.store(true, Ordering::SeqCst);
    let mut append = node.to_append("a", 2, &["2", "3", "4"]);
    append.writes[1].command = Some(CommandRecord {
        command_id: CommandId::parse("once").unwrap().unwrap(),
        reply: Payload::json("done"),
    });
    let appended = node.append(append).await;
    assert!(
        !proxy.armed.load(Ordering::SeqCst),
        "the proxy should have struck"
    );
    assert_stored(&appended);
    assert_eq!(appended.stored_writes, 3);
    assert_eq!(node.texts("a").await, ["1", "2", "3", "4"]);

    // The same, fenced before it can ask again: what is stored counts.
    proxy.armed.store(true, Ordering::SeqCst);
    let append = node.append(node.to_append("a", 5, &["5"]));
    let fence = async {
        while proxy.armed.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        node.storage
            .registry
            .fence(node.session, None)
            .await
            .unwrap();
    };
    let (appended, ()) = futures::future::join(append, fence).await;
    assert_stored(&appended);
    assert_eq!(node.texts("a").await, ["1", "2", "3", "4", "5"]);
}

/// I-3: of two nodes that write the same stream at the same time, each number goes
/// to one, and the other's append fails as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn of_rivals_one_wins_each_number() {
    let database = TestDatabase::new().await;
    let nodes = [
        Node::start(&database.url()).await,
        Node::start(&database.url()).await,
    ];
    let mut highest = 0;
    for round in 0..50 {
        let appends = nodes.iter().enumerate().map(|(nr, node)| {
            let texts = [format!("{round}-{nr}-a"), format!("{round}-{nr}-b")];
            async move {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                node.append(node.to_append("a", highest + 1, &texts)).await
            }
        });
        let outcomes = futures::future::join_all(appends).await;
        let winners = outcomes
            .iter()
            .filter(|outcome| outcome.failure.is_none())
            .count();
        assert_eq!(winners, 1, "{outcomes:?}");
        let lost = |outcome: &&Appended| outcome.failure.is_some();
        let loser = outcomes.iter().find(lost).unwrap();
        let Some(AppendError::Conflict { other: Some(_), .. }) = &loser.failure else {
            panic!("should be a conflict with its author: {loser:?}");
        };
        assert_eq!(loser.stored_writes, 0);
        highest += 2;
    }
    let texts = nodes[0].texts("a").await;
    assert_eq!(texts.len(), 100);
    for pair in texts.chunks(2) {
        assert_eq!(pair[0].strip_suffix('a'), pair[1].strip_suffix('b'));
    }
}

/// Text that Postgres cannot store fails alone in a large batch, and costs few
/// statements.
#[tokio::test(flavor = "multi_thread")]
async fn poison_in_a_large_batch_fails_alone() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    let mut batch: Vec<Append> = (0..100)
        .map(|nr| node.to_append(&format!("e{nr}"), 1, &["1", "2", "3"]))
        .collect();
    for poisoned in [0, 37, 99] {
        batch[poisoned].writes[1].events[0].payload.manifest = "\0".into();
    }
    let outcomes = node.storage.journal.append(node.session, 0, &batch).await;
    for (nr, outcome) in outcomes.iter().enumerate() {
        let expected = if [0, 37, 99].contains(&nr) { 1 } else { 3 };
        assert_eq!(outcome.stored_writes, expected, "{nr}: {outcome:?}");
        assert_eq!(node.texts(&format!("e{nr}")).await.len(), expected);
        let rejected = matches!(outcome.failure, Some(AppendError::Rejected { .. }));
        assert_eq!(rejected, expected == 1, "{nr}: {outcome:?}");
    }
}

/// I-5, I-8: while the server is away appends fail with certainty, when it is back
/// they are stored, and what was acknowledged is still there.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_and_comes_back() {
    let server = PostgresServer::start();
    let database = TestDatabase::on(&server.url_text()).await;
    let options = StorageOptions {
        append_timeout: Duration::from_secs(2),
        ..StorageOptions::default()
    };
    migrate(&database.url()).await.unwrap();
    let node = Node::start_with(&database.url(), &options).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);

    server.stop_immediately();
    // The first finds its connection lost and cannot know; the next is not sent.
    let first = node.append(node.to_append("a", 2, &["2"])).await;
    assert!(
        matches!(
            first.failure,
            Some(AppendError::Unknown { .. } | AppendError::Unavailable { .. })
        ),
        "{first:?}"
    );
    let second = node.append(node.to_append("b", 1, &["1"])).await;
    assert!(
        matches!(second.failure, Some(AppendError::Unavailable { .. })),
        "{second:?}"
    );
    assert!(node.storage.journal.bounds(&id("a")).await.is_err());

    server.start_again();
    assert_eq!(node.texts("a").await, ["1"]);
    assert_stored(&node.append(node.to_append("a", 2, &["2"])).await);
    assert_stored(&node.append(node.to_append("b", 1, &["1"])).await);
}

/// Transaction numbers of another server may be lower: what is stored after a move
/// comes after what was stored before, in the global order too.
#[tokio::test(flavor = "multi_thread")]
async fn the_global_order_survives_a_move_to_another_server() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    node.storage.registry.cluster(8).await.unwrap();
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);
    let mut control = database.connect_options().connect().await.unwrap();
    let moved = "UPDATE perennial.events SET tx = tx + 1000000; \
                 UPDATE perennial.cluster SET system_identifier = system_identifier + 1";
    control.execute(moved).await.unwrap();
    for _ in 0..2 {
        node.storage.registry.cluster(8).await.unwrap();
    }
    assert_stored(&node.append(node.to_append("a", 2, &["2"])).await);
    let order: Vec<i64> =
        sqlx::query_scalar("SELECT sequence_nr FROM perennial.events ORDER BY tx, ordering")
            .fetch_all(&mut control)
            .await
            .unwrap();
    assert_eq!(order, [1, 2]);
}

/// A caller that goes away in the middle leaves a journal that works, and the
/// append is stored as a whole or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn callers_may_go_away() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    let texts = vec!["x"; 20];
    for nr in 0..40 {
        let name = format!("e{nr}");
        let append = [node.to_append(&name, 1, &texts)];
        let call = node.storage.journal.append(node.session, 0, &append);
        let _ = tokio::time::timeout(Duration::from_micros(100 * nr), call).await;
    }
    // Behind all of those in the same lane.
    assert_stored(&node.append(node.to_append("last", 1, &["x"])).await);
    for nr in 0..40 {
        let stored = node.texts(&format!("e{nr}")).await.len();
        assert!(stored == 0 || stored == 20, "{stored}");
    }
}
