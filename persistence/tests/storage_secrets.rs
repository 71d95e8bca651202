//! Passwords are never shown. A process of its own: it listens to everything that is
//! logged in it.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};

use perennial_persistence::storage::{Storage, StorageError, StorageOptions, StorageUrl, migrate};
use perennial_persistence::testing::postgres_server::{PostgresServer, PostgresSetup};
use tracing_subscriber::fmt::MakeWriter;

use crate::node::{Node, assert_stored};

#[allow(dead_code)]
#[path = "postgres/node.rs"]
mod node;

const PASSWORD: &str = "geheim-4711";

async fn open(url: &StorageUrl) -> Result<Storage, StorageError> {
    Storage::open(url, &StorageOptions::default()).await
}

/// All of an error that anybody could print.
fn everything(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    text
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

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

/// Everything is logged, down to the driver's traces, while things go well and badly:
/// the password is in none of it, nor in what the server shows of its connections.
#[tokio::test]
async fn the_password_is_never_shown() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let server = PostgresServer::start_with(PostgresSetup {
        password: Some(PASSWORD),
        ..PostgresSetup::default()
    });
    let right = StorageUrl::parse(&server.url_text()).unwrap();
    migrate(&right).await.unwrap();
    let node = Node::start_with(&right, &StorageOptions::default()).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);

    let mut shown = format!("{right} {right:?}");
    let wrong = server.url_text().replace("perennial:", "nobody:");
    let wrong = StorageUrl::parse(&wrong).unwrap();
    for error in [open(&wrong).await.err(), migrate(&wrong).await.err()] {
        shown += &everything(&error.unwrap());
    }
    server.stop_immediately();
    for error in [open(&right).await.err(), migrate(&right).await.err()] {
        shown += &everything(&error.unwrap());
    }
    for text in [
        format!("postgres://ada:{PASSWORD}@db:port/shop"),
        format!("postgres://ada@db/shop?passwrod={PASSWORD}"),
        format!("postgres://ada:{PASSWORD}@db/shop?sslmode=always"),
        format!("postgres:ada:{PASSWORD}@db"),
        format!("ada:{PASSWORD}@db"),
    ] {
        shown += &everything(&StorageUrl::parse(&text).unwrap_err());
    }
    assert!(!shown.contains(PASSWORD), "{shown}");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("sqlx"), "the driver's log should be there");
    let line = log.lines().find(|line| line.contains(PASSWORD));
    assert_eq!(line, None);
}
