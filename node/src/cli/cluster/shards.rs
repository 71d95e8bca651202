//! `cluster shards`: every shard and its home.

use std::io::Write;

use clap::Args;
use comfy_table::{Table, TableStyle};
use serde::Serialize;

use super::{get_cluster, shown_epoch};
use crate::cli::client::ClientArgs;
use crate::cli::failure::Failure;
use crate::cli::{Output, write_json};
use crate::proto::v1::get_cluster_response::Shard;

/// Flags of `cluster shards`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ShardsArgs {
    /// Only those of this node, or on their way to it.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct PrintedShard {
    shard_id: u32,
    node_id: String,
    target_node_id: String,
    epoch: u64,
    state: String,
}

pub(super) async fn run(args: ShardsArgs, output: Output) -> Result<(), Failure> {
    let cluster = get_cluster(&args.client).await?;
    let wanted = |shard: &Shard| match &args.node {
        Some(node) => shard.node_id == *node || shard.target_node_id == *node,
        None => true,
    };
    let shards = cluster.shards.into_iter().filter(wanted);
    let mut out = std::io::stdout().lock();
    if output == Output::Json {
        for shard in shards {
            let printed = PrintedShard {
                shard_id: shard.shard_id,
                node_id: shard.node_id,
                target_node_id: shard.target_node_id,
                epoch: shard.epoch,
                state: shard.state,
            };
            write_json(&mut out, &printed)?;
        }
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header(["shard", "node", "moves to", "epoch", "state"]);
    for shard in shards {
        table.add_row([
            shard.shard_id.to_string(),
            shard.node_id,
            shard.target_node_id,
            shown_epoch(shard.epoch),
            shard.state,
        ]);
    }
    writeln!(out, "{table}")?;
    Ok(())
}
