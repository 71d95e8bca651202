//! The raft group that replicates the [`ClusterState`](crate::cluster_state).
//!
//! The only place that knows openraft: its types stay in this folder, so that
//! another version, or another library, changes nothing outside. The rest of a node
//! sees [`RaftControlPlane`], which is a [`ControlPlane`](crate::control_plane).
//!
//! * `store.rs`: what must survive on disk, and when it counts as written;
//! * `state_machine.rs`: applies what is committed and publishes it;
//! * `network.rs`: raft's messages as [`PeerRequest::Raft`](crate::peer::PeerRequest);
//! * `control.rs`: starting, joining, stopping;
//! * `answers.rs`: what peers are answered;
//! * `proposals.rs`: how a change reaches the leader;
//! * `voters.rs`, `membership.rs`: who votes, decided and done; `parting_vote.rs`: what
//!   still counts when a voter goes;
//! * `confirmation.rs`, `handover.rs`: leadership confirmed, and given away;
//! * `leadership.rs`, `figures.rs`: what the node, and people, are told of the group.
//! * `untrusted.rs`: messages as anybody could send them, for tests.

mod address_book;
mod answers;
mod confirmation;
mod control;
mod error;
mod figures;
mod handover;
mod leadership;
mod log_store;
mod membership;
mod message;
mod network;
mod parting_vote;
mod proposals;
mod settings;
mod state_machine;
pub mod store;
mod types;
pub mod untrusted;
pub mod voters;

pub use self::address_book::AddressBook;
pub use self::control::{RaftControlPlane, RaftNode};
pub use self::error::RaftError;
pub use self::settings::{InvalidRaftSettings, RaftSettings};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod group_test;
