//! Settings of the cluster: who lives, who votes, and how reads are confirmed.

use std::time::Duration;

use perennial_sharding::coordinator::CoordinatorSettings;
use perennial_sharding::failure_detector::DetectorSettings;
use perennial_sharding::leader::LeaderSettings;
use perennial_sharding::lease::{LivenessTimes, LivenessTimesError, stretched};
use perennial_sharding::raft::{InvalidRaftSettings, RaftSettings};
use perennial_sharding::region::RegionSettings;

use super::value::{choice, count, duration};
use super::{Key, Settings};

/// How nodes of a cluster find out about each other, and when they act on it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSettings {
    /// Time between two signs of life.
    pub heartbeat_interval: Duration,
    /// How long a node serves after the last heartbeat that was acknowledged,
    /// counted from its sending.
    pub lease: Duration,
    /// How long commands wait when the node's lease has run out, before they are
    /// refused and its entities stopped.
    pub lease_grace: Duration,
    /// Silence after which a node is declared dead.
    pub down_after: Duration,
    /// What confirms a reply that stored nothing.
    pub reads: Reads,
    /// Nodes that vote; the others learn.
    pub voters: usize,
    /// How long a voter is dead before another node votes in its place.
    pub voter_replacement_after: Duration,
    /// Time between two heartbeats of the raft group.
    pub raft_heartbeat: Duration,
    /// The shortest silence of the leader after which a voter stands for election.
    pub raft_election_min: Duration,
    /// The longest.
    pub raft_election_max: Duration,
}

/// What confirms a reply that stored nothing, as a read or a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// The node's lease: costs nothing, and assumes clocks of nearly equal rate.
    Lease,
    /// The journal: a round trip shared by all reads at the time, and no clocks.
    Journal,
}

/// Settings that cannot work together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClusterSettings {
    /// The times of heartbeats and leases.
    #[error(transparent)]
    Liveness(#[from] LivenessTimesError),
    /// The patience of the raft group.
    #[error(transparent)]
    Raft(#[from] InvalidRaftSettings),
    /// Commands would be refused while all is as planned.
    #[error(
        "sharding.homeless_max is {homeless_max:?}, and a shard may be without a home for {longest:?} while \
         {during}: set sharding.homeless_max to more than that"
    )]
    HomelessMaxTooShort {
        /// In the settings.
        homeless_max: Duration,
        /// What it has to exceed.
        longest: Duration,
        /// What takes so long, with the settings that say so.
        during: &'static str,
    },
    /// The shard would be given up before the lease.
    #[error(
        "cluster.lease_grace is {lease_grace:?}, not less than sharding.homeless_max, {homeless_max:?}: \
         commands would not wait that long; shorten lease_grace"
    )]
    LeaseGraceTooLong {
        /// In the settings.
        lease_grace: Duration,
        /// In the settings.
        homeless_max: Duration,
    },
}

impl ClusterSettings {
    /// Before any key is set; see [`super::Settings::default`].
    pub(super) const UNSET: Self = Self {
        heartbeat_interval: Duration::ZERO,
        lease: Duration::ZERO,
        lease_grace: Duration::ZERO,
        down_after: Duration::ZERO,
        reads: Reads::Lease,
        voters: 0,
        voter_replacement_after: Duration::ZERO,
        raft_heartbeat: Duration::ZERO,
        raft_election_min: Duration::ZERO,
        raft_election_max: Duration::ZERO,
    };

    /// The times of heartbeats and leases.
    ///
    /// # Errors
    /// [`InvalidClusterSettings::Liveness`] names the settings that contradict each
    /// other.
    pub fn liveness(&self) -> Result<LivenessTimes, InvalidClusterSettings> {
        let times = LivenessTimes::new(self.heartbeat_interval, self.lease, self.down_after)?;
        Ok(times)
    }

    /// How patient the raft group is, and how many nodes vote.
    ///
    /// # Errors
    /// [`InvalidClusterSettings::Raft`].
    pub fn raft(&self) -> Result<RaftSettings, InvalidClusterSettings> {
        let settings = RaftSettings {
            heartbeat: self.raft_heartbeat,
            election_min: self.raft_election_min,
            election_max: self.raft_election_max,
            voters: self.voters,
            voter_replacement_after: self.voter_replacement_after,
        };
        settings.validate()?;
        Ok(settings)
    }
}

impl Settings {
    /// Limits and times of the shard region.
    ///
    /// # Errors
    /// [`InvalidClusterSettings`] when commands would be refused in the course of
    /// things.
    pub(crate) fn region(&self) -> Result<RegionSettings, InvalidClusterSettings> {
        let homeless_max = self.sharding.homeless_max;
        let lease_grace = self.cluster.lease_grace;
        // A leader that dies is missed by the voters first, and then by its successor;
        // the first election may be tied.
        let replaced = self.cluster.raft_election_max * 2 + self.cluster.down_after;
        let forced = stretched(self.sharding.handoff_timeout);
        for (longest, during) in [
            (
                replaced,
                "a dead leader is replaced (cluster.down_after, twice cluster.raft.election_max)",
            ),
            (
                forced,
                "it is taken from an owner that does not hand it off (sharding.handoff_timeout, and a tenth)",
            ),
        ] {
            if homeless_max <= longest {
                return Err(InvalidClusterSettings::HomelessMaxTooShort {
                    homeless_max,
                    longest,
                    during,
                });
            }
        }
        if lease_grace >= homeless_max {
            return Err(InvalidClusterSettings::LeaseGraceTooLong {
                lease_grace,
                homeless_max,
            });
        }
        Ok(RegionSettings {
            buffer_size: self.sharding.buffer_size,
            buffer_total: self.sharding.buffer_total,
            handoff_timeout: self.sharding.handoff_timeout,
            homeless_max,
            lease_grace,
            ..RegionSettings::default()
        })
    }

    /// What the leader goes by.
    pub(crate) fn leader(&self) -> LeaderSettings {
        LeaderSettings {
            coordinator: self.coordinator(),
            detector: self.detector(),
            probe_after: self.cluster.heartbeat_interval * 2,
        }
    }

    fn coordinator(&self) -> CoordinatorSettings {
        let sharding = &self.sharding;
        let moved = sharding
            .rebalance_max_simultaneous
            .of(self.number_of_shards);
        CoordinatorSettings {
            handoff_timeout: sharding.handoff_timeout,
            rebalance_interval: sharding.rebalance_interval,
            max_simultaneous: moved as usize,
            ..CoordinatorSettings::for_shards(self.number_of_shards)
        }
    }

    fn detector(&self) -> DetectorSettings {
        DetectorSettings {
            down_after: self.cluster.down_after,
            refused_means_dead: self.cluster.reads == Reads::Journal,
            ..DetectorSettings::default()
        }
    }
}

const SHORTEST: Duration = Duration::from_millis(1);

/// The keys, as documented.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "cluster.heartbeat_interval",
        default: "200ms",
        doc: "Time between two signs of life of a node. Raise it in a large cluster, together with \
              lease and down_after.",
        set: |settings, text| {
            settings.cluster.heartbeat_interval = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.lease",
        default: "1500ms",
        doc: "How long a node serves after its last acknowledged sign of life; lease_grace later it \
              stops its entities. Raise it where pauses of the network or of a machine are longer.",
        set: |settings, text| {
            settings.cluster.lease = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.lease_grace",
        default: "1500ms",
        doc: "How long commands wait at a node whose lease has run out, which serves none of them, \
              before they are refused and its entities leave memory. Longer than it takes to elect \
              a leader, so that an election costs nobody a recovery.",
        set: |settings, text| {
            settings.cluster.lease_grace = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.down_after",
        default: "2s",
        doc: "Silence after which a node is declared dead and others take its shards over. Lower \
              it to fail over sooner, raise it when healthy nodes are declared dead.",
        set: |settings, text| {
            settings.cluster.down_after = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.reads",
        default: "lease",
        doc: "What confirms replies that stored nothing: \"lease\" needs clocks that run at nearly \
              the same rate, \"journal\" asks the journal (one round trip for all reads at the \
              time), needs no clocks, and takes a process that is gone for dead at once.",
        set: |settings, text| {
            let choices = [("lease", Reads::Lease), ("journal", Reads::Journal)];
            settings.cluster.reads = choice(text, &choices)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.voters",
        default: "3",
        doc: "Nodes that vote on who owns what: 1, 3 or 5; the others learn. A cluster goes on as \
              long as most of them live: with 3, one may fail, with 5, two.",
        set: |settings, text| {
            settings.cluster.voters = choice(text, &[("1", 1), ("3", 3), ("5", 5)])?;
            Ok(())
        },
    },
    Key {
        name: "cluster.voter_replacement_after",
        default: "10min",
        doc: "How long a voter is dead before another node votes in its place. Longer than any \
              restart or update takes; shorter means fewer failures at once are survived.",
        set: |settings, text| {
            settings.cluster.voter_replacement_after = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.weight",
        default: "1",
        doc: "The node's share of the shards relative to other nodes. Give a machine with twice \
              the cores twice the weight.",
        set: |settings, text| {
            settings.weight = count(text, 1..=100)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.raft.heartbeat",
        default: "100ms",
        doc: "Time between two signs of life of the leader to voters. Raise it with the round trip \
              time between nodes.",
        set: |settings, text| {
            settings.cluster.raft_heartbeat = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.raft.election_min",
        default: "500ms",
        doc: "The shortest silence of the leader after which a voter wants to lead. Raise it when \
              leaders change without need.",
        set: |settings, text| {
            settings.cluster.raft_election_min = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "cluster.raft.election_max",
        default: "1s",
        doc: "The longest such silence; each voter waits for a random time between the two. \
              Further apart, fewer elections are tied.",
        set: |settings, text| {
            settings.cluster.raft_election_max = duration(text, SHORTEST)?;
            Ok(())
        },
    },
];
