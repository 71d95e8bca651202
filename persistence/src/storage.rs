//! A journal, a snapshot store and a registry that belong together.

pub mod memory;

use std::sync::Arc;

use crate::journal::Journal;
use crate::registry::Registry;
use crate::snapshot_store::SnapshotStore;

/// A journal, a snapshot store and a registry over the same database.
#[derive(Clone)]
pub struct Storage {
    /// Where events live.
    pub journal: Arc<dyn Journal>,
    /// Where snapshots live.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// The book of nodes and sessions.
    pub registry: Arc<dyn Registry>,
}
