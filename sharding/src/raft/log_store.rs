//! openraft's log storage, over a [`RaftStore`].

use std::fmt::Debug;
use std::ops::RangeBounds;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, RaftLogReader};

use super::store::RaftStore;
use super::types::{Entry, LogId, StorageError, StorageIoError, Types, Vote};

/// The log of a raft group's member.
#[derive(Clone)]
pub(crate) struct LogStore {
    store: RaftStore,
}

impl LogStore {
    pub(crate) fn new(store: RaftStore) -> Self {
        Self { store }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.store.all_entries(range))
    }

    /// What is sent to a follower at once.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.store.entries(start..end))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let image = self.store.image();
        let last = image.entries.last_key_value();
        Ok(LogState {
            last_purged_log_id: image.purged,
            last_log_id: last.map_or(image.purged, |(_, (entry, _))| Some(entry.log_id)),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = self.store.save_vote(*vote).await;
        saved.map_err(|error| StorageIoError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.store.image().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = self.store.save_committed(committed).await;
        saved.map_err(|error| StorageIoError::write(&error).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.store.image().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().collect();
        let done = Box::new(move |result| callback.log_io_completed(result));
        let appended = self.store.append(entries, done).await;
        appended.map_err(|error| StorageIoError::write_logs(&error).into())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let truncated = self.store.truncate(log_id.index).await;
        truncated.map_err(|error| StorageIoError::write_logs(&error).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let purged = self.store.purge(log_id).await;
        purged.map_err(|error| StorageIoError::write_logs(&error).into())
    }
}
