//! How well a connection is protected, and what may go over one that is not.

use std::net::SocketAddr;

/// Whether others can listen in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Encrypted.
    Tls,
    /// Both ends are on this machine.
    ThisMachine,
    /// Neither: everybody between the two ends can read and change what is said.
    Open,
}

/// What the port knows of a connection. Every request has it in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// The other end, as far as this machine can tell: behind a proxy, the proxy.
    pub remote: SocketAddr,
    /// Whether others can listen in.
    pub protection: Protection,
}

impl ConnectionFacts {
    /// Of a connection between these two addresses.
    #[must_use]
    pub fn new(local: SocketAddr, remote: SocketAddr, encrypted: bool) -> Self {
        let here = |end: SocketAddr| end.ip().to_canonical().is_loopback();
        let protection = if encrypted {
            Protection::Tls
        } else if here(local) && here(remote) {
            Protection::ThisMachine
        } else {
            Protection::Open
        };
        Self { remote, protection }
    }
}

/// What a page of the HTTP port shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// How the node is, in numbers without names: probes and metrics.
    Health,
    /// What entities and nodes do, or hold.
    Data,
}

/// The rule of the HTTP port: health for everybody who reaches it, data only where
/// nobody else can read it. `--insecure` does not change it. Whether the one who asks
/// may see the data is another question, asked after this one.
#[must_use]
pub fn may_be_shown(shows: Shows, protection: Protection) -> bool {
    match (shows, protection) {
        (Shows::Health, _) | (Shows::Data, Protection::Tls | Protection::ThisMachine) => true,
        (Shows::Data, Protection::Open) => false,
    }
}

/// What a page answers that may not be shown.
pub const NOT_PROTECTED: &str = "this page is shown over https:// or on the node's own machine only: give the node a \
     certificate (node.tls.certificate), or forward a port of your machine to it\n";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn protection(local: &str, remote: &str, encrypted: bool) -> Protection {
        ConnectionFacts::new(local.parse().unwrap(), remote.parse().unwrap(), encrypted).protection
    }

    #[test]
    fn data_is_shown_where_nobody_listens_in() {
        for (local, remote, encrypted, shown) in [
            ("127.0.0.1:1", "127.0.0.1:2", false, true),
            ("[::1]:1", "[::1]:2", false, true),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2", false, true),
            ("10.0.0.1:1", "10.0.0.2:2", true, true),
            ("10.0.0.1:1", "10.0.0.2:2", false, false),
            // The machine itself, by an address others have too.
            ("10.0.0.1:1", "10.0.0.1:2", false, false),
            // A forged sender.
            ("10.0.0.1:1", "127.0.0.1:2", false, false),
        ] {
            let protection = protection(local, remote, encrypted);
            let case = format!("{local} {remote} {encrypted}");
            assert_eq!(may_be_shown(Shows::Data, protection), shown, "{case}");
            assert!(may_be_shown(Shows::Health, protection), "{case}");
        }
    }
}
