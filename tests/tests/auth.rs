//! Who calls, and what it may: a real node, real tokens, every call there is.

#![allow(clippy::unwrap_used)]

#[path = "auth/audit.rs"]
mod audit;
#[path = "auth/command_line.rs"]
mod command_line;
#[path = "auth/http_port.rs"]
mod http_port;
#[path = "auth/rights.rs"]
mod rights;
#[path = "auth/time.rs"]
mod time;
#[path = "auth/world.rs"]
mod world;
