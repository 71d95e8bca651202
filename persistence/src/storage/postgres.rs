//! A Postgres database: opening it, and its schema `perennial`.
//!
//! The schema is ours if it has our table `migrations`; one without it is somebody
//! else's and is not touched. Next: `storage/postgres/connections.rs`, what the
//! journal, snapshot store and registry share.

pub(crate) mod connections;
pub(crate) mod lane;

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor};

use crate::durable_state_store::postgres::PostgresDurableStateStore;
use crate::entity_deletion::postgres::PostgresEntityDeletion;
use crate::global_order::postgres::PostgresEventsInOrder;
use crate::journal::postgres::PostgresJournal;
use crate::recovery_reader::postgres::PostgresRecoveryReader;
use crate::registry::postgres::PostgresRegistry;
use crate::snapshot_store::postgres::PostgresSnapshotStore;
use crate::storage::postgres::connections::Connections;
use crate::storage::url::PostgresAddress;
use crate::storage::{SchemaStep, Storage, StorageError, StorageOptions, check_version, latest};

const SCHEMA: &[SchemaStep] = &[
    SchemaStep {
        name: "0001_schema",
        sql: include_str!("../../migrations/postgres/0001_schema.sql"),
    },
    SchemaStep {
        name: "0002_cluster",
        sql: include_str!("../../migrations/postgres/0002_cluster.sql"),
    },
];

/// The advisory lock that migrations take turns at: "perennia" in ASCII.
const MIGRATION_LOCK: i64 = 0x7065_7265_6E6E_6961;

/// Opens a database whose schema is up to date.
pub(crate) async fn open(
    address: &PostgresAddress,
    options: &StorageOptions,
) -> Result<Storage, StorageError> {
    let connection = connect_to_current(address).await?;
    // Nothing depends on a polite good-bye.
    let _ = connection.close().await;
    let connections = Arc::new(Connections::new(address, options));
    Ok(Storage {
        journal: Arc::new(PostgresJournal::new(connections.clone())),
        snapshots: Arc::new(PostgresSnapshotStore::new(connections.clone())),
        states: Arc::new(PostgresDurableStateStore::new(connections.clone())),
        recoveries: Arc::new(PostgresRecoveryReader::new(connections.clone())),
        registry: Arc::new(PostgresRegistry::new(connections.clone())),
        deletion: Arc::new(PostgresEntityDeletion::new(connections.clone())),
        order: Arc::new(PostgresEventsInOrder::new(connections)),
    })
}

/// A connection to a database whose schema is up to date.
pub(crate) async fn connect_to_current(
    address: &PostgresAddress,
) -> Result<PgConnection, StorageError> {
    let mut connection = connect(address).await?;
    let found = find_version(&mut connection, address).await?;
    check_version(address.to_string(), found, SCHEMA)?;
    Ok(connection)
}

/// Makes the schema, or updates it, in one transaction.
pub(crate) async fn migrate(address: &PostgresAddress) -> Result<(), StorageError> {
    let failed = |source| failed(address, "migrating the schema", source);
    let mut connection = connect(address).await?;
    let mut transaction = connection.begin().await.map_err(failed)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    let found = find_version(&mut transaction, address).await?;
    if found > latest(SCHEMA) {
        return check_version(address.to_string(), found, SCHEMA);
    }
    apply_steps(&mut transaction, found).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

async fn apply_steps(connection: &mut PgConnection, found: i64) -> Result<(), sqlx::Error> {
    if found == 0 {
        connection
            .execute(
                "CREATE SCHEMA perennial; \
                 CREATE TABLE perennial.migrations ( \
                     version bigint PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await?;
    }
    for (version, step) in (1..)
        .zip(SCHEMA)
        .skip_while(|(version, _)| *version <= found)
    {
        tracing::info!(step = step.name, "migrating the journal");
        connection.execute(step.sql).await?;
        sqlx::query("INSERT INTO perennial.migrations (version, name) VALUES ($1, $2)")
            .bind(version)
            .bind(step.name)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The schema version, 0 when there is no schema.
async fn find_version(
    connection: &mut PgConnection,
    address: &PostgresAddress,
) -> Result<i64, StorageError> {
    let failed = |source| failed(address, "reading the schema version", source);
    let (schema, ours): (bool, bool) = sqlx::query_as(
        "SELECT to_regnamespace('perennial') IS NOT NULL, to_regclass('perennial.migrations') IS NOT NULL",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    match (schema, ours) {
        (false, _) => Ok(0),
        (true, false) => Err(StorageError::NotOurs {
            url: address.to_string(),
            reason: "its schema \"perennial\" has no table \"migrations\", so something else made it; use \
                     another database"
                .into(),
        }),
        (true, true) => sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM perennial.migrations")
            .fetch_one(connection)
            .await
            .map_err(failed),
    }
}

async fn connect(address: &PostgresAddress) -> Result<PgConnection, StorageError> {
    let options: &PgConnectOptions = &address.0;
    let connected = options.connect().await;
    connected.map_err(|source| match &source {
        // How the TLS library reports what it does not accept.
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            let url = address.to_string();
            StorageError::Untrusted { url, source }
        }
        _ => failed(address, "connecting", source),
    })
}

pub(crate) fn failed(
    address: &PostgresAddress,
    doing: &'static str,
    source: sqlx::Error,
) -> StorageError {
    StorageError::Database {
        url: address.to_string(),
        doing,
        source,
    }
}
