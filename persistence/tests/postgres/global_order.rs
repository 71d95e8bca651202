//! The global order while writers commit out of order, roll back and stall.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_persistence::global_order::{OrderedEvent, Position};
use perennial_persistence::testing::postgres_server::{PostgresServer, TestDatabase};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Executor};

use crate::node::{Node, assert_stored};

/// A writer whose transactions the test begins and ends as it likes.
struct SlowWriter {
    connection: PgConnection,
    name: String,
    stored: u64,
    /// Events in the open transaction, if there is one.
    open: Option<u64>,
}

impl SlowWriter {
    async fn begin(&mut self, count: u64) {
        self.connection.execute("BEGIN").await.unwrap();
        for nr in self.stored + 1..=self.stored + count {
            sqlx::query(
                "INSERT INTO perennial.events (persistence_id, sequence_nr, tx, writer_uuid, shard, codec, manifest, \
                                               payload) \
                 VALUES ($1, $2, pg_current_xact_id()::text::bigint, gen_random_uuid(), 1, 1, '', '')",
            )
            .bind(format!("counter|{}", self.name))
            .bind(nr as i64)
            .execute(&mut self.connection)
            .await
            .unwrap();
        }
        self.open = Some(count);
    }

    async fn end(&mut self, commit: bool) {
        if let Some(count) = self.open.take() {
            let end = if commit { "COMMIT" } else { "ROLLBACK" };
            self.connection.execute(end).await.unwrap();
            self.stored += if commit { count } else { 0 };
        }
    }
}

/// I-3: a reader sees each event exactly once, each stream in its order.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_each_event_once_and_streams_in_order() {
    // Transactions of other tests would hold the order back.
    let server = PostgresServer::start();
    let database = TestDatabase::on(&server.url_text()).await;
    let node = Node::start(&database.url()).await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut writers = Vec::new();
    for nr in 0..6 {
        writers.push(SlowWriter {
            connection: database.connect_options().connect().await.unwrap(),
            name: format!("slow-{nr}"),
            stored: 0,
            open: None,
        });
    }
    let mut read: Vec<OrderedEvent> = Vec::new();
    let mut appended = 0;
    for _ in 0..150 {
        writers.shuffle(&mut random);
        for writer in &mut writers {
            match (writer.open, random.random_range(0..4)) {
                (None, 0..2) => writer.begin(random.random_range(1..4)).await,
                (Some(_), 0) => writer.end(true).await,
                (Some(_), 1) => writer.end(false).await,
                _ => {}
            }
        }
        appended += 2;
        let append = node.to_append("fast", appended - 1, &["x", "y"]);
        assert_stored(&node.append(append).await);
        read_page(&node, &mut read, random.random_range(1..20)).await;
    }
    for writer in &mut writers {
        writer.end(true).await;
    }
    while read_page(&node, &mut read, 7).await > 0 {}

    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for event in &read {
        let nr = last
            .entry(event.event.persistence_id.entity_id())
            .or_default();
        *nr += 1;
        assert_eq!(event.event.sequence_nr.get(), *nr, "seed {seed}: {event:?}");
    }
    assert_eq!(last.remove("fast"), Some(appended), "seed {seed}");
    for writer in &writers {
        let seen = last.get(&*writer.name).copied().unwrap_or_default();
        assert_eq!(seen, writer.stored, "seed {seed}: {}", writer.name);
    }
}

/// Goes on after the last event that was read; how many there were.
async fn read_page(node: &Node, read: &mut Vec<OrderedEvent>, count: usize) -> usize {
    let after = read.last().map_or(Position::START, |event| event.position);
    let order = &node.storage.order;
    let page = order.events_after(after, count, usize::MAX).await.unwrap();
    read.extend(page.iter().cloned());
    page.len()
}

/// What is held back, and for how long, can be told; it shows up when the transaction
/// before it ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_holds_back_what_comes_after_it() {
    let server = PostgresServer::start();
    let database = TestDatabase::on(&server.url_text()).await;
    let node = Node::start(&database.url()).await;
    let order = &node.storage.order;
    assert_eq!(order.lag().await.unwrap(), Duration::ZERO);
    let mut stalled = database.connect_options().connect().await.unwrap();
    stalled
        .execute("BEGIN; SELECT pg_current_xact_id()")
        .await
        .unwrap();
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);
    let mut read = Vec::new();
    assert_eq!(read_page(&node, &mut read, 10).await, 0);
    let lag = order.lag().await.unwrap();
    assert!(lag > Duration::ZERO);
    assert!(order.lag().await.unwrap() > lag, "it grows");
    stalled.execute("ROLLBACK").await.unwrap();
    assert_eq!(read_page(&node, &mut read, 10).await, 1);
    assert_eq!(order.lag().await.unwrap(), Duration::ZERO);
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

/// The pages of the order are found by the index, however many events there are.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_found_by_the_index() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    for nr in 0..40 {
        let texts = vec!["x"; 100];
        assert_stored(&node.append(node.to_append("a", nr * 100 + 1, &texts)).await);
    }
    let mut control = database.connect_options().connect().await.unwrap();
    control.execute("ANALYZE perennial.events").await.unwrap();
    let page = "EXPLAIN SELECT * FROM perennial.events WHERE tx >= 1 AND (tx, ordering) > (1, 2) \
                AND tx < (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint) ORDER BY tx, ordering LIMIT 10";
    let plan: Vec<String> = sqlx::query_scalar(page)
        .fetch_all(&mut control)
        .await
        .unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("Incremental Sort"), "{plan}");
    assert!(plan.contains("using events_global_order"), "{plan}");
}
