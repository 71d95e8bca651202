//! The generated code of `proto/perennial/v1`: messages, clients and servers.
//!
//! The contract itself, with its comments, is in the `.proto` files.

pub(crate) mod codec;
pub mod unprocessed;

/// Package `perennial.v1`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
#[allow(clippy::use_self, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
pub mod v1 {
    tonic::include_proto!("perennial.v1");
}

/// Package `perennial.peer.v1`: between nodes, and no contract for clients.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
#[allow(clippy::use_self, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
pub(crate) mod peer {
    tonic::include_proto!("perennial.peer.v1");
}

/// The contract in binary form, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/perennial_descriptor.bin"));
