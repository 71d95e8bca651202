//! Which node owns which shard of Perennial's entities, and how commands find it.
//!
//! Entities are grouped in a fixed number of shards ([`shard_id`]); a shard is
//! what moves between nodes. The [`region`] is the door: every command of a node
//! goes through it. This crate knows neither gRPC nor SQL.

pub mod allocation;
pub mod cluster_figures;
pub mod cluster_state;
pub mod control_plane;
pub mod coordinator;
pub mod failure_detector;
mod fencing;
pub mod forming;
pub mod heartbeats;
pub mod leader;
pub mod lease;
pub mod peer;
pub mod raft;
pub mod region;
pub mod ring;
pub mod shard_id;
pub mod wall_clock;
