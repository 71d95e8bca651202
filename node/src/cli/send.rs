//! `send TYPE ID JSON`: one command to one entity.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::client::ClientArgs;
use super::failure::Failure;
use super::{Output, payload};
use crate::proto::v1;

/// Flags of `send`.
#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The entity type, such as `counter`.
    entity_type: String,
    /// The entity's id.
    entity_id: String,
    /// The command, as JSON; a word needs its quotes: '"get"'.
    command: String,
    /// Makes retries safe: sent again with the same id, the command has its
    /// effect once.
    #[arg(long, value_name = "TEXT")]
    command_id: Option<String>,
    /// Refuse unless the entity is at this sequence number.
    #[arg(long, value_name = "NUMBER")]
    expected_sequence_nr: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct Printed {
    reply: Box<RawValue>,
    sequence_nr: u64,
    duplicate: bool,
}

pub(super) async fn run(args: SendArgs, output: Output) -> Result<(), Failure> {
    let mut client = args.client.entities().await?;
    let request = args.client.call(v1::SendRequest {
        entity_type: args.entity_type,
        entity_id: args.entity_id,
        payload: args.command.into(),
        command_id: args.command_id.unwrap_or_default(),
        expected_sequence_nr: args.expected_sequence_nr,
        ..v1::SendRequest::default()
    });
    let response = client.send(request).await;
    let response = response
        .map_err(|status| Failure::of_status(&status))?
        .into_inner();
    let reply = payload::shown(&response.content_type, &response.payload);
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => writeln!(out, "{}", reply.get())?,
        Output::Json => super::write_json(
            &mut out,
            &Printed {
                reply,
                sequence_nr: response.sequence_nr,
                duplicate: response.duplicate,
            },
        )?,
    }
    Ok(())
}
