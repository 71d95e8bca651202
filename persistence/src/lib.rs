//! The entity engine of Perennial and its storage.
//!
//! An *entity* is a small event-sourced actor with an id. This crate keeps the
//! ones in use in memory, recovers the others from a journal on demand, and
//! stores what they decide. It knows nothing of clusters, nodes or gRPC: shards
//! are opaque numbers here.
//!
//! Where to read:
//!
//! * Writing an entity: [`event_sourced`], [`effect`], [`codec`]; with callbacks,
//!   [`actor`]; without history, [`durable_state`]. Changing one whose events are
//!   stored already: [`event_adapter`]. Messages that must arrive: [`delivery`].
//! * Hearing of stored events: [`publication`]; following one entity: [`view`].
//! * The way of a command: [`command`] (what is sent), [`engine`] (who takes it),
//!   `runtime/worker.rs` and `runtime/cell.rs` (who handles it),
//!   `runtime/group_commit.rs` and [`journal`] (who stores it).
//! * Decisions without I/O: [`persisting`], [`replay_filter`], [`retention`],
//!   [`recovery_permits`], [`idle_order`], [`backoff`], [`circuit_breaker`],
//!   [`command_id_cache`].
//! * Storage: [`journal`], [`snapshot_store`], [`durable_state_store`],
//!   [`recovery_reader`], [`registry`], [`global_order`], [`entity_deletion`],
//!   together a [`storage`].

pub mod actor;
pub mod backoff;
mod behavior;
pub mod circuit_breaker;
pub mod codec;
pub mod command;
pub mod command_error;
pub mod command_id_cache;
pub mod delivery;
pub mod durable_state;
pub mod durable_state_store;
pub mod effect;
pub mod engine;
pub mod entity_deletion;
pub mod entity_types;
pub mod event_adapter;
pub mod event_sourced;
pub mod global_order;
pub mod idle_order;
pub mod journal;
pub mod payload;
pub mod persistence_id;
pub mod persisting;
pub mod publication;
pub mod recovery_permits;
pub mod recovery_reader;
pub mod registry;
pub(crate) mod replay;
pub mod replay_filter;
pub mod retention;
mod runtime;
pub mod sequence_nr;
pub mod snapshot_store;
pub mod storage;
#[cfg(feature = "testing")]
pub mod testing;
pub mod view;
pub mod writer;
