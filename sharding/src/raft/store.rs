//! What a node must not forget: its vote, its log, and the latest snapshot.
//!
//! One redb file per node and generation, named in it. A write counts only when it
//! is on disk (`Durability::Immediate`, one fsync for all that waited meanwhile);
//! what was answered before that could be taken back by a power failure, and raft
//! would elect two leaders or lose a commit. All of it is kept in memory as well,
//! for it is small: the log is cut behind each snapshot. So reading never waits,
//! and an entry can be read as soon as it has been handed over.
//!
//! Next: `store/database.rs`, the tables; `store/writer.rs`, the order of writes;
//! `log_store.rs` and `state_machine.rs`, which put openraft's names on this.

mod database;
mod writer;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fault_test;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod kill_test;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod store_test;

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_persistence::registry::NodeNr;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::database::{Change, StoreFile};
use self::writer::{Done, Writer};
use super::types::{Entry, LogId, SnapshotMeta, Vote};

/// Bytes of entries that are read at once; the first is read whatever its size.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// Whose store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// Of the database's cluster row.
    pub cluster_id: Uuid,
    /// Of the raft group: a new generation starts with an empty store.
    pub generation: u32,
    /// The member. A number whose store was lost is never used again: it could
    /// vote twice.
    pub node: NodeNr,
}

/// Why a store cannot be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum RaftStoreError {
    /// The file cannot be read or written.
    #[error("cannot {doing} the raft store {}: {source}", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What redb said.
        #[source]
        source: Box<redb::Error>,
    },
    /// It is the store of another node, cluster or generation.
    #[error(
        "the raft store {} belongs to node {}, generation {} of cluster {}, and this is node {}, generation {} of \
         cluster {}: put the right file back, or start with an empty data directory, as a new node",
        .path.display(), .found.node.0, .found.generation, .found.cluster_id,
        .expected.node.0, .expected.generation, .expected.cluster_id
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: StoreIdentity,
        /// This node.
        expected: StoreIdentity,
    },
    /// A newer program wrote it.
    #[error(
        "the raft store {} has format {found}, and this program writes format {ours}: use the program that wrote it, \
         or a later one", .path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u32,
        /// This program's.
        ours: u32,
    },
    /// Something in it is not what this program writes.
    #[error(
        "the raft store {} is damaged, {what}: start with an empty data directory, as a new node; the others bring \
         it up to date", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// A node's store of raft's votes, log and snapshot; clones share it.
#[derive(Clone)]
pub struct RaftStore {
    identity: StoreIdentity,
    image: Arc<Mutex<Image>>,
    writer: Arc<Writer>,
}

impl std::fmt::Debug for RaftStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftStore")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What is in the store, or on its way there.
#[derive(Default)]
pub(crate) struct Image {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    /// With their length when stored.
    pub(crate) entries: BTreeMap<u64, (Entry, usize)>,
    pub(crate) snapshot: Option<StoredSnapshot>,
}

/// The state of the cluster at an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredSnapshot {
    pub(crate) meta: SnapshotMeta,
    /// As it is sent to other nodes.
    pub(crate) data: Vec<u8>,
}

impl RaftStore {
    /// Makes a new store in a file. When this returns, the file and its name are on
    /// disk.
    ///
    /// # Errors
    /// [`RaftStoreError::Io`], also when the file exists.
    pub fn create(path: &Path, identity: StoreIdentity) -> Result<Self, RaftStoreError> {
        let (file, image) = StoreFile::create(path, identity)?;
        Ok(Self::over(identity, image, Writer::thread(file)))
    }

    /// Opens the store of a node again.
    ///
    /// # Errors
    /// [`RaftStoreError`]; the one thing to never do about it is to replace the
    /// file by an empty one under the same node number.
    pub fn open(path: &Path, identity: StoreIdentity) -> Result<Self, RaftStoreError> {
        let (file, image) = StoreFile::open(path, identity)?;
        Ok(Self::over(identity, image, Writer::thread(file)))
    }

    /// A store in memory, for tests and nodes whose journal is in memory too. It
    /// writes within the calls that ask for it, so runs can be repeated.
    ///
    /// # Errors
    /// [`RaftStoreError::Io`] when memory is short.
    pub fn in_memory(identity: StoreIdentity) -> Result<Self, RaftStoreError> {
        let path = Path::new("(in memory)");
        let (file, image) = StoreFile::over(InMemoryBackend::new(), path, identity)?;
        Ok(Self::over(identity, image, Writer::inline(file)))
    }

    /// A store over a backend of the caller's, made or opened again. It is written by a
    /// task of the present runtime, each time after a pause that `latency` says: what
    /// waits meanwhile is lost when the runtime ends, as in a power failure. For
    /// simulation, where a disk takes its time and runs can be repeated.
    ///
    /// # Errors
    /// As [`RaftStore::open`].
    pub fn over_backend(
        backend: impl StorageBackend,
        identity: StoreIdentity,
        latency: impl FnMut() -> Duration + Send + 'static,
    ) -> Result<Self, RaftStoreError> {
        let (file, image) = StoreFile::over(backend, Path::new("(backend)"), identity)?;
        Ok(Self::over(identity, image, Writer::task(file, latency)))
    }

    fn over(identity: StoreIdentity, image: Image, writer: Writer) -> Self {
        Self {
            identity,
            image: Arc::new(Mutex::new(image)),
            writer: Arc::new(writer),
        }
    }

    /// Whose store it is.
    #[must_use]
    pub fn identity(&self) -> StoreIdentity {
        self.identity
    }

    /// Whether its node has ever voted or stored anything: an empty store may take
    /// part in forming a group, another one belongs to a group.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        let image = self.image();
        image.vote.is_some()
            || image.purged.is_some()
            || !image.entries.is_empty()
            || image.snapshot.is_some()
    }

    pub(crate) fn image(&self) -> MutexGuard<'_, Image> {
        // Each change of the image is a single statement or two that cannot panic.
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the vote is on disk.
    pub(crate) async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        self.image().vote = Some(vote);
        self.write_and_wait(Change::Vote(encode(&vote)?)).await
    }

    /// Notes what is committed; lost in a crash, it is learnt anew.
    pub(crate) async fn save_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        self.image().committed = committed;
        let change = Change::Committed(encode(&committed)?);
        self.writer.write(change, Box::new(|_| ())).await
    }

    /// Entries can be read when this returns; `done` is told when they are on disk.
    pub(crate) async fn append(&self, entries: Vec<Entry>, done: Done) -> io::Result<()> {
        let mut encoded = Vec::with_capacity(entries.len());
        for entry in &entries {
            encoded.push((entry.log_id.index, encode(entry)?));
        }
        {
            let mut image = self.image();
            for (entry, (index, bytes)) in entries.into_iter().zip(&encoded) {
                image.entries.insert(*index, (entry, bytes.len()));
            }
        }
        self.writer.write(Change::Append(encoded), done).await
    }

    /// Removes entries from an index on, inclusive; returns when that is on disk.
    pub(crate) async fn truncate(&self, from: u64) -> io::Result<()> {
        self.image().entries.split_off(&from);
        self.write_and_wait(Change::Truncate { from }).await
    }

    /// Removes entries up to one, inclusive; returns when that is on disk.
    pub(crate) async fn purge(&self, up_to: LogId) -> io::Result<()> {
        {
            let mut image = self.image();
            image.purged = image.purged.max(Some(up_to));
            image.entries = image.entries.split_off(&(up_to.index + 1));
        }
        let change = Change::Purge {
            up_to: up_to.index,
            marker: encode(&Some(up_to))?,
        };
        self.write_and_wait(change).await
    }

    /// Returns when the snapshot is on disk. One older than that which is there is
    /// ignored: it was still being built when a later one was received.
    pub(crate) async fn save_snapshot(&self, snapshot: StoredSnapshot) -> io::Result<()> {
        let encoded = encode(&snapshot)?;
        {
            let mut image = self.image();
            let stored = image.snapshot.as_ref();
            if stored.is_some_and(|stored| stored.meta.last_log_id > snapshot.meta.last_log_id) {
                return Ok(());
            }
            image.snapshot = Some(snapshot);
        }
        self.write_and_wait(Change::Snapshot(encoded)).await
    }

    /// Entries of a range, as many as fit in one message, but at least one.
    pub(crate) fn entries(&self, range: impl RangeBounds<u64>) -> Vec<Entry> {
        let image = self.image();
        let mut bytes = 0;
        let mut found = Vec::new();
        for (entry, length) in image.entries.range(range).map(|(_, stored)| stored) {
            bytes += length;
            if bytes > READ_BYTES_MAX && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        found
    }

    /// All entries of a range.
    pub(crate) fn all_entries(&self, range: impl RangeBounds<u64>) -> Vec<Entry> {
        let image = self.image();
        let stored = image.entries.range(range);
        stored.map(|(_, (entry, _))| entry.clone()).collect()
    }

    /// Stops writing, as after a kill: what is queued is written, then the file is
    /// closed. Returns when another process could open it.
    pub async fn close(&self) {
        self.writer.close().await;
    }

    async fn write_and_wait(&self, change: Change) -> io::Result<()> {
        let (done, written) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| {
            // Nobody waits any more when the node stops.
            let _ = done.send(result);
        });
        self.writer.write(change, done).await?;
        match written.await {
            Ok(result) => result,
            Err(_) => Err(io::Error::other("the raft store's writer has ended")),
        }
    }
}

fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}
