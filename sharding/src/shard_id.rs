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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Known answers, computed with another implementation of xxh3: a change here
    /// would move every entity of every cluster.
    #[test]
    fn known_answers() {
        for (entity_type, entity_id, shards, expected) in [
            ("counter", "a", 1024, 1015),
            ("counter", "b", 1024, 126),
            ("account", "ada", 1024, 435),
            ("airport", "ORD", 1024, 923),
            ("airport", "ORD", 7, 5),
        ] {
            let id = PersistenceId::new(entity_type, entity_id).unwrap();
            let shard = shard_of(&id, shards);
            assert_eq!(shard.0, expected, "{id} of {shards}");
        }
    }

    #[test]
    fn entities_spread_over_all_shards() {
        let mut counts = [0_u32; 64];
        for i in 0..6_400 {
            let id = PersistenceId::new("counter", &i.to_string()).unwrap();
            counts[shard_of(&id, 64).0 as usize] += 1;
        }
        assert!(
            counts.iter().all(|&count| (50..=150).contains(&count)),
            "{counts:?}"
        );
    }
}
