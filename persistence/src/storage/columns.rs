//! How values are written in the columns of both databases, and read back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::command::{CommandId, InvalidCommandId, Metadata};
use crate::journal::JournalError;
use crate::payload::{CodecId, Payload};
use crate::sequence_nr::SequenceNr;
use crate::writer::Epoch;

/// The largest number of events asked of a database at once.
pub(crate) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Epochs are composed so that they fit.
pub(crate) fn epoch_i64(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).unwrap_or(i64::MAX)
}

/// A time as microseconds since 1970; times outside of what fits are cut.
pub(crate) fn to_micros(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros)
        }
    }
}

pub(crate) fn from_micros(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// A JSON object, or `None` when there is none.
pub(crate) fn metadata_json(metadata: &Metadata) -> Option<String> {
    let pairs = metadata.as_ref()?;
    let object: serde_json::Map<String, serde_json::Value> = pairs
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().into()))
        .collect();
    Some(serde_json::Value::Object(object).to_string())
}

pub(crate) fn parse_metadata(json: Option<&str>) -> Result<Metadata, serde_json::Error> {
    let Some(json) = json else { return Ok(None) };
    let pairs: BTreeMap<String, String> = serde_json::from_str(json)?;
    Ok(Some(Arc::new(pairs)))
}

pub(crate) fn payload(codec: i16, manifest: String, bytes: Vec<u8>) -> Payload {
    Payload {
        codec: CodecId(codec),
        manifest: manifest.into(),
        bytes: Bytes::from(bytes),
    }
}

/// A stored command id; the empty text is not one.
pub(crate) fn command_id(text: Option<String>) -> Result<Option<CommandId>, InvalidCommandId> {
    text.map_or(Ok(None), |text| CommandId::parse(&text))
}

/// For a column whose value cannot be understood.
pub(crate) fn decode_error(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

/// For a database that did not do what it was asked.
pub(crate) fn unavailable(doing: &str, error: sqlx::Error) -> JournalError {
    JournalError::Unavailable {
        message: format!("{doing}: {error}"),
        source: Some(Box::new(error)),
    }
}

/// For rows that cannot be understood.
pub(crate) fn corrupt(
    persistence_id: &str,
    sequence_nr: i64,
    message: &impl ToString,
) -> JournalError {
    JournalError::Corrupt {
        persistence_id: persistence_id.to_owned(),
        sequence_nr: SequenceNr::from_i64(sequence_nr),
        message: message.to_string(),
    }
}
