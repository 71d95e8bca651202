//! The data directory of a node: its lock, who the node is, and its raft store.
//!
//! One process uses a directory at a time. `node.json` keeps the number the
//! database gave this node, so that a restarted node is the same one and fences
//! its own earlier sessions; in `raft/` is what it must not forget of what the
//! cluster's nodes agreed on. What is decided from it is in `forming/` of the
//! sharding crate.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use perennial_sharding::forming::disk::{DiskError, NodeDisk, NodeIdentity, StoreFolder};
use perennial_sharding::raft::store::{RaftStore, RaftStoreError, StoreIdentity};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process uses it.
    #[error("the data directory {} is in use by another process: stop that one, or choose another with --data-dir", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// `node.json` is not what this program writes.
    #[error("{} is damaged: {source}; restore it from a backup, or remove it to join as a new node", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A data directory that belongs to this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock ends with the file, also when the process is killed.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if needed and takes its lock.
    ///
    /// # Errors
    /// [`DataDirError::InUse`], or [`DataDirError::Io`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        std::fs::create_dir_all(path).map_err(failed("make the directory", path))?;
        let lock_path = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &lock_path)(source)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who the node is; `None` in a fresh directory.
    ///
    /// # Errors
    /// [`DataDirError::Damaged`], or [`DataDirError::Io`].
    pub fn identity(&self) -> Result<Option<NodeIdentity>, DataDirError> {
        let path = self.identity_path();
        match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(identity) => Ok(Some(identity)),
                Err(source) => Err(DataDirError::Damaged { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &path)(source)),
        }
    }

    /// Writes down who the node is. After a crash there is the old text or the
    /// new one, and when this returns it is the new one.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn set_identity(&self, identity: &NodeIdentity) -> Result<(), DataDirError> {
        let path = self.identity_path();
        let fresh = self.path.join("node.json.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&fresh)?;
            serde_json::to_writer_pretty(&mut file, identity)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            // The rename itself is durable only with the directory.
            File::open(&self.path)?.sync_all()
        };
        write().map_err(failed("write", &path))
    }

    fn identity_path(&self) -> PathBuf {
        self.path.join("node.json")
    }

    fn stores(&self) -> StoreFolder {
        StoreFolder::new(self.path.join("raft"))
    }
}

impl NodeDisk for DataDir {
    fn identity(&self) -> Result<Option<NodeIdentity>, DiskError> {
        Self::identity(self).map_err(|error| DiskError(error.into()))
    }

    fn set_identity(&self, identity: &NodeIdentity) -> Result<(), DiskError> {
        Self::set_identity(self, identity).map_err(|error| DiskError(error.into()))
    }

    fn make_store(&self, identity: StoreIdentity) -> Result<RaftStore, RaftStoreError> {
        self.stores().make(identity)
    }

    fn open_store(&self, identity: StoreIdentity) -> Result<Option<RaftStore>, RaftStoreError> {
        self.stores().open(identity)
    }

    fn remove_store(&self, generation: u32) -> io::Result<()> {
        self.stores().remove(generation)
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use perennial_persistence::registry::NodeNr;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_directory_in_use_is_refused_until_it_is_free() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/data");
        let first = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, DataDirError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("in use by another process"));
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn the_identity_survives() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        assert_eq!(dir.identity().unwrap(), None);
        let identity = NodeIdentity {
            node: NodeNr(3),
            cluster_id: Uuid::nil(),
            incarnation: 7,
            store_generation: 1,
        };
        dir.set_identity(&identity).unwrap();
        assert_eq!(dir.identity().unwrap(), Some(identity));
        // As it was written before there were raft stores.
        let before = format!(
            r#"{{"node": 3, "cluster_id": "{}", "incarnation": 7}}"#,
            Uuid::nil()
        );
        std::fs::write(parent.path().join("node.json"), before).unwrap();
        let before = NodeIdentity {
            store_generation: 0,
            ..identity
        };
        assert_eq!(dir.identity().unwrap(), Some(before));
        std::fs::write(parent.path().join("node.json"), "{}").unwrap();
        let error = dir.identity().unwrap_err();
        assert!(matches!(error, DataDirError::Damaged { .. }), "{error}");
    }
    #[tokio::test]
    async fn raft_stores_are_kept_by_generation() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        let identity = |generation| StoreIdentity {
            cluster_id: Uuid::nil(),
            generation,
            node: NodeNr(3),
        };
        assert!(dir.open_store(identity(1)).unwrap().is_none());
        for _ in 0..2 {
            // In the place of what a crash may have left.
            dir.make_store(identity(1)).unwrap().close().await;
        }
        dir.make_store(identity(2)).unwrap().close().await;
        dir.remove_store(1).unwrap();
        dir.remove_store(1).unwrap();
        assert!(dir.open_store(identity(1)).unwrap().is_none());
        let opened = dir.open_store(identity(2)).unwrap().unwrap();
        assert_eq!(opened.identity(), identity(2));
    }
}
