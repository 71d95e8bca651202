//! What an engine needs to know where shards move: to whom it hands back what it did
//! not begin, and when it may answer without having written.
//!
//! The engine knows nothing of owners. Whoever does, in a cluster the shard region,
//! takes requests back and finds them another place. Next: `engine.rs`.

use std::fmt;
use std::sync::Arc;

use crate::command::Envelope;
use crate::command_error::CommandError;
use crate::lease::ReadLease;

/// Why requests are handed back. None of them has had or will have an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandBackReason {
    /// Their shard was told to stop.
    Stopped,
    /// The journal refuses this session's writes to the shard.
    Fenced,
}

/// Requests of one entity. Those that came before them may be handed back later: they
/// are put in order by [`Envelope::arrival`].
#[derive(Debug)]
pub struct HandedBack {
    /// Why.
    pub reason: HandBackReason,
    /// What was not begun, or had no effect.
    pub envelopes: Vec<Envelope>,
}

/// Takes requests back. Called by workers: must not wait.
pub type TakeBack = Arc<dyn Fn(HandedBack) + Send + Sync>;

/// When an answer is given that nothing was stored for.
///
/// What is stored proves that no other node owns the shard; a read or a rejection
/// proves nothing by itself (I-12).
#[derive(Debug, Clone, Default)]
pub enum ReadGuard {
    /// At once: there is no other node.
    #[default]
    Always,
    /// If the lease still holds after the request was handled.
    Lease(ReadLease),
    /// When the journal has said, after the request was handled, that the session may
    /// still write to the shard.
    Journal,
}

/// How an engine takes part in a cluster. The default is: not.
#[derive(Clone)]
pub struct EngineHooks {
    /// Takes requests back.
    pub take_back: TakeBack,
    /// When an answer is given that nothing was stored for.
    pub read_guard: ReadGuard,
}

impl Default for EngineHooks {
    fn default() -> Self {
        Self {
            take_back: Arc::new(refuse),
            read_guard: ReadGuard::Always,
        }
    }
}

impl fmt::Debug for EngineHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("EngineHooks");
        shown.field("read_guard", &self.read_guard);
        shown.finish_non_exhaustive()
    }
}

/// There is no other place.
fn refuse(handed_back: HandedBack) {
    for envelope in handed_back.envelopes {
        let shard = envelope.shard.0;
        let error = CommandError::ShardUnavailable { shard };
        envelope.reply_to.answer(Err(error));
    }
}
