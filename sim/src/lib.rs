//! The whole of Perennial under simulated networks, clocks, disks and crashes.
//!
//! A seed decides everything: how many nodes there are, what their clients want, what
//! goes wrong, and in which order everything happens. Equal seeds give equal runs.
//! Nodes are the product's own ([`ClusterPart`](perennial::node::ClusterPart)), with
//! three things replaced: the network ([`PeerTransport`]), the disk under the raft
//! store, and the database, which is the in-memory backend at the end of a network
//! that loses and delays. Ports and gRPC are left out.
//!
//! Start with `world.rs`, which runs it; then `schedule.rs`, what goes wrong, and
//! `invariants.rs`, what must hold all the same.
//!
//! [`PeerTransport`]: perennial_sharding::peer::PeerTransport

mod clients;
mod database;
mod disk;
mod gateway;
mod history;
mod invariants;
mod network;
#[cfg(feature = "planted-bugs")]
pub mod planted;
mod process;
mod purse;
pub mod schedule;
mod seeds;
mod settings;
mod shrinking;
mod tally;
mod trace;
mod verdict;
mod world;

pub use seeds::{Seeds, Summary};
pub use shrinking::shortest_failing;
pub use trace::TraceHash;
pub use verdict::Violation;
pub use world::{Report, Run};
