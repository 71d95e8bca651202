//! What tests of this crate, and of programs built on it, need around them. Behind
//! the cargo feature `testing`; not for production.

pub mod around_journal;
pub mod event_sourced_kit;
pub mod postgres_server;
