//! Every way in which bytes of others become values here, for tests that feed it
//! nonsense: requests of clients, messages between nodes, settings.
//!
//! Each function reads as the node does and says what is wrong, or nothing; the
//! [`examples`] are good ones to be spoilt. Who feeds them is `perennial-fuzz` in the
//! tests' crate.

use std::path::Path;

use perennial_persistence::command::CommandId;
use perennial_persistence::persistence_id::PersistenceId;
use prost::Message;

use crate::config::Settings;
use crate::grpc::entity_service::page_token;
use crate::proto::v1;

pub use crate::peer::untrusted::{back, call, examples as peer_examples, forward};

/// Reads bytes as each request of a client, and what is in it.
///
/// # Errors
/// What is wrong with it.
pub fn request(bytes: &[u8]) -> Result<(), String> {
    let (which, bytes) = bytes.split_first().ok_or("nothing is there")?;
    match which % 4 {
        0 => {
            let send: v1::SendRequest = read(bytes)?;
            CommandId::parse(&send.command_id).map_err(|error| error.to_string())?;
            entity(&send.entity_type, &send.entity_id)
        }
        1 => {
            let list: v1::ListEntitiesRequest = read(bytes)?;
            let token = page_token::read(&list.page_token, &list.entity_type);
            token.map(drop).map_err(|error| error.to_string())
        }
        2 => {
            let events: v1::EventsRequest = read(bytes)?;
            entity(&events.entity_type, &events.entity_id)
        }
        _ => {
            let state: v1::GetStateRequest = read(bytes)?;
            entity(&state.entity_type, &state.entity_id)
        }
    }
}

/// Reads a message twice: what was written again has to be the same.
fn read<M: Message + Default + PartialEq>(bytes: &[u8]) -> Result<M, String> {
    let message = M::decode(bytes).map_err(|error| error.to_string())?;
    let again = M::decode(message.encode_to_vec().as_slice());
    assert!(
        again.is_ok_and(|again| again == message),
        "it changes when it is written"
    );
    Ok(message)
}

fn entity(entity_type: &str, entity_id: &str) -> Result<(), String> {
    let id = PersistenceId::new(entity_type, entity_id).map_err(|error| error.to_string())?;
    let again = PersistenceId::parse(id.as_str());
    assert!(
        again.is_ok_and(|again| again == id),
        "an id is not what it was made of"
    );
    Ok(())
}

/// Reads a settings file; files it names are not read.
///
/// # Errors
/// What is wrong with it.
pub fn settings(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if text.contains("url_file") {
        return Err("url_file would be read".to_owned());
    }
    let read = Settings::of_text(text, Path::new("settings.toml"));
    read.map(drop).map_err(|error| error.to_string())
}

/// Good requests of clients, to be spoilt.
#[must_use]
pub fn examples() -> Vec<Vec<u8>> {
    let (entity_type, entity_id) = ("counter".to_owned(), "São Paulo".to_owned());
    let send = v1::SendRequest {
        entity_type: entity_type.clone(),
        entity_id: entity_id.clone(),
        payload: "{\"add\":5}".into(),
        content_type: "application/json".into(),
        command_id: "c1".into(),
        expected_sequence_nr: Some(7),
        correlation_id: 9,
        metadata: [("who".to_owned(), "ada".to_owned())].into(),
    };
    let last = PersistenceId::new("counter", "b").ok();
    let list = v1::ListEntitiesRequest {
        entity_type: entity_type.clone(),
        page_size: 5,
        page_token: last.as_ref().map(page_token::write).unwrap_or_default(),
    };
    let events = v1::EventsRequest {
        entity_type: entity_type.clone(),
        entity_id: entity_id.clone(),
        from_sequence_nr: 1,
        to_sequence_nr: 9,
        follow: true,
    };
    let state = v1::GetStateRequest {
        entity_type,
        entity_id,
        at_sequence_nr: Some(3),
    };
    vec![
        [vec![0], send.encode_to_vec()].concat(),
        [vec![1], list.encode_to_vec()].concat(),
        [vec![2], events.encode_to_vec()].concat(),
        [vec![3], state.encode_to_vec()].concat(),
    ]
}

/// Good settings, to be spoilt: those of the reference, key by key.
#[must_use]
pub fn settings_examples() -> Vec<Vec<u8>> {
    let keys = Settings::keys().filter(|key| !key.name.ends_with("url_file"));
    let lines = keys.map(|key| format!("{} = \"{}\"\n", key.name, key.default));
    lines.map(String::into_bytes).collect()
}
