//! Protocol Buffers, by prost: small, and understood in every language.

use bytes::Bytes;
use prost::Message;

use super::{Codec, CodecError};
use crate::payload::CodecId;

/// Protocol Buffers by prost. All four types of an entity are messages; a client says
/// `application/x-protobuf`. The default value of a message has no bytes, so anything
/// empty decodes to it.
#[derive(Debug, Clone, Copy)]
pub struct Protobuf;

impl<T: Message + Default> Codec<T> for Protobuf {
    const ID: CodecId = CodecId::PROTOBUF;

    fn encode(value: &T) -> Result<Bytes, CodecError> {
        Ok(value.encode_to_vec().into())
    }

    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        T::decode(bytes).map_err(|error| CodecError {
            message: error.to_string(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::codec::encode;

    #[derive(Clone, PartialEq, Message)]
    struct Switched {
        #[prost(bool, tag = "1")]
        on: bool,
        #[prost(string, tag = "2")]
        by: String,
    }

    #[test]
    fn a_message_survives_and_says_who_wrote_it() {
        let switched = Switched {
            on: true,
            by: "ada".to_owned(),
        };
        let payload = encode::<_, Protobuf>(&switched, "switched").unwrap();
        assert_eq!(payload.codec, CodecId::PROTOBUF);
        let decoded: Switched = Protobuf::decode(&payload.bytes).unwrap();
        assert_eq!(decoded, switched);
        let cut = &payload.bytes[..payload.bytes.len() - 1];
        <Protobuf as Codec<Switched>>::decode(cut).unwrap_err();
    }
}
