//! Calls of a storage that may break its contract.
//!
//! Backends are plugins. What one of them does wrong costs the call, not the
//! entity that waits for it: a panic is an unavailable journal. Appends, whose
//! outcome would be unknown, are contained in `group_commit.rs`.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::timeout;

use crate::command::CommandId;
use crate::journal::{Journal, JournalError, StoredCommand};
use crate::persistence_id::PersistenceId;

/// The result of a call; an error when it panics.
pub(crate) async fn contained<T>(
    call: impl Future<Output = Result<T, JournalError>>,
) -> Result<T, JournalError> {
    // What the call left behind is the backend's own business.
    let caught = AssertUnwindSafe(call).catch_unwind().await;
    caught.unwrap_or_else(|_| {
        Err(JournalError::Unavailable {
            message: "the storage panicked".to_owned(),
            source: None,
        })
    })
}

/// Asks the index about command ids: one answer for each, or what is wrong, within
/// the time given.
pub(crate) async fn look_up(
    journal: &dyn Journal,
    persistence_id: &PersistenceId,
    command_ids: &[CommandId],
    limit: Duration,
) -> Result<Vec<Option<StoredCommand>>, String> {
    let call = contained(journal.find_commands(persistence_id, command_ids));
    match timeout(limit, call).await {
        Ok(Ok(found)) if found.len() == command_ids.len() => Ok(found),
        Ok(Ok(found)) => Err(format!(
            "asked about {} command ids, the journal answered {}",
            command_ids.len(),
            found.len()
        )),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "nothing was found for {limit:?}, which is persistence.recovery_event_timeout"
        )),
    }
}
