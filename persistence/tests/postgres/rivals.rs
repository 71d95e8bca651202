//! Several writers of one stream, poisoned data, callers that go away.

use std::time::Duration;

use perennial_persistence::journal::{Append, AppendError, Appended};
use perennial_persistence::testing::postgres_server::TestDatabase;
use sqlx::{ConnectOptions, Executor};

use crate::node::{Node, assert_stored, until_any};

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

/// I-5: an append that Postgres sacrifices to end a deadlock is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlocked_append_is_tried_again() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);
    let mut control = database.connect_options().connect().await.unwrap();
    let mut rival = database.connect_options().connect().await.unwrap();
    // The rival has the number the append wants, and wants the row the append has.
    // Its own patience is longer, so that it is the append that finds the deadlock.
    let mine = "SET deadlock_timeout = '30 s'; BEGIN; INSERT INTO perennial.events \
                (persistence_id, sequence_nr, tx, writer_uuid, shard, codec, manifest, payload) \
                SELECT persistence_id, 2, tx, gen_random_uuid(), shard, codec, manifest, payload FROM perennial.events";
    rival.execute(mine).await.unwrap();
    let append = node.append(node.to_append("a", 2, &["2"]));
    let rival = async {
        until_any(
            &mut control,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted",
        )
        .await;
        rival
            .execute("SELECT FROM perennial.writer_sessions FOR UPDATE")
            .await
            .unwrap();
        rival.execute("ROLLBACK").await.unwrap();
    };
    let (appended, ()) = futures::future::join(append, rival).await;
    assert_stored(&appended);
    assert_eq!(node.texts("a").await, ["1", "2"]);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database() AND deadlocks > 0";
    until_any(
        &mut control,
        &format!("SELECT count(*) FROM ({deadlocks}) d"),
    )
    .await;
}
