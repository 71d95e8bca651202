//! Settings of shards and of passivation.

use std::time::Duration;

use super::Key;
use super::value::{count, duration};

/// The keys, as documented.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "sharding.number_of_shards",
        default: "1024",
        doc: "Shards the entities are spread over. Fixed when the cluster is formed: a node \
              configured with another number refuses to start. About a hundred for each node \
              there will ever be.",
        set: |settings, text| {
            settings.number_of_shards = count(text, 1..=65_536)?;
            Ok(())
        },
    },
    Key {
        name: "sharding.passivation.idle_timeout",
        default: "120s",
        doc: "An entity without a command for so long leaves memory. Lower it to save memory, \
              raise it when entities come back soon after.",
        set: |settings, text| {
            settings.engine.idle_timeout = duration(text, Duration::from_millis(1))?;
            Ok(())
        },
    },
    Key {
        name: "sharding.passivation.active_entity_limit",
        default: "100000",
        doc: "Entities of a node in memory; beyond it the least recently used leave. What fits \
              depends on the size of their states.",
        set: |settings, text| {
            settings.engine.active_entity_limit = count(text, 1..=100_000_000)?;
            Ok(())
        },
    },
];
