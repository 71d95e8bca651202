//! Bad settings and bad surroundings: each is refused with a clear error, what is
//! not ours is left alone, and nothing is lost.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use perennial_tests::cli::{self, Outcome};
use perennial_tests::client::{Client, command};
use perennial_tests::database::{self, TestDatabase};
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row, SqliteConnection};
use tempfile::TempDir;

/// What `perennial dev ARGS…` says when it should refuse to start.
async fn refused_dev(args: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let data = TempDir::new().unwrap();
    let data_dir = data.path().display().to_string();
    let mut all = vec![
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--peer-listen",
        "127.0.0.1:0",
    ];
    if !args.contains(&"--data-dir") {
        all.extend(["--data-dir", &data_dir]);
    }
    all.extend(args);
    let mut command = cli::command(all).unwrap();
    command.envs(environment.iter().copied());
    let refused = cli::outcome(command.spawn().unwrap()).await.unwrap();
    assert!(matches!(refused.code, Some(1 | 2)), "{refused:?}");
    refused
}

fn assert_says(outcome: &Outcome, what: &[&str]) {
    for word in what {
        assert!(
            outcome.stderr.contains(word),
            "{word:?} is missing in {outcome:?}"
        );
    }
}

#[tokio::test]
async fn settings_that_do_not_exist_or_fit_are_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("settings.toml");
    let path = file.to_str().unwrap();
    for (text, expected) in [
        (
            "[persistence]\nstash_capacty = 5\n",
            ["persistence.stash_capacty", "5"],
        ),
        (
            "[persistence]\nstash_capacity = \"many\"\n",
            ["persistence.stash_capacity", "many"],
        ),
        (
            "[persistence.backoff]\nmin = \"soon\"\n",
            ["persistence.backoff.min", "soon"],
        ),
        (
            "[sharding]\nnumber_of_shards = 0\n",
            ["sharding.number_of_shards", "0"],
        ),
        ("nonsense\n", ["TOML", "1"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let refused = refused_dev(&["--config", path], &[]).await;
        assert_says(&refused, &expected);
        assert_says(&refused, &[path]);
    }
    let refused = refused_dev(&["--config", "/nonexistent/settings.toml"], &[]).await;
    assert_says(&refused, &["/nonexistent/settings.toml"]);

    let variable = "PERENNIAL_PERSISTENCE__STASH_CAPACTY";
    let refused = refused_dev(&[], &[(variable, "5")]).await;
    assert_says(&refused, &[variable, "5", "stash_capacity"]);
    let variable = "PERENNIAL_SHARDING__PASSIVATION__IDLE_TIMEOUT";
    let refused = refused_dev(&[], &[(variable, "a while")]).await;
    assert_says(&refused, &[variable, "a while"]);

    let refused = refused_dev(&["--no-such-flag"], &[]).await;
    assert_says(&refused, &["--no-such-flag"]);
    assert_eq!(refused.code, Some(2));
    let refused = refused_dev(&["--journal", "carrier-pigeon:coop"], &[]).await;
    assert_says(&refused, &["--journal", "sqlite"]);
}

#[tokio::test]
async fn unreachable_database_is_named_without_its_password() {
    let url = "postgres://ada:geheim@127.0.0.1:1/nowhere";
    let refused = refused_dev(&["--journal", url], &[]).await;
    assert_says(&refused, &["127.0.0.1:1"]);
    assert!(!refused.stderr.contains("geheim"), "{refused:?}");
    assert!(!refused.stdout.contains("geheim"), "{refused:?}");
}

#[tokio::test]
async fn foreign_postgres_schema_is_not_touched() {
    let database = TestDatabase::new().await;
    let mut theirs = database::connect(&database).await.unwrap();
    let script = "CREATE SCHEMA perennial; CREATE TABLE perennial.events (id int); \
                  INSERT INTO perennial.events VALUES (42)";
    theirs.execute(sqlx::raw_sql(script)).await.unwrap();
    let before = tables(&mut theirs).await;
    let refused = refused_dev(&["--journal", &database.url_text()], &[]).await;
    assert_says(&refused, &["perennial", "not"]);
    assert_eq!(tables(&mut theirs).await, before);
    assert_eq!(ids_in("perennial.events", &mut theirs).await, [42]);
}

#[tokio::test]
async fn other_schemas_of_the_database_are_not_touched() {
    let database = TestDatabase::new().await;
    let mut theirs = database::connect(&database).await.unwrap();
    let script = "CREATE TABLE public.events (id int); INSERT INTO public.events VALUES (42)";
    theirs.execute(sqlx::raw_sql(script)).await.unwrap();
    let options = NodeOptions::default().journal(database.url_text());
    let node = NodeProcess::start(options).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let add = command("counter", "a", &json!({"add": 1}));
    client.send(add).await.unwrap();
    assert_eq!(ids_in("public.events", &mut theirs).await, [42]);
    let foreign: Vec<String> = tables(&mut theirs).await;
    let foreign = foreign
        .into_iter()
        .filter(|name| !name.starts_with("perennial."));
    assert_eq!(foreign.collect::<Vec<_>>(), ["public.events"]);
}

async fn tables(connection: &mut PgConnection) -> Vec<String> {
    let query = "SELECT schemaname || '.' || tablename FROM pg_tables \
                 WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1";
    let rows = sqlx::query_scalar(query).fetch_all(connection);
    rows.await.unwrap()
}

async fn ids_in(table: &str, connection: &mut PgConnection) -> Vec<i32> {
    let query = format!("SELECT id FROM {table}");
    let rows = sqlx::query_scalar(&query).fetch_all(connection);
    rows.await.unwrap()
}

#[tokio::test]
async fn files_of_other_applications_are_not_touched() {
    let dir = TempDir::new().unwrap();
    let text = dir.path().join("letter.txt");
    std::fs::write(&text, "Dear Ada").unwrap();
    let other = dir.path().join("other.sqlite");
    let mut theirs = open_sqlite(&other).await;
    theirs
        .execute("CREATE TABLE events (id INTEGER)")
        .await
        .unwrap();
    theirs.close().await.unwrap();
    for path in [&text, &other] {
        let before = std::fs::read(path).unwrap();
        let url = format!("sqlite:{}", path.display());
        let refused = refused_dev(&["--journal", &url], &[]).await;
        assert_says(&refused, &[path.to_str().unwrap(), "not"]);
        assert_eq!(std::fs::read(path).unwrap(), before, "{}", path.display());
    }
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 2, "nothing was added beside them");
}

#[tokio::test]
async fn a_data_directory_has_one_user() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let add = || command("counter", "a", &json!({"add": 1}));
    client.send(add()).await.unwrap();

    let data_dir = node.data_dir();
    let data_dir = data_dir.to_str().unwrap();
    let refused = refused_dev(&["--data-dir", data_dir], &[]).await;
    assert_says(&refused, &[data_dir, "use"]);

    let second = client.send(add()).await.unwrap();
    assert_eq!(second.sequence_nr, 2, "the first user goes on");
}

/// The damaged entity says what is wrong with it; its neighbour goes on; and with
/// the event repaired everything is there again.
#[tokio::test]
async fn a_damaged_event_stops_its_entity_only() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal.sqlite");
    let options = NodeOptions::default()
        .journal(format!("sqlite:{}", path.display()))
        .setting("persistence.backoff.min", "1ms")
        .setting("persistence.backoff.max", "1ms");
    let mut node = NodeProcess::start(options).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    for _ in 0..3 {
        for entity_id in ["damaged", "sound"] {
            let add = command("counter", entity_id, &json!({"add": 1}));
            client.send(add).await.unwrap();
        }
    }
    node.terminate().await.unwrap();
    let mut journal = open_sqlite(&path).await;
    let event = "FROM events WHERE persistence_id = 'counter|damaged' AND sequence_nr = 2";
    let row = journal
        .fetch_one(format!("SELECT payload {event}").as_str())
        .await;
    let good: Vec<u8> = row.unwrap().get(0);
    set_payload(&mut journal, b"\xff{").await;
    journal.close().await.unwrap();

    node.restart().await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let get = |entity_id| command("counter", entity_id, &json!("get"));
    let failure = client.send(get("damaged")).await.unwrap_err();
    assert_eq!(failure.reason, "RECOVERY_FAILED");
    assert_eq!(failure.applied, "no");
    for word in ["counter|damaged", "2", "added"] {
        assert!(
            failure.message.contains(word),
            "{word:?} is missing in {failure:?}"
        );
    }
    assert_eq!(client.send(get("sound")).await.unwrap().sequence_nr, 3);

    node.terminate().await.unwrap();
    let mut journal = open_sqlite(&path).await;
    set_payload(&mut journal, &good).await;
    journal.close().await.unwrap();
    node.restart().await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let (state, sequence_nr) = client.state("counter", "damaged").await.unwrap();
    assert_eq!((state, sequence_nr), (json!({"value": 3}), 3));
}

async fn open_sqlite(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path);
    options.create_if_missing(true).connect().await.unwrap()
}

async fn set_payload(journal: &mut SqliteConnection, payload: &[u8]) {
    let update = "UPDATE events SET payload = ? \
                  WHERE persistence_id = 'counter|damaged' AND sequence_nr = 2";
    let updated = sqlx::query(update).bind(payload).execute(journal);
    assert_eq!(updated.await.unwrap().rows_affected(), 1);
}
