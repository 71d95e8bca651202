//! The entity engine over the in-memory journal, with faults arranged at exact
//! places: what commands see, what the journal holds, what comes back.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "engine/fixture.rs"]
mod fixture;

#[path = "engine/command_ids.rs"]
mod command_ids;
#[path = "engine/deletion.rs"]
mod deletion;
#[path = "engine/failures.rs"]
mod failures;
#[path = "engine/flawed_storage.rs"]
mod flawed_storage;
#[path = "engine/grouping.rs"]
mod grouping;
#[path = "engine/life.rs"]
mod life;
#[path = "engine/limits.rs"]
mod limits;
#[path = "engine/outage.rs"]
mod outage;
#[path = "engine/random.rs"]
mod random;
#[path = "engine/recoveries.rs"]
mod recoveries;
#[path = "engine/reviewed.rs"]
mod reviewed;
