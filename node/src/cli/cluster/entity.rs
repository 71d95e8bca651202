//! `cluster describe` and `cluster passivate`: one entity.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::shown_epoch;
use crate::cli::client::ClientArgs;
use crate::cli::failure::Failure;
use crate::cli::{Output, write_json};
use crate::proto::v1;

/// Names an entity.
#[derive(Debug, Args)]
pub(in crate::cli) struct EntityArgs {
    /// The entity type.
    entity_type: String,
    /// The entity's id.
    entity_id: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct PrintedEntity {
    shard_id: u32,
    node_id: String,
    epoch: u64,
    state: String,
    sequence_nr: u64,
    queued: u32,
    waiting_for: String,
}

pub(super) async fn describe(entity: EntityArgs, output: Output) -> Result<(), Failure> {
    let request = entity.client.call(v1::DescribeEntityRequest {
        entity_type: entity.entity_type,
        entity_id: entity.entity_id,
    });
    let mut client = entity.client.cluster().await?;
    let response = client.describe_entity(request).await;
    let response = response.map_err(|status| Failure::of_read(&status))?;
    let described = response.into_inner();
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => {
            writeln!(out, "state        {}", described.state)?;
            writeln!(out, "shard        {}", described.shard_id)?;
            writeln!(out, "node         {}", described.node_id)?;
            writeln!(out, "epoch        {}", shown_epoch(described.epoch))?;
            writeln!(out, "sequence nr  {}", described.sequence_nr)?;
            writeln!(out, "queued       {}", described.queued)?;
            if !described.waiting_for.is_empty() {
                writeln!(out, "waiting for  {}", described.waiting_for)?;
            }
            Ok(())
        }
        Output::Json => write_json(
            &mut out,
            &PrintedEntity {
                shard_id: described.shard_id,
                node_id: described.node_id,
                epoch: described.epoch,
                state: described.state,
                sequence_nr: described.sequence_nr,
                queued: described.queued,
                waiting_for: described.waiting_for,
            },
        ),
    }
}

#[derive(Serialize)]
struct PrintedPassivation {
    passivated: bool,
}

pub(super) async fn passivate(entity: EntityArgs, output: Output) -> Result<(), Failure> {
    let request = entity.client.call(v1::PassivateRequest {
        entity_type: entity.entity_type,
        entity_id: entity.entity_id,
    });
    let response = entity.client.cluster().await?.passivate(request).await;
    response.map_err(|status| Failure::of_read(&status))?;
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => writeln!(out, "out of memory")?,
        Output::Json => write_json(&mut out, &PrintedPassivation { passivated: true })?,
    }
    Ok(())
}
