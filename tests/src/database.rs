//! The Postgres of a test: where its server is, and how to get there in other ways.

use std::net::SocketAddr;

use anyhow::{Context, Result};
pub use perennial_persistence::testing::postgres_server::{
    PostgresServer, PostgresSetup, TestDatabase,
};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::net::lookup_host;

use crate::process_usage;

/// A connection beside those of the node.
///
/// # Errors
/// When the server refuses.
pub async fn connect(database: &TestDatabase) -> Result<PgConnection> {
    Ok(database.connect_options().connect().await?)
}

/// Where the server listens.
///
/// # Errors
/// When its name cannot be resolved.
pub async fn server_address(database: &TestDatabase) -> Result<SocketAddr> {
    let options = database.connect_options();
    let mut found = lookup_host((options.get_host(), options.get_port())).await?;
    found.next().context("the server's name has no address")
}

/// The URL of the same database by way of another address.
#[must_use]
pub fn url_through(database: &TestDatabase, address: SocketAddr) -> String {
    let options = database.connect_options();
    let options = options.host(&address.ip().to_string()).port(address.port());
    options.to_url_lossy().to_string()
}

/// The same URL by way of another address.
///
/// # Errors
/// When it is no URL of Postgres.
pub fn url_by_way_of(url: &str, address: SocketAddr) -> Result<String> {
    let options: PgConnectOptions = url.parse()?;
    let options = options.host(&address.ip().to_string()).port(address.port());
    Ok(options.to_url_lossy().to_string())
}

/// The process that started all others of the server; `None` when it is not on
/// this machine.
///
/// # Errors
/// When the server does not answer.
pub async fn server_pid(database: &TestDatabase) -> Result<Option<u32>> {
    let mut connection = connect(database).await?;
    let asked = sqlx::query_scalar("SELECT pg_backend_pid()");
    let backend: i32 = asked.fetch_one(&mut connection).await?;
    let backend = u32::try_from(backend)?;
    let name = std::fs::read_to_string(format!("/proc/{backend}/comm")).unwrap_or_default();
    let here = name.trim() == "postgres";
    let parent = here.then(|| process_usage::parent(backend)).transpose();
    connection.close().await?;
    parent
}
