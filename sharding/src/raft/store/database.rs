//! The tables of a raft store in redb, and how a batch of changes is committed.
//!
//! All values are postcard. Types that are stored may get new variants and fields
//! only at their end; whatever else changes raises [`FORMAT`].

use std::path::{Path, PathBuf};

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition,
    WriteTransaction,
};
use serde::de::DeserializeOwned;

use super::{Image, RaftStoreError, StoreIdentity, encode};

/// Of the tables and their values.
pub(super) const FORMAT: u32 = 2;

/// Everything is kept in memory anyway.
const CACHE_BYTES: usize = 1024 * 1024;

/// Values of which there is one.
const SINGLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("single");
/// Entries by index.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

const FORMAT_KEY: &str = "format";
const IDENTITY_KEY: &str = "identity";
const VOTE_KEY: &str = "vote";
const COMMITTED_KEY: &str = "committed";
const PURGED_KEY: &str = "purged";
const SNAPSHOT_KEY: &str = "snapshot";

/// One change of a store, encoded.
pub(super) enum Change {
    Vote(Vec<u8>),
    Committed(Vec<u8>),
    Append(Vec<(u64, Vec<u8>)>),
    Truncate { from: u64 },
    Purge { up_to: u64, marker: Vec<u8> },
    Snapshot(Vec<u8>),
}

impl Change {
    /// Whether anybody relies on it after a crash.
    fn must_survive(&self) -> bool {
        !matches!(self, Self::Committed(_))
    }
}

/// An open redb file.
#[derive(Debug)]
pub(super) struct StoreFile {
    database: Database,
}

impl StoreFile {
    pub(super) fn create(
        path: &Path,
        identity: StoreIdentity,
    ) -> Result<(Self, Image), RaftStoreError> {
        let failed = failed("make", path);
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|error| failed(error.into()))?;
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| failed(error.into()))?;
        let database = builder()
            .create_file(file)
            .map_err(|error| failed(error.into()))?;
        let made = Self::prepare(database, path, identity)?;
        // The name is durable only with the folder.
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failed(error.into()))?;
        Ok(made)
    }

    pub(super) fn open(
        path: &Path,
        identity: StoreIdentity,
    ) -> Result<(Self, Image), RaftStoreError> {
        let database = builder()
            .open(path)
            .map_err(|error| failed("open", path)(error.into()))?;
        Self::prepare(database, path, identity)
    }

    pub(super) fn over(
        backend: impl StorageBackend,
        path: &Path,
        identity: StoreIdentity,
    ) -> Result<(Self, Image), RaftStoreError> {
        let database = builder()
            .create_with_backend(backend)
            .map_err(|error| failed("open", path)(error.into()))?;
        Self::prepare(database, path, identity)
    }

    /// Checks whose file it is, or makes it this node's if it is new, and reads it.
    fn prepare(
        database: Database,
        path: &Path,
        identity: StoreIdentity,
    ) -> Result<(Self, Image), RaftStoreError> {
        let file = Self { database };
        let begun = file.mark(identity).map_err(|error| match error {
            MarkError::Redb(error) => failed("prepare", path)(*error),
            MarkError::Format(found) => RaftStoreError::Format {
                path: path.to_owned(),
                found,
                ours: FORMAT,
            },
            MarkError::Foreign(found) => RaftStoreError::Foreign {
                path: path.to_owned(),
                found,
                expected: identity,
            },
            MarkError::Damaged(what) => damaged(path, what),
        });
        begun?;
        let image = file.read(path)?;
        Ok((file, image))
    }

    fn mark(&self, identity: StoreIdentity) -> Result<(), MarkError> {
        let transaction = self.begin(Durability::Immediate)?;
        {
            let mut single = transaction.open_table(SINGLE).map_err(redb)?;
            transaction.open_table(LOG).map_err(redb)?;
            let stored = match single.get(FORMAT_KEY).map_err(redb)? {
                None => None,
                Some(format) => {
                    let format: u32 = decode(format.value()).map_err(MarkError::Damaged)?;
                    if format != FORMAT {
                        return Err(MarkError::Format(format));
                    }
                    let stored = single.get(IDENTITY_KEY).map_err(redb)?;
                    let Some(stored) = stored else {
                        return Err(MarkError::Damaged("it names no node".to_owned()));
                    };
                    Some(decode::<StoreIdentity>(stored.value()).map_err(MarkError::Damaged)?)
                }
            };
            match stored {
                Some(found) if found != identity => return Err(MarkError::Foreign(found)),
                Some(_) => return Ok(()),
                None => {}
            }
            let own = |error: std::io::Error| MarkError::Damaged(error.to_string());
            put(&mut single, FORMAT_KEY, &encode(&FORMAT).map_err(own)?)?;
            put(&mut single, IDENTITY_KEY, &encode(&identity).map_err(own)?)?;
        }
        transaction.commit().map_err(redb)?;
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Image, RaftStoreError> {
        let failed = failed("read", path);
        let transaction = self
            .database
            .begin_read()
            .map_err(|error| failed(error.into()))?;
        let single = transaction
            .open_table(SINGLE)
            .map_err(|error| failed(error.into()))?;
        let log = transaction
            .open_table(LOG)
            .map_err(|error| failed(error.into()))?;
        let get = |key| single.get(key).map_err(|error| failed(error.into()));
        let mut image = Image::default();
        if let Some(vote) = get(VOTE_KEY)? {
            image.vote = Some(decode(vote.value()).map_err(|what| damaged(path, what))?);
        }
        if let Some(committed) = get(COMMITTED_KEY)? {
            image.committed = decode(committed.value()).map_err(|what| damaged(path, what))?;
        }
        if let Some(purged) = get(PURGED_KEY)? {
            image.purged = decode(purged.value()).map_err(|what| damaged(path, what))?;
        }
        if let Some(snapshot) = get(SNAPSHOT_KEY)? {
            image.snapshot = Some(decode(snapshot.value()).map_err(|what| damaged(path, what))?);
        }
        let mut next = image.purged.map(|purged| purged.index + 1);
        let entries = log.iter().map_err(|error| failed(error.into()))?;
        for stored in entries {
            let (index, bytes) = stored.map_err(|error| failed(error.into()))?;
            let (index, bytes) = (index.value(), bytes.value());
            if next.is_some_and(|next| next != index) {
                let what = format!("its log goes on with entry {index}, after a gap");
                return Err(damaged(path, what));
            }
            next = Some(index + 1);
            let entry = decode(bytes).map_err(|what| damaged(path, what))?;
            image.entries.insert(index, (entry, bytes.len()));
        }
        Ok(image)
    }

    /// Commits changes in their order, all or none. When this returns they are on
    /// disk, unless nobody relies on any of them.
    pub(super) fn commit(&self, changes: &[Change]) -> Result<(), Box<redb::Error>> {
        let durability = if changes.iter().any(Change::must_survive) {
            Durability::Immediate
        } else {
            Durability::None
        };
        let transaction = self.begin(durability)?;
        {
            let mut single = transaction.open_table(SINGLE).map_err(redb)?;
            let mut log = transaction.open_table(LOG).map_err(redb)?;
            for change in changes {
                match change {
                    Change::Vote(vote) => put(&mut single, VOTE_KEY, vote)?,
                    Change::Committed(committed) => put(&mut single, COMMITTED_KEY, committed)?,
                    Change::Snapshot(snapshot) => put(&mut single, SNAPSHOT_KEY, snapshot)?,
                    Change::Append(entries) => {
                        for (index, entry) in entries {
                            log.insert(index, entry.as_slice()).map_err(redb)?;
                        }
                    }
                    Change::Truncate { from } => {
                        log.retain_in(*from.., |_, _| false).map_err(redb)?;
                    }
                    Change::Purge { up_to, marker } => {
                        put(&mut single, PURGED_KEY, marker)?;
                        log.retain_in(..=*up_to, |_, _| false).map_err(redb)?;
                    }
                }
            }
        }
        transaction.commit().map_err(redb)
    }

    fn begin(&self, durability: Durability) -> Result<WriteTransaction, Box<redb::Error>> {
        let mut transaction = self.database.begin_write().map_err(redb)?;
        transaction.set_durability(durability).map_err(redb)?;
        Ok(transaction)
    }
}

/// Why a file is not made this node's.
enum MarkError {
    Redb(Box<redb::Error>),
    Format(u32),
    Foreign(StoreIdentity),
    Damaged(String),
}

impl From<Box<redb::Error>> for MarkError {
    fn from(error: Box<redb::Error>) -> Self {
        Self::Redb(error)
    }
}

fn put(
    single: &mut Table<'_, &'static str, &'static [u8]>,
    key: &'static str,
    value: &[u8],
) -> Result<(), Box<redb::Error>> {
    single.insert(key, value).map_err(redb)?;
    Ok(())
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn redb(error: impl Into<redb::Error>) -> Box<redb::Error> {
    Box::new(error.into())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|error| error.to_string())
}

fn damaged(path: &Path, what: String) -> RaftStoreError {
    RaftStoreError::Damaged {
        path: path.to_owned(),
        what,
    }
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(redb::Error) -> RaftStoreError {
    let path: PathBuf = path.to_owned();
    move |source| RaftStoreError::Io {
        doing,
        path: path.clone(),
        source: Box::new(source),
    }
}
