//! Connections of others to this node, before anybody knows what they want: how
//! many there may be, how long one may take to say something, and encryption.
//!
//! `accepting` takes connections from a port, counts them (`counts.rs`) and shakes
//! hands; who may not come in is told why (`turning_away.rs`); `connection` is one of
//! them, as a stream of bytes that does not wait for ever, and whose last words are heard
//! (`lingering.rs`); `http2` serves those of the gRPC port and `http1` those of the HTTP
//! port.
//! The port for other nodes is served by `peer/server.rs`. What is answered to a
//! request is none of this.

pub(crate) mod accepting;
pub(crate) mod connection;
mod counts;
pub(crate) mod http1;
pub(crate) mod http2;
mod lingering;
pub mod protection;
mod turning_away;

use std::time::Duration;

/// Of a node towards everybody who can reach its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections of a port at once.
    pub connections: usize,
    /// Of those, from one address.
    pub per_address: usize,
    /// Calls of one connection at once.
    pub streams_per_connection: u32,
    /// Bytes of the headers of one call.
    pub header_list_len: u32,
    /// What a connection gets to shake hands, and a request to send its headers.
    pub handshake_timeout: Duration,
    /// How long a client that says nothing is left alone.
    pub keepalive_interval: Duration,
    /// How long a client that is asked whether it is there may take to answer.
    pub keepalive_timeout: Duration,
    /// After which a connection is asked to be made anew; `None` for never.
    pub connection_age: Option<Duration>,
    /// How long a client may leave unread what is sent to it.
    pub slow_reader_timeout: Duration,
}

impl ConnectionLimits {
    /// Filled by the defaults of the settings.
    pub(crate) const UNSET: Self = Self {
        connections: 0,
        per_address: 0,
        streams_per_connection: 0,
        header_list_len: 0,
        handshake_timeout: Duration::ZERO,
        keepalive_interval: Duration::ZERO,
        keepalive_timeout: Duration::ZERO,
        connection_age: None,
        slow_reader_timeout: Duration::ZERO,
    };
}

/// By the port, `client`, `http` or `peer`.
pub(crate) const CONNECTIONS: &str = "perennial_connections";
/// By the port and the reason: see [`accepting`] and [`http2`].
pub(crate) const REFUSED: &str = "perennial_connections_refused_total";

/// Counts a connection that was not taken, or was ended because of what it did.
pub(crate) fn refused(port: &'static str, reason: &'static str) {
    metrics::counter!(REFUSED, "port" => port, "reason" => reason).increment(1);
}
