//! Events from arrays, one array for each column, in the binary format of the
//! protocol.
//!
//! The driver would make a vector for each column and a copy for each payload.
//! Here the payloads of a page are slices of one copy, and all else is read in
//! place.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use serde::Deserialize;
use sqlx::Row;
use sqlx::postgres::{PgRow, PgValueFormat};
use uuid::Uuid;

use crate::command::CommandId;
use crate::journal::{JournalError, StoredEvent};
use crate::payload::{CodecId, Payload};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::manifests::manifest;
use crate::storage::{corrupt, from_micros};
use crate::writer::WriterUuid;

/// Postgres counts microseconds from 2000-01-01, this many after 1970-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Why a page cannot be taken apart.
#[derive(Debug, thiserror::Error)]
enum PageDamage {
    #[error("column {column} is not an array as Postgres sends it")]
    Array { column: usize },
    #[error("column {column} has a value of {len} bytes, which is not of its type")]
    Value { column: usize, len: usize },
    #[error("column {column} has fewer values than there are events")]
    Short { column: usize },
    #[error("its command id: {0}")]
    CommandId(#[from] crate::command::InvalidCommandId),
    #[error("its tags or metadata: {0}")]
    Extra(#[from] serde_json::Error),
    #[error(transparent)]
    Row(#[from] sqlx::Error),
}

/// The values of one column.
struct Column<'r> {
    number: usize,
    bytes: &'r [u8],
    /// Where the next value begins.
    at: usize,
    left: usize,
}

impl<'r> Column<'r> {
    /// The array in a column of a row; null is an empty one.
    fn of(row: &'r PgRow, number: usize) -> Result<Self, PageDamage> {
        let damage = || PageDamage::Array { column: number };
        let value = row.try_get_raw(number)?;
        let Ok(bytes) = value.as_bytes() else {
            return Ok(Self {
                number,
                bytes: &[],
                at: 0,
                left: 0,
            });
        };
        let mut column = Self {
            number,
            bytes,
            at: 0,
            left: 0,
        };
        if value.format() != PgValueFormat::Binary {
            return Err(damage());
        }
        // Dimensions, a flag, the type of the values; length and first index.
        let mut header = [0; 5];
        for word in &mut header {
            *word = column.word().ok_or_else(damage)?;
        }
        if header[0] != 1 {
            return Err(damage());
        }
        column.left = usize::try_from(header[3]).map_err(|_| damage())?;
        Ok(column)
    }

    fn word(&mut self) -> Option<i32> {
        let word = self.bytes.get(self.at..)?.first_chunk()?;
        self.at += 4;
        Some(i32::from_be_bytes(*word))
    }

    /// Where the next value is; the outer `None` at the end, the inner for null.
    fn next_range(&mut self) -> Result<Option<Option<Range<usize>>>, PageDamage> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let damage = PageDamage::Array {
            column: self.number,
        };
        let Some(len) = self.word() else {
            return Err(damage);
        };
        let Ok(len) = usize::try_from(len) else {
            // Negative: null.
            return Ok(Some(None));
        };
        let start = self.at;
        self.at += len;
        if self.at > self.bytes.len() {
            return Err(damage);
        }
        Ok(Some(Some(start..self.at)))
    }

    /// The next value, which must be there but may be null.
    fn next(&mut self) -> Result<Option<&'r [u8]>, PageDamage> {
        let range = self.next_range()?.ok_or(PageDamage::Short {
            column: self.number,
        })?;
        Ok(range.map(|range| &self.bytes[range]))
    }

    /// The next value, of a fixed length.
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], PageDamage> {
        let value = self.next()?.unwrap_or_default();
        value.try_into().map_err(|_| PageDamage::Value {
            column: self.number,
            len: value.len(),
        })
    }

    /// The next value, a text.
    fn text(&mut self) -> Result<Option<&'r str>, PageDamage> {
        let Some(value) = self.next()? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(value);
        text.map(Some).map_err(|_| PageDamage::Value {
            column: self.number,
            len: value.len(),
        })
    }
}

/// Tags and metadata of an event that has any, with its number.
#[derive(Deserialize)]
struct Extra(
    i64,
    Option<Vec<String>>,
    Option<std::collections::BTreeMap<String, String>>,
);

/// The events in the eight columns from `first` on, up to one whose payload is null.
pub(super) fn decode_events(
    persistence_id: &PersistenceId,
    row: &PgRow,
    first: usize,
) -> Result<Vec<StoredEvent>, JournalError> {
    let mut at = 0;
    decode(persistence_id, row, first, &mut at)
        .map_err(|damage| corrupt(persistence_id.as_str(), at, &damage))
}

/// `at` is the number of the event in work.
fn decode(
    persistence_id: &PersistenceId,
    row: &PgRow,
    first: usize,
    at: &mut i64,
) -> Result<Vec<StoredEvent>, PageDamage> {
    let mut sequence_nrs = Column::of(row, first)?;
    let mut writers = Column::of(row, first + 1)?;
    let mut codecs = Column::of(row, first + 2)?;
    let mut manifests = Column::of(row, first + 3)?;
    let mut payloads = Column::of(row, first + 4)?;
    let mut times = Column::of(row, first + 5)?;
    let mut command_ids = Column::of(row, first + 6)?;
    let mut extras = Column::of(row, first + 7)?;
    let all_payloads = Bytes::copy_from_slice(payloads.bytes);
    let mut events: Vec<StoredEvent> = Vec::with_capacity(sequence_nrs.left);
    let mut extra = next_extra(&mut extras)?;
    while sequence_nrs.left > 0 {
        *at = i64::from_be_bytes(sequence_nrs.fixed()?);
        let short = PageDamage::Short {
            column: payloads.number,
        };
        let Some(range) = payloads.next_range()?.ok_or(short)? else {
            break;
        };
        let name = manifests.text()?.unwrap_or_default();
        let manifest = match events.last() {
            // The usual case, without asking who else has it.
            Some(before) if before.payload.manifest == name => before.payload.manifest.clone(),
            _ => manifest(name),
        };
        let command_id = match command_ids.text()? {
            Some(text) => CommandId::parse(text)?,
            None => None,
        };
        let own_extra = extra.take_if(|extra| extra.0 == *at);
        let (tags, metadata) = match own_extra {
            Some(Extra(_, tags, metadata)) => {
                extra = next_extra(&mut extras)?;
                (tags.unwrap_or_default(), metadata.map(std::sync::Arc::new))
            }
            None => (Vec::new(), None),
        };
        events.push(StoredEvent {
            persistence_id: persistence_id.clone(),
            sequence_nr: SequenceNr::from_i64(*at),
            writer: WriterUuid(Uuid::from_bytes(writers.fixed()?)),
            payload: Payload {
                codec: CodecId(i16::from_be_bytes(codecs.fixed()?)),
                manifest,
                bytes: all_payloads.slice(range),
            },
            tags,
            metadata,
            command_id,
            created_at: time(times.fixed()?),
        });
    }
    Ok(events)
}

fn next_extra(extras: &mut Column<'_>) -> Result<Option<Extra>, PageDamage> {
    if extras.left == 0 {
        return Ok(None);
    }
    let json = extras.text()?.unwrap_or_default();
    Ok(Some(serde_json::from_str(json)?))
}

fn time(bytes: [u8; 8]) -> SystemTime {
    from_micros(i64::from_be_bytes(bytes).saturating_add(POSTGRES_EPOCH_MICROS))
}
