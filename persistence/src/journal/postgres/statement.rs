//! The statements that append a batch.
//!
//! [`APPEND_ALL`] stores the whole batch or nothing of it; nearly always that is the
//! whole, so it asks once for each append and not for each event. When it has stored
//! nothing, [`APPEND_EACH`] stores each append on its own merits; what was not stored
//! then and why is asked afterwards (`outcome.rs`).
//!
//! Both are statements and not transactions, because then nothing is left open when
//! a client stalls, and one round trip carries everything. Why a fence holds against
//! them is told in `fencing.rs`. Their arguments: `columns.rs`.

use crate::journal::{Append, AtomicWrite};
use crate::sequence_nr::SequenceNr;

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
///   the insert depends on what is read here. Nothing else in the statement is read
///   anew after waiting.
/// * `first` are the first events of the appends: those with an epoch. Each must be
///   the next of its stream: the event before it is there, or it begins where a
///   stream without that event ends. Should the number itself be taken, the primary
///   key refuses the statement.
/// * Those that `follow` come after an event that the backend `$21`, `$22` has stored.
///   If that is this one, the event is not looked for, only whether the stream has
///   ended beyond it since. Why that is enough: `tails.rs`.
/// * No command may be stored already. (With `EXISTS` the planner may read the whole
///   index into a hash table; a `LIMIT` keeps it from that.)
///
/// Columns that are null throughout are sent as one null: `unnest` fills them up.
pub(super) const APPEND_ALL: &str = "\
    WITH lane AS ( \
        SELECT fenced_shards FROM perennial.writer_sessions \
        WHERE session = $1 AND lane = $2 AND fenced_at IS NULL FOR SHARE \
    ), checked AS ( \
        SELECT (lane.fenced_shards = '{}' \
                OR (SELECT bool_and(coalesce((lane.fenced_shards ->> first.shard::text)::bigint, -1) < first.epoch) \
                    FROM unnest($7::int[], $8::bigint[]) AS first (shard, epoch) WHERE first.epoch IS NOT NULL)) \
           AND (SELECT bool_and(CASE \
                    WHEN first.follows \
                         AND (SELECT pg_backend_pid() = $21 \
                                     AND (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint = $22) \
                    THEN coalesce((SELECT t.highest FROM perennial.streams t \
                                   WHERE t.persistence_id = first.persistence_id), 0) < first.sequence_nr \
                    ELSE (SELECT true FROM perennial.events s WHERE s.persistence_id = first.persistence_id \
                            AND s.sequence_nr = first.sequence_nr - 1 LIMIT 1) IS TRUE \
                         OR first.sequence_nr - 1 = coalesce((SELECT t.highest FROM perennial.streams t \
                                                              WHERE t.persistence_id = first.persistence_id), 0) \
                    END) \
                FROM unnest($5::text[], $6::bigint[], $20::bool[]) AS first (persistence_id, sequence_nr, follows) \
                WHERE first.follows IS NOT NULL) AS is_good \
        FROM lane \
    ) \
    INSERT INTO perennial.events (persistence_id, sequence_nr, tx, writer_uuid, shard, write_len, codec, \
                                  manifest, payload, tags, metadata, command_id, reply_codec, reply_manifest, reply) \
    SELECT e.persistence_id, e.sequence_nr, \
           (SELECT pg_current_xact_id()::text::bigint + coalesce((SELECT tx_offset FROM perennial.cluster WHERE one), 0)), \
           e.writer_uuid, e.shard, e.write_len, e.codec, e.manifest, e.payload, \
           e.tags::text[], e.metadata::jsonb, e.command_id, e.reply_codec, e.reply_manifest, e.reply \
    FROM unnest($5::text[], $6::bigint[], $7::int[], $9::uuid[], $10::int[], $11::smallint[], $12::text[], \
                $13::bytea[], $14::text[], $15::text[], $16::text[], $17::smallint[], $18::text[], $19::bytea[]) \
        WITH ORDINALITY AS e (persistence_id, sequence_nr, shard, writer_uuid, write_len, codec, manifest, payload, \
                              tags, metadata, command_id, reply_codec, reply_manifest, reply, place) \
    WHERE (SELECT is_good FROM checked) \
      AND (SELECT true FROM unnest($3::text[], $4::text[]) AS c (persistence_id, command_id) \
           WHERE (SELECT true FROM perennial.events s \
                  WHERE s.persistence_id = c.persistence_id AND s.command_id = c.command_id LIMIT 1) \
              OR (SELECT true FROM perennial.deleted_commands d \
                  WHERE d.persistence_id = c.persistence_id AND d.command_id = c.command_id LIMIT 1) \
           LIMIT 1) IS NULL \
    ORDER BY e.place";

/// Differs from [`APPEND_ALL`] in that it leaves out what cannot be stored, without
/// an error that would undo the neighbours:
///
/// * of an append, the first write whose command is stored already (`repeated`) and
///   those after it;
/// * an append that does not begin right after the highest number of its stream. The
///   primary key refuses what a rival stores between this look and the insert.
///
/// The fields of an append are repeated with each of its events: a join of two lists
/// would be planned without knowing how long they are.
pub(super) const APPEND_EACH: &str = "\
    WITH lane AS ( \
        SELECT fenced_shards FROM perennial.writer_sessions \
        WHERE session = $1 AND lane = $2 AND fenced_at IS NULL FOR SHARE \
    ), repeated AS ( \
        SELECT c.append_nr, min(c.write_nr) AS write_nr \
        FROM unnest($3::text[], $4::text[], $20::int[], $21::int[]) AS c (persistence_id, command_id, append_nr, write_nr) \
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
        $5::text[], $6::bigint[], $7::int[], $9::uuid[], $10::int[], $11::smallint[], $12::text[], $13::bytea[], \
        $14::text[], $15::text[], $16::text[], $17::smallint[], $18::text[], $19::bytea[], \
        $22::int[], $23::int[], $24::bigint[], $25::bigint[]) WITH ORDINALITY \
        AS e (persistence_id, sequence_nr, shard, writer_uuid, write_len, codec, manifest, payload, \
              tags, metadata, command_id, reply_codec, reply_manifest, reply, \
              append_nr, write_nr, first_nr, append_epoch, place) \
    WHERE coalesce((lane.fenced_shards ->> e.shard::text)::bigint, -1) < e.append_epoch \
      AND e.first_nr - 1 = coalesce( \
          (SELECT s.sequence_nr FROM perennial.events s WHERE s.persistence_id = e.persistence_id \
           ORDER BY s.sequence_nr DESC LIMIT 1), \
          (SELECT t.highest FROM perennial.streams t WHERE t.persistence_id = e.persistence_id), 0) \
      AND NOT EXISTS (SELECT FROM repeated r WHERE r.append_nr = e.append_nr AND r.write_nr <= e.write_nr) \
    ORDER BY e.place";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sqlx::{ConnectOptions, Executor, Row};
    use uuid::Uuid;

    use super::*;
    use crate::journal::NewEvent;
    use crate::journal::postgres::columns::Columns;
    use crate::journal::postgres::tails::Tails;
    use crate::payload::Payload;
    use crate::persistence_id::PersistenceId;
    use crate::storage::migrate;
    use crate::storage::postgres::connections::{PLANNER, require_primary};
    use crate::storage::postgres::lane::Backend;
    use crate::testing::postgres_server::TestDatabase;
    use crate::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};

    const SOME_BACKEND: Backend = Backend {
        pid: 0,
        server_started: 0,
    };

    /// I-2 hangs on the lane's row being locked and read: a subquery that nothing
    /// depends on would be dropped from the plan.
    #[tokio::test]
    async fn the_plans_lock_the_lane_and_read_it() {
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
            let nobody = SessionUuid(Uuid::nil());
            let columns = Columns::of(&[], &Tails::default());
            let all = columns.for_all(nobody, 1, SOME_BACKEND);
            let each = columns.for_each(nobody, 1);
            let statements = [
                (APPEND_ALL, all, "Scan using events_pkey"),
                (APPEND_EACH, each, "Scan Backward using events_pkey"),
            ];
            for (statement, arguments, look) in statements {
                let explain = format!("EXPLAIN {statement}");
                let rows = sqlx::query_with(&explain, arguments.unwrap())
                    .fetch_all(&mut connection)
                    .await
                    .unwrap();
                let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                let plan = plan.join("\n");
                for expected in [
                    "LockRows",
                    "CTE Scan on lane",
                    look,
                    "using events_command_id",
                    "using deleted_commands_pkey",
                ] {
                    assert!(plan.contains(expected), "{expected} in {plan}");
                }
                assert!(!plan.contains("Seq Scan"), "{plan}");
            }
        }
    }

    /// I-3: what a connection remembers counts for the backend that stored it, not for
    /// another one that a proxy has put in its place.
    #[tokio::test]
    async fn another_backend_looks_for_the_predecessor() {
        let database = TestDatabase::new().await;
        migrate(&database.url()).await.unwrap();
        let mut connection = database.connect_options().connect().await.unwrap();
        let session = SessionUuid(Uuid::new_v4());
        let node = "INSERT INTO perennial.nodes DEFAULT VALUES";
        connection.execute(node).await.unwrap();
        let lane = format!(
            "INSERT INTO perennial.writer_sessions (session, lane, node_nr, incarnation) VALUES ('{session}', 1, 1, 1)"
        );
        connection.execute(lane.as_str()).await.unwrap();
        let write = AtomicWrite {
            events: vec![NewEvent {
                payload: Payload::json("1"),
                tags: Vec::new(),
            }],
            command: None,
            metadata: None,
        };
        let append = |first| Append {
            persistence_id: PersistenceId::new("t", "x").unwrap(),
            shard: ShardNr(1),
            epoch: Epoch(1),
            writer: WriterUuid(Uuid::from_u128(1)),
            first_sequence_nr: SequenceNr::new(first),
            writes: vec![write.clone()],
        };
        let here = require_primary(&mut connection).await.unwrap();
        // As if the first three had been stored and then lost with another server.
        let mut tails = Tails::default();
        let third = append(3);
        tails.remember(&[Piece {
            append: &third,
            writes: &third.writes,
            first: third.first_sequence_nr,
        }]);
        let next = append(4);
        let next = Piece {
            append: &next,
            writes: &next.writes,
            first: next.first_sequence_nr,
        };
        let columns = Columns::of(&[next], &tails);
        let other_process = Backend { pid: 0, ..here };
        let other_server = Backend {
            server_started: 0,
            ..here
        };
        for (backend, stored) in [(other_process, 0), (other_server, 0), (here, 1)] {
            let arguments = columns.for_all(session, 1, backend).unwrap();
            let done = sqlx::query_with(APPEND_ALL, arguments)
                .execute(&mut connection)
                .await
                .unwrap();
            assert_eq!(done.rows_affected(), stored, "{backend:?}");
        }
    }
}
