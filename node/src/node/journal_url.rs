//! Where a node's journal is.

use std::path::Path;

use perennial_persistence::storage::{StorageUrl, migrate};

use super::NodeError;
use crate::config::Settings;

/// The configured journal, or one in the data directory.
pub(super) fn journal_url(
    settings: &Settings,
    data_dir: Option<&Path>,
) -> Result<StorageUrl, NodeError> {
    match (&settings.journal_url, data_dir) {
        (Some(url), _) => Ok(url.clone()),
        (None, Some(data_dir)) => Ok(in_folder(data_dir)),
        (None, None) => Err(NodeError::JournalRequired),
    }
}

/// The embedded journal of a folder.
pub(super) fn in_folder(folder: &Path) -> StorageUrl {
    StorageUrl::sqlite(&folder.join("journal.sqlite"))
}

/// Makes or updates the schema of the configured journal; which one that is,
/// without its password.
///
/// # Errors
/// [`NodeError::JournalRequired`] when none is configured, or what the journal
/// said; a database that is not ours is not touched.
pub async fn migrate_journal(settings: &Settings) -> Result<String, NodeError> {
    let url = journal_url(settings, None)?;
    migrate(&url).await?;
    Ok(url.to_string())
}
