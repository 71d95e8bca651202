//! How messages are written into and read from the bytes of a call: as Protobuf, in
//! buffers of the size that commands have.
//!
//! The generated code names it (`build.rs`).

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a call begins with in each direction; it grows for larger messages. With the
/// usual 8 KiB a command cost node and client together 6 µs more, in the allocator, and
/// a payload that is cut out of such a buffer keeps all of it.
const BUFFER: usize = 1024;
/// Messages of a stream that are ready are sent together, up to this size.
const SENT_TOGETHER: usize = 32 * 1024;

/// Of messages that are written and messages that are read.
#[derive(Debug, Clone)]
pub(crate) struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER, SENT_TOGETHER)
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}
