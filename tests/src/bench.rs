//! What things cost on this machine, and what the same would cost at the least.
//!
//! | | measured | floor, in the same run |
//! |---|---|---|
//! | [`service`] | commands to many counters of a node | the same messages to an echo, the same rows inserted |
//! | [`hot`] | commands to one counter | rows of one stream inserted |
//! | [`journal`] | the append API alone | the same rows by an `INSERT` alone |
//! | [`recovery`] | cold entities, each touched once | the same rows by `= ANY ($1)` alone |
//! | [`memory`] | resident bytes per counter | |
//! | [`auth`] | finding out who calls, by a token known before | by the same token checked anew |
//! | [`cluster`] | several nodes, a hop, a handoff, a takeover | one node |
//!
//! Processor time is that of whole processes: of the node, of this process as the
//! client, and of all of Postgres. Times wander from run to run with what else the
//! machine does; processor time and the ratio to the floor do so less.

mod appending;
pub mod auth;
mod bare_insert;
mod bare_select;
pub mod closed_loop;
pub mod cluster;
pub mod echo;
mod filling;
pub mod hot;
pub mod journal;
pub mod memory;
mod place;
pub mod recovery;
pub mod service;
mod usage;

use std::time::Duration;

pub use place::JournalKind;

/// How this program was built; figures of a debug build say nothing.
const BUILD: &str = if cfg!(debug_assertions) {
    "debug"
} else {
    "release"
};

/// How commands reach the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `Send`, a call for each command.
    Commands,
    /// `SendStream`, one stream for all.
    Stream,
}

/// What is measured, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the events are stored.
    #[arg(long, value_enum, default_value = "sqlite")]
    pub journal: JournalKind,
    /// Commands, or events, under way at any time.
    #[arg(long, default_value_t = 256)]
    pub outstanding: usize,
    /// Counters among which each command chooses.
    #[arg(long, default_value_t = 10_000)]
    pub entities: usize,
    /// Length of each measurement, after a warm-up of a fifth of it.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
}

impl Options {
    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl JournalKind {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}
