//! The entity engine of Perennial and its storage.
pub mod codec;
pub mod command;
pub mod command_error;
pub mod effect;
pub mod engine;
pub mod entity_types;
pub mod event_sourced;
pub mod journal;
pub mod payload;
pub mod persistence_id;
pub mod registry;
pub mod replay_filter;
pub mod sequence_nr;
pub mod snapshot_store;
pub mod storage;
pub mod writer;
