//! `cluster drain`: takes a node's shards away, and waits until they are gone.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::get_cluster;
use crate::cli::client::ClientArgs;
use crate::cli::failure::Failure;
use crate::cli::{Output, write_json};
use crate::proto::v1;

/// How often it is looked whether shards are left.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Flags of `cluster drain`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DrainArgs {
    /// The node, by its number in `cluster status`.
    node: String,
    /// Also take it out of the cluster for good; stop its process afterwards.
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct Printed<'a> {
    node_id: &'a str,
    removed: bool,
}

pub(super) async fn run(args: DrainArgs, output: Output) -> Result<(), Failure> {
    let started = Instant::now();
    let request = args.client.call(v1::DrainRequest {
        node_id: args.node.clone(),
        remove: args.remove,
    });
    let response = args.client.cluster().await?.drain(request).await;
    response.map_err(|status| Failure::of_status(&status))?;
    loop {
        let left = what_is_left(&args).await.map_err(Failure::after_a_change)?;
        let Some(left) = left else {
            break;
        };
        if started.elapsed() >= args.client.timeout {
            let error = Failure::local(format!(
                "node {} is being drained, but {left} after {}: wait longer with --timeout, and see `cluster status`",
                args.node,
                humantime::format_duration(args.client.timeout)
            ));
            return Err(error.after_a_change());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text if args.remove => writeln!(out, "node {} is no member any more", args.node)?,
        Output::Text => writeln!(out, "node {} has no shards any more", args.node)?,
        Output::Json => write_json(
            &mut out,
            &Printed {
                node_id: &args.node,
                removed: args.remove,
            },
        )?,
    }
    Ok(())
}

/// What the node still has, in words; `None` when it is drained.
async fn what_is_left(args: &DrainArgs) -> Result<Option<String>, Failure> {
    let cluster = get_cluster(&args.client).await?;
    let member = |member: &&v1::get_cluster_response::Member| member.node_id == args.node;
    Ok(match cluster.members.iter().find(member) {
        None => None,
        Some(member) if member.shards_owned > 0 => {
            Some(format!("it has {} shards", member.shards_owned))
        }
        Some(_) if args.remove => Some("it is still a member".to_owned()),
        Some(_) => None,
    })
}
