//! A stream of a case's own, with the right to write to it.

use uuid::Uuid;

use crate::command::CommandId;
use crate::journal::{
    Append, Appended, AtomicWrite, CommandRecord, EventRange, NewEvent, StoredEvent, WriteRight,
};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;
use crate::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};

/// A stream of a case's own, with the right to write to it.
pub(crate) struct Stream<'a> {
    pub(crate) storage: &'a Storage,
    pub(crate) id: PersistenceId,
    pub(crate) writer: WriterUuid,
    pub(crate) right: WriteRight,
}

/// A session of a fresh node.
pub(crate) async fn new_session(storage: &Storage) -> SessionUuid {
    let node = storage.registry.mint_node().await.unwrap();
    storage
        .registry
        .begin_incarnation(node)
        .await
        .unwrap()
        .session
}

impl<'a> Stream<'a> {
    /// A stream that was never written.
    pub(crate) async fn empty(storage: &'a Storage) -> Self {
        let session = new_session(storage).await;
        Self::of(storage, session)
    }

    /// Another stream that was never written, written to by the same session.
    pub(crate) fn of(storage: &'a Storage, session: SessionUuid) -> Self {
        Self {
            storage,
            id: PersistenceId::new("conformance", &Uuid::new_v4().to_string()).unwrap(),
            writer: WriterUuid(Uuid::new_v4()),
            right: WriteRight {
                session,
                shard: ShardNr(7),
                epoch: Epoch(3),
            },
        }
    }

    /// The fixture of the J cases: a-1 to a-5, the last two as one atomic write.
    pub(crate) async fn of_five(storage: &'a Storage) -> Self {
        let stream = Self::empty(storage).await;
        let writes = vec![
            write(&["a-1"]),
            write(&["a-2"]),
            write(&["a-3"]),
            write(&["a-4", "a-5"]),
        ];
        assert_stored(&stream.append(1, writes).await);
        stream
    }

    /// The same stream for another incarnation of its entity.
    pub(crate) fn next_incarnation(&self) -> Self {
        Self {
            storage: self.storage,
            id: self.id.clone(),
            writer: WriterUuid(Uuid::new_v4()),
            right: self.right,
        }
    }

    pub(crate) fn to_append(&self, first: u64, writes: Vec<AtomicWrite>) -> Append {
        Append {
            persistence_id: self.id.clone(),
            shard: self.right.shard,
            epoch: self.right.epoch,
            writer: self.writer,
            first_sequence_nr: SequenceNr::new(first),
            writes,
        }
    }

    pub(crate) async fn append(&self, first: u64, writes: Vec<AtomicWrite>) -> Appended {
        let append = self.to_append(first, writes);
        let outcomes = self
            .storage
            .journal
            .append(self.right.session, 0, &[append])
            .await;
        assert_eq!(outcomes.len(), 1, "one outcome per append");
        outcomes.into_iter().next().unwrap()
    }

    pub(crate) async fn read(&self, from: u64, to: u64, max: usize) -> Vec<StoredEvent> {
        let range = EventRange {
            persistence_id: self.id.clone(),
            from: SequenceNr::new(from),
            to: SequenceNr::new(to),
            max_events: max,
            max_bytes: usize::MAX,
        };
        self.storage.journal.read_events(&range).await.unwrap()
    }

    /// Reads, and checks numbers, payloads (`a-NUMBER`) and the highest number.
    pub(crate) async fn expect(
        &self,
        (from, to, max): (u64, u64, usize),
        numbers: &[u64],
        highest: u64,
    ) {
        let bounds = self.storage.journal.bounds(&self.id).await.unwrap();
        assert_eq!(bounds.highest.get(), highest, "the highest number");
        let events = self.read(from, to, max).await;
        let read: Vec<u64> = events.iter().map(|event| event.sequence_nr.get()).collect();
        assert_eq!(
            read, numbers,
            "the numbers read from {from} to {to}, at most {max}"
        );
        for event in events {
            assert_eq!(event.payload, payload(&format!("a-{}", event.sequence_nr)));
            assert_eq!(
                (&event.persistence_id, event.writer),
                (&self.id, self.writer)
            );
        }
    }

    /// The payloads of all events there are, as text.
    pub(crate) async fn texts(&self) -> Vec<String> {
        let events = self.read(1, u64::MAX, usize::MAX).await;
        let text = |event: &StoredEvent| String::from_utf8(event.payload.bytes.to_vec()).unwrap();
        events.iter().map(text).collect()
    }

    pub(crate) async fn delete(&self, to: u64) {
        let to = SequenceNr::new(to);
        self.storage
            .journal
            .delete_events(self.right, &self.id, to)
            .await
            .unwrap();
    }
}

pub(crate) fn payload(text: &str) -> Payload {
    Payload::json(text.as_bytes().to_vec())
}

pub(crate) fn event(text: &str) -> NewEvent {
    NewEvent {
        payload: payload(text),
        tags: Vec::new(),
    }
}

/// One atomic write of these events.
pub(crate) fn write(texts: &[&str]) -> AtomicWrite {
    AtomicWrite {
        events: texts.iter().map(|text| event(text)).collect(),
        command: None,
        metadata: None,
    }
}

pub(crate) fn command_id(text: &str) -> CommandId {
    CommandId::parse(text).unwrap().unwrap()
}

/// One atomic write of these events that comes from a command.
pub(crate) fn commanded(texts: &[&str], id: &str, reply: &str) -> AtomicWrite {
    AtomicWrite {
        command: Some(CommandRecord {
            command_id: command_id(id),
            reply: payload(reply),
        }),
        ..write(texts)
    }
}

pub(crate) fn assert_stored(appended: &Appended) {
    assert!(appended.failure.is_none(), "should be stored: {appended:?}");
}
