//! Measures what a command costs on this machine. Build it for release:
//!
//! ```text
//! cargo run --release -p perennial-tests --bin perennial-bench -- stream --journal sqlite
//! ```
//!
//! Prints one line of JSON. What is in it is said in `bench.rs`.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Parser;
use perennial_tests::bench::{self, Options, Shape, cluster, echo};

/// Measures a node, an echo server and the journal alone, one after the other.
#[derive(Parser)]
enum Command {
    /// One gRPC call for each command.
    Commands(Options),
    /// All commands over one gRPC stream.
    Stream(Options),
    /// One node against several on this machine, local against forwarded, handoff and
    /// takeover.
    Cluster(cluster::Options),
    /// Serves as the floor of the measurement; started by the two others.
    #[command(name = echo::SUBCOMMAND, hide = true)]
    EchoServer {
        /// Where to listen.
        listen: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let (shape, options) = match Command::parse() {
        Command::Commands(options) => (Shape::Commands, options),
        Command::Stream(options) => (Shape::Stream, options),
        Command::Cluster(options) => {
            println!("{}", cluster::run(&options).await?);
            return Ok(());
        }
        Command::EchoServer { listen } => return echo::serve(listen).await,
    };
    println!("{}", bench::run(shape, &options).await?);
    Ok(())
}
