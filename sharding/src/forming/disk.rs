//! What a node keeps: who it is, and the raft store of the current generation.
//!
//! Two kinds: the data directory of the `node` crate, over [`StoreFolder`], and
//! [`MemoryDisk`], for tests and for nodes whose journal is in memory as well.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_persistence::registry::NodeNr;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::raft::store::{RaftStore, RaftStoreError, StoreIdentity};

/// Who the node of a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeIdentity {
    /// Given by the database, never used twice.
    pub node: NodeNr,
    /// The cluster whose database gave it.
    pub cluster_id: Uuid,
    /// The highest number under which the node has tried to start. Written before
    /// each attempt and taken back only if the database refused it, so it is never
    /// less than what the database says, except on a restored disk.
    pub incarnation: u64,
    /// Of the raft store this node uses; 0 before its first. Written after the store
    /// was made and before it is used: a store that is missing was lost.
    #[serde(default)]
    pub store_generation: u32,
}

/// Why a disk cannot say or remember who its node is.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DiskError(pub Box<dyn std::error::Error + Send + Sync>);

/// What a node keeps. One process uses it at a time.
pub trait NodeDisk: Send + Sync + 'static {
    /// Who the node is; `None` on an empty disk.
    ///
    /// # Errors
    /// [`DiskError`], when it cannot be read.
    fn identity(&self) -> Result<Option<NodeIdentity>, DiskError>;

    /// Writes down who the node is. After a crash it is the old or the new one, and
    /// when this returns the new one.
    ///
    /// # Errors
    /// [`DiskError`], when it cannot be written.
    fn set_identity(&self, identity: &NodeIdentity) -> Result<(), DiskError>;

    /// Makes an empty raft store, in the place of one of the same generation.
    ///
    /// # Errors
    /// [`RaftStoreError`].
    fn make_store(&self, identity: StoreIdentity) -> Result<RaftStore, RaftStoreError>;

    /// Opens the raft store of a generation; `None` when it is not there.
    ///
    /// # Errors
    /// [`RaftStoreError`].
    fn open_store(&self, identity: StoreIdentity) -> Result<Option<RaftStore>, RaftStoreError>;

    /// Removes the raft store of a generation, if it is there.
    ///
    /// # Errors
    /// The system's.
    fn remove_store(&self, generation: u32) -> io::Result<()>;
}

/// Raft stores in files, one per generation.
#[derive(Debug, Clone)]
pub struct StoreFolder {
    path: PathBuf,
}

impl StoreFolder {
    /// Stores in this folder, which is made when it is needed.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// See [`NodeDisk::make_store`].
    ///
    /// # Errors
    /// [`RaftStoreError`].
    pub fn make(&self, identity: StoreIdentity) -> Result<RaftStore, RaftStoreError> {
        let path = self.file(identity.generation);
        self.remove(identity.generation)
            .map_err(|source| RaftStoreError::Io {
                doing: "replace",
                path: path.clone(),
                source: Box::new(source.into()),
            })?;
        RaftStore::create(&path, identity)
    }

    /// See [`NodeDisk::open_store`].
    ///
    /// # Errors
    /// [`RaftStoreError`].
    pub fn open(&self, identity: StoreIdentity) -> Result<Option<RaftStore>, RaftStoreError> {
        let path = self.file(identity.generation);
        if !path.exists() {
            return Ok(None);
        }
        RaftStore::open(&path, identity).map(Some)
    }

    /// See [`NodeDisk::remove_store`].
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, generation: u32) -> io::Result<()> {
        match std::fs::remove_file(self.file(generation)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn file(&self, generation: u32) -> PathBuf {
        self.path.join(format!("{generation}.redb"))
    }
}

/// A disk in memory; clones are the same. It outlives the nodes that use it, one
/// after the other.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    contents: Arc<Mutex<Contents>>,
}

#[derive(Debug, Default)]
struct Contents {
    identity: Option<NodeIdentity>,
    stores: Vec<RaftStore>,
}

impl MemoryDisk {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Nothing in here panics between two changes that belong together.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeDisk for MemoryDisk {
    fn identity(&self) -> Result<Option<NodeIdentity>, DiskError> {
        Ok(self.contents().identity)
    }

    fn set_identity(&self, identity: &NodeIdentity) -> Result<(), DiskError> {
        self.contents().identity = Some(*identity);
        Ok(())
    }

    fn make_store(&self, identity: StoreIdentity) -> Result<RaftStore, RaftStoreError> {
        let store = RaftStore::in_memory(identity)?;
        let mut contents = self.contents();
        let same = |store: &RaftStore| store.identity().generation == identity.generation;
        contents.stores.retain(|store| !same(store));
        contents.stores.push(store.clone());
        Ok(store)
    }

    fn open_store(&self, identity: StoreIdentity) -> Result<Option<RaftStore>, RaftStoreError> {
        let contents = self.contents();
        let mut stores = contents.stores.iter();
        let store = stores.find(|store| store.identity().generation == identity.generation);
        match store {
            Some(store) if store.identity() != identity => Err(RaftStoreError::Foreign {
                path: "(in memory)".into(),
                found: store.identity(),
                expected: identity,
            }),
            store => Ok(store.cloned()),
        }
    }

    fn remove_store(&self, generation: u32) -> io::Result<()> {
        let mut contents = self.contents();
        contents
            .stores
            .retain(|store| store.identity().generation != generation);
        Ok(())
    }
}
