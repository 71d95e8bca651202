//! What an entity of a type would do if it were asked one thing at a time: the
//! expected side of a history.
//!
//! A model is written from the description of the type, not with its code. It is
//! deterministic: a state and a call give one reply and one next state.

use std::fmt::Debug;
use std::hash::Hash;

pub mod account;
pub mod counter;
pub mod register;

/// A type of entity, as a plain function.
pub trait Model {
    /// What an entity remembers. The default is that of a new one.
    type State: Clone + Eq + Hash + Debug + Default;
    /// What it can be asked.
    type Call: Clone + PartialEq + Debug;
    /// What it answers; a rejection is an answer too.
    type Reply: Clone + PartialEq + Debug;

    /// The state after a call, and the answer.
    fn run(state: &Self::State, call: &Self::Call) -> (Self::State, Self::Reply);
}
