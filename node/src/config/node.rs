//! Limits of a node towards its clients.

use std::time::Duration;

use super::Key;
use super::value::{byte_size, count, duration};

/// The keys, as documented.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "node.max_in_flight",
        default: "10000",
        doc: "Commands and reads of all clients that a node works on at once; further ones are \
              answered OVERLOADED. Lower it to shed load earlier, raise it for many slow clients.",
        set: |settings, text| {
            settings.max_in_flight = count(text, 1..=1_000_000)?;
            Ok(())
        },
    },
    Key {
        name: "node.max_payload",
        default: "1MiB",
        doc: "Largest command (with its metadata), event, reply and state; larger ones are \
              answered PAYLOAD_TOO_LARGE. Raise it for large states; every client can then make \
              the node hold so much for each command in flight.",
        set: |settings, text| {
            settings.engine.max_payload = byte_size(text, 1024..=256 << 20)?;
            Ok(())
        },
    },
    Key {
        name: "node.drain_timeout",
        default: "25s",
        doc: "How long a node that was asked to stop may finish what it accepted. Keep it below \
              what the service manager allows before it kills.",
        set: |settings, text| {
            settings.drain_timeout = duration(text, Duration::from_millis(1))?;
            Ok(())
        },
    },
];
