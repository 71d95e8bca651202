//! Every backend runs the whole conformance kit, each case a test of its own on a
//! database of its own.

#![allow(clippy::unwrap_used)]

use perennial_persistence::storage::{Storage, StorageOptions, StorageUrl, migrate};
use perennial_persistence::testing::postgres_server::TestDatabase;

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

/// Migrates and opens what is not there yet.
async fn open_new(url: &StorageUrl) -> Storage {
    migrate(url).await.unwrap();
    Storage::open(url, &StorageOptions::default())
        .await
        .unwrap()
}

macro_rules! conformance_tests {
    ($backend:ident) => {
        mod $backend {
            use super::*;

            perennial_persistence::journal_conformance_tests!(run);
            perennial_persistence::snapshot_store_conformance_tests!(run);
            perennial_persistence::durable_state_store_conformance_tests!(run);
            perennial_persistence::recovery_reader_conformance_tests!(run);
            perennial_persistence::registry_conformance_tests!(run);
            perennial_persistence::global_order_conformance_tests!(run);
            perennial_persistence::entity_deletion_conformance_tests!(run);

            fn run(case: impl AsyncFnOnce(&Storage)) {
                super::$backend(case);
            }
        }
    };
}
conformance_tests!(memory);

/// What authors of other backends get from their journal and snapshot store.
mod composed {
    use super::*;

    perennial_persistence::recovery_reader_conformance_tests!(run);

    fn run(case: impl AsyncFnOnce(&Storage)) {
        memory(async |storage| {
            let storage = storage.clone();
            case(&Storage::composed(
                storage.journal,
                storage.snapshots,
                storage.states,
                storage.registry,
                storage.order,
                storage.deletion,
            ))
            .await;
        });
    }
}
conformance_tests!(sqlite);
conformance_tests!(postgres);

fn memory(case: impl AsyncFnOnce(&Storage)) {
    block_on(async {
        let storage = open_new(&StorageUrl::Memory).await;
        case(&storage).await;
    });
}

fn sqlite(case: impl AsyncFnOnce(&Storage)) {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let storage = open_new(&StorageUrl::Sqlite(folder.path().join("journal.sqlite"))).await;
        case(&storage).await;
    });
}

fn postgres(case: impl AsyncFnOnce(&Storage)) {
    block_on(async {
        let database = TestDatabase::new().await;
        let storage = open_new(&database.url()).await;
        case(&storage).await;
    });
}
