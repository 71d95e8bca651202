//! Logs: for people on a terminal, JSON lines elsewhere, always on standard
//! error. `RUST_LOG` chooses what is logged; without it, `info` and above.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging in this process. Does nothing when somebody else has already.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let _ = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
}
