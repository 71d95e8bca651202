//! Persistent actors through the real engine, case by case, on the in-memory journal,
//! on SQLite and on Postgres. Test names carry the numbers of the cases.

#![allow(clippy::unwrap_used, missing_docs)]
// Handlers and callbacks have the shape that the API gives them.
#![allow(clippy::needless_pass_by_value, clippy::ptr_arg)]

#[path = "actor/fixture.rs"]
#[macro_use]
mod fixture;
#[path = "actor/stepped_journal.rs"]
mod stepped_journal;
#[path = "actor/subject.rs"]
mod subject;

#[path = "actor/answers.rs"]
mod answers;
#[path = "actor/deferring.rs"]
mod deferring;
#[path = "actor/failures.rs"]
mod failures;
#[path = "actor/model.rs"]
mod model;
#[path = "actor/nesting.rs"]
mod nesting;
#[path = "actor/persisting.rs"]
mod persisting;
#[path = "actor/publication.rs"]
mod publication;
#[path = "actor/recovering.rs"]
mod recovering;
#[path = "actor/stashing.rs"]
mod stashing;
#[path = "actor/storing.rs"]
mod storing;
#[path = "actor/traffic.rs"]
mod traffic;
