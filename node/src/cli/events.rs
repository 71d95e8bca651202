//! `events TYPE ID`: an entity's stored events, a line each, optionally followed.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::client::ClientArgs;
use super::failure::Failure;
use super::{Output, payload};
use crate::proto::v1;

/// Flags of `events`.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// The entity type.
    entity_type: String,
    /// The entity's id.
    entity_id: String,
    /// The first sequence number; the first stored one if not given.
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "NUMBER"
    )]
    from: u64,
    /// The last sequence number, inclusive; no limit if not given.
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "NUMBER"
    )]
    to: u64,
    /// Go on with new events as they are stored, until stopped.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct Printed<'a> {
    persistence_id: &'a str,
    sequence_nr: u64,
    manifest: &'a str,
    event: Box<RawValue>,
    writer_uuid: &'a str,
    command_id: &'a str,
    tags: &'a [String],
    metadata: BTreeMap<&'a str, &'a str>,
    created_at: String,
}

pub(super) async fn run(args: EventsArgs, output: Output) -> Result<(), Failure> {
    let mut client = args.client.events().await?;
    // No time-out: how long a stream takes depends on its length.
    let response = client
        .events(v1::EventsRequest {
            entity_type: args.entity_type,
            entity_id: args.entity_id,
            from_sequence_nr: args.from,
            to_sequence_nr: args.to,
            follow: args.follow,
        })
        .await;
    let response = response.map_err(|status| Failure::of_read(&status))?;
    let mut events = response.into_inner();
    while let Some(event) = events
        .message()
        .await
        .map_err(|status| Failure::of_read(&status))?
    {
        // Locked for one event only: a follower waits long between two.
        print(&mut std::io::stdout().lock(), &event, output)?;
    }
    Ok(())
}

fn print(out: &mut impl Write, event: &v1::Event, output: Output) -> Result<(), Failure> {
    let created_at = event
        .created_at
        .and_then(|at| SystemTime::try_from(at).ok());
    let created_at = created_at.map_or_else(String::new, |at| {
        humantime::format_rfc3339_micros(at).to_string()
    });
    let shown = payload::shown(&event.content_type, &event.payload);
    match output {
        Output::Text => writeln!(
            out,
            "{}\t{created_at}\t{}\t{}",
            event.sequence_nr,
            event.manifest,
            shown.get()
        )?,
        Output::Json => super::write_json(
            out,
            &Printed {
                persistence_id: &event.persistence_id,
                sequence_nr: event.sequence_nr,
                manifest: &event.manifest,
                event: shown,
                writer_uuid: &event.writer_uuid,
                command_id: &event.command_id,
                tags: &event.tags,
                metadata: event
                    .metadata
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect(),
                created_at,
            },
        )?,
    }
    Ok(())
}
