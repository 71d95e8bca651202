//! Who writes: entity incarnations, node sessions, shards and their epochs.
//!
//! Three identities, each for one purpose. A [`WriterUuid`] is drawn for every
//! incarnation of an entity and stamped on its events, so that the replay
//! filter (`replay_filter.rs`) can tell two authors apart. A [`SessionUuid`] is
//! drawn for every incarnation of a node; the journal refuses appends of a
//! fenced session (promise I-2). An [`Epoch`] counts the owners of a shard; the
//! journal can refuse one session's writes to one shard up to an epoch.
//!
//! Shards are opaque numbers here: who owns one is the business of `sharding`.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One incarnation of one entity. Drawn afresh at every recovery.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterUuid(pub Uuid);

/// One incarnation of one node, as the journal knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionUuid(pub Uuid);

/// Number of a shard. Opaque to persistence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardNr(pub u32);

/// How often a shard has been given to an owner; grows with every change.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// No fence of a shard reaches it: who may write under it may write at all.
    pub const LAST: Self = Self(i64::MAX as u64);
}

macro_rules! show_as_inner {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
show_as_inner!(WriterUuid, SessionUuid, ShardNr, Epoch);

impl fmt::Debug for WriterUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriterUuid({})", self.0)
    }
}

impl fmt::Debug for SessionUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionUuid({})", self.0)
    }
}
