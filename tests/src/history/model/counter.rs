//! A number that is added to; every answer is the number afterwards.

use serde::{Deserialize, Serialize};

use super::Model;

/// The counter.
#[derive(Debug, Clone, Copy)]
pub struct Counter;

/// What it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CounterCall {
    /// Add this.
    Add(i64),
    /// Tell the number.
    Get,
}

impl Model for Counter {
    type State = i64;
    type Call = CounterCall;
    type Reply = i64;

    fn run(state: &i64, call: &CounterCall) -> (i64, i64) {
        let next = match call {
            CounterCall::Add(amount) => state.wrapping_add(*amount),
            CounterCall::Get => *state,
        };
        (next, next)
    }
}
