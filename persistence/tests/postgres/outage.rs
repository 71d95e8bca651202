//! Connections that are lost between appends, and a server that goes away.

use std::time::Duration;

use perennial_persistence::journal::AppendError;
use perennial_persistence::registry::{NodeNr, RegistryError};
use perennial_persistence::storage::{StorageOptions, migrate};
use perennial_persistence::testing::postgres_server::{PostgresServer, TestDatabase};
use sqlx::{ConnectOptions, Executor};

use crate::node::{Node, PATIENCE, assert_stored, end_connections, id, until_any};

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

/// I-5, I-8: a server that only reads, as after a switchover, has stored nothing; when
/// there is a primary again the append is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_is_left_for_the_primary() {
    let server = PostgresServer::start();
    let database = TestDatabase::on(&server.url_text()).await;
    migrate(&database.url()).await.unwrap();
    let impatient = StorageOptions {
        append_timeout: Duration::from_secs(1),
        ..StorageOptions::default()
    };
    let node = Node::start_with(&database.url(), &impatient).await;
    let patient = Node::start_with(&database.url(), &StorageOptions::default()).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);
    assert_stored(&patient.append(patient.to_append("b", 1, &["1"])).await);

    let mut control = database.connect_options().connect().await.unwrap();
    let mut switch = async |to: &str| {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {to}");
        control.execute(set.as_str()).await.unwrap();
        control.execute("SELECT pg_reload_conf()").await.unwrap();
        let switched = format!(
            "SELECT count(*) FROM pg_settings WHERE name = 'default_transaction_read_only' AND setting = '{to}'"
        );
        until_any(&mut control, &switched).await;
    };
    switch("on").await;
    // The server tells its processes one by one, the control connection maybe first.
    let mut next = 2;
    let refused = loop {
        let appended = node.append(node.to_append("a", next, &["x"])).await;
        if appended.failure.is_some() {
            break appended;
        }
        next += 1;
        assert!(next < 10_000, "the server never became read-only");
    };
    assert!(
        matches!(refused.failure, Some(AppendError::Unavailable { .. })),
        "{refused:?}"
    );
    until_minting(&node, "refused", Result::is_err).await;
    let waiting = patient.append(patient.to_append("b", 2, &["2"]));
    let (appended, ()) = futures::future::join(waiting, switch("off")).await;
    assert_stored(&appended);
    assert_stored(&node.append(node.to_append("a", next, &["x"])).await);
    until_minting(&node, "given", Result::is_ok).await;
    assert_eq!(node.texts("b").await, ["1", "2"]);
}

/// Waits until minting a node ends as it should.
async fn until_minting(
    node: &Node,
    ends: &str,
    as_it_should: fn(&Result<NodeNr, RegistryError>) -> bool,
) {
    let ended = async {
        while !as_it_should(&node.storage.registry.mint_node().await) {
            tokio::task::yield_now().await;
        }
    };
    let within = tokio::time::timeout(PATIENCE, ended).await;
    within.unwrap_or_else(|_| panic!("minting was never {ends}"));
}

/// I-8: a statement that the server ends because it takes too long is tried again until
/// the deadline, and then its outcome is what the rows say.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_ended() {
    let database = TestDatabase::new().await;
    migrate(&database.url()).await.unwrap();
    let options = StorageOptions {
        statement_timeout: Duration::from_millis(200),
        ..StorageOptions::default()
    };
    let node = Node::start_with(&database.url(), &options).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);
    let mut control = database.connect_options().connect().await.unwrap();
    let mut other = database.connect_options().connect().await.unwrap();
    other
        .execute("BEGIN; LOCK TABLE perennial.events IN SHARE MODE")
        .await
        .unwrap();
    let append = node.append(node.to_append("a", 2, &["2"]));
    let other = async {
        // Rolled back once: it was ended and is at it again.
        until_any(
            &mut control,
            "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()",
        )
        .await;
        other.execute("COMMIT").await.unwrap();
    };
    let (appended, ()) = futures::future::join(append, other).await;
    assert_stored(&appended);
    assert_eq!(node.texts("a").await, ["1", "2"]);
}
