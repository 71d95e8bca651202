//! Rows as the statements of both databases return them: the same columns in the same
//! order. Next: `postgres.rs` and `sqlite.rs`, the statements.

use uuid::Uuid;

use super::Row;
use crate::payload::CodecId;
use crate::sequence_nr::SequenceNr;
use crate::storage::from_micros;
use crate::writer::WriterUuid;

/// Stream, number, writer, codec, when in microseconds, deleted up to.
pub(super) type EventColumns = (String, i64, Uuid, i16, i64, i64);
/// Stream, number, codec, highest of the stream, tombstone.
pub(super) type SnapshotColumns = (String, i64, i16, i64, i64);
/// Stream, highest, deleted up to, last event that is there.
pub(super) type StreamColumns = (String, i64, i64, i64);

impl From<EventColumns> for Row {
    fn from(
        (persistence_id, sequence_nr, writer, codec, micros, deleted_to): EventColumns,
    ) -> Self {
        Self::Event {
            persistence_id,
            sequence_nr: SequenceNr::from_i64(sequence_nr),
            writer: WriterUuid(writer),
            codec: CodecId(codec),
            created_at: from_micros(micros),
            deleted_to: SequenceNr::from_i64(deleted_to),
        }
    }
}

impl From<SnapshotColumns> for Row {
    fn from((persistence_id, sequence_nr, codec, highest, tombstone): SnapshotColumns) -> Self {
        Self::Snapshot {
            persistence_id,
            sequence_nr: SequenceNr::from_i64(sequence_nr),
            codec: CodecId(codec),
            highest: SequenceNr::from_i64(highest),
            tombstone: SequenceNr::from_i64(tombstone),
        }
    }
}

impl From<StreamColumns> for Row {
    fn from((persistence_id, highest, deleted_to, last_event): StreamColumns) -> Self {
        Self::Stream {
            persistence_id,
            highest: SequenceNr::from_i64(highest),
            deleted_to: SequenceNr::from_i64(deleted_to),
            last_event: SequenceNr::from_i64(last_event),
        }
    }
}
