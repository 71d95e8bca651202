//! openraft's types, filled in for this crate.

use std::io::Cursor;

use crate::cluster_state::ClusterCommand;

openraft::declare_raft_types!(
    /// What the raft group replicates. Nodes are known by number only: where they
    /// are is looked up in the address book, so an address can change without a
    /// change of the membership.
    pub(crate) Types:
        D = ClusterCommand,
        R = (),
        NodeId = u64,
        Node = openraft::EmptyNode,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Membership = openraft::StoredMembership<u64, openraft::EmptyNode>;
pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::EmptyNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StorageIoError = openraft::StorageIOError<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
