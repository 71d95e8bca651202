//! Perennial, a cluster-sharded persistent entity service: the library that
//! binaries link, the stock one and yours.
//!
//! Write an [`EventSourced`] type ([`samples`] shows three), register it with
//! [`Node::builder`], and run it with [`cli::main`] or [`NodeBuilder::start`].
//!
//! A command that comes by gRPC takes this way: [`grpc`] parses it, `intake.rs`
//! admits it and hands it to the region (crate `perennial-sharding`), which finds
//! the entity in the engine (crate `perennial-persistence`). Who may send it is
//! decided in [`auth`]. [`node`] puts all of it together; [`config`] says what can be set.
//!
//! [`NodeBuilder::start`]: node::NodeBuilder::start

pub(crate) mod admission;
pub mod auth;
pub mod cli;
pub mod config;
pub mod connections;
pub mod data_dir;
pub mod entity_carrier;
pub mod entity_ref;
pub(crate) mod figures;
pub mod grpc;
pub(crate) mod http;
pub(crate) mod intake;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod proto;
pub mod samples;
pub(crate) mod status_page;
pub mod telemetry;
pub mod tls;
pub mod untrusted;

pub use config::Settings;
pub use entity_ref::EntityRef;
pub use node::Node;
pub use perennial_persistence::codec::{Codec, Json, Protobuf};
pub use perennial_persistence::effect::Effect;
pub use perennial_persistence::event_sourced::EventSourced;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The code in the README is compiled, so that it works as printed.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
