//! What is kept for each of so many nodes: connections, which are dear to make.
//!
//! Numbers of nodes are never used twice, so a long life sees more nodes than there are
//! at once. What is kept for them is not known here.

use std::collections::HashMap;

use perennial_persistence::registry::NodeNr;

use super::NODES_MAX;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Kept<T> {
    /// With the number of the last use.
    nodes: HashMap<NodeNr, (T, u64)>,
    /// Counts the uses.
    uses: u64,
}

impl<T> Kept<T> {
    /// What is kept for a node, which is used now.
    pub(super) fn get(&mut self, node: NodeNr) -> Option<&T> {
        let (kept, last_use) = self.nodes.get_mut(&node)?;
        self.uses += 1;
        *last_use = self.uses;
        Some(kept)
    }

    /// Keeps this for a node, instead of what was kept for it. Of more than
    /// [`NODES_MAX`], what was used longest ago goes.
    pub(super) fn insert(&mut self, node: NodeNr, kept: T) {
        self.uses += 1;
        self.nodes.insert(node, (kept, self.uses));
        if self.nodes.len() > NODES_MAX {
            let longest_ago = self.nodes.iter().min_by_key(|(_, (_, last_use))| *last_use);
            if let Some(node) = longest_ago.map(|(node, _)| *node) {
                self.nodes.remove(&node);
            }
        }
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            nodes: HashMap::new(),
            uses: 0,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// I-10: bounded, and those who are asked all the time stay, however old they are.
    #[test]
    fn i10_what_was_used_longest_ago_goes_first() {
        let mut kept = Kept::default();
        let voter = NodeNr(1);
        kept.insert(voter, 1);
        for nr in 2..=3 * NODES_MAX as u64 {
            kept.insert(NodeNr(nr), nr);
            assert_eq!(kept.get(voter), Some(&1));
            assert!(kept.nodes.len() <= NODES_MAX);
        }
        assert_eq!(kept.get(NodeNr(2)), None);
        let last = 3 * NODES_MAX as u64;
        assert_eq!(kept.get(NodeNr(last)), Some(&last));
    }
}
