//! Measures what things cost on this machine. Build it for release:
//!
//! ```text
//! cargo run --release -p perennial-tests --bin perennial-bench -- stream --journal postgres
//! ```
//!
//! Prints one line of JSON. What is in it is said in `bench.rs`.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Parser;
use perennial_tests::bench::memory::MemoryOptions;
use perennial_tests::bench::recovery::RecoveryOptions;
use perennial_tests::bench::service::ServiceOptions;
use perennial_tests::bench::{
    Options, Shape, auth, cluster, echo, hot, journal, memory, recovery, service,
};
use perennial_tests::binaries::build_perennial;

/// Measures a part of Perennial, and in the same run its floor: the least that the
/// same could cost.
#[derive(Parser)]
enum Command {
    /// A node, one gRPC call for each command.
    Commands(ServiceOptions),
    /// A node, all commands over one gRPC stream.
    Stream(ServiceOptions),
    /// A node, all commands to one entity.
    Hot(Options),
    /// The journal without a node: its append API.
    Journal(Options),
    /// A node that was just started, all entities cold.
    Recovery(RecoveryOptions),
    /// The memory of a node by its number of entities.
    Memory(MemoryOptions),
    /// One node against several on this machine, local against forwarded, handoff and
    /// takeover.
    Cluster(cluster::Options),
    /// Finding out who calls, by a token.
    Auth,
    /// Serves as the floor of the measurement; started by others.
    #[command(name = echo::SUBCOMMAND, hide = true)]
    EchoServer {
        /// Where to listen.
        listen: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let command = Command::parse();
    if let Command::EchoServer { listen } = command {
        return echo::serve(listen).await;
    }
    if let Command::Auth = command {
        println!("{}", auth::run()?);
        return Ok(());
    }
    build_perennial()?;
    let report = match &command {
        Command::Commands(options) => service::run(Shape::Commands, options).await?,
        Command::Stream(options) => service::run(Shape::Stream, options).await?,
        Command::Hot(options) => hot::run(options).await?,
        Command::Journal(options) => journal::run(options).await?,
        Command::Recovery(options) => recovery::run(options).await?,
        Command::Memory(options) => memory::run(options).await?,
        Command::Cluster(options) => cluster::run(options).await?,
        Command::Auth | Command::EchoServer { .. } => return Ok(()),
    };
    println!("{report}");
    Ok(())
}
