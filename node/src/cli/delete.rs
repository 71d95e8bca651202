//! `delete TYPE ID`: deletes an entity for good.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::Output;
use super::client::ClientArgs;
use super::failure::Failure;
use crate::proto::v1;

/// Flags of `delete`.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The entity type.
    entity_type: String,
    /// The entity's id.
    entity_id: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct Printed {
    sequence_nr: u64,
}

pub(super) async fn run(args: DeleteArgs, output: Output) -> Result<(), Failure> {
    let mut client = args.client.entities().await?;
    let request = args.client.call(v1::DeleteEntityRequest {
        entity_type: args.entity_type.clone(),
        entity_id: args.entity_id.clone(),
    });
    let response = client.delete_entity(request).await;
    let response = response.map_err(|status| Failure::of_status(&status))?;
    let sequence_nr = response.into_inner().sequence_nr;
    let mut out = std::io::stdout().lock();
    let (entity_type, entity_id) = (&args.entity_type, &args.entity_id);
    match (output, sequence_nr) {
        (Output::Json, _) => super::write_json(&mut out, &Printed { sequence_nr })?,
        (Output::Text, 0) => writeln!(out, "{entity_type} {entity_id} never stored anything")?,
        (Output::Text, kept) => writeln!(
            out,
            "{entity_type} {entity_id} is deleted; its next event gets number {}",
            kept + 1
        )?,
    }
    Ok(())
}
