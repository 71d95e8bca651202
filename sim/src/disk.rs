//! A node's disk: what was synced is there after a crash, the rest is not.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_sharding::forming::disk::{DiskError, NodeDisk, NodeIdentity};
use perennial_sharding::raft::store::{RaftStore, RaftStoreError, StoreIdentity};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;

/// A sync takes so many milliseconds, at least and at most.
const SYNC: (u64, u64) = (0, 3);
/// One in so many takes longer.
const DAWDLES_ONE_IN: u32 = 30;
/// At most so long.
const DAWDLES_MAX: u64 = 40;

/// The disk of one machine; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Disk(Arc<Mutex<Contents>>);

#[derive(Debug)]
struct Contents {
    identity: Option<NodeIdentity>,
    /// Raft stores by generation.
    files: BTreeMap<u32, File>,
    chance: StdRng,
}

impl Disk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Contents {
            identity: None,
            files: BTreeMap::new(),
            chance: StdRng::seed_from_u64(seed),
        })))
    }

    /// The power fails: what was not synced is lost.
    pub(crate) fn crash(&self) {
        let mut contents = self.contents();
        for file in contents.files.values_mut() {
            file.after_crash();
        }
    }

    /// Another, empty disk takes its place.
    pub(crate) fn wipe(&self) {
        let mut contents = self.contents();
        contents.identity = None;
        contents.files.clear();
    }

    fn open(&self, file: File, identity: StoreIdentity) -> Result<RaftStore, RaftStoreError> {
        let seed = self.contents().chance.random();
        let mut chance = StdRng::seed_from_u64(seed);
        let latency = move || {
            let mut latency = chance.random_range(SYNC.0..=SYNC.1);
            if chance.random_ratio(1, DAWDLES_ONE_IN) {
                latency += chance.random_range(0..=DAWDLES_MAX);
            }
            Duration::from_millis(latency)
        };
        RaftStore::over_backend(file, identity, latency)
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeDisk for Disk {
    fn identity(&self) -> Result<Option<NodeIdentity>, DiskError> {
        Ok(self.contents().identity)
    }

    fn set_identity(&self, identity: &NodeIdentity) -> Result<(), DiskError> {
        self.contents().identity = Some(*identity);
        Ok(())
    }

    fn make_store(&self, identity: StoreIdentity) -> Result<RaftStore, RaftStoreError> {
        let file = File::default();
        let generation = identity.generation;
        self.contents().files.insert(generation, file.clone());
        self.open(file, identity)
    }

    fn open_store(&self, identity: StoreIdentity) -> Result<Option<RaftStore>, RaftStoreError> {
        let file = self.contents().files.get(&identity.generation).cloned();
        file.map(|file| self.open(file, identity)).transpose()
    }

    fn remove_store(&self, generation: u32) -> io::Result<()> {
        self.contents().files.remove(&generation);
        Ok(())
    }
}

/// A file, of which a crash takes what was not synced; clones are the same.
#[derive(Debug, Clone, Default)]
struct File(Arc<Mutex<Bytes>>);

#[derive(Debug, Default)]
struct Bytes {
    written: Vec<u8>,
    /// What the unsynced writes have replaced, in their order.
    replaced: Vec<Replaced>,
}

#[derive(Debug)]
enum Replaced {
    Part { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl File {
    fn after_crash(&mut self) {
        let mut bytes = self.bytes();
        let replaced = std::mem::take(&mut bytes.replaced);
        for replaced in replaced.into_iter().rev() {
            match replaced {
                Replaced::Part { offset, bytes: old } => {
                    let part = &mut bytes.written[offset..offset + old.len()];
                    part.copy_from_slice(&old);
                }
                Replaced::Length(length) => bytes.written.resize(length, 0),
            }
        }
        // What the process that crashed still holds is another file from now on.
        let written = bytes.written.clone();
        drop(bytes);
        *self = Self(Arc::new(Mutex::new(Bytes {
            written,
            replaced: Vec::new(),
        })));
    }

    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn beyond_the_end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the file")
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let start = offset as usize;
        let part = bytes.written.get(start..start + out.len());
        out.copy_from_slice(part.ok_or_else(beyond_the_end)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut bytes = self.bytes();
        let (before, len) = (bytes.written.len(), len as usize);
        if len < before {
            let lost = bytes.written[len..].to_vec();
            bytes.replaced.push(Replaced::Part {
                offset: len,
                bytes: lost,
            });
        }
        bytes.replaced.push(Replaced::Length(before));
        bytes.written.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.bytes().replaced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let (start, end) = (offset as usize, offset as usize + data.len());
        let old = bytes.written.get(start..end).ok_or_else(beyond_the_end)?;
        let old = old.to_vec();
        bytes.replaced.push(Replaced::Part {
            offset: start,
            bytes: old,
        });
        bytes.written[start..end].copy_from_slice(data);
        Ok(())
    }
}
