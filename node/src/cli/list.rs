//! `list TYPE`: every entity of a type that has events, a line each.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::Output;
use super::client::ClientArgs;
use super::failure::Failure;
use crate::proto::v1;

const PAGE_SIZE: u32 = 1000;

/// Flags of `list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The entity type.
    entity_type: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Serialize)]
struct Printed<'a> {
    entity_type: &'a str,
    entity_id: &'a str,
    sequence_nr: u64,
}

pub(super) async fn run(args: ListArgs, output: Output) -> Result<(), Failure> {
    let mut client = args.client.entities().await?;
    let mut page_token = String::new();
    loop {
        let request = args.client.call(v1::ListEntitiesRequest {
            entity_type: args.entity_type.clone(),
            page_size: PAGE_SIZE,
            page_token,
        });
        let response = client.list_entities(request).await;
        let page = response
            .map_err(|status| Failure::of_read(&status))?
            .into_inner();
        let mut out = std::io::stdout().lock();
        for entity in &page.entities {
            match output {
                Output::Text => writeln!(out, "{}\t{}", entity.entity_id, entity.sequence_nr)?,
                Output::Json => super::write_json(
                    &mut out,
                    &Printed {
                        entity_type: &entity.entity_type,
                        entity_id: &entity.entity_id,
                        sequence_nr: entity.sequence_nr,
                    },
                )?,
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}
