//! Which node owns which shard of Perennial's entities, and how commands find it.
pub mod region;
pub mod shard_id;
