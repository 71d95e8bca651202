//! Bugs that are planted on purpose, to see whether the simulation finds them.
//!
//! They exist only with the cargo feature `planted-bugs`, which no program but the
//! simulation's own check asks for; without it [`is`] is `false` when compiled, and
//! nothing of them is left. One at a time is switched on, for the whole process.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// A dead node's session is reported as fenced, and is not.
    SkipFence = 1,
    /// Writes are acknowledged when they are sent.
    AcknowledgeBeforeCommit,
    /// What waits for a shard that moves away is dropped.
    ForgetBuffered,
    /// A member that is behind applies entries of the log twice.
    ApplyTwice,
    /// A new owner gets the epoch of the one before.
    ReuseEpoch,
    /// The last permit for recoveries is not given back.
    LeakPermit,
    /// Nobody looks whether a command id is stored already.
    SkipCommandIndex,
    /// The lease is longer than the leader's patience.
    LongLease,
    /// A lease that has run out is as good as one that has not.
    StaleReads,
    /// A shard's entities are recovered while an earlier owner may still write.
    RecoverCondemned,
    /// A node that starts leaves its earlier sessions as they are.
    SkipOwnFence,
    /// A shard is reported as drained without having been fenced.
    DrainedBeforeFence,
    /// What waits goes to the new owner before what the old one returns.
    ReleaseBeforeReturned,
    /// Heartbeats are acknowledged without asking a quorum.
    HeartbeatsWithoutQuorum,
    /// Commands without an id are sent again when their owner is lost.
    ResendWithoutId,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::SkipFence,
        Self::AcknowledgeBeforeCommit,
        Self::ForgetBuffered,
        Self::ApplyTwice,
        Self::ReuseEpoch,
        Self::LeakPermit,
        Self::SkipCommandIndex,
        Self::LongLease,
        Self::StaleReads,
        Self::RecoverCondemned,
        Self::SkipOwnFence,
        Self::DrainedBeforeFence,
        Self::ReleaseBeforeReturned,
        Self::HeartbeatsWithoutQuorum,
        Self::ResendWithoutId,
    ];
}

#[cfg(feature = "planted-bugs")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants a bug instead of the one before; `None` for none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    let number = bug.map_or(0, |bug| bug as u8);
    PLANTED.store(number, std::sync::atomic::Ordering::SeqCst);
}

/// Whether this one is planted.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// None is.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}
