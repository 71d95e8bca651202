//! Three entity types that come with the stock binary: to try, to test with, and
//! to learn from.
//!
//! Read them in this order: [`counter`], the smallest; [`account`], with rules
//! and a life cycle; [`airport`], which sums up a stream of real data. Each is a
//! state, commands, events, replies and two plain functions, and knows nothing
//! of journals, shards or gRPC. Your own types look the same: see `main.rs` for
//! how they get into a binary.

pub mod account;
pub mod airport;
pub mod counter;

pub use account::Account;
pub use airport::Airport;
pub use counter::Counter;
