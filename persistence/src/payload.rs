//! Encoded commands, replies, events and states.
//!
//! The engine and the journals move bytes; what they mean is the business of
//! the entity's codec (`codec.rs`). The codec's id and a manifest travel along,
//! so that old events can be told from new ones.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

/// Which codec wrote some bytes. Stored with every event, so never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodecId(pub i16);

impl CodecId {
    /// JSON text in UTF-8, by serde.
    pub const JSON: Self = Self(1);
    /// Protocol Buffers, by prost.
    pub const PROTOBUF: Self = Self(2);

    /// The media type that stands for this codec on the wire.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::JSON => "application/json",
            Self::PROTOBUF => "application/x-protobuf",
            _ => "application/octet-stream",
        }
    }
}

impl fmt::Display for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.content_type())
    }
}

/// Bytes with the codec that wrote them and a manifest: the name, chosen by the
/// entity type, of what the bytes hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// Who wrote the bytes.
    pub codec: CodecId,
    /// What they hold; empty where the codec needs no name.
    pub manifest: Cow<'static, str>,
    /// The encoded value.
    pub bytes: Bytes,
}

impl Payload {
    /// JSON text without a manifest, as commands and replies are.
    #[must_use]
    pub fn json(bytes: impl Into<Bytes>) -> Self {
        Self {
            codec: CodecId::JSON,
            manifest: Cow::Borrowed(""),
            bytes: bytes.into(),
        }
    }
}

impl fmt::Debug for Payload {
    /// Sizes only: payloads may hold what must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("codec", &self.codec)
            .field("manifest", &self.manifest)
            .field("len", &self.bytes.len())
            .finish()
    }
}
