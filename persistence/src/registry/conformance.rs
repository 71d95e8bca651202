//! What every registry must do, case by case; see `journal/conformance.rs` for how
//! the kits are used. Each case needs a database of its own.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use crate::journal::conformance::{Stream, assert_stored, write};
use crate::registry::{NodeNr, RegistryError};
use crate::storage::Storage;
use crate::writer::{Epoch, SessionUuid};

/// Makes a `#[test]` of every case; see [`crate::journal_conformance_tests`].
#[macro_export]
macro_rules! registry_conformance_tests {
    ($run:path) => {
        $crate::registry_conformance_tests! { @each $run:
            r01_one_cluster, r02_number_of_shards_is_fixed, r03_node_numbers_are_never_used_twice,
            r04_incarnations_count_up, r05_unknown_node_is_refused,
            r06_earlier_sessions_of_a_node_are_fenced, r07_fencing_again_changes_nothing,
            r08_nodes_that_start_at_once, r09_fence_waits_for_appends_in_flight,
        }
    };
    (@each $run:path: $($case:ident),+ $(,)?) => {
        $(#[test] fn $case() { $run($crate::registry::conformance::$case); })+
    };
}

async fn can_write(storage: &Storage, session: SessionUuid) -> bool {
    let appended = Stream::of(storage, session)
        .append(1, vec![write(&["a-1"])])
        .await;
    appended.failure.is_none()
}

/// All nodes see one cluster, also if they ask at the same time.
pub async fn r01_one_cluster(storage: &Storage) {
    let asked = (0..8).map(|_| storage.registry.cluster(64));
    let identities = futures::future::join_all(asked).await;
    let first = storage.registry.cluster(64).await.unwrap();
    assert_eq!((first.number_of_shards, first.generation), (64, 1));
    for identity in identities {
        assert_eq!(identity.unwrap(), first);
    }
}

/// The number of shards is that of the first node.
pub async fn r02_number_of_shards_is_fixed(storage: &Storage) {
    let cluster = storage.registry.cluster(64).await.unwrap();
    let refused = storage.registry.cluster(128).await;
    let Err(RegistryError::NumberOfShards { stored, configured }) = refused else {
        panic!("should be refused: {refused:?}");
    };
    assert_eq!((stored, configured), (64, 128));
    assert_eq!(storage.registry.cluster(64).await.unwrap(), cluster);
}

/// Node numbers differ, also when minted at the same time.
pub async fn r03_node_numbers_are_never_used_twice(storage: &Storage) {
    let minted = futures::future::join_all((0..20).map(|_| storage.registry.mint_node())).await;
    let numbers: BTreeSet<NodeNr> = minted.into_iter().map(Result::unwrap).collect();
    assert_eq!(numbers.len(), 20);
    assert!(!numbers.contains(&NodeNr(0)));
}

/// Incarnations of a node count from 1; each has a session of its own.
pub async fn r04_incarnations_count_up(storage: &Storage) {
    let node = storage.registry.mint_node().await.unwrap();
    let mut sessions = BTreeSet::new();
    for number in 1..=3 {
        let incarnation = storage.registry.begin_incarnation(node).await.unwrap();
        assert_eq!((incarnation.node, incarnation.number), (node, number));
        sessions.insert(incarnation.session);
    }
    assert_eq!(sessions.len(), 3);
}

/// A node number that was never minted is refused.
pub async fn r05_unknown_node_is_refused(storage: &Storage) {
    for number in [0, 4711, u64::MAX] {
        let refused = storage.registry.begin_incarnation(NodeNr(number)).await;
        assert!(
            matches!(refused, Err(RegistryError::NodeUnknown { .. })),
            "{refused:?}"
        );
    }
}

/// A starting node fences its own earlier sessions and nobody else's.
pub async fn r06_earlier_sessions_of_a_node_are_fenced(storage: &Storage) {
    let (one, two) = (
        storage.registry.mint_node().await.unwrap(),
        storage.registry.mint_node().await.unwrap(),
    );
    let other = storage
        .registry
        .begin_incarnation(two)
        .await
        .unwrap()
        .session;
    let first = storage
        .registry
        .begin_incarnation(one)
        .await
        .unwrap()
        .session;
    assert!(can_write(storage, first).await);
    let second = storage
        .registry
        .begin_incarnation(one)
        .await
        .unwrap()
        .session;
    assert!(!can_write(storage, first).await);
    assert!(can_write(storage, second).await);
    assert!(can_write(storage, other).await);
}

/// A fence can be repeated, and is never taken back by a later, narrower one.
pub async fn r07_fencing_again_changes_nothing(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    let (session, shard) = (stream.right.session, stream.right.shard);
    for epoch in [5, 5, 2, 0] {
        storage
            .registry
            .fence(session, Some((shard, Epoch(epoch))))
            .await
            .unwrap();
        assert!(!can_write(storage, session).await);
    }
    for _ in 0..2 {
        storage.registry.fence(session, None).await.unwrap();
        assert!(!can_write(storage, session).await);
    }
    storage
        .registry
        .fence(session, Some((shard, Epoch(0))))
        .await
        .unwrap();
    assert!(!can_write(storage, session).await);
}

/// Of incarnations of one node begun at the same time, the last can write and the
/// others cannot.
pub async fn r08_nodes_that_start_at_once(storage: &Storage) {
    let node = storage.registry.mint_node().await.unwrap();
    let begun =
        futures::future::join_all((0..8).map(|_| storage.registry.begin_incarnation(node))).await;
    let mut incarnations: Vec<_> = begun.into_iter().map(Result::unwrap).collect();
    incarnations.sort_by_key(|incarnation| incarnation.number);
    let numbers: Vec<u64> = incarnations
        .iter()
        .map(|incarnation| incarnation.number)
        .collect();
    assert_eq!(numbers, (1..=8).collect::<Vec<u64>>());
    for incarnation in incarnations {
        let writes = can_write(storage, incarnation.session).await;
        assert_eq!(
            writes,
            incarnation.number == 8,
            "incarnation {}",
            incarnation.number
        );
    }
}

/// When a fence has returned, what is stored of the fenced session stays as it is
/// (I-2).
pub async fn r09_fence_waits_for_appends_in_flight(storage: &Storage) {
    for _ in 0..10 {
        let stream = Stream::empty(storage).await;
        let lanes = storage.journal.lanes();
        let appends = (0..8).map(|number| {
            let append =
                Stream::of(storage, stream.right.session).to_append(1, vec![write(&["a-1"])]);
            let id = append.persistence_id.clone();
            async move {
                let outcomes = storage
                    .journal
                    .append(stream.right.session, number % lanes, &[append])
                    .await;
                (id, outcomes.into_iter().next().unwrap())
            }
        });
        let fence = async {
            storage
                .registry
                .fence(stream.right.session, None)
                .await
                .unwrap();
            // Whoever is stored now was stored before the fence.
            stream
                .storage
                .journal
                .list_entities("conformance", None, usize::MAX)
                .await
                .unwrap()
        };
        let (outcomes, after_fence) =
            futures::future::join(futures::future::join_all(appends), fence).await;
        for (id, outcome) in outcomes {
            let listed = after_fence.iter().any(|line| line.persistence_id == id);
            assert_eq!(listed, outcome.failure.is_none(), "{outcome:?}");
            if listed {
                assert_stored(&outcome);
            }
        }
    }
}
