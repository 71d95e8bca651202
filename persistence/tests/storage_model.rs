//! The databases against the in-memory backend: the same random appends, snapshots,
//! deletions and fences must give the same outcomes and leave the same streams.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use perennial_persistence::command::CommandId;
use perennial_persistence::journal::{
    Append, AppendError, Appended, AtomicWrite, CommandRecord, EventRange, NewEvent, StoredEvent,
    WriteRight,
};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::SnapshotCriteria;
use perennial_persistence::storage::{Storage, StorageOptions, StorageUrl, migrate};
use perennial_persistence::testing::postgres_server::TestDatabase;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};
use uuid::Uuid;

const STREAMS: usize = 3;
/// In all cases together; each case has up to 40 steps.
const CASES: u32 = 30;

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    /// One append for each stream that has writes. The first number is the next one
    /// of the stream plus the offset.
    Append(Vec<(i64, Vec<Write>)>),
    Delete {
        stream: usize,
        to: u64,
    },
    Snapshot {
        stream: usize,
        nr: u64,
    },
    /// Of a stream: it and everything that belongs to it.
    DeleteEntity {
        stream: usize,
        may_have_stored_to: u64,
    },
    Fence {
        shard: u32,
        epoch: u64,
    },
    /// The owner's next epoch, for all appends to come.
    NextEpoch,
}

/// Number of events, and of the command they come from.
type Write = (usize, Option<u8>);

fn a_step() -> impl Strategy<Value = Step> {
    let write = (1..4_usize, proptest::option::weighted(0.5, 0..12_u8));
    let offset = prop_oneof![8 => Just(0_i64), 1 => -3..0_i64, 1 => 1..3_i64];
    let append = (offset, proptest::collection::vec(write, 0..4));
    prop_oneof![
        8 => proptest::collection::vec(append, STREAMS).prop_map(Step::Append),
        2 => (0..STREAMS, 0..30_u64).prop_map(|(stream, to)| Step::Delete { stream, to }),
        1 => (0..STREAMS).prop_map(|stream| Step::Delete { stream, to: u64::MAX }),
        1 => (0..STREAMS, 0..30_u64).prop_map(|(stream, nr)| Step::Snapshot { stream, nr }),
        1 => (0..STREAMS, prop_oneof![3 => Just(0), 1 => 0..30_u64])
            .prop_map(|(stream, may_have_stored_to)| Step::DeleteEntity { stream, may_have_stored_to }),
        1 => (0..STREAMS as u32, 0..4_u64).prop_map(|(shard, epoch)| Step::Fence { shard, epoch }),
        1 => Just(Step::NextEpoch),
    ]
}

/// A backend with what the steps need.
struct Subject {
    storage: Storage,
    session: SessionUuid,
    epoch: Epoch,
    /// Makes the streams of each case new.
    case: Uuid,
}

impl Subject {
    async fn new(storage: &Storage) -> Self {
        let node = storage.registry.mint_node().await.unwrap();
        let session = storage
            .registry
            .begin_incarnation(node)
            .await
            .unwrap()
            .session;
        Self {
            storage: storage.clone(),
            session,
            epoch: Epoch(1),
            case: Uuid::new_v4(),
        }
    }

    fn id(&self, stream: usize) -> PersistenceId {
        PersistenceId::new("model", &format!("{}-{stream}", self.case)).unwrap()
    }

    fn right(&self, stream: usize) -> WriteRight {
        WriteRight {
            session: self.session,
            shard: shard_of(stream),
            epoch: self.epoch,
        }
    }

    /// Does a step and says how it went, in words that do not name the backend.
    async fn perform(&mut self, nr: usize, step: &Step) -> Vec<String> {
        match step {
            Step::Append(appends) => {
                let mut batch = Vec::new();
                for (stream, (offset, writes)) in appends.iter().enumerate() {
                    if !writes.is_empty() {
                        batch.push(self.to_append(nr, stream, *offset, writes).await);
                    }
                }
                let outcomes = self.storage.journal.append(self.session, 0, &batch).await;
                outcomes.iter().map(say).collect()
            }
            Step::Delete { stream, to } => {
                let to = SequenceNr::new(*to);
                let deleted = self
                    .storage
                    .journal
                    .delete_events(self.right(*stream), &self.id(*stream), to)
                    .await;
                let said = deleted
                    .err()
                    .map(|error| error.to_string())
                    .unwrap_or_default();
                vec![said.replace(&self.session.to_string(), "SESSION")]
            }
            Step::Snapshot { stream, nr } => {
                let (nr, state) = (SequenceNr::new(*nr), Payload::json("state"));
                let snapshots = &self.storage.snapshots;
                let right = self.right(*stream);
                let saved = snapshots.save(right, &self.id(*stream), nr, &state).await;
                vec![format!("{}", saved.is_ok())]
            }
            Step::DeleteEntity {
                stream,
                may_have_stored_to,
            } => {
                let to = SequenceNr::new(*may_have_stored_to);
                let deletion = &self.storage.deletion;
                let right = self.right(*stream);
                let deleted = deletion.delete_entity(right, &self.id(*stream), to).await;
                let said = deleted.map(|kept| kept.map(|kept| kept.sequence_nr));
                vec![format!("{said:?}").replace(&format!("{:?}", self.session), "SESSION")]
            }
            Step::Fence { shard, epoch } => {
                let shard = Some((ShardNr(*shard), Epoch(*epoch)));
                self.storage
                    .registry
                    .fence(self.session, shard)
                    .await
                    .unwrap();
                Vec::new()
            }
            Step::NextEpoch => {
                self.epoch = Epoch(self.epoch.0 + 1);
                Vec::new()
            }
        }
    }

    async fn to_append(&self, nr: usize, stream: usize, offset: i64, writes: &[Write]) -> Append {
        let persistence_id = self.id(stream);
        let bounds = self.storage.journal.bounds(&persistence_id).await.unwrap();
        let first = bounds
            .highest
            .next()
            .get()
            .saturating_add_signed(offset)
            .max(1);
        let event = |place: usize| NewEvent {
            payload: Payload::json(format!("{nr}-{place}")),
            tags: Vec::new(),
        };
        let write = |(place, (events, command)): (usize, &Write)| AtomicWrite {
            events: (0..*events)
                .map(|index| event(place * 10 + index))
                .collect(),
            command: command.map(|command| CommandRecord {
                command_id: CommandId::parse(&format!("c{command}")).unwrap().unwrap(),
                reply: Payload::json(format!("reply {nr}-{place}")),
            }),
            metadata: None,
        };
        Append {
            persistence_id,
            shard: shard_of(stream),
            epoch: self.epoch,
            // A new incarnation for each append: only then are rows told apart.
            writer: WriterUuid(Uuid::from_u128(nr as u128)),
            first_sequence_nr: SequenceNr::new(first),
            writes: writes.iter().enumerate().map(write).collect(),
        }
    }

    /// Everything there is, without what differs between backends.
    async fn contents(&self) -> Vec<String> {
        let mut contents = Vec::new();
        for stream in 0..STREAMS {
            let persistence_id = self.id(stream);
            let journal = &self.storage.journal;
            contents.push(format!(
                "{:?}",
                journal.bounds(&persistence_id).await.unwrap()
            ));
            let range = EventRange {
                persistence_id: persistence_id.clone(),
                from: SequenceNr::ZERO,
                to: SequenceNr::MAX,
                max_events: usize::MAX,
                max_bytes: usize::MAX,
            };
            let line = |event: StoredEvent| {
                let (nr, writer, bytes) = (event.sequence_nr, event.writer, event.payload.bytes);
                format!("{nr} by {writer}: {bytes:?} of {:?}", event.command_id)
            };
            contents.extend(
                journal
                    .read_events(&range)
                    .await
                    .unwrap()
                    .into_iter()
                    .map(line),
            );
            let snapshots = &self.storage.snapshots;
            let newest = snapshots.load(&persistence_id, SnapshotCriteria::ALL).await;
            contents.extend(
                newest
                    .unwrap()
                    .map(|newest| format!("snapshot {}", newest.sequence_nr)),
            );
            let ids: Vec<CommandId> = (0..12)
                .map(|nr| CommandId::parse(&format!("c{nr}")).unwrap().unwrap())
                .collect();
            let commands = journal.find_commands(&persistence_id, &ids).await.unwrap();
            contents.extend(
                commands
                    .iter()
                    .flatten()
                    .map(|command| format!("{} {:?}", command.sequence_nr, command.reply.bytes)),
            );
        }
        contents
    }
}

fn shard_of(stream: usize) -> ShardNr {
    ShardNr(u32::try_from(stream).unwrap())
}

fn say(outcome: &Appended) -> String {
    let why = match &outcome.failure {
        None => "all".to_owned(),
        Some(AppendError::Conflict { highest, other, .. }) => {
            format!(
                "conflict with {:?}, highest {highest}",
                other.as_ref().map(|other| other.writer)
            )
        }
        Some(AppendError::Fenced { shard, epoch, .. }) => format!("fenced for {shard} at {epoch}"),
        Some(AppendError::DuplicateCommand {
            command_id, stored, ..
        }) => {
            format!(
                "duplicate {command_id} at {} with {:?}",
                stored.sequence_nr, stored.reply.bytes
            )
        }
        Some(other) => format!("unexpected: {other}"),
    };
    format!("{} writes, {why}", outcome.stored_writes)
}

/// Runs random histories on both; a failing one is shrunk and printed.
fn compare(url: &StorageUrl) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let storage = runtime.block_on(async {
        migrate(url).await.unwrap();
        Storage::open(url, &StorageOptions::default())
            .await
            .unwrap()
    });
    let memory = runtime
        .block_on(Storage::open(
            &StorageUrl::Memory,
            &StorageOptions::default(),
        ))
        .unwrap();
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let histories = proptest::collection::vec(a_step(), 1..40);
    let result = runner.run(&histories, |steps| {
        runtime.block_on(async {
            let (mut model, mut subject) =
                (Subject::new(&memory).await, Subject::new(&storage).await);
            subject.case = model.case;
            for (nr, step) in steps.iter().enumerate() {
                let (expected, actual) = (
                    model.perform(nr, step).await,
                    subject.perform(nr, step).await,
                );
                prop_assert_eq!(&actual, &expected, "step {}: {:?}", nr, step);
            }
            prop_assert_eq!(subject.contents().await, model.contents().await);
            Ok(())
        })
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn sqlite_does_what_memory_does() {
    let folder = tempfile::tempdir().unwrap();
    compare(&StorageUrl::Sqlite(folder.path().join("journal.sqlite")));
}

#[test]
fn postgres_does_what_memory_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let database = runtime.block_on(TestDatabase::new());
    compare(&database.url());
}
