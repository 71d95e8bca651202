//! Streams that two incarnations wrote. A process of its own: it listens to what is
//! logged.

#![allow(clippy::unwrap_used)]

#[path = "postgres/foreign_streams.rs"]
mod streams;
