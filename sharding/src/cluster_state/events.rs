//! What happened lately, in words for people.
//!
//! Told by `apply.rs` as commands take effect, with the time that the command
//! carries; nothing is ever decided by it. Shards move in many small steps, one wave
//! after the other, so a movement is told when it begins and when it has ended.

use std::collections::BTreeMap;

use perennial_persistence::registry::NodeNr;
use serde::{Deserialize, Serialize};

use super::{ClusterState, Home};

/// So many events are kept for people: more than a screen, less than a page of memory.
pub(crate) const RECENT_EVENTS_MAX: usize = 100;

/// Something that happened, for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecentEvent {
    /// Milliseconds since 1970, by the clock of the node that proposed it.
    pub at: u64,
    /// In words.
    pub text: String,
}

impl ClusterState {
    pub(super) fn tell(&mut self, at: u64, text: String) {
        if self.recent_events.len() >= RECENT_EVENTS_MAX {
            self.recent_events.pop_front();
        }
        self.recent_events.push_back(RecentEvent { at, text });
    }

    /// Whether any shard is on its way from one node to another.
    pub(super) fn is_handing_off(&self) -> bool {
        let mut homes = self.shards.iter().map(|shard| shard.home);
        homes.any(|home| matches!(home, Home::HandingOff { .. }))
    }

    /// Tells of the end of a movement, if this was it.
    pub(super) fn tell_when_all_have_arrived(&mut self, at: u64) {
        if self.is_handing_off() {
            return;
        }
        match std::mem::take(&mut self.handed_off) {
            0 => self.tell(at, "handoffs ended: no shard has moved".to_owned()),
            shards => self.tell(at, format!("handoffs ended: {} moved", counted(shards))),
        }
    }
}

/// Shards that were given to nodes; `None` if there were none.
pub(super) fn told_assigned(by_node: &BTreeMap<NodeNr, u32>) -> Option<String> {
    let given = by_node
        .iter()
        .map(|(node, shards)| format!("{} at node {}", counted(*shards), node.0));
    told("new homes", given)
}

/// Shards that begin to move, by their present and their next node; `None` if there
/// are none.
pub(super) fn told_begun(by_nodes: &BTreeMap<(NodeNr, NodeNr), u32>) -> Option<String> {
    let begun = by_nodes.iter().map(|((from, to), shards)| {
        format!("{} from node {} to node {}", counted(*shards), from.0, to.0)
    });
    told("handoffs began", begun)
}

fn told(what: &str, parts: impl Iterator<Item = String>) -> Option<String> {
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| format!("{what}: {}", parts.join(", ")))
}

fn counted(shards: u32) -> String {
    match shards {
        1 => "1 shard".to_owned(),
        shards => format!("{shards} shards"),
    }
}
