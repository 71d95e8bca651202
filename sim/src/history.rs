//! What clients did, and what came of it.
//!
//! Every operation is kept with its invocation and completion, in one order with the
//! commits of the journal. One that was not answered, or whose answer says so, is
//! *unknown*: it may have had its effect, or have it later.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::network::Host;
use crate::tally::Sum;

/// What a client wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To add an amount; an id lets it be tried again.
    Add { amount: i64, has_id: bool },
    /// To read the sum.
    Read,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done, and this is the sum at that number.
    Done { sequence_nr: u64, sum: Sum },
    /// Refused by the rules of the entity.
    Rejected,
    /// Certainly without effect, whatever was tried.
    NotApplied { why: String },
    /// Nobody knows.
    Unknown { why: String },
}

/// An operation of a client.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) id: u64,
    /// Of the entity.
    pub(crate) entity: usize,
    pub(crate) wish: Wish,
    /// Place in the order of everything.
    pub(crate) invoked: u64,
    /// Milliseconds since the beginning.
    pub(crate) invoked_at: u64,
    pub(crate) completed: Option<Completed>,
    /// Operations of one burst are sent one after the other, through one node.
    pub(crate) burst: Option<Burst>,
}

/// The end of an operation.
#[derive(Debug, Clone)]
pub(crate) struct Completed {
    /// Place in the order of everything.
    pub(crate) order: u64,
    /// Milliseconds since the beginning.
    pub(crate) at: u64,
    pub(crate) outcome: Outcome,
}

/// A place in a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Burst {
    pub(crate) number: u64,
    pub(crate) place: usize,
    pub(crate) through: Host,
}

/// Counts everything that happens; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order(Arc<Mutex<u64>>);

impl Order {
    pub(crate) fn next(&self) -> u64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        *last
    }
}

/// All operations of a run; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct History {
    order: Order,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl History {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            order,
            ops: Arc::default(),
        }
    }

    /// An operation begins: its number.
    pub(crate) fn invoke(&self, entity: usize, wish: Wish, burst: Option<Burst>, at: u64) -> u64 {
        let invoked = self.order.next();
        let mut ops = self.lock();
        let id = ops.len() as u64;
        ops.push(Op {
            id,
            entity,
            wish,
            invoked,
            invoked_at: at,
            completed: None,
            burst,
        });
        id
    }

    pub(crate) fn complete(&self, op: u64, outcome: Outcome, at: u64) {
        let order = self.order.next();
        let completed = Completed { order, at, outcome };
        self.lock()[op as usize].completed = Some(completed);
    }

    pub(crate) fn ops(&self) -> Vec<Op> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Op>> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
