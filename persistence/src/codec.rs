//! How commands, replies, events and states become bytes and come back.

mod protobuf;

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::protobuf::Protobuf;
use crate::payload::{CodecId, Payload};

/// Bytes could not be made, or could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CodecError {
    /// What the codec said, with the place in the input where it knows it.
    pub message: String,
}

/// Encodes and decodes values of one type.
pub trait Codec<T> {
    /// Stored with everything this codec wrote.
    const ID: CodecId;

    /// Encodes a value.
    ///
    /// # Errors
    /// When the value has no encoding, such as a map with keys that are not texts
    /// in JSON. An event that cannot be encoded is refused before it is stored.
    fn encode(value: &T) -> Result<Bytes, CodecError>;

    /// Decodes what [`Codec::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not a value of the type.
    fn decode(bytes: &[u8]) -> Result<T, CodecError>;
}

/// JSON text by serde: readable in the database, and by every client.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    const ID: CodecId = CodecId::JSON;

    fn encode(value: &T) -> Result<Bytes, CodecError> {
        serde_json::to_vec(value)
            .map(Bytes::from)
            .map_err(|error| CodecError {
                message: error.to_string(),
            })
    }

    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|error| CodecError {
            message: error.to_string(),
        })
    }
}

/// Encodes a value with the codec's id and a manifest.
///
/// # Errors
/// Those of [`Codec::encode`].
pub fn encode<T, C: Codec<T>>(value: &T, manifest: &'static str) -> Result<Payload, CodecError> {
    Ok(Payload {
        codec: C::ID,
        manifest: Cow::Borrowed(manifest),
        bytes: C::encode(value)?,
    })
}
