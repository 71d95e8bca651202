//! Somebody else who writes to the journal of a node: another program with a
//! session of its own, through the public storage traits.

use anyhow::{Result, bail};
use perennial_persistence::journal::WriteRight;
use perennial_persistence::journal::{Append, AtomicWrite, NewEvent};
use perennial_persistence::payload::{CodecId, Payload};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::{Storage, StorageOptions, StorageUrl, migrate};
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};
use uuid::Uuid;

/// As a node is configured by default.
const NUMBER_OF_SHARDS: u32 = 1024;
/// Fences are per shard; nobody fences this writer.
const SHARD: ShardNr = ShardNr(0);

/// Opens a journal, making it if it is not there, and begins a session in it.
///
/// # Errors
/// When it cannot be opened.
pub async fn open_with_session(url: &str) -> Result<(Storage, SessionUuid)> {
    let url = StorageUrl::parse(url)?;
    migrate(&url).await?;
    let storage = Storage::open(&url, &StorageOptions::default()).await?;
    storage.registry.cluster(NUMBER_OF_SHARDS).await?;
    let node = storage.registry.mint_node().await?;
    let incarnation = storage.registry.begin_incarnation(node).await?;
    Ok((storage, incarnation.session))
}

/// A writer with a session of its own.
pub struct ForeignWriter {
    storage: Storage,
    session: SessionUuid,
}

impl ForeignWriter {
    /// Opens a journal, making it if it is not there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(url: &str) -> Result<Self> {
        let (storage, session) = open_with_session(url).await?;
        Ok(Self { storage, session })
    }

    /// Stores events of a counter, each of which adds 1.
    ///
    /// # Errors
    /// When they are not all stored.
    pub async fn add_ones(&self, counter: &str, first: u64, count: usize) -> Result<()> {
        let event = NewEvent {
            payload: Payload {
                codec: CodecId::JSON,
                manifest: "added".into(),
                bytes: r#"{"added":1}"#.into(),
            },
            tags: Vec::new(),
        };
        let write = AtomicWrite {
            events: vec![event; count],
            command: None,
            metadata: None,
        };
        let append = Append {
            persistence_id: PersistenceId::new("counter", counter)?,
            shard: SHARD,
            epoch: Epoch(1),
            writer: WriterUuid(Uuid::now_v7()),
            first_sequence_nr: SequenceNr::new(first),
            writes: vec![write],
        };
        let journal = &self.storage.journal;
        let outcomes = journal.append(self.session, 0, &[append]).await;
        match outcomes.into_iter().find_map(|outcome| outcome.failure) {
            Some(failure) => bail!(failure),
            None => Ok(()),
        }
    }

    /// Deletes the events of a counter up to a number, inclusive.
    ///
    /// # Errors
    /// When the journal does not.
    pub async fn delete(&self, counter: &str, to: u64) -> Result<()> {
        let right = WriteRight {
            session: self.session,
            shard: SHARD,
            epoch: Epoch(1),
        };
        let persistence_id = PersistenceId::new("counter", counter)?;
        let to = SequenceNr::new(to);
        self.storage
            .journal
            .delete_events(right, &persistence_id, to)
            .await?;
        Ok(())
    }
}
