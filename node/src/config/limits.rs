//! Limits of a node against clients that mean harm, or are broken.

use std::time::Duration;

use super::Key;
use super::value::{byte_size, count, duration};

const SHORTEST: Duration = Duration::from_millis(100);

/// The keys, as documented.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "node.limits.connections",
        default: "4096",
        doc: "Connections of each port at once; further ones are closed. Each takes a file \
              descriptor and some 100 KiB: keep it below what the system allows (ulimit -n).",
        set: |settings, text| {
            settings.limits.connections = count(text, 1..=1_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "node.limits.connections_per_address",
        default: "1024",
        doc: "Of those, from one address (of IPv6, one network of 64 bits), so that one client \
              does not take all. Raise it to node.limits.connections behind a proxy, where all \
              clients have one address.",
        set: |settings, text| {
            settings.limits.per_address = count(text, 1..=1_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "node.limits.streams_per_connection",
        default: "4096",
        doc: "Calls and streams of one connection at once; well-behaved clients let further ones \
              wait, those of others are refused. Lower it when few clients take all.",
        set: |settings, text| {
            settings.limits.streams_per_connection = count(text, 1..=1_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "node.limits.header_list",
        default: "16KiB",
        doc: "Bytes of all headers of one call; a call with more is refused. Raise it for tokens \
              that are larger.",
        set: |settings, text| {
            // Fits: the range ends before.
            settings.limits.header_list_len = byte_size(text, 4 << 10..=1 << 20)? as u32;
            Ok(())
        },
    },
    Key {
        name: "node.limits.handshake_timeout",
        default: "10s",
        doc: "How long a new connection may take until it has asked for something, with TLS and \
              all, and how long one of the HTTP port may do nothing. Raise it for clients far away.",
        set: |settings, text| {
            settings.limits.handshake_timeout = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "node.limits.keepalive_interval",
        default: "30s",
        doc: "A client that says nothing for so long is asked whether it is there. Lower it where \
              something between the two forgets quiet connections.",
        set: |settings, text| {
            settings.limits.keepalive_interval = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "node.limits.keepalive_timeout",
        default: "20s",
        doc: "A client that does not answer that for so long is gone, and its connection closed.",
        set: |settings, text| {
            settings.limits.keepalive_timeout = duration(text, SHORTEST)?;
            Ok(())
        },
    },
    Key {
        name: "node.limits.connection_age",
        default: "unlimited",
        doc: "A connection that exists for so long is asked to be made anew; calls under way get 30s \
              to finish, streams too. Set it where a balancer only spreads new connections, or \
              where a client's certificate has to be shown again from time to time.",
        set: |settings, text| {
            settings.limits.connection_age = match text {
                "unlimited" => None,
                text => Some(
                    duration(text, SHORTEST)
                        .map_err(|expected| format!("\"unlimited\", or {expected}"))?,
                ),
            };
            Ok(())
        },
    },
    Key {
        name: "node.limits.slow_reader_timeout",
        default: "60s",
        doc: "How long a client may leave unread what is sent to it: then its stream is ended with \
              SLOW_READER and what waits for it is dropped. Raise it for subscribers that pause.",
        set: |settings, text| {
            settings.limits.slow_reader_timeout = duration(text, SHORTEST)?;
            Ok(())
        },
    },
];
