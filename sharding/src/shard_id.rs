//! Which shard an entity belongs to.
//!
//! A fixed hash, written down in the contract and independent of nodes and
//! rings: xxh3-64 of the entity type, a zero byte and the entity id, modulo the
//! number of shards. Changing it would move every entity, so known answers are
//! tested.

use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::writer::ShardNr;
use xxhash_rust::xxh3::Xxh3;

/// The shard of an entity. `number_of_shards` is fixed when a cluster is formed.
///
/// # Panics
/// When `number_of_shards` is 0, which configuration refuses.
#[must_use]
pub fn shard_of(persistence_id: &PersistenceId, number_of_shards: u32) -> ShardNr {
    let mut hasher = Xxh3::new();
    hasher.update(persistence_id.entity_type().as_bytes());
    hasher.update(&[0]);
    hasher.update(persistence_id.entity_id().as_bytes());
    // Less than a u32, because the divisor is one.
    ShardNr((hasher.digest() % u64::from(number_of_shards)) as u32)
}
