//! What became of appends that were not, or not certainly, stored as a whole.
//!
//! The rows decide: those with our writer uuid at our numbers are ours, whichever
//! attempt stored them, because a writer uuid belongs to one incarnation of one
//! entity and that has one append under way. For the rest the reason is found, in
//! this order: fenced, a conflict, a repeated command. [`decide`] is pure.

use std::time::SystemTime;

use sqlx::FromRow;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::statement::Piece;
use crate::journal::{AppendError, Appended, AtomicWrite, OtherAuthor, StoredCommand};
use crate::sequence_nr::SequenceNr;
use crate::storage::postgres::connections::arguments;
use crate::storage::{self, epoch_i64, from_micros};
use crate::writer::{SessionUuid, WriterUuid};

/// What the database says about one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// Events of ours, from the first on.
    ours: usize,
    highest: SequenceNr,
    deleted_to: SequenceNr,
    fenced: bool,
    /// Who stored the first number that is not ours.
    other: Option<(WriterUuid, SystemTime)>,
    /// Of the first write that is not ours, if it has a command that is stored.
    command: Option<StoredCommand>,
}

/// One row per piece. The row of the lane is looked at without a lock: a fence is
/// never taken back, so one that is seen is the reason, and one that is not seen
/// came after.
const LOOK: &str = "\
    SELECT p.ours, \
           coalesce((SELECT max(sequence_nr) FROM perennial.events s WHERE s.persistence_id = p.persistence_id), \
                    t.highest, 0), \
           coalesce(t.deleted_to, 0), \
           NOT EXISTS (SELECT FROM perennial.writer_sessions l WHERE l.session = $1 AND l.lane = $2 \
                       AND l.fenced_at IS NULL \
                       AND coalesce((l.fenced_shards ->> p.shard::text)::bigint, -1) < p.epoch), \
           o.writer_uuid, (extract(epoch FROM o.created_at) * 1000000)::bigint \
    FROM (SELECT q.*, (SELECT count(*) FROM perennial.events s \
                       WHERE s.persistence_id = q.persistence_id AND s.sequence_nr BETWEEN q.first_nr AND q.last_nr \
                         AND s.writer_uuid = q.writer_uuid) AS ours \
          FROM unnest($3::text[], $4::int[], $5::bigint[], $6::uuid[], $7::bigint[], $8::bigint[]) WITH ORDINALITY \
              AS q (persistence_id, shard, epoch, writer_uuid, first_nr, last_nr, place)) p \
    LEFT JOIN perennial.streams t ON t.persistence_id = p.persistence_id \
    LEFT JOIN perennial.events o ON o.persistence_id = p.persistence_id AND o.sequence_nr = p.first_nr + p.ours \
    ORDER BY p.place";

const FIND_COMMAND: &str = "\
    SELECT sequence_nr + write_len - 1, reply_codec, reply_manifest, reply FROM perennial.events \
    WHERE persistence_id = $1 AND command_id = $2 \
    UNION ALL \
    SELECT sequence_nr, reply_codec, reply_manifest, reply FROM perennial.deleted_commands \
    WHERE persistence_id = $1 AND command_id = $2 \
    LIMIT 1";

type LookRow = (i64, i64, i64, bool, Option<Uuid>, Option<i64>);

/// Finds out what became of each piece. `None` for one that could have been stored
/// and was not: its obstacle has gone, so it is to be tried again. `sent_before`
/// says whether an earlier attempt may have stored something.
pub(super) async fn look(
    connection: &mut PgConnection,
    session: SessionUuid,
    lane: i32,
    pieces: &[Piece<'_>],
    sent_before: bool,
) -> Result<Vec<Option<Appended>>, sqlx::Error> {
    let field = |field: fn(&Piece<'_>) -> i64| pieces.iter().map(field).collect::<Vec<i64>>();
    let shards = pieces
        .iter()
        .map(|p| i32::try_from(p.append.shard.0).unwrap_or(i32::MAX));
    let arguments = arguments![
        session.0,
        lane,
        pieces
            .iter()
            .map(|p| p.append.persistence_id.as_str())
            .collect::<Vec<&str>>(),
        shards.collect::<Vec<i32>>(),
        field(|p| epoch_i64(p.append.epoch)),
        pieces
            .iter()
            .map(|p| p.append.writer.0)
            .collect::<Vec<Uuid>>(),
        field(|p| p.first.as_i64()),
        field(|p| p.last().as_i64()),
    ]?;
    let rows = sqlx::query_with(LOOK, arguments)
        .fetch_all(&mut *connection)
        .await?;
    let mut outcomes = Vec::with_capacity(pieces.len());
    for (piece, row) in pieces.iter().zip(&rows) {
        let (ours, highest, deleted_to, fenced, writer, created_at) = LookRow::from_row(row)?;
        let mut found = Found {
            ours: usize::try_from(ours).unwrap_or(0),
            highest: SequenceNr::from_i64(highest),
            deleted_to: SequenceNr::from_i64(deleted_to),
            fenced,
            other: writer.map(WriterUuid).zip(created_at.map(from_micros)),
            command: None,
        };
        let next = piece.writes.get(stored_writes(piece, found.ours));
        if let Some(command) = next.and_then(|write| write.command.as_ref()) {
            let row: Option<(i64, i16, String, Vec<u8>)> = sqlx::query_as(FIND_COMMAND)
                .bind(piece.append.persistence_id.as_str())
                .bind(command.command_id.as_str())
                .fetch_optional(&mut *connection)
                .await?;
            found.command = row.map(|(sequence_nr, codec, manifest, reply)| StoredCommand {
                sequence_nr: SequenceNr::from_i64(sequence_nr),
                reply: storage::payload(codec, manifest, reply),
            });
        }
        outcomes.push(decide(session, piece, found, sent_before));
    }
    Ok(outcomes)
}

/// How many of the piece's writes these events are.
fn stored_writes(piece: &Piece<'_>, mut events: usize) -> usize {
    let whole = |write: &&AtomicWrite| {
        let fits = write.events.len() <= events;
        events = events.saturating_sub(write.events.len());
        fits
    };
    piece.writes.iter().take_while(whole).count()
}

fn decide(
    session: SessionUuid,
    piece: &Piece<'_>,
    found: Found,
    sent_before: bool,
) -> Option<Appended> {
    let append = piece.append;
    let stored_writes = stored_writes(piece, found.ours);
    let Some(next) = piece.writes.get(stored_writes) else {
        return Some(Appended {
            stored_writes,
            failure: None,
        });
    };
    let first = piece.first_of(stored_writes);
    let failure = if found.fenced {
        let (shard, epoch) = (append.shard, append.epoch);
        AppendError::Fenced {
            session,
            shard,
            epoch,
        }
    } else if found.highest.next() == first {
        // A stale append is a conflict even if its command is stored: its author
        // must recover.
        let (stored, command) = found.command.zip(next.command.as_ref())?;
        AppendError::DuplicateCommand {
            persistence_id: append.persistence_id.clone(),
            command_id: command.command_id.clone(),
            stored,
        }
    } else if sent_before && found.deleted_to >= first {
        AppendError::Unknown {
            message: "events were deleted before it was known who stored them".into(),
        }
    } else {
        AppendError::Conflict {
            persistence_id: append.persistence_id.clone(),
            writer: append.writer,
            first_sequence_nr: first,
            highest: found.highest,
            other: found
                .other
                .map(|(writer, created_at)| OtherAuthor { writer, created_at }),
        }
    };
    Some(Appended {
        stored_writes,
        failure: Some(failure),
    })
}
