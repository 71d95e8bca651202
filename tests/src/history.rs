//! What clients did to entities and what they were told, and whether that could have
//! happened one command at a time.
//!
//! A [`History`] holds the operations of many clients on many entities of one type.
//! [`linearizability`] decides for each entity whether an order of its operations
//! explains every answer and respects real time (I-12); what an entity of the type
//! would do is a [`model`], written without any code under test. [`journal`] compares
//! what was acknowledged with the events that are stored (I-3, I-5, I-8).
//!
//! Plain values only: times are numbers that the caller takes from whatever clock it
//! has, and nothing here reads one, draws lots or does I/O. Real clusters and simulated
//! ones are checked by the same code.
//!
//! ```
//! use perennial_tests::history::linearizability::{self, Verdict};
//! use perennial_tests::history::model::counter::{Counter, CounterCall};
//! use perennial_tests::history::{Call, History};
//!
//! let mut history: History<Counter> = History::default();
//! let add = history.invoke("a", Call { client: 1, call: CounterCall::Add(5), at: 10 });
//! let get = history.invoke("a", Call { client: 2, call: CounterCall::Get, at: 11 });
//! history.complete(get, 0, 12);
//! history.complete(add, 5, 13);
//! let operations = history.of("a");
//! assert_eq!(linearizability::check::<Counter>(&operations, 1_000), Verdict::Linearizable);
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub mod journal;
pub mod linearizability;
pub mod model;

use self::model::Model;

/// A moment, in a unit that the caller chooses and uses throughout.
pub type Moment = u64;

/// What a client asks of an entity, and when it began to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call<C> {
    /// Who asks; for people who read a history.
    pub client: u64,
    /// What is asked.
    pub call: C,
    /// Before the first attempt was sent.
    pub at: Moment,
}

/// What became of an operation, as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome<R> {
    /// It was answered.
    Completed {
        /// The answer; a rejection is one too.
        reply: R,
        /// After the answer had arrived.
        at: Moment,
    },
    /// Nobody knows: it takes effect at any time after it began, or never.
    Unknown,
}

/// What one client asked and was told, retries of the same command included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation<C, R> {
    /// The question.
    #[serde(flatten)]
    pub invocation: Call<C>,
    /// The answer.
    pub outcome: Outcome<R>,
}

/// An operation of a model.
pub type OperationOf<M> = Operation<<M as Model>::Call, <M as Model>::Reply>;

/// Names an operation of the history that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(usize);

/// The operations of many clients on the entities of one type.
#[derive(Debug, Clone)]
pub struct History<M: Model> {
    /// With the entity; `None` for those that certainly had no effect.
    operations: Vec<Option<(String, OperationOf<M>)>>,
}

impl<M: Model> Default for History<M> {
    fn default() -> Self {
        Self {
            operations: Vec::new(),
        }
    }
}

impl<M: Model> History<M> {
    /// An operation begins. Unless more is said about it, nobody knows what became of
    /// it.
    pub fn invoke(&mut self, entity: &str, invocation: Call<M::Call>) -> OperationId {
        let id = OperationId(self.operations.len());
        let outcome = Outcome::Unknown;
        let operation = Operation {
            invocation,
            outcome,
        };
        self.operations.push(Some((entity.to_owned(), operation)));
        id
    }

    /// The operation was answered.
    pub fn complete(&mut self, id: OperationId, reply: M::Reply, at: Moment) {
        if let Some((_, operation)) = &mut self.operations[id.0] {
            operation.outcome = Outcome::Completed { reply, at };
        }
    }

    /// The operation certainly had no effect and will have none: the answer said so
    /// about every attempt, or it was one to read.
    pub fn withdraw(&mut self, id: OperationId) {
        self.operations[id.0] = None;
    }

    /// How many operations were begun and not withdrawn.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.iter().flatten().count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operations of each entity, in the order they were begun.
    #[must_use]
    pub fn by_entity(&self) -> BTreeMap<&str, Vec<&OperationOf<M>>> {
        let mut entities: BTreeMap<&str, Vec<&OperationOf<M>>> = BTreeMap::new();
        for (entity, operation) in self.operations.iter().flatten() {
            entities.entry(entity).or_default().push(operation);
        }
        entities
    }

    /// The operations of one entity, in the order they were begun.
    #[must_use]
    pub fn of(&self, entity: &str) -> Vec<&OperationOf<M>> {
        let operations = self.operations.iter().flatten();
        let of_entity = operations.filter(|(name, _)| name == entity);
        of_entity.map(|(_, operation)| operation).collect()
    }
}
