//! The limits and times of a region.

use std::time::Duration;

/// The limits and times of a region. The defaults are those of the settings table in
/// the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionSettings {
    /// Commands that may wait for a home of one shard.
    pub buffer_size: usize,
    /// Commands that may wait on this node.
    pub buffer_total: usize,
    /// How long a handoff waits for entities to finish what is out; and how long a
    /// sender waits for what is out at an owner that the shard has left.
    pub handoff_timeout: Duration,
    /// How long a command waits for a home of its shard before it is answered
    /// SHARD_UNAVAILABLE. Longer than it takes to replace a dead node, and to take a
    /// shard from an owner that does not hand it off.
    pub homeless_max: Duration,
    /// How long commands wait when this node's lease has run out, before they are
    /// refused and the entities stopped: long enough for a new leader to be elected.
    pub lease_grace: Duration,
    /// Handoffs that this node has under way at once.
    pub handoffs_at_once: usize,
    /// How often what waits is looked at for its deadlines.
    pub tick: Duration,
}

impl Default for RegionSettings {
    fn default() -> Self {
        Self {
            buffer_size: 1_000,
            buffer_total: 100_000,
            handoff_timeout: Duration::from_secs(10),
            homeless_max: Duration::from_secs(15),
            lease_grace: Duration::from_millis(1_500),
            handoffs_at_once: 64,
            tick: Duration::from_millis(25),
        }
    }
}
