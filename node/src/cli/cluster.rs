//! `cluster …`: the cluster, its shards, where an entity lives, and what moves
//! them. One file for each subcommand that says more than a line.

mod drain;
mod entity;
mod reform;
mod shards;
mod status;

use clap::Subcommand;

use super::Output;
use super::client::ClientArgs;
use super::failure::Failure;
use crate::proto::v1;

/// What `cluster` can do.
#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Nodes, shards that move, and what happened lately.
    Status(status::StatusArgs),
    /// Every shard and its home.
    Shards(shards::ShardsArgs),
    /// Where an entity lives and what it is doing.
    Describe(entity::EntityArgs),
    /// Take an entity out of memory; its next command brings it back.
    Passivate(entity::EntityArgs),
    /// Hand all shards of a node to others.
    Drain(drain::DrainArgs),
    /// Let a cluster that has lost what its nodes agreed on begin anew, over the
    /// same journal. All nodes must be stopped.
    Reform(reform::ReformArgs),
}

pub(super) async fn run(command: ClusterCommand, output: Output) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status(args) => status::run(args, output).await,
        ClusterCommand::Shards(args) => shards::run(args, output).await,
        ClusterCommand::Describe(args) => entity::describe(args, output).await,
        ClusterCommand::Passivate(args) => entity::passivate(args, output).await,
        ClusterCommand::Drain(args) => drain::run(args, output).await,
        ClusterCommand::Reform(args) => reform::run(args, output).await,
    }
}

async fn get_cluster(client: &ClientArgs) -> Result<v1::GetClusterResponse, Failure> {
    let request = client.call(v1::GetClusterRequest {});
    let response = client.cluster().await?.get_cluster(request).await;
    let response = response.map_err(|status| Failure::of_read(&status))?;
    Ok(response.into_inner())
}

/// An epoch as people read it: the cluster's generation and the number of owners
/// the shard has had in it.
fn shown_epoch(epoch: u64) -> String {
    format!("{}.{}", epoch >> 32, epoch & u64::from(u32::MAX))
}
