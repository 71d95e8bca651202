//! The one statement that appends a batch, and its arguments.
//!
//! It is a statement and not a transaction, because then nothing is left open when
//! a client stalls, and one round trip carries everything. It stores an append or
//! a first part of it; what was not stored and why is asked afterwards
//! (`outcome.rs`), because nearly always everything is. Why a fence holds against
//! it is told in `fencing.rs`.

use sqlx::postgres::PgArguments;
use uuid::Uuid;

use crate::journal::{Append, AtomicWrite};
use crate::sequence_nr::SequenceNr;
use crate::storage::postgres::connections::arguments;
use crate::storage::{epoch_i64, metadata_json};
use crate::writer::SessionUuid;

/// Consecutive writes of one append: all of them, unless they were cut because a
/// command id repeats, or split to find what poisons them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) append: &'a Append,
    pub(super) writes: &'a [AtomicWrite],
    /// Number of the first event of `writes`.
    pub(super) first: SequenceNr,
}

impl<'a> Piece<'a> {
    pub(super) fn event_count(&self) -> usize {
        self.writes.iter().map(|write| write.events.len()).sum()
    }

    /// Number of the last event.
    pub(super) fn last(&self) -> SequenceNr {
        self.first.plus(self.event_count() as u64).previous()
    }

    /// Number of the first event of a write.
    pub(super) fn first_of(&self, write: usize) -> SequenceNr {
        let before: usize = self.writes[..write]
            .iter()
            .map(|write| write.events.len())
            .sum();
        self.first.plus(before as u64)
    }

    pub(super) fn split_at(self, write: usize) -> (Self, Self) {
        let (head, tail) = self.writes.split_at(write);
        let first = self.first_of(write);
        (
            Self {
                writes: head,
                ..self
            },
            Self {
                writes: tail,
                first,
                ..self
            },
        )
    }
}

/// * `lane` locks the session's row. A fence waits for the lock, and an append that
///   waited for a fence reads the row again, as it is after the fence; that is why
///   the insert takes `fenced_shards` from here. Nothing else in the statement is
///   read anew after waiting.
/// * `repeated` finds, per append, the first write whose command is stored already.
///   It and the later writes of its append are left out, without an error that
///   would undo the neighbours. (With `EXISTS` the planner may read the whole index
///   into a hash table; a `LIMIT` keeps it from that.)
/// * An append is stored only if the highest number of its stream is the
///   predecessor of its first event; the primary key refuses what a rival stores
///   between this look and the insert.
/// * The fields of an append are repeated with each of its events: most appends
///   have one, and a join of two lists would be planned without knowing how long
///   they are.
pub(super) const APPEND: &str = "\
    WITH lane AS ( \
        SELECT fenced_shards FROM perennial.writer_sessions \
        WHERE session = $1 AND lane = $2 AND fenced_at IS NULL FOR SHARE \
    ), repeated AS ( \
        SELECT c.append_nr, min(c.write_nr) AS write_nr \
        FROM unnest($3::int[], $4::int[], $5::text[], $6::text[]) AS c (append_nr, write_nr, persistence_id, command_id) \
        WHERE (SELECT true FROM perennial.events s \
               WHERE s.persistence_id = c.persistence_id AND s.command_id = c.command_id LIMIT 1) \
           OR (SELECT true FROM perennial.deleted_commands d \
               WHERE d.persistence_id = c.persistence_id AND d.command_id = c.command_id LIMIT 1) \
        GROUP BY c.append_nr \
    ) \
    INSERT INTO perennial.events (persistence_id, sequence_nr, tx, writer_uuid, shard, write_len, codec, \
                                  manifest, payload, tags, metadata, command_id, reply_codec, reply_manifest, reply) \
    SELECT e.persistence_id, e.sequence_nr, \
           (SELECT pg_current_xact_id()::text::bigint + coalesce((SELECT tx_offset FROM perennial.cluster WHERE one), 0)), \
           e.writer_uuid, e.shard, e.write_len, e.codec, e.manifest, e.payload, \
           e.tags::text[], e.metadata::jsonb, e.command_id, e.reply_codec, e.reply_manifest, e.reply \
    FROM lane CROSS JOIN unnest( \
        $7::int[], $8::int[], $9::text[], $10::int[], $11::bigint[], $12::uuid[], $13::bigint[], $14::bigint[], \
        $15::int[], $16::smallint[], $17::text[], $18::bytea[], $19::text[], $20::text[], $21::text[], \
        $22::smallint[], $23::text[], $24::bytea[]) WITH ORDINALITY \
        AS e (append_nr, write_nr, persistence_id, shard, epoch, writer_uuid, first_nr, sequence_nr, write_len, codec, \
              manifest, payload, tags, metadata, command_id, reply_codec, reply_manifest, reply, place) \
    WHERE coalesce((lane.fenced_shards ->> e.shard::text)::bigint, -1) < e.epoch \
      AND e.first_nr - 1 = coalesce( \
          (SELECT s.sequence_nr FROM perennial.events s WHERE s.persistence_id = e.persistence_id \
           ORDER BY s.sequence_nr DESC LIMIT 1), \
          (SELECT t.highest FROM perennial.streams t WHERE t.persistence_id = e.persistence_id), 0) \
      AND NOT EXISTS (SELECT FROM repeated r WHERE r.append_nr = e.append_nr AND r.write_nr <= e.write_nr) \
    ORDER BY e.place";

/// The arguments of [`APPEND`]: a column of each field.
pub(super) fn arguments(
    session: SessionUuid,
    lane: i32,
    pieces: &[Piece<'_>],
) -> Result<PgArguments, sqlx::Error> {
    let mut commands = Commands::default();
    let mut events = Events::default();
    for (append_nr, piece) in (0..).zip(pieces) {
        let mut sequence_nr = piece.first.as_i64();
        for (write_nr, write) in (0..).zip(piece.writes) {
            let metadata = metadata_json(&write.metadata);
            let command = write.command.as_ref();
            if let Some(command) = command {
                commands.append_nr.push(append_nr);
                commands.write_nr.push(write_nr);
                commands
                    .persistence_id
                    .push(piece.append.persistence_id.as_str());
                commands.command_id.push(command.command_id.as_str());
            }
            for (index, event) in write.events.iter().enumerate() {
                let command = command.filter(|_| index == 0);
                events.append_nr.push(append_nr);
                events.write_nr.push(write_nr);
                events
                    .persistence_id
                    .push(piece.append.persistence_id.as_str());
                // At most the number of shards, and an epoch fits as well.
                events
                    .shard
                    .push(i32::try_from(piece.append.shard.0).unwrap_or(i32::MAX));
                events.epoch.push(epoch_i64(piece.append.epoch));
                events.writer_uuid.push(piece.append.writer.0);
                events.first_nr.push(piece.first.as_i64());
                events.sequence_nr.push(sequence_nr);
                // An atomic write is far shorter: it fits in memory.
                let len = i32::try_from(write.events.len()).unwrap_or(i32::MAX);
                events.write_len.push((index == 0).then_some(len));
                events.codec.push(event.payload.codec.0);
                events.manifest.push(&event.payload.manifest);
                events.payload.push(&event.payload.bytes);
                events.tags.push(text_array(&event.tags));
                events.metadata.push(metadata.clone());
                events
                    .command_id
                    .push(command.map(|command| command.command_id.as_str()));
                events
                    .reply_codec
                    .push(command.map(|command| command.reply.codec.0));
                events
                    .reply_manifest
                    .push(command.map(|command| &*command.reply.manifest));
                events
                    .reply
                    .push(command.map(|command| &*command.reply.bytes));
                sequence_nr += 1;
            }
        }
    }
    arguments![
        session.0,
        lane,
        commands.append_nr,
        commands.write_nr,
        commands.persistence_id,
        commands.command_id,
        events.append_nr,
        events.write_nr,
        events.persistence_id,
        events.shard,
        events.epoch,
        events.writer_uuid,
        events.first_nr,
        events.sequence_nr,
        events.write_len,
        events.codec,
        events.manifest,
        events.payload,
        events.tags,
        events.metadata,
        events.command_id,
        events.reply_codec,
        events.reply_manifest,
        events.reply,
    ]
}

#[derive(Default)]
struct Commands<'a> {
    append_nr: Vec<i32>,
    write_nr: Vec<i32>,
    persistence_id: Vec<&'a str>,
    command_id: Vec<&'a str>,
}

#[derive(Default)]
struct Events<'a> {
    append_nr: Vec<i32>,
    write_nr: Vec<i32>,
    persistence_id: Vec<&'a str>,
    shard: Vec<i32>,
    epoch: Vec<i64>,
    writer_uuid: Vec<Uuid>,
    first_nr: Vec<i64>,
    sequence_nr: Vec<i64>,
    write_len: Vec<Option<i32>>,
    codec: Vec<i16>,
    manifest: Vec<&'a str>,
    payload: Vec<&'a [u8]>,
    tags: Vec<Option<String>>,
    metadata: Vec<Option<String>>,
    command_id: Vec<Option<&'a str>>,
    reply_codec: Vec<Option<i16>>,
    reply_manifest: Vec<Option<&'a str>>,
    reply: Vec<Option<&'a [u8]>>,
}

/// Texts as an array literal, because arrays of arrays of different lengths cannot
/// be sent; `None` when there are none.
fn text_array(texts: &[String]) -> Option<String> {
    if texts.is_empty() {
        return None;
    }
    let mut literal = String::from("{");
    for (index, text) in texts.iter().enumerate() {
        literal.push_str(if index == 0 { "\"" } else { ",\"" });
        for character in text.chars() {
            if matches!(character, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(character);
        }
        literal.push('"');
    }
    literal.push('}');
    Some(literal)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sqlx::{ConnectOptions, Executor, Row};

    use super::*;
    use crate::storage::migrate;
    use crate::storage::postgres::connections::PLANNER;
    use crate::testing::postgres_server::TestDatabase;

    /// I-2 hangs on the lane's row being locked and read: a subquery that nothing
    /// depends on would be dropped from the plan.
    #[tokio::test]
    async fn the_plan_locks_the_lane_and_reads_it() {
        let database = TestDatabase::new().await;
        migrate(&database.url()).await.unwrap();
        let options = database.connect_options().options(PLANNER);
        let mut connection = options.connect().await.unwrap();
        // Empty and never analysed; then one page, and known to be.
        let one_event = "INSERT INTO perennial.events (persistence_id, sequence_nr, tx, writer_uuid, shard, codec, \
                                                       manifest, payload) \
                         VALUES ('a|a', 1, 1, gen_random_uuid(), 1, 1, '', ''); ANALYZE perennial.events";
        for fill in ["", one_event] {
            connection.execute(fill).await.unwrap();
            let explain = format!("EXPLAIN {APPEND}");
            let nobody = SessionUuid(Uuid::nil());
            let arguments = arguments(nobody, 1, &[]).unwrap();
            let rows = sqlx::query_with(&explain, arguments)
                .fetch_all(&mut connection)
                .await
                .unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            let plan = plan.join("\n");
            for expected in [
                "LockRows",
                "CTE Scan on lane",
                "Scan Backward using events_pkey",
                "using events_command_id",
                "using deleted_commands_pkey",
            ] {
                assert!(plan.contains(expected), "{expected} in {plan}");
            }
            assert!(!plan.contains("Seq Scan"), "{plan}");
        }
    }

    #[test]
    fn texts_become_an_array_literal() {
        let texts = ["", "a,b", "\"q\" \\ {}"].map(String::from);
        assert_eq!(text_array(&texts).unwrap(), r#"{"","a,b","\"q\" \\ {}"}"#);
        assert_eq!(text_array(&[]), None);
    }
}
