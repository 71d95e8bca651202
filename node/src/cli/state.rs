//! `state TYPE ID`: an entity's latest state, or one of its past.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::client::ClientArgs;
use super::failure::Failure;
use super::{Output, payload};
use crate::proto::v1;

/// Flags of `state`.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// The entity type.
    entity_type: String,
    /// The entity's id.
    entity_id: String,
    /// The state after the event of this sequence number.
    #[arg(long, value_name = "NUMBER")]
    at: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct Printed {
    state: Box<RawValue>,
    sequence_nr: u64,
}

pub(super) async fn run(args: StateArgs, output: Output) -> Result<(), Failure> {
    let mut client = args.client.entities().await?;
    let request = args.client.call(v1::GetStateRequest {
        entity_type: args.entity_type,
        entity_id: args.entity_id,
        at_sequence_nr: args.at,
    });
    let response = client.get_state(request).await;
    let response = response
        .map_err(|status| Failure::of_read(&status))?
        .into_inner();
    let state = payload::shown(&response.content_type, &response.payload);
    let sequence_nr = response.sequence_nr;
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => writeln!(out, "{}", state.get())?,
        Output::Json => super::write_json(&mut out, &Printed { state, sequence_nr })?,
    }
    Ok(())
}
