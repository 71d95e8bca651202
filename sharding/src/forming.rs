//! How nodes that share a database become one cluster: the next step of one of them.
//!
//! Pure: from what a node sees in the registry and on its own disk follows what it
//! does next. The cluster's row arbitrates. One node claims it, makes a raft group of
//! itself alone and declares it formed; the others wait for that and join. A claim
//! that leads to nothing is taken over under a new generation, and what was made
//! under the old one is of no use any more: the declaration compares generations, and
//! so do all messages between nodes. Nothing is granted before the declaration.
//!
//! It knows no clock and no I/O. Next: `forming/entry.rs`, which takes the steps;
//! `forming/identity.rs`, who a node is; `forming/presence.rs`, what it does as long
//! as it is there.

pub mod disk;
pub mod entry;
pub mod identity;
pub mod presence;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod forming_test;

use perennial_persistence::registry::{Formation, NodeNr};

/// What a node sees when it decides about its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// This node.
    pub node: NodeNr,
    /// In the registry.
    pub formation: Formation,
    /// Whether the formation has not changed for longer than forming takes.
    pub stalled: bool,
    /// Of this node's session.
    pub session_generation: u32,
    /// Of this node's raft store; 0 when it never had one.
    pub store_generation: u32,
}

/// What a node does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Claims the forming, for itself or from one that does not get on with it.
    Claim,
    /// Looks again after a while: another node forms the cluster.
    Wait,
    /// Begins its incarnation again: its session is of an earlier generation, and is
    /// fenced before anything is granted in this one.
    BeginIncarnation,
    /// Makes an empty raft store for the generation; those of earlier ones go.
    MakeStore,
    /// Makes a raft group of itself, has earlier generations fenced, and declares
    /// the cluster formed. Goes on where it was interrupted.
    Form,
    /// Takes part in the raft group, and joins the cluster.
    Join,
}

/// The next step of a node.
#[must_use]
pub fn next_step(view: &View) -> Step {
    let Formation {
        generation,
        formed,
        forming,
    } = view.formation;
    if !formed && forming != Some(view.node) {
        return if forming.is_none() || view.stalled {
            Step::Claim
        } else {
            Step::Wait
        };
    }
    if view.session_generation != generation {
        return Step::BeginIncarnation;
    }
    if view.store_generation != generation {
        return Step::MakeStore;
    }
    if formed { Step::Join } else { Step::Form }
}
