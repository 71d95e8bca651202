//! From messages of the contract to values that are known to be good.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use perennial_persistence::command::{CommandId, Metadata, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;

use super::status::ServiceError;
use crate::intake::{Intake, ServedType};
use crate::proto::v1::SendRequest;

/// A command that can be handed on.
pub(crate) struct ParsedCommand<'a> {
    pub(crate) served: &'a ServedType,
    pub(crate) persistence_id: PersistenceId,
    pub(crate) request: Request,
}

/// Checks everything about a command that can be checked without its entity.
/// Takes payload and metadata out of the message, and leaves the rest.
pub(crate) fn parse_command<'a>(
    intake: &'a Intake,
    send: &mut SendRequest,
) -> Result<ParsedCommand<'a>, ServiceError> {
    let (served, persistence_id) = parse_entity(intake, &send.entity_type, &send.entity_id)?;
    let command_id = CommandId::parse(&send.command_id)?;
    check_content_type(served, &send.content_type)?;
    let metadata_len = |(key, value): (&String, &String)| key.len() + value.len();
    let len = send.payload.len() + send.metadata.iter().map(metadata_len).sum::<usize>();
    intake.admission.check_len(len)?;
    Ok(ParsedCommand {
        served,
        persistence_id,
        request: Request::Command {
            payload: Payload {
                codec: served.command_codec,
                manifest: Cow::Borrowed(""),
                bytes: std::mem::take(&mut send.payload),
            },
            command_id,
            expected_sequence_nr: send.expected_sequence_nr.map(SequenceNr::new),
            metadata: metadata_of(std::mem::take(&mut send.metadata)),
        },
    })
}

/// The type and the id of the entity a request is about.
pub(crate) fn parse_entity<'a>(
    intake: &'a Intake,
    entity_type: &str,
    entity_id: &str,
) -> Result<(&'a ServedType, PersistenceId), ServiceError> {
    // First the type: one that is malformed is one that is not registered.
    let served = intake.served_type(entity_type)?;
    Ok((served, PersistenceId::new(entity_type, entity_id)?))
}

/// A type takes what its codec writes; an empty content type means JSON.
fn check_content_type(served: &ServedType, given: &str) -> Result<(), CommandError> {
    let expected = served.command_codec.content_type();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    let media_type = match media_type {
        "" => "application/json",
        other => other,
    };
    if media_type.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    let shown: String = media_type.chars().take(80).collect();
    Err(CommandError::PayloadInvalid {
        entity_type: served.name.to_owned(),
        message: format!("its content type is {shown:?}, send {expected:?}"),
    })
}

fn metadata_of(map: HashMap<String, String>) -> Metadata {
    (!map.is_empty()).then(|| Arc::new(map.into_iter().collect::<BTreeMap<_, _>>()))
}
