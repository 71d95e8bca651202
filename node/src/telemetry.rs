//! Logs: for people on a terminal, JSON lines elsewhere, always on standard
//! error. `RUST_LOG` chooses what is logged; without it, `info` and above,
//! and nothing of the consensus library.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The library that keeps the raft group calls it an error whenever a node does not
/// answer one of its messages: many times a second while one is down, and in every
/// election. What matters of that, this program says itself.
const DEFAULT: &str = "info,openraft=off";

/// Starts logging in this process. Does nothing when somebody else has already.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let _ = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
}
