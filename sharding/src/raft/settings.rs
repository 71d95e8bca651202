//! How patient the raft group is.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// A snapshot is taken after so many log entries.
const ENTRIES_PER_SNAPSHOT: u64 = 500;
/// Entries kept behind the snapshot, for followers that are a little late.
const ENTRIES_KEPT: u64 = 250;
/// A follower so far behind gets the snapshot instead of the entries.
const ENTRIES_BEHIND_MAX: u64 = 1_000;
/// Entries in one message; their bytes are bounded by the store too.
const ENTRIES_PER_MESSAGE: u64 = 256;
/// Of a snapshot, in one message.
const SNAPSHOT_CHUNK_BYTES: u64 = 256 * 1024;
/// For one part of a snapshot, storing included.
const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(5);

/// How patient the raft group is, and how many nodes vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftSettings {
    /// How often a leader tells its followers that it leads.
    pub heartbeat: Duration,
    /// A follower that hears of no leader stands for election after a time between
    /// this and `election_max`, drawn when it starts.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
    /// So many nodes vote, the others learn: 1, 3 or 5.
    pub voters: usize,
    /// A voter that is down for so long is replaced, if another node can vote.
    pub voter_replacement_after: Duration,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_secs(1),
            voters: 3,
            voter_replacement_after: Duration::from_mins(10),
        }
    }
}

/// Why [`RaftSettings`] cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRaftSettings {
    /// An even number of voters is no safer than one less; many are slow.
    #[error("cluster.voters is {given}: set it to 1, 3 or 5")]
    Voters {
        /// In the settings.
        given: usize,
    },
    /// A follower would stand for election between two heartbeats.
    #[error(
        "cluster.raft.election_min is {election_min:?} and cluster.raft.heartbeat {heartbeat:?}: a follower \
         must miss some heartbeats before it stands for election; set election_min to at least four heartbeats"
    )]
    ElectionBeforeHeartbeat {
        /// In the settings.
        election_min: Duration,
        /// In the settings.
        heartbeat: Duration,
    },
    /// All followers would stand for election at once.
    #[error(
        "cluster.raft.election_max is {election_max:?}, not above cluster.raft.election_min, {election_min:?}: \
         set it to about twice as much"
    )]
    NoSpread {
        /// In the settings.
        election_min: Duration,
        /// In the settings.
        election_max: Duration,
    },
}

impl RaftSettings {
    /// Checks that the settings fit together.
    ///
    /// # Errors
    /// [`InvalidRaftSettings`], with what to change.
    pub fn validate(&self) -> Result<(), InvalidRaftSettings> {
        if !matches!(self.voters, 1 | 3 | 5) {
            return Err(InvalidRaftSettings::Voters { given: self.voters });
        }
        if self.heartbeat.is_zero() || self.election_min < self.heartbeat * 4 {
            return Err(InvalidRaftSettings::ElectionBeforeHeartbeat {
                election_min: self.election_min,
                heartbeat: self.heartbeat,
            });
        }
        if self.election_max < self.election_min + Duration::from_millis(10) {
            return Err(InvalidRaftSettings::NoSpread {
                election_min: self.election_min,
                election_max: self.election_max,
            });
        }
        Ok(())
    }

    /// The same for openraft. `luck`, from 0 to 1, places this node between
    /// `election_min` and `election_max`: it is drawn outside, so that a seed decides.
    ///
    /// openraft waits for its upper limit, during which a voter grants no vote, and
    /// then for a random time between both. Halves of one value, next to each other,
    /// make that exactly what the settings promise, with no randomness left in it.
    pub(crate) fn for_openraft(&self, luck: f64) -> Arc<Config> {
        let spread = self.election_max - self.election_min;
        let patience = self.election_min + spread.mul_f64(luck.clamp(0.0, 1.0));
        let half = millis(patience / 2).max(3);
        Arc::new(Config {
            cluster_name: "perennial".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: half - 1,
            election_timeout_max: half,
            install_snapshot_timeout: millis(SNAPSHOT_CHUNK_TIMEOUT),
            max_payload_entries: ENTRIES_PER_MESSAGE,
            replication_lag_threshold: ENTRIES_BEHIND_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
            snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
            max_in_snapshot_log_to_keep: ENTRIES_KEPT,
            ..Config::default()
        })
    }
}

fn millis(duration: Duration) -> u64 {
    // Half a billion years are enough.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_openraft_takes_them() {
        let settings = RaftSettings::default();
        settings.validate().unwrap();
        for luck in [0.0, 0.3, 1.0] {
            let config = Config::clone(&settings.for_openraft(luck))
                .validate()
                .unwrap();
            let patience = config.election_timeout_max + config.election_timeout_min;
            assert!((498..=1000).contains(&patience), "{patience}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for voters in [0, 2, 4, 7] {
            let settings = RaftSettings {
                voters,
                ..RaftSettings::default()
            };
            assert_eq!(
                settings.validate(),
                Err(InvalidRaftSettings::Voters { given: voters })
            );
        }
        let hasty = RaftSettings {
            election_min: Duration::from_millis(150),
            ..RaftSettings::default()
        };
        assert!(hasty.validate().is_err());
        let even = RaftSettings {
            election_max: Duration::from_millis(500),
            ..RaftSettings::default()
        };
        assert!(even.validate().is_err());
    }
}
