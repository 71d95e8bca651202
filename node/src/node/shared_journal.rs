//! A journal that several nodes of one process have, as with `dev --nodes` and in
//! tests.

use std::path::Path;
use std::sync::Arc;

use perennial_persistence::storage::{Storage, StorageError, StorageOptions, StorageUrl, migrate};
use tokio::sync::OnceCell;

use super::journal_url::in_folder;
use crate::config::Settings;

/// A journal that several nodes of one process have; clones are the same one. It
/// is opened by the node that starts first.
#[derive(Clone)]
pub struct SharedJournal {
    url: StorageUrl,
    storage: Arc<OnceCell<Storage>>,
}

impl SharedJournal {
    /// An empty one, which lasts as long as its last clone.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::at(StorageUrl::Memory)
    }

    /// The configured journal, or one in the folder.
    #[must_use]
    pub fn of(settings: &Settings, folder: &Path) -> Self {
        let configured = settings.journal_url.clone();
        Self::at(configured.unwrap_or_else(|| in_folder(folder)))
    }

    fn at(url: StorageUrl) -> Self {
        Self {
            url,
            storage: Arc::default(),
        }
    }

    pub(super) fn url(&self) -> &StorageUrl {
        &self.url
    }

    /// The same storage for all nodes, with the options of the first.
    pub(super) async fn open(
        &self,
        options: &StorageOptions,
        migrated: bool,
    ) -> Result<Storage, StorageError> {
        let opening = async || {
            if migrated {
                migrate(&self.url).await?;
            }
            Storage::open(&self.url, options).await
        };
        self.storage.get_or_try_init(opening).await.cloned()
    }
}
