//! What all decisions rest on: nodes follow later and later leaders.
//!
//! A leader is later than another if its term is higher, or in the same term its
//! number: within a term raft may elect a second one with a higher number, and who has
//! heard of it follows the first no more.

use std::collections::{BTreeMap, BTreeSet};

use perennial_sharding::control_plane::Leadership;

use crate::network::Host;
use crate::verdict::Verdict;

#[derive(Default)]
pub(crate) struct Leaders {
    /// The latest that each process has followed.
    followed: BTreeMap<(Host, u64), (u64, u64)>,
    seen: BTreeSet<(u64, u64)>,
}

impl Leaders {
    pub(crate) fn look(
        &mut self,
        (host, life): (Host, u64),
        leadership: Leadership,
        now: u64,
        verdict: &Verdict,
    ) {
        let Some(leader) = leadership.leader else {
            return;
        };
        let follows = (leadership.term, leader.0);
        self.seen.insert(follows);
        let latest = self.followed.entry((host, life)).or_insert(follows);
        if *latest > follows {
            let what = format!(
                "{host:?} followed node {} in term {}, and follows node {} in term {}",
                latest.1, latest.0, follows.1, follows.0
            );
            verdict.violated("I-1", now, what);
        }
        *latest = follows;
    }

    /// How many leaders there were.
    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }
}
