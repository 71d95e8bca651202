//! The everyday level of entities, through the real engine.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "typed/fixture.rs"]
mod fixture;

#[path = "typed/counter.rs"]
mod counter;
#[path = "typed/deletion.rs"]
mod deletion;
#[path = "typed/delivery.rs"]
mod delivery;
#[path = "typed/durable_state.rs"]
mod durable_state;
#[path = "typed/event_adapters.rs"]
mod event_adapters;
#[path = "typed/following.rs"]
mod following;
#[path = "typed/outside.rs"]
mod outside;
#[path = "typed/own_work.rs"]
mod own_work;
#[path = "typed/retention.rs"]
mod retention;
#[path = "typed/stash.rs"]
mod stash;
#[path = "typed/view.rs"]
mod view;
