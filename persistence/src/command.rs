//! What is sent to an entity, and what comes back.
//!
//! An [`Envelope`] is one request on its way, with the place its answer goes.
//! It is always answered exactly once (promise I-8): with a [`Reply`], or with a
//! [`CommandError`] that says whether the command may have been applied.
//! Next: `runtime/worker.rs`, which receives envelopes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::command_error::CommandError;
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::trace::Trace;
use crate::writer::{Epoch, ShardNr};

/// Longest command id, in bytes.
pub const COMMAND_ID_LEN_MAX: usize = 128;

/// A client's name for one command, by which a retry is recognised.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(Arc<str>);

/// The command id is longer than [`COMMAND_ID_LEN_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the command id has {len} bytes: use at most {COMMAND_ID_LEN_MAX}, without control characters"
)]
pub struct InvalidCommandId {
    /// Its length in bytes.
    pub len: usize,
}

impl CommandId {
    /// Parses a command id; `None` for the empty text, which means "no id".
    ///
    /// # Errors
    /// [`InvalidCommandId`] when it is too long or has control characters.
    pub fn parse(text: &str) -> Result<Option<Self>, InvalidCommandId> {
        if text.len() > COMMAND_ID_LEN_MAX || text.chars().any(char::is_control) {
            return Err(InvalidCommandId { len: text.len() });
        }
        Ok((!text.is_empty()).then(|| Self(text.into())))
    }

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandId({:?})", &*self.0)
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Client's key-value pairs, stored with the events a command causes. `None`
/// when there are none, so that the usual command carries no map.
pub type Metadata = Option<Arc<BTreeMap<String, String>>>;

/// What is asked of an entity.
#[derive(Debug, Clone)]
pub enum Request {
    /// Handle a command.
    Command {
        /// The encoded command.
        payload: Payload,
        /// Makes retries have one effect.
        command_id: Option<CommandId>,
        /// Refuse unless the entity is at this number.
        expected_sequence_nr: Option<SequenceNr>,
        /// Stored with the events.
        metadata: Metadata,
    },
    /// Return the encoded state; linearizable like a command that stores nothing.
    State,
}

impl Request {
    /// The client's id for the command, if it has one.
    #[must_use]
    pub fn command_id(&self) -> Option<&CommandId> {
        match self {
            Self::Command { command_id, .. } => command_id.as_ref(),
            Self::State => None,
        }
    }
}

/// One request under way, with the place its answer goes.
#[derive(Debug)]
pub struct Envelope {
    /// Whom it is for.
    pub persistence_id: PersistenceId,
    /// The entity's shard, by which the journal checks fences.
    pub shard: ShardNr,
    /// Of the shard, when this envelope was routed.
    pub epoch: Epoch,
    /// A number of the caller's, which comes back with a request that is handed back:
    /// by it they can be put in order again.
    pub arrival: u64,
    /// What is asked.
    pub request: Request,
    /// After this nobody waits for the answer any more.
    pub deadline: Option<Instant>,
    /// Where the answer goes.
    pub reply_to: ReplyTo,
    /// To which it belongs; mostly none.
    pub trace: Trace,
}

/// The good answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The encoded reply, or state.
    pub payload: Payload,
    /// The entity's number after the command.
    pub sequence_nr: SequenceNr,
    /// Answered from an earlier run of the same command id.
    pub duplicate: bool,
}

/// The answer to a request.
pub type Answer = Result<Reply, CommandError>;

/// Where an answer goes. Consumed by answering, so nothing is answered twice;
/// dropped without an answer (which only a bug can do) the receiver sees its
/// channel closed.
#[derive(Debug)]
pub enum ReplyTo {
    /// One caller that waits.
    Ask(oneshot::Sender<Answer>),
    /// One caller that waits for a time, and wants to know then whether its
    /// request was begun.
    AskForATime {
        /// Where the answer goes.
        place: oneshot::Sender<Answer>,
        /// Who came first.
        handling: Arc<Handling>,
    },
    /// One place in a stream of answers, reserved before the command was sent,
    /// so that answering never waits and never fails.
    Stream {
        /// The reserved place.
        place: mpsc::OwnedPermit<(u64, Answer)>,
        /// The caller's number for the command.
        correlation_id: u64,
    },
    /// A region of another node, which finds another place for what is not begun.
    Peer {
        /// The reserved place.
        place: mpsc::OwnedPermit<(u64, Told)>,
        /// The other node's number for the request.
        correlation_id: u64,
    },
    /// Nobody: the sender told, and did not ask.
    Nobody,
}

/// What another node's region is told of a request.
#[derive(Debug)]
pub enum Told {
    /// What came of it.
    Answer(Answer),
    /// It was not begun: route it anew, by a table of at least this index.
    RouteAnew {
        /// Of the table by which it is not begun here.
        index: u64,
    },
}

/// Settles, without clocks, whether a request was begun before its caller gave
/// up: whoever comes first decides, and the other learns of it.
#[derive(Debug, Default)]
pub struct Handling(AtomicU8);

impl Handling {
    const BEGUN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// The engine begins; `false` if the caller has given up before.
    fn begin(&self) -> bool {
        self.settle(Self::BEGUN) == Self::BEGUN
    }

    /// The caller gives up; `true` if the request has not begun, and never will.
    #[must_use]
    pub fn give_up(&self) -> bool {
        self.settle(Self::GIVEN_UP) == Self::GIVEN_UP
    }

    fn settle(&self, wanted: u8) -> u8 {
        let order = Ordering::AcqRel;
        match self.0.compare_exchange(0, wanted, order, Ordering::Acquire) {
            Ok(_) => wanted,
            Err(settled) => settled,
        }
    }
}

impl ReplyTo {
    /// A place for one answer and the receiver that gets it.
    #[must_use]
    pub fn ask() -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (Self::Ask(sender), receiver)
    }

    /// As [`ReplyTo::ask`], for a caller that may give up waiting.
    #[must_use]
    pub fn ask_for_a_time() -> (Self, oneshot::Receiver<Answer>, Arc<Handling>) {
        let (place, receiver) = oneshot::channel();
        let handling = Arc::new(Handling::default());
        let reply_to = Self::AskForATime {
            place,
            handling: Arc::clone(&handling),
        };
        (reply_to, receiver, handling)
    }

    /// Says that handling begins. `false` if the caller has given up and was told
    /// that it never will: then it must not.
    #[must_use]
    pub fn begin(&self) -> bool {
        match self {
            Self::AskForATime { handling, .. } => handling.begin(),
            Self::Ask(_) | Self::Stream { .. } | Self::Peer { .. } | Self::Nobody => true,
        }
    }

    /// Whether nobody can hear the answer any more, although somebody asked for it.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        match self {
            Self::Ask(place) | Self::AskForATime { place, .. } => place.is_closed(),
            Self::Stream { .. } | Self::Peer { .. } | Self::Nobody => false,
        }
    }

    /// Gives the answer. A caller that has gone away is no error.
    pub fn answer(self, answer: Answer) {
        match self {
            Self::Ask(place) | Self::AskForATime { place, .. } => {
                let _ = place.send(answer);
            }
            Self::Stream {
                place,
                correlation_id,
            } => {
                place.send((correlation_id, answer));
            }
            Self::Peer {
                place,
                correlation_id,
            } => {
                place.send((correlation_id, Told::Answer(answer)));
            }
            Self::Nobody => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_begun_cannot_be_given_up_and_the_other_way_round() {
        let (reply_to, _answer, handling) = ReplyTo::ask_for_a_time();
        assert!(reply_to.begin() && !handling.give_up() && reply_to.begin());
        let (reply_to, _answer, handling) = ReplyTo::ask_for_a_time();
        assert!(handling.give_up() && !reply_to.begin() && handling.give_up());
    }
}
