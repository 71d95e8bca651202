//! How often a node has started: what its disk and the database make of starts that
//! are not answered, come late, or were somebody else's.

use perennial_persistence::registry::{ClusterIdentity, Incarnation, Registry};
use perennial_persistence::writer::ShardNr;

use super::*;
use crate::forming::identity::{begin_again, begin_incarnation};

/// A node that only starts, and says nowhere where it is.
struct Starting {
    storage: Storage,
    cluster: ClusterIdentity,
    disk: MemoryDisk,
}

impl Starting {
    async fn new() -> Self {
        let storage = MemoryStorage::default().storage();
        Self {
            cluster: storage.registry.cluster(SHARDS).await.unwrap(),
            disk: MemoryDisk::default(),
            storage,
        }
    }

    fn registry(&self) -> &dyn Registry {
        &*self.storage.registry
    }

    /// A new process, from this disk.
    async fn start(&self, disk: &MemoryDisk) -> Incarnation {
        let begun = begin_incarnation(self.registry(), &self.cluster, disk).await;
        begun.unwrap()
    }

    /// Starts that get no answer, whether they are heard or not. Returns their number.
    async fn start_unanswered(&self, heard: bool) -> u64 {
        // After looking which nodes there are.
        let faulty = Faulty::interrupted(Interruption {
            step: 1,
            after: heard,
        });
        let registry = faulty.registry(self.storage.registry.clone());
        let node = self.disk.identity().unwrap().unwrap().node;
        let error = begin_again(&registry, &self.disk, node).await.unwrap_err();
        assert!(matches!(error, EntryError::Registry(_)), "{error}");
        self.disk.identity().unwrap().unwrap().incarnation
    }

    async fn can_write(&self, incarnation: &Incarnation) -> bool {
        let journal = &self.storage.journal;
        let asked = journal.may_write(incarnation.session, &[(ShardNr(1), Epoch(1))]);
        asked.await.unwrap()[0]
    }
}

/// What a process has asked for and given up neither fences the one that started
/// after it nor makes its disk look like one that was restored.
#[tokio::test(start_paused = true)]
async fn a_start_that_comes_late_changes_nothing() {
    let node = Starting::new().await;
    let first = node.start(&node.disk).await;
    let late = [
        node.start_unanswered(false).await,
        node.start_unanswered(false).await,
    ];
    let next = node.start(&node.disk).await;
    for number in late {
        let refused = node.registry().begin_numbered(first.node, number).await;
        assert!(
            matches!(refused, Err(RegistryError::IncarnationOver { .. })),
            "{refused:?}"
        );
        assert!(
            node.can_write(&next).await,
            "fenced by a start that is over"
        );
    }
    let again = begin_again(node.registry(), &node.disk, first.node).await;
    assert_eq!(again.unwrap().node, first.node);
    assert_eq!(node.start(&node.disk).await.node, first.node);
}

/// A node whose start took effect without an answer is still the same node, in the
/// same process and in the next.
#[tokio::test(start_paused = true)]
async fn a_start_without_an_answer_is_not_somebody_elses() {
    for heard in [[true, true], [true, false], [false, true]] {
        let node = Starting::new().await;
        let first = node.start(&node.disk).await;
        for heard in heard {
            node.start_unanswered(heard).await;
        }
        let again = begin_again(node.registry(), &node.disk, first.node).await;
        let again = again.unwrap();
        assert_eq!(again.node, first.node, "{heard:?}");
        assert!(node.can_write(&again).await, "{heard:?}");

        node.start_unanswered(heard[0]).await;
        assert_eq!(node.start(&node.disk).await.node, first.node, "{heard:?}");
    }
}

/// A restored disk is recognised however many starts it knows of that were never
/// heard of in the database.
#[tokio::test(start_paused = true)]
async fn a_restored_disk_is_recognised_after_starts_that_were_lost() {
    let node = Starting::new().await;
    let first = node.start(&node.disk).await;
    for _ in 0..3 {
        node.start_unanswered(false).await;
    }
    let backup = node.disk.identity().unwrap().unwrap();
    node.start(&node.disk).await;
    node.disk.set_identity(&backup).unwrap();
    assert_ne!(node.start(&node.disk).await.node, first.node);
}

/// A node that goes on with a new session does not take the place of a process that
/// has started as the same node; and finds that out each time that it starts.
#[tokio::test(start_paused = true)]
async fn a_node_begins_again_unless_another_process_has() {
    for announced in [true, false] {
        let node = Starting::new().await;
        let first = node.start(&node.disk).await;
        if announced {
            let addresses = NodeAddresses {
                address: "one:7400".to_owned(),
                peer_address: "one:7402".to_owned(),
            };
            let announced = node.registry().announce(first.node, &addresses);
            announced.await.unwrap();
        }
        let second = begin_again(node.registry(), &node.disk, first.node).await;
        let second = second.unwrap();
        assert_eq!((second.node, second.number), (first.node, first.number + 1));

        let copy = MemoryDisk::default();
        let identity = node.disk.identity().unwrap().unwrap();
        copy.set_identity(&identity).unwrap();
        let other = node.start(&copy).await;
        assert_eq!(other.node, first.node);
        for _ in 0..2 {
            let error = begin_again(node.registry(), &node.disk, first.node).await;
            let error = error.unwrap_err();
            assert!(matches!(error, EntryError::Superseded { .. }), "{error}");
        }
        assert_ne!(node.start(&node.disk).await.node, first.node);
        assert!(node.can_write(&other).await, "announced: {announced}");
    }
}
