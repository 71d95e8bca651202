//! Whether a recovery is still waited for: who asked for it keeps one end, and what is
//! to be done for it looks at the other before it begins.
//!
//! When a shard leaves the node, its entities leave while their recoveries wait for a
//! permit or their turn. Such a recovery is not begun: nobody would see what is read,
//! others wait for its place, and by then the shard may be one that nobody may recover,
//! because an earlier owner is not fenced yet (I-2). Next: `recovery_driver.rs`.

use std::sync::{Arc, Weak};

/// Kept by who waits for a recovery; dropped when he does not any more.
pub(crate) struct Awaiting {
    /// Told by dropping.
    _waits: Arc<()>,
}

/// The other end, for what is done for him; clones are the same.
#[derive(Clone)]
pub(crate) struct Awaited(Weak<()>);

impl Awaiting {
    pub(crate) fn begin() -> (Self, Awaited) {
        let waits = Arc::new(());
        let awaited = Awaited(Arc::downgrade(&waits));
        (Self { _waits: waits }, awaited)
    }
}

impl Awaited {
    /// Whether somebody still waits for it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.strong_count() > 0
    }
}
