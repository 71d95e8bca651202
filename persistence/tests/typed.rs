//! The everyday level of entities, through the real engine.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "typed/fixture.rs"]
mod fixture;

#[path = "typed/event_adapters.rs"]
mod event_adapters;
