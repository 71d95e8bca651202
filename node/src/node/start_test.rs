//! Starts that cannot come to an end.

use std::time::Duration;

use perennial_persistence::storage::StorageOptions;
use perennial_sharding::forming::presence::PresenceEnd;
use tokio::time::{Instant, sleep, timeout};

use super::{Node, NodeBuilder, NodeError, SharedJournal};

const SOON: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

fn node(journal: &SharedJournal) -> NodeBuilder {
    let somewhere = "127.0.0.1:0".parse().unwrap();
    Node::builder()
        .shared_journal(journal.clone())
        .listen(somewhere)
        .http(somewhere)
        .peer_listen(somewhere)
}

/// Who could let it in is gone, and then the cluster is formed anew without it.
#[tokio::test]
async fn a_node_that_can_never_join_ends_and_says_why() {
    let journal = SharedJournal::in_memory();
    let first = node(&journal).start().await.unwrap();
    let first_id = first.node_id();
    drop(first);
    let storage = journal.open(&StorageOptions::default(), false).await;
    let registry = storage.unwrap().registry;

    let reforming = async {
        let deadline = Instant::now() + SOON;
        let mut announced = None;
        loop {
            assert!(Instant::now() < deadline, "it gives no sign of life");
            let rows = registry.nodes().await.unwrap();
            let second = rows.into_iter().find(|row| row.node != first_id);
            let seen = second.map(|row| row.seen);
            // When it signs again, it has entered and waits to be let in.
            if seen.is_some() && *announced.get_or_insert(seen) != seen {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        let generation = registry.formation().await.unwrap().generation;
        registry.reform(generation).await.unwrap();
    };
    let starting = node(&journal).start();
    let (started, ()) = timeout(SOON, async { tokio::join!(starting, reforming) })
        .await
        .expect("it starts for ever");
    let error = started.err().expect("nobody could let it in");
    assert!(
        matches!(
            error,
            NodeError::Presence(PresenceEnd::NewGeneration { .. })
        ),
        "{error}"
    );
}
