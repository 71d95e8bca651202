//! A journal, a snapshot store, a store of durable states and a registry that belong
//! together.
//!
//! [`Storage::open`] makes them for a [`StorageUrl`] and checks that the database
//! is ours and has the schema this program knows; [`migrate`] brings it there.
//! A database that is not ours is never touched. What the backends do is in
//! `journal/`, `snapshot_store/` and `registry/`; what they share, in `storage/`.

mod columns;
pub(crate) mod listing;
pub(crate) mod manifests;
pub mod memory;
pub(crate) mod owned;
pub(crate) mod postgres;
pub(crate) mod sqlite;
pub mod url;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::durable_state_store::DurableStateStore;
use crate::entity_deletion::EntityDeletion;
use crate::global_order::EventsInOrder;
use crate::journal::Journal;
use crate::recovery_reader::RecoveryReader;
use crate::recovery_reader::composed::ComposedRecoveryReader;
use crate::registry::Registry;
use crate::snapshot_store::SnapshotStore;
use crate::storage::memory::MemoryStorage;
pub use crate::storage::url::{InvalidStorageUrl, StorageUrl};

pub(crate) use columns::*;

/// A journal, a snapshot store, a store of durable states and a registry over the same
/// database.
///
/// Cheap to clone; clones share connections. A process should open a database
/// once: two storages over one SQLite file take turns at its write lock.
#[derive(Clone)]
pub struct Storage {
    /// Where events live.
    pub journal: Arc<dyn Journal>,
    /// Where snapshots live.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// Where durable states live.
    pub states: Arc<dyn DurableStateStore>,
    /// Reads both for many entities at once.
    pub recoveries: Arc<dyn RecoveryReader>,
    /// The book of nodes and sessions.
    pub registry: Arc<dyn Registry>,
    /// All events, in one order.
    pub order: Arc<dyn EventsInOrder>,
    /// Deletes entities for good.
    pub deletion: Arc<dyn EntityDeletion>,
}

/// Connections and times. The defaults are those of the settings table in the
/// README.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// Batches that can be appended at once, each on its own connection; at least
    /// 1. Postgres and memory only: an SQLite file has one writer.
    pub lanes: usize,
    /// Connections for everything that reads; at least 1.
    pub recovery_connections: usize,
    /// How long the journal tries to find out what became of an append.
    pub append_timeout: Duration,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long the database may work on one statement.
    pub statement_timeout: Duration,
    /// How long the ids of commands are remembered after their events were deleted.
    pub command_id_horizon: Duration,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            lanes: 2,
            recovery_connections: 8,
            append_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            command_id_horizon: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Why a storage cannot be opened or migrated.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The schema is missing or older than this program.
    #[error(
        "{url} has schema version {found} (0 means none), this program needs {needed}: run `perennial journal migrate`"
    )]
    SchemaOutdated {
        /// Where, without a password.
        url: String,
        /// In the database; 0 when there is none.
        found: i64,
        /// This program's.
        needed: i64,
    },
    /// The schema is newer than this program.
    #[error(
        "{url} has schema version {found}, this program knows versions up to {known}: use the newer program that made it"
    )]
    SchemaTooNew {
        /// Where, without a password.
        url: String,
        /// In the database.
        found: i64,
        /// This program's.
        known: i64,
    },
    /// The database, schema or file was made by something else. Nothing is changed.
    #[error("{url} is not a Perennial journal and was not touched: {reason}")]
    NotOurs {
        /// Where, without a password.
        url: String,
        /// What was found.
        reason: String,
    },
    /// The database cannot be reached or did not do what it was asked.
    #[error("{url}: {doing} failed: {source}")]
    Database {
        /// Where, without a password.
        url: String,
        /// What was being done.
        doing: &'static str,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// The server's certificate does not prove that it is the one the URL names.
    #[error(
        "{url}: the server's certificate is not trusted: {source}; let sslrootcert= in the URL name the file with \
         its authority's certificate, and connect by a name or address it is made out to"
    )]
    Untrusted {
        /// Where, without a password.
        url: String,
        /// What is wrong with it.
        #[source]
        source: sqlx::Error,
    },
    /// A file cannot be read or made.
    #[error("{url}: {doing} failed: {source}")]
    File {
        /// Where.
        url: String,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl StorageError {
    /// Whether it may pass while one waits: the database does not answer (yet), or has
    /// a schema that is still to be made or brought up to date.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::SchemaOutdated { .. } => true,
            Self::Database { source, .. } => does_not_answer(source),
            _ => false,
        }
    }
}

/// Whether a server is not there, starts, stops, or has no connection left.
fn does_not_answer(error: &sqlx::Error) -> bool {
    match error {
        // The latter when a proxy takes the connection and has no server to pass it to.
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.starts_with("57P0") || code.starts_with("53")),
        _ => false,
    }
}

impl Storage {
    /// A storage of other backends than those of this crate. Recoveries read the
    /// journal and the snapshot store one by one; a backend that can read many
    /// entities at once brings a [`RecoveryReader`] of its own.
    #[must_use]
    pub fn composed(
        journal: Arc<dyn Journal>,
        snapshots: Arc<dyn SnapshotStore>,
        states: Arc<dyn DurableStateStore>,
        registry: Arc<dyn Registry>,
        order: Arc<dyn EventsInOrder>,
        deletion: Arc<dyn EntityDeletion>,
    ) -> Self {
        let recoveries = ComposedRecoveryReader::new(journal.clone(), snapshots.clone());
        Self {
            journal,
            snapshots,
            states,
            recoveries: Arc::new(recoveries),
            registry,
            order,
            deletion,
        }
    }

    /// Opens a storage whose schema is up to date. One in memory begins empty and
    /// ends with its last clone.
    ///
    /// # Errors
    /// [`StorageError::SchemaOutdated`] until [`migrate`] was run. None of the
    /// errors leaves anything changed.
    pub async fn open(url: &StorageUrl, options: &StorageOptions) -> Result<Self, StorageError> {
        match url {
            StorageUrl::Memory => Ok(MemoryStorage::with_clock(options.lanes, SystemTime::now)
                .with_command_id_horizon(options.command_id_horizon)
                .storage()),
            StorageUrl::Sqlite(path) => sqlite::open(path, options).await,
            StorageUrl::Postgres(address) => postgres::open(address, options).await,
        }
    }
}

/// Makes or updates the schema; does nothing when it is up to date. Several
/// processes may run it at once: they take turns.
///
/// # Errors
/// [`StorageError::NotOurs`] and [`StorageError::SchemaTooNew`] change nothing; a
/// failing step is rolled back with all others.
pub async fn migrate(url: &StorageUrl) -> Result<(), StorageError> {
    match url {
        StorageUrl::Memory => Ok(()),
        StorageUrl::Sqlite(path) => sqlite::migrate(path).await,
        StorageUrl::Postgres(address) => postgres::migrate(address).await,
    }
}

/// One step of a schema: the version it leads to is its place in the list,
/// counted from 1. Steps are never changed once released, only added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SchemaStep {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// Compares the version found with the number of steps known.
pub(crate) fn check_version(
    url: String,
    found: i64,
    steps: &[SchemaStep],
) -> Result<(), StorageError> {
    let known = latest(steps);
    match found.cmp(&known) {
        std::cmp::Ordering::Less => Err(StorageError::SchemaOutdated {
            url,
            found,
            needed: known,
        }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StorageError::SchemaTooNew { url, found, known }),
    }
}

pub(crate) fn latest(steps: &[SchemaStep]) -> i64 {
    i64::try_from(steps.len()).unwrap_or(i64::MAX)
}
