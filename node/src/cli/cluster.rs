//! `cluster status`, `cluster describe`, `cluster passivate`.

use std::io::Write;

use clap::{Args, Subcommand};
use comfy_table::{Table, TableStyle};
use serde::Serialize;

use super::Output;
use super::client::ClientArgs;
use super::failure::Failure;
use crate::proto::v1;

/// What `cluster` can do.
#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Members and shards.
    Status {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Where an entity lives and what it is doing.
    Describe(EntityArgs),
    /// Take an entity out of memory; its next command brings it back.
    Passivate(EntityArgs),
}

/// Names an entity.
#[derive(Debug, Args)]
pub(super) struct EntityArgs {
    /// The entity type.
    entity_type: String,
    /// The entity's id.
    entity_id: String,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(command: ClusterCommand, output: Output) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status { client } => status(&client, output).await,
        ClusterCommand::Describe(entity) => describe(entity, output).await,
        ClusterCommand::Passivate(entity) => passivate(entity, output).await,
    }
}

#[derive(Serialize)]
struct PrintedCluster {
    cluster_id: String,
    number_of_shards: u32,
    leader_node_id: String,
    term: u64,
    members: Vec<PrintedMember>,
}

#[derive(Serialize)]
struct PrintedMember {
    node_id: String,
    address: String,
    peer_address: String,
    session: String,
    status: String,
    version: String,
    voter: bool,
    shards_owned: u32,
    live_entities: u64,
}

async fn status(client: &ClientArgs, output: Output) -> Result<(), Failure> {
    let request = client.call(v1::GetClusterRequest {});
    let response = client.cluster().await?.get_cluster(request).await;
    let cluster = response
        .map_err(|status| Failure::of_read(&status))?
        .into_inner();
    let mut out = std::io::stdout().lock();
    if output == Output::Text {
        writeln!(
            out,
            "cluster {}, {} shards",
            cluster.cluster_id, cluster.number_of_shards
        )?;
        let mut table = Table::new();
        table.load_style(TableStyle::new());
        table.set_header([
            "node",
            "address",
            "status",
            "version",
            "shards",
            "live entities",
        ]);
        for member in &cluster.members {
            table.add_row([
                member.node_id.clone(),
                member.address.clone(),
                member.status.clone(),
                member.version.clone(),
                member.shards_owned.to_string(),
                member.live_entities.to_string(),
            ]);
        }
        writeln!(out, "{table}")?;
        return Ok(());
    }
    let member = |member: v1::get_cluster_response::Member| PrintedMember {
        node_id: member.node_id,
        address: member.address,
        peer_address: member.peer_address,
        session: member.session,
        status: member.status,
        version: member.version,
        voter: member.voter,
        shards_owned: member.shards_owned,
        live_entities: member.live_entities,
    };
    super::write_json(
        &mut out,
        &PrintedCluster {
            cluster_id: cluster.cluster_id,
            number_of_shards: cluster.number_of_shards,
            leader_node_id: cluster.leader_node_id,
            term: cluster.term,
            members: cluster.members.into_iter().map(member).collect(),
        },
    )
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

async fn describe(entity: EntityArgs, output: Output) -> Result<(), Failure> {
    let request = entity.client.call(v1::DescribeEntityRequest {
        entity_type: entity.entity_type,
        entity_id: entity.entity_id,
    });
    let response = entity
        .client
        .cluster()
        .await?
        .describe_entity(request)
        .await;
    let described = response
        .map_err(|status| Failure::of_read(&status))?
        .into_inner();
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => {
            writeln!(out, "state        {}", described.state)?;
            writeln!(out, "shard        {}", described.shard_id)?;
            writeln!(out, "node         {}", described.node_id)?;
            writeln!(out, "epoch        {}", described.epoch)?;
            writeln!(out, "sequence nr  {}", described.sequence_nr)?;
            writeln!(out, "queued       {}", described.queued)?;
            if !described.waiting_for.is_empty() {
                writeln!(out, "waiting for  {}", described.waiting_for)?;
            }
            Ok(())
        }
        Output::Json => super::write_json(
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

async fn passivate(entity: EntityArgs, output: Output) -> Result<(), Failure> {
    let request = entity.client.call(v1::PassivateRequest {
        entity_type: entity.entity_type,
        entity_id: entity.entity_id,
    });
    let response = entity.client.cluster().await?.passivate(request).await;
    response.map_err(|status| Failure::of_read(&status))?;
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => writeln!(out, "out of memory")?,
        Output::Json => super::write_json(&mut out, &PrintedPassivation { passivated: true })?,
    }
    Ok(())
}
