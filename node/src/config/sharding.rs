//! Settings of shards and of passivation.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_persistence::persistence_id::PersistenceId;

use super::Key;
use super::value::{Expected, count, duration};

/// How shards move, and what waits for them meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardingSettings {
    /// Commands that wait for one shard.
    pub buffer_size: usize,
    /// Commands that wait for any shard.
    pub buffer_total: usize,
    /// How long a shard may take to finish before it is taken from its owner.
    pub handoff_timeout: Duration,
    /// How long a command waits for a home of its shard.
    pub homeless_max: Duration,
    /// Time between two looks at the balance.
    pub rebalance_interval: Duration,
    /// Shards that move at once to balance.
    pub rebalance_max_simultaneous: Share,
}

/// A number of shards, also relative to all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Shards(u32),
    /// A part of all, in hundredths, and at least one.
    Percent(u32),
}

impl Share {
    /// How many that are, at least 1.
    #[must_use]
    pub fn of(self, number_of_shards: u32) -> u32 {
        match self {
            Self::Shards(shards) => shards,
            // At most 65,536 shards and 100 percent.
            Self::Percent(percent) => (number_of_shards * percent / 100).max(1),
        }
    }
}

impl ShardingSettings {
    /// Before any key is set; see [`super::Settings::default`].
    pub(super) const UNSET: Self = Self {
        buffer_size: 0,
        buffer_total: 0,
        handoff_timeout: Duration::ZERO,
        homeless_max: Duration::ZERO,
        rebalance_interval: Duration::ZERO,
        rebalance_max_simultaneous: Share::Shards(1),
    };
}

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
        name: "sharding.buffer_size",
        default: "1000",
        doc: "Commands of a node that may wait for the home of one shard while it moves; further \
              ones are answered BUFFER_FULL. Raise it when that happens in planned movements.",
        set: |settings, text| {
            settings.sharding.buffer_size = count(text, 1..=1_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "sharding.buffer_total",
        default: "100000",
        doc: "The same for all shards together: what a node may hold while another is dead or \
              unknown. Lower it when memory is short.",
        set: |settings, text| {
            settings.sharding.buffer_total = count(text, 1..=10_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "sharding.handoff_timeout",
        default: "10s",
        doc: "How long the entities of a shard may take to finish before it is taken from its \
              owner. Raise it when entities wait for slow services.",
        set: |settings, text| {
            settings.sharding.handoff_timeout = duration(text, Duration::from_millis(1))?;
            Ok(())
        },
    },
    Key {
        name: "sharding.homeless_max",
        default: "15s",
        doc: "How long a command waits for a home of its shard before it is answered \
              SHARD_UNAVAILABLE. Longer than it takes to replace a dead node, and than \
              handoff_timeout; lower it together with those for clients that do not wait.",
        set: |settings, text| {
            settings.sharding.homeless_max = duration(text, Duration::from_millis(1))?;
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
        name: "sharding.passivation.idle_timeouts",
        default: "",
        doc: "The same for entity types that differ: each as TYPE=TIME, with commas between them, such \
              as \"cart=10min, device=5s\". Longer for types that are slow to recover, shorter for \
              those that are seldom asked twice.",
        set: |settings, text| {
            settings.engine.idle_timeouts = times_by_type(text)?;
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
    Key {
        name: "sharding.rebalance.interval",
        default: "1s",
        doc: "How often it is checked whether shards should move to balance the nodes. Raise it \
              when nodes come and go often.",
        set: |settings, text| {
            settings.sharding.rebalance_interval = duration(text, Duration::from_millis(1))?;
            Ok(())
        },
    },
    Key {
        name: "sharding.rebalance.max_simultaneous",
        default: "10%",
        doc: "Shards that move at once: a number, or a share of all shards. Lower it when \
              movements are felt, raise it to balance sooner.",
        set: |settings, text| {
            settings.sharding.rebalance_max_simultaneous = share(text)?;
            Ok(())
        },
    },
];

fn times_by_type(text: &str) -> Result<BTreeMap<String, Duration>, Expected> {
    let mut times = BTreeMap::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let time_of = |part: &str| {
            let (name, time) = part.split_once('=')?;
            let name = name.trim();
            // What a persistence id accepts is a type's name.
            PersistenceId::new(name, "a").ok()?;
            let time = duration(time.trim(), Duration::from_millis(1)).ok()?;
            Some((name.to_owned(), time))
        };
        let known = time_of(part).map(|(name, time)| times.insert(name, time));
        if known != Some(None) {
            return Err(format!(
                "each entity type once, with a time and its unit, such as \"cart=10min, device=5s\"; not {part:?}"
            ));
        }
    }
    Ok(times)
}

fn share(text: &str) -> Result<Share, String> {
    let parsed = match text.strip_suffix('%') {
        Some(percent) => count(percent.trim_end(), 1..=100).map(Share::Percent),
        None => count(text, 1..=65_536).map(Share::Shards),
    };
    parsed.map_err(|_| {
        "a number of shards from 1 to 65536, or a share from \"1%\" to \"100%\"".to_owned()
    })
}
