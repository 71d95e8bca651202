//! Where a measurement keeps its events, in a place of its own.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;
use perennial_persistence::storage::migrate;
use perennial_persistence::storage::url::StorageUrl;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use crate::database::{self, PostgresServer, PostgresSetup, TestDatabase};

/// Which journal is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JournalKind {
    /// In memory.
    Memory,
    /// An SQLite file in the temporary directory.
    Sqlite,
    /// Postgres: that of `PERENNIAL_TEST_DATABASE_URL`, or a private server.
    Postgres,
}

/// A journal of the measurement's own, and another of the same kind for its floor.
pub(super) struct Place {
    kind: JournalKind,
    folder: TempDir,
    /// The journal's database and the floor's.
    databases: Option<[TestDatabase; 2]>,
    postgres: Option<u32>,
    // After the databases, so that it is stopped after they were removed.
    _server: Option<PostgresServer>,
}

/// How the floor reaches the tables, without the journal.
pub(super) enum BareTables {
    Postgres(Box<PgConnectOptions>),
    Sqlite(PathBuf),
}

impl Place {
    /// On the server that the environment names, or a private one that waits for
    /// the disk; the one that tests share does not.
    pub(super) async fn make(kind: JournalKind) -> Result<Self> {
        let mut server = None;
        let mut databases = None;
        let mut postgres = None;
        if kind == JournalKind::Postgres {
            let both = if std::env::var_os("PERENNIAL_TEST_DATABASE_URL").is_some() {
                [TestDatabase::new().await, TestDatabase::new().await]
            } else {
                let server = server.insert(PostgresServer::start_with(PostgresSetup {
                    durable: true,
                    ..PostgresSetup::default()
                }));
                let url = server.url_text();
                [TestDatabase::on(&url).await, TestDatabase::on(&url).await]
            };
            postgres = database::server_pid(&both[0]).await?;
            databases = Some(both);
        }
        Ok(Self {
            kind,
            folder: TempDir::with_prefix("perennial-bench-")?,
            databases,
            postgres,
            _server: server,
        })
    }

    /// The journal, for flags and settings.
    pub(super) fn url(&self) -> String {
        self.url_of(0)
    }

    /// The process that started all others of Postgres, if it is on this machine.
    pub(super) fn postgres(&self) -> Option<u32> {
        self.postgres
    }

    /// The tables that the journal keeps its events in.
    pub(super) fn tables(&self) -> Result<BareTables> {
        self.tables_of(0)
    }

    /// Empty tables like those of the journal.
    pub(super) async fn empty_tables(&self) -> Result<BareTables> {
        migrate(&StorageUrl::parse(&self.url_of(1))?).await?;
        self.tables_of(1)
    }

    fn url_of(&self, number: usize) -> String {
        match (self.kind, &self.databases) {
            (JournalKind::Memory, _) => "memory:".to_owned(),
            (_, Some(databases)) => databases[number].url_text(),
            (_, None) => format!("sqlite:{}", self.file(number).display()),
        }
    }

    fn tables_of(&self, number: usize) -> Result<BareTables> {
        match (self.kind, &self.databases) {
            (JournalKind::Memory, _) => bail!("a journal in memory has no tables"),
            (_, Some(databases)) => Ok(BareTables::Postgres(Box::new(
                databases[number].connect_options(),
            ))),
            (_, None) => Ok(BareTables::Sqlite(self.file(number))),
        }
    }

    fn file(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("journal-{number}.sqlite"))
    }
}
