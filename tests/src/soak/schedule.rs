//! Which faults happen and in which order, decided by a seed. The performing is in
//! `faults.rs`.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::seed::Random;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL, and a restart over the same data.
    Kill,
    /// SIGKILL of the node that leads, and a restart.
    KillLeader,
    /// SIGSTOP for longer than the lease, then SIGCONT.
    Pause,
    /// SIGSTOP of the node that leads.
    PauseLeader,
    /// One node and the others do not hear each other.
    Partition,
    /// What one node sends does not arrive at the others.
    PartitionOneWay,
    /// One link between two nodes comes and goes.
    Flapping,
    /// Everything between nodes takes longer.
    PeersSlow,
    /// Postgres is stopped as by a crash and started again.
    PostgresRestart,
    /// One node's connections to Postgres are closed, and new ones refused.
    JournalCut,
    /// One node's connections to Postgres stay, and nothing comes through.
    JournalStalled,
    /// Postgres takes longer for everybody.
    JournalSlow,
    /// SIGTERM and a restart, one node after the other.
    RollingRestart,
    /// A node is added, and then removed for good.
    JoinAndRemove,
    /// The disk of one node's raft store is full.
    FullDisk,
}

impl FaultKind {
    /// The name it has on the command line.
    #[must_use]
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// One fault, before it is known which nodes there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Says which node: this modulo their number.
    pub node: u64,
    /// Says which of the others, if the fault has two.
    pub other: u64,
    /// How long all is well before.
    pub quiet: Duration,
    /// How long it lasts, if that is for us to say.
    pub lasts: Duration,
}

/// Faults without end: every kind once in a random order, then again.
#[derive(Debug)]
pub struct Schedule {
    random: Random,
    kinds: Vec<FaultKind>,
    left: Vec<FaultKind>,
}

impl Schedule {
    /// The same seed and kinds give the same faults.
    #[must_use]
    pub fn new(seed: u64, kinds: &[FaultKind]) -> Self {
        Self {
            random: Random::new(seed),
            kinds: kinds.to_vec(),
            left: Vec::new(),
        }
    }
}

impl Iterator for Schedule {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
        }
        if self.left.is_empty() {
            return None;
        }
        let place = self.random.below(self.left.len() as u64) as usize;
        let kind = self.left.swap_remove(place);
        Some(Planned {
            kind,
            node: self.random.next_u64(),
            other: self.random.next_u64(),
            quiet: Duration::from_millis(self.random.within(500..4_000)),
            // From shorter than the lease to well beyond death.
            lasts: Duration::from_millis(self.random.within(800..8_000)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults_and_all_kinds_come() {
        let all = FaultKind::value_variants();
        let faults = |seed| -> Vec<Planned> { Schedule::new(seed, all).take(100).collect() };
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
        let first = faults(7);
        let kinds: BTreeSet<FaultKind> =
            first[..all.len()].iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds.len(), all.len());
        assert_eq!(Schedule::new(7, &[]).next(), None);
    }
}
