//! openraft's own suite, and what the store adds to it: whose it is, what it
//! refuses, and that everything is there when it is opened again.

use openraft::storage::RaftLogStorage;
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload};
use tempfile::TempDir;

use super::*;
use crate::cluster_state::{ClusterCommand, ClusterState};
use crate::raft::address_book::AddressBook;
use crate::raft::log_store::LogStore;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{StorageError, Types};

pub(super) fn identity() -> StoreIdentity {
    StoreIdentity {
        cluster_id: Uuid::from_u128(1),
        generation: 1,
        node: NodeNr(7),
    }
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 7), index)
}

pub(super) fn entry(index: u64) -> Entry {
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(ClusterCommand::Remove {
            node: NodeNr(index),
            at: index,
        }),
    }
}

/// Appends and waits until it is on disk.
pub(super) async fn append(store: &RaftStore, entries: Vec<Entry>) -> io::Result<()> {
    let (done, written) = tokio::sync::oneshot::channel();
    let done = Box::new(move |result| done.send(result).unwrap());
    store.append(entries, done).await?;
    written.await.unwrap()
}

struct Builder {
    on_disk: bool,
}

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let store = if self.on_disk {
            RaftStore::create(&folder.path().join("1.redb"), identity()).unwrap()
        } else {
            RaftStore::in_memory(identity()).unwrap()
        };
        let fresh = ClusterState::new(Uuid::from_u128(1), 1, 4);
        let machine = StateMachine::new(store.clone(), fresh, AddressBook::default()).unwrap();
        Ok((folder, LogStore::new(store), machine))
    }
}

#[test]
fn openrafts_suite_on_disk() {
    Suite::test_all(Builder { on_disk: true }).unwrap();
}

#[test]
fn openrafts_suite_in_memory() {
    Suite::test_all(Builder { on_disk: false }).unwrap();
}

#[tokio::test]
async fn everything_is_there_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/1.redb");
    let store = RaftStore::create(&path, identity()).unwrap();
    assert!(!store.is_initialized());
    store.save_vote(Vote::new(3, 7)).await.unwrap();
    append(&store, (1..=9).map(entry).collect()).await.unwrap();
    store.truncate(8).await.unwrap();
    store.purge(log_id(1, 3)).await.unwrap();
    let snapshot = StoredSnapshot {
        meta: SnapshotMeta {
            last_log_id: Some(log_id(1, 4)),
            ..SnapshotMeta::default()
        },
        data: vec![1, 2, 3],
    };
    store.save_snapshot(snapshot.clone()).await.unwrap();
    store.save_committed(Some(log_id(1, 6))).await.unwrap();
    // An append makes what came before it durable too.
    append(&store, vec![entry(8)]).await.unwrap();
    store.close().await;
    assert!(store.save_vote(Vote::new(4, 7)).await.is_err());

    let store = RaftStore::open(&path, identity()).unwrap();
    assert!(store.is_initialized());
    {
        let image = store.image();
        assert_eq!(image.vote, Some(Vote::new(3, 7)));
        assert_eq!(image.committed, Some(log_id(1, 6)));
        assert_eq!(image.purged, Some(log_id(1, 3)));
        assert_eq!(image.snapshot, Some(snapshot));
    }
    let expected: Vec<Entry> = (4..=8).map(entry).collect();
    assert_eq!(store.all_entries(..), expected);
    let state = LogStore::new(store).get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(log_id(1, 8)));
}

#[tokio::test]
async fn the_store_of_somebody_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.redb");
    let store = RaftStore::create(&path, identity()).unwrap();
    let busy = RaftStore::open(&path, identity()).unwrap_err();
    assert!(matches!(busy, RaftStoreError::Io { .. }), "{busy}");
    store.close().await;

    let others = [
        StoreIdentity {
            node: NodeNr(8),
            ..identity()
        },
        StoreIdentity {
            generation: 2,
            ..identity()
        },
        StoreIdentity {
            cluster_id: Uuid::nil(),
            ..identity()
        },
    ];
    for other in others {
        let error = RaftStore::open(&path, other).unwrap_err();
        assert!(matches!(error, RaftStoreError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("node 7"), "{error}");
    }
    // What is there is never replaced, what is not there is never taken for empty.
    let exists = RaftStore::create(&path, identity()).unwrap_err();
    assert!(matches!(exists, RaftStoreError::Io { .. }), "{exists}");
    let missing = folder.path().join("2.redb");
    let error = RaftStore::open(&missing, identity()).unwrap_err();
    assert!(matches!(error, RaftStoreError::Io { .. }), "{error}");
    RaftStore::open(&path, identity()).unwrap();
}

#[tokio::test]
async fn an_older_snapshot_does_not_replace_a_later_one() {
    let store = RaftStore::in_memory(identity()).unwrap();
    let snapshot = |index| StoredSnapshot {
        meta: SnapshotMeta {
            last_log_id: Some(log_id(1, index)),
            ..SnapshotMeta::default()
        },
        data: Vec::new(),
    };
    store.save_snapshot(snapshot(9)).await.unwrap();
    store.save_snapshot(snapshot(5)).await.unwrap();
    assert_eq!(store.image().snapshot, Some(snapshot(9)));
}

/// However large entries are, what is read for a message is bounded, and never empty.
#[tokio::test]
async fn what_is_read_at_once_is_bounded() {
    let store = RaftStore::in_memory(identity()).unwrap();
    let large = |index| Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(ClusterCommand::Assign {
            shards: (0..20_000)
                .map(|shard| {
                    let session = perennial_persistence::writer::SessionUuid(Uuid::nil());
                    (
                        perennial_persistence::writer::ShardNr(shard),
                        NodeNr(1),
                        session,
                    )
                })
                .collect(),
            at: 0,
        }),
    };
    append(&store, (1..=10).map(large).collect()).await.unwrap();
    let read = store.entries(1..11).len();
    assert!((1..10).contains(&read), "{read}");
    assert_eq!(store.all_entries(1..11).len(), 10);
}
