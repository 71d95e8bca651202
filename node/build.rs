//! Generates the gRPC code from `proto/`, without protoc.

use std::path::PathBuf;

use prost::Message;

/// See there.
const CODEC: &str = "crate::proto::codec::SmallBuffers";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(
        [
            "perennial/v1/entity.proto",
            "perennial/v1/event.proto",
            "perennial/v1/cluster.proto",
        ],
        ["proto"],
    )?;
    let between_nodes = protox::compile(["perennial/peer/v1/peer.proto"], ["proto"])?;
    // Served by reflection, so that grpcurl and the like need no proto files.
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out_dir.join("perennial_descriptor.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .codec_path(CODEC)
        // Payloads are cut out of the receive buffer, not copied.
        .bytes(".")
        // The same message as in the trailers of a failed call.
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    tonic_prost_build::configure()
        .codec_path(CODEC)
        .bytes(".")
        // As the entity's metadata is held on both sides.
        .btree_map(".")
        .compile_fds(between_nodes)?;
    Ok(())
}
