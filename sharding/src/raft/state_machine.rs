//! Applies what is committed to the [`ClusterState`] and shows it to the node.
//!
//! The state is in memory only; the store keeps snapshots of it, and openraft
//! applies again what was committed after the latest.

use std::io::{self, Cursor};
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, RaftSnapshotBuilder, Snapshot};
use perennial_persistence::planted::{self, Bug};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::address_book::AddressBook;
use super::store::{RaftStore, StoredSnapshot};
use super::types::{Entry, LogId, Membership, SnapshotMeta, StorageError, StorageIoError, Types};
use crate::cluster_state::ClusterState;

/// Of the snapshots that nodes send each other.
const SNAPSHOT_FORMAT: u32 = 2;

/// What a snapshot holds.
#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    state: ClusterState,
}

/// The replicated state of a node.
pub(crate) struct StateMachine {
    store: RaftStore,
    applied: Option<LogId>,
    membership: Membership,
    state: Arc<ClusterState>,
    published: watch::Sender<Arc<ClusterState>>,
    addresses: AddressBook,
}

impl StateMachine {
    /// The state of the store's latest snapshot, or `fresh`.
    ///
    /// # Errors
    /// When the snapshot cannot be read.
    pub(crate) fn new(
        store: RaftStore,
        fresh: ClusterState,
        addresses: AddressBook,
    ) -> io::Result<Self> {
        let stored = store.image().snapshot.clone();
        let (applied, membership, state) = match stored {
            Some(StoredSnapshot { meta, data }) => {
                (meta.last_log_id, meta.last_membership, decode(&data)?)
            }
            None => (None, Membership::default(), fresh),
        };
        addresses.learn(&state);
        let state = Arc::new(state);
        Ok(Self {
            store,
            applied,
            membership,
            published: watch::channel(Arc::clone(&state)).0,
            state,
            addresses,
        })
    }

    pub(crate) fn published(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.published.subscribe()
    }

    fn publish(&self) {
        self.addresses.learn(&self.state);
        self.published.send_replace(Arc::clone(&self.state));
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        // A copy only while somebody looks at the published one.
        let state = Arc::make_mut(&mut self.state);
        let mut answers = Vec::new();
        let entries = entries.into_iter();
        let is_twice = planted::is(Bug::ApplyTwice) && entries.size_hint().0 > 1;
        for entry in entries {
            let index = entry.log_id.index;
            self.applied = Some(entry.log_id);
            // The index counts every entry, so that waiting for one always ends.
            state.index = index;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(command) => {
                    state.apply(index, &command);
                    if is_twice {
                        state.apply(index, &command);
                    }
                }
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(self.applied, membership);
                }
            }
            answers.push(());
        }
        self.publish();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            store: self.store.clone(),
            applied: self.applied,
            membership: self.membership.clone(),
            state: Arc::clone(&self.state),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let data = snapshot.into_inner();
        let signature = || Some(meta.signature());
        let state =
            decode(&data).map_err(|error| StorageIoError::read_snapshot(signature(), &error))?;
        let stored = StoredSnapshot {
            meta: meta.clone(),
            data,
        };
        let saved = self.store.save_snapshot(stored).await;
        saved.map_err(|error| StorageIoError::write_snapshot(signature(), &error))?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.state = Arc::new(state);
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let stored = self.store.image().snapshot.clone();
        Ok(stored.map(snapshot))
    }
}

/// Builds a snapshot of the state as it was when it was asked for.
pub(crate) struct SnapshotBuilder {
    store: RaftStore,
    applied: Option<LogId>,
    membership: Membership,
    state: Arc<ClusterState>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            // Equal on all nodes, as is what it names.
            snapshot_id: self
                .applied
                .map_or_else(|| "empty".to_owned(), |applied| applied.to_string()),
        };
        let signature = meta.signature();
        let failed = |error: &io::Error| StorageIoError::write_snapshot(Some(signature), error);
        let contents = Contents {
            format: SNAPSHOT_FORMAT,
            state: ClusterState::clone(&self.state),
        };
        let data = match postcard::to_stdvec(&contents) {
            Ok(data) => data,
            Err(error) => return Err(failed(&io::Error::other(error)).into()),
        };
        let stored = StoredSnapshot { meta, data };
        match self.store.save_snapshot(stored.clone()).await {
            Ok(()) => Ok(snapshot(stored)),
            Err(error) => Err(failed(&error).into()),
        }
    }
}

fn snapshot(stored: StoredSnapshot) -> Snapshot<Types> {
    Snapshot {
        meta: stored.meta,
        snapshot: Box::new(Cursor::new(stored.data)),
    }
}

fn decode(data: &[u8]) -> io::Result<ClusterState> {
    // The format comes first, so it can be read whatever follows.
    let (format, _) = postcard::take_from_bytes::<u32>(data).map_err(io::Error::other)?;
    if format != SNAPSHOT_FORMAT {
        let message = format!(
            "a snapshot has format {format}, and this program reads format {SNAPSHOT_FORMAT}: update this node"
        );
        return Err(io::Error::other(message));
    }
    let contents: Contents = postcard::from_bytes(data).map_err(io::Error::other)?;
    Ok(contents.state)
}
