//! Why a member of a raft group cannot start or go on.

use std::time::Duration;

use perennial_persistence::registry::NodeNr;

use super::settings::InvalidRaftSettings;

/// Why a member cannot start or form a group.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The settings do not fit together.
    #[error(transparent)]
    Settings(#[from] InvalidRaftSettings),
    /// What is in the store cannot be used.
    #[error("the raft store cannot be used: {message}")]
    Store {
        /// What is wrong.
        message: String,
    },
    /// It stopped, for the reason in the log.
    #[error("raft has stopped: {message}; restart this node")]
    Stopped {
        /// Why.
        message: String,
    },
    /// The group has not elected this node in time.
    #[error("node {} formed a raft group of its own and was not elected within {within:?}: is its disk stuck?", .node.0)]
    NotElected {
        /// This node.
        node: NodeNr,
        /// How long was waited.
        within: Duration,
    },
}

impl RaftError {
    pub(super) fn stopped(error: &impl std::fmt::Display) -> Self {
        Self::Stopped {
            message: error.to_string(),
        }
    }
}
