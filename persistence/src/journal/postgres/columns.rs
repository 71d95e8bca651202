//! The arguments of the statements that append: a column of each field.
//!
//! Columns that most batches do not need are sent as null when no event has
//! anything in them: an array of nulls costs the server as much as one of values.

use sqlx::postgres::PgArguments;
use uuid::Uuid;

use super::statement::Piece;
use super::tails::Tails;
use crate::storage::postgres::connections::arguments;
use crate::storage::postgres::lane::Backend;
use crate::storage::{epoch_i64, metadata_json};
use crate::writer::SessionUuid;

/// The fields of the events of a batch, and of its commands.
#[derive(Default)]
pub(super) struct Columns<'a> {
    commands: Commands<'a>,
    events: Events<'a>,
    /// What only [`APPEND_EACH`](super::statement::APPEND_EACH) needs.
    appends: Appends,
    /// On the first event of an append: whether it follows one that the connection
    /// has stored. Only [`APPEND_ALL`](super::statement::APPEND_ALL) asks.
    follows: Vec<Option<bool>>,
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
    persistence_id: Vec<&'a str>,
    sequence_nr: Vec<i64>,
    shard: Vec<i32>,
    /// On the first event of an append.
    epoch: Vec<Option<i64>>,
    writer_uuid: Vec<Uuid>,
    write_len: Vec<Option<i32>>,
    codec: Vec<i16>,
    manifest: Vec<&'a str>,
    payload: Vec<&'a [u8]>,
    tags: Sparse<String>,
    metadata: Sparse<String>,
    command_id: Sparse<&'a str>,
    reply_codec: Sparse<i16>,
    reply_manifest: Sparse<&'a str>,
    reply: Sparse<&'a [u8]>,
}

/// The append of each event, and what is said of it there.
#[derive(Default)]
struct Appends {
    append_nr: Vec<i32>,
    write_nr: Vec<i32>,
    first_nr: Vec<i64>,
    epoch: Vec<i64>,
}

/// A column that few events have a value in.
struct Sparse<T> {
    values: Vec<Option<T>>,
    has_any: bool,
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            has_any: false,
        }
    }
}

impl<T> Sparse<T> {
    fn push(&mut self, value: Option<T>) {
        self.has_any |= value.is_some();
        self.values.push(value);
    }

    fn if_any(&self) -> Option<&Vec<Option<T>>> {
        self.has_any.then_some(&self.values)
    }
}

impl<'a> Columns<'a> {
    /// Of the pieces, one after the other, for a connection that has stored these.
    pub(super) fn of(pieces: &[Piece<'a>], stored: &Tails) -> Self {
        let mut columns = Self::default();
        for (append_nr, piece) in (0..).zip(pieces) {
            columns.push(append_nr, piece, stored.precede(piece));
        }
        columns
    }

    fn push(&mut self, append_nr: i32, piece: &Piece<'a>, follows: bool) {
        let append = piece.append;
        let persistence_id = append.persistence_id.as_str();
        let first_nr = piece.first.as_i64();
        let epoch = epoch_i64(append.epoch);
        // At most the number of shards.
        let shard = i32::try_from(append.shard.0).unwrap_or(i32::MAX);
        let Self {
            commands,
            events,
            appends,
            follows: all_follow,
        } = self;
        let mut sequence_nr = first_nr;
        for (write_nr, write) in (0..).zip(piece.writes) {
            let metadata = metadata_json(&write.metadata);
            // An atomic write fits in memory, so its length does here.
            let len = i32::try_from(write.events.len()).unwrap_or(i32::MAX);
            if let Some(command) = &write.command {
                commands.append_nr.push(append_nr);
                commands.write_nr.push(write_nr);
                commands.persistence_id.push(persistence_id);
                commands.command_id.push(command.command_id.as_str());
            }
            for (index, event) in write.events.iter().enumerate() {
                let command = write.command.as_ref().filter(|_| index == 0);
                let reply = command.map(|command| &command.reply);
                events.persistence_id.push(persistence_id);
                events.sequence_nr.push(sequence_nr);
                events.shard.push(shard);
                let is_first = sequence_nr == first_nr;
                events.epoch.push(is_first.then_some(epoch));
                all_follow.push(is_first.then_some(follows));
                events.writer_uuid.push(append.writer.0);
                events.write_len.push((index == 0).then_some(len));
                events.codec.push(event.payload.codec.0);
                events.manifest.push(&event.payload.manifest);
                events.payload.push(&event.payload.bytes);
                events.tags.push(text_array(&event.tags));
                events.metadata.push(metadata.clone());
                let command_id = command.map(|command| command.command_id.as_str());
                events.command_id.push(command_id);
                events.reply_codec.push(reply.map(|reply| reply.codec.0));
                events
                    .reply_manifest
                    .push(reply.map(|reply| &*reply.manifest));
                events.reply.push(reply.map(|reply| &*reply.bytes));
                appends.append_nr.push(append_nr);
                appends.write_nr.push(write_nr);
                appends.first_nr.push(first_nr);
                appends.epoch.push(epoch);
                sequence_nr += 1;
            }
        }
    }

    /// The arguments of [`APPEND_ALL`](super::statement::APPEND_ALL). The backend is
    /// the one of the connection that these columns are for.
    pub(super) fn for_all(
        &self,
        session: SessionUuid,
        lane: i32,
        backend: Backend,
    ) -> Result<PgArguments, sqlx::Error> {
        let mut arguments = self.for_both(session, lane)?;
        let mut add = || {
            sqlx::Arguments::add(&mut arguments, &self.follows)?;
            sqlx::Arguments::add(&mut arguments, backend.pid)?;
            sqlx::Arguments::add(&mut arguments, backend.server_started)
        };
        add().map_err(sqlx::Error::Encode)?;
        Ok(arguments)
    }

    fn for_both(&self, session: SessionUuid, lane: i32) -> Result<PgArguments, sqlx::Error> {
        let (commands, events) = (&self.commands, &self.events);
        arguments![
            session.0,
            lane,
            &commands.persistence_id,
            &commands.command_id,
            &events.persistence_id,
            &events.sequence_nr,
            &events.shard,
            &events.epoch,
            &events.writer_uuid,
            &events.write_len,
            &events.codec,
            &events.manifest,
            &events.payload,
            events.tags.if_any(),
            events.metadata.if_any(),
            events.command_id.if_any(),
            events.reply_codec.if_any(),
            events.reply_manifest.if_any(),
            events.reply.if_any(),
        ]
    }

    /// The arguments of [`APPEND_EACH`](super::statement::APPEND_EACH).
    pub(super) fn for_each(
        &self,
        session: SessionUuid,
        lane: i32,
    ) -> Result<PgArguments, sqlx::Error> {
        let (commands, appends) = (&self.commands, &self.appends);
        let mut arguments = self.for_both(session, lane)?;
        let mut add = |column: &Vec<i32>| {
            sqlx::Arguments::add(&mut arguments, column).map_err(sqlx::Error::Encode)
        };
        add(&commands.append_nr)?;
        add(&commands.write_nr)?;
        add(&appends.append_nr)?;
        add(&appends.write_nr)?;
        for column in [&appends.first_nr, &appends.epoch] {
            sqlx::Arguments::add(&mut arguments, column).map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }
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
    use super::*;

    #[test]
    fn texts_become_an_array_literal() {
        let texts = ["", "a,b", "\"q\" \\ {}"].map(String::from);
        assert_eq!(text_array(&texts).unwrap(), r#"{"","a,b","\"q\" \\ {}"}"#);
        assert_eq!(text_array(&[]), None);
    }
}
