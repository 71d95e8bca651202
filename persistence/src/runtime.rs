//! The thin runtimes around the engine's decisions: tasks that own cells, lanes
//! that feed the journal, a driver that recovers.
//!
//! A command's way: `worker.rs` receives it and finds its cell, `cell.rs`
//! handles it, `group_commit.rs` stores what came of it, `cell.rs` answers.

pub(crate) mod awaited_recovery;
pub(crate) mod cell;
pub(crate) mod confirmations;
pub(crate) mod contained;
pub(crate) mod entity_deletion;
pub(crate) mod group_commit;
pub(crate) mod guarded_journal;
pub(crate) mod recovery_driver;
pub(crate) mod recovery_pages;
pub(crate) mod recovery_queue;
pub(crate) mod residency;
pub(crate) mod snapshot_writer;
pub(crate) mod stash_budget;
pub(crate) mod worker;
