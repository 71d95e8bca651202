//! A value that is written and read, with no answer that says what was before: the
//! model on which an order is the hardest to find.

use serde::{Deserialize, Serialize};

use super::Model;

/// The register.
#[derive(Debug, Clone, Copy)]
pub struct Register;

/// What it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterCall {
    /// Remember this.
    Write(u64),
    /// Tell what was written last.
    Read,
}

/// What it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegisterReply {
    /// It remembers.
    Written,
    /// This was written last; nothing yet.
    Value(Option<u64>),
}

impl Model for Register {
    type State = Option<u64>;
    type Call = RegisterCall;
    type Reply = RegisterReply;

    fn run(state: &Option<u64>, call: &RegisterCall) -> (Option<u64>, RegisterReply) {
        match call {
            RegisterCall::Write(value) => (Some(*value), RegisterReply::Written),
            RegisterCall::Read => (*state, RegisterReply::Value(*state)),
        }
    }
}
