//! What every registry must do, case by case; see `journal/conformance.rs` for how
//! the kits are used. Each case needs a database of its own.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use crate::journal::conformance::{Stream, assert_stored, write};
use crate::registry::{Formation, NodeAddresses, NodeNr, RegistryError};
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
            r10_one_node_forms_the_cluster, r11_forming_is_taken_over_with_a_new_generation,
            r12_a_formed_cluster_is_reformed_once, r13_earlier_generations_are_fenced,
            r14_sessions_that_begin_during_a_reform, r15_nodes_are_found_where_they_announce,
            r16_an_address_is_of_one_node, r17_a_number_begins_once,
            r18_a_number_that_is_over_changes_nothing,
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

async fn mint(storage: &Storage) -> NodeNr {
    storage.registry.mint_node().await.unwrap()
}

async fn session(storage: &Storage, node: NodeNr) -> SessionUuid {
    let begun = storage.registry.begin_incarnation(node).await;
    begun.unwrap().session
}

/// Of nodes that want to form the cluster at the same time, one does; it alone
/// declares it formed, as often as it likes.
pub async fn r10_one_node_forms_the_cluster(storage: &Storage) {
    let registry = &storage.registry;
    let none = registry.formation().await;
    assert!(matches!(none, Err(RegistryError::NotACluster)), "{none:?}");
    registry.cluster(64).await.unwrap();
    let unformed = Formation {
        generation: 1,
        formed: false,
        forming: None,
    };
    assert_eq!(registry.formation().await.unwrap(), unformed);

    let nodes = [
        mint(storage).await,
        mint(storage).await,
        mint(storage).await,
    ];
    let claims = nodes.map(|node| registry.claim_forming(node, unformed));
    let claims = futures::future::join_all(claims).await;
    let forming = registry.formation().await.unwrap();
    assert_eq!((forming.generation, forming.formed), (1, false));
    for claim in claims {
        assert_eq!(claim.unwrap(), forming, "seen differently");
    }
    let winner = forming.forming.unwrap();
    assert!(nodes.contains(&winner));

    for node in nodes {
        let formed = registry.set_formed(node, 1).await.unwrap();
        assert_eq!(formed, node == winner);
        assert!(!registry.set_formed(node, 2).await.unwrap());
    }
    assert!(registry.set_formed(winner, 1).await.unwrap(), "repeated");
    let formed = Formation {
        formed: true,
        ..forming
    };
    assert_eq!(registry.formation().await.unwrap(), formed);
    // Nothing is claimed any more.
    for node in nodes {
        for seen in [unformed, forming, formed] {
            let after = registry.claim_forming(node, seen).await.unwrap();
            assert_eq!(after, formed);
        }
    }
}

/// Who takes the forming over raises the generation, and the former one can no
/// longer declare what it has made.
pub async fn r11_forming_is_taken_over_with_a_new_generation(storage: &Storage) {
    let registry = &storage.registry;
    registry.cluster(64).await.unwrap();
    let (one, two, three) = (
        mint(storage).await,
        mint(storage).await,
        mint(storage).await,
    );
    let seen = registry.formation().await.unwrap();
    let first = registry.claim_forming(one, seen).await.unwrap();
    // Its own claim it does not take over.
    assert_eq!(registry.claim_forming(one, first).await.unwrap(), first);

    let takeovers = [two, three].map(|node| registry.claim_forming(node, first));
    let takeovers = futures::future::join_all(takeovers).await;
    let second = registry.formation().await.unwrap();
    assert_eq!((second.generation, second.formed), (2, false));
    assert_ne!(second.forming, Some(one));
    for takeover in takeovers {
        assert_eq!(takeover.unwrap(), second);
    }
    assert!(!registry.set_formed(one, 1).await.unwrap());
    assert!(!registry.set_formed(one, 2).await.unwrap());
    let winner = second.forming.unwrap();
    assert!(!registry.set_formed(winner, 1).await.unwrap());
    assert!(registry.set_formed(winner, 2).await.unwrap());
    assert_eq!(registry.cluster(64).await.unwrap().generation, 2);
}

/// A new generation begins once, however often and by however many it is asked for,
/// and only after a formed one.
pub async fn r12_a_formed_cluster_is_reformed_once(storage: &Storage) {
    let registry = &storage.registry;
    let identity = registry.cluster(64).await.unwrap();
    let node = mint(storage).await;
    let seen = registry.formation().await.unwrap();
    let forming = registry.claim_forming(node, seen).await.unwrap();
    assert_eq!(registry.reform(1).await.unwrap(), forming, "not formed yet");
    registry.set_formed(node, 1).await.unwrap();

    let again = Formation {
        generation: 2,
        formed: false,
        forming: None,
    };
    let asked = (0..4).map(|_| registry.reform(1));
    for reformed in futures::future::join_all(asked).await {
        assert_eq!(reformed.unwrap(), again);
    }
    let after = registry.cluster(64).await.unwrap();
    assert_eq!(
        (after.cluster_id, after.generation),
        (identity.cluster_id, 2)
    );
    // The same node may form the next one.
    let claimed = registry.claim_forming(node, again).await.unwrap();
    assert_eq!((claimed.generation, claimed.forming), (2, Some(node)));
}

/// Sessions of earlier generations are fenced, those of the current one are not.
pub async fn r13_earlier_generations_are_fenced(storage: &Storage) {
    let registry = &storage.registry;
    registry.cluster(64).await.unwrap();
    let (one, two) = (mint(storage).await, mint(storage).await);
    let begun = registry.begin_incarnation(one).await.unwrap();
    assert_eq!(begun.generation, 1);
    let of_first = begun.session;
    registry.fence_earlier_generations(1).await.unwrap();
    assert!(can_write(storage, of_first).await);

    let seen = registry.formation().await.unwrap();
    registry.claim_forming(one, seen).await.unwrap();
    registry.set_formed(one, 1).await.unwrap();
    registry.reform(1).await.unwrap();
    let begun = registry.begin_incarnation(two).await.unwrap();
    assert_eq!(begun.generation, 2);
    for _ in 0..2 {
        registry.fence_earlier_generations(2).await.unwrap();
        assert!(!can_write(storage, of_first).await);
        assert!(can_write(storage, begun.session).await);
    }
    // Back again, it belongs to the new generation.
    assert!(can_write(storage, session(storage, one).await).await);
}

/// A session that begins while a generation does is of that generation, or fenced.
pub async fn r14_sessions_that_begin_during_a_reform(storage: &Storage) {
    let registry = &storage.registry;
    registry.cluster(64).await.unwrap();
    let forming = mint(storage).await;
    for generation in 1..=5 {
        let seen = registry.formation().await.unwrap();
        registry.claim_forming(forming, seen).await.unwrap();
        assert!(registry.set_formed(forming, generation).await.unwrap());
        let mut nodes = Vec::new();
        for _ in 0..6 {
            nodes.push(mint(storage).await);
        }
        let beginning = nodes.iter().map(|node| registry.begin_incarnation(*node));
        let fence = async {
            registry.reform(generation).await.unwrap();
            let fenced = registry.fence_earlier_generations(generation + 1);
            fenced.await.unwrap();
        };
        let beginning = futures::future::join_all(beginning);
        let (begun, ()) = futures::future::join(beginning, fence).await;
        for incarnation in begun {
            let incarnation = incarnation.unwrap();
            let writes = can_write(storage, incarnation.session).await;
            assert_eq!(writes, incarnation.generation > generation);
        }
    }
}

fn addresses(host: &str) -> NodeAddresses {
    NodeAddresses {
        address: format!("{host}:7400"),
        peer_address: format!("{host}:7402"),
    }
}

/// Nodes are listed where they say they are, the last seen first, until they leave.
pub async fn r15_nodes_are_found_where_they_announce(storage: &Storage) {
    let registry = &storage.registry;
    let (one, two, silent) = (
        mint(storage).await,
        mint(storage).await,
        mint(storage).await,
    );
    assert_eq!(registry.nodes().await.unwrap(), []);
    let unknown = registry.announce(NodeNr(4711), &addresses("one")).await;
    let unknown_refused = matches!(unknown, Err(RegistryError::NodeUnknown { .. }));
    assert!(unknown_refused, "{unknown:?}");

    registry.begin_incarnation(one).await.unwrap();
    registry.announce(one, &addresses("one")).await.unwrap();
    registry.announce(two, &addresses("two")).await.unwrap();
    let listed = registry.nodes().await.unwrap();
    let mut numbers: Vec<NodeNr> = listed.iter().map(|row| row.node).collect();
    numbers.sort();
    assert_eq!(numbers, [one, two], "not {silent:?}");
    let row = listed.iter().find(|row| row.node == one).unwrap();
    assert_eq!((row.incarnation, &row.addresses), (1, &addresses("one")));

    for _ in 0..3 {
        assert!(registry.give_sign(one, &addresses("one")).await.unwrap());
    }
    let listed = registry.nodes().await.unwrap();
    assert_eq!(listed[0].node, one, "the last seen");
    assert_eq!(listed[0].seen, row.seen + 3);

    // It moves, and leaves.
    registry.announce(one, &addresses("three")).await.unwrap();
    assert!(!registry.give_sign(one, &addresses("one")).await.unwrap());
    registry.withdraw(two).await.unwrap();
    let listed = registry.nodes().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].addresses, addresses("three"));
}

/// Whoever announces an address has it; whoever had it learns that.
pub async fn r16_an_address_is_of_one_node(storage: &Storage) {
    let registry = &storage.registry;
    let (one, two) = (mint(storage).await, mint(storage).await);
    registry.announce(one, &addresses("same")).await.unwrap();
    assert!(registry.give_sign(one, &addresses("same")).await.unwrap());
    registry.announce(two, &addresses("same")).await.unwrap();
    assert!(!registry.give_sign(one, &addresses("same")).await.unwrap());
    assert!(registry.give_sign(two, &addresses("same")).await.unwrap());
    let listed = registry.nodes().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].node, two);

    let both = [one, two].map(|node| async move {
        let same = addresses("same");
        registry.announce(node, &same).await.unwrap();
    });
    futures::future::join_all(both).await;
    assert_eq!(registry.nodes().await.unwrap().len(), 1);
}

/// Of starts under one number, one begins, also if they come at the same time.
pub async fn r17_a_number_begins_once(storage: &Storage) {
    let registry = &storage.registry;
    let node = mint(storage).await;
    for number in [3, 4, 10] {
        let begun = (0..8).map(|_| registry.begin_numbered(node, number));
        let begun = futures::future::join_all(begun).await;
        let mut incarnations = Vec::new();
        for begun in begun {
            match begun {
                Ok(incarnation) => incarnations.push(incarnation),
                Err(RegistryError::IncarnationOver { stored, .. }) => assert_eq!(stored, number),
                Err(error) => panic!("{error}"),
            }
        }
        let [begun] = incarnations[..] else {
            panic!("one should have begun: {incarnations:?}");
        };
        assert_eq!((begun.node, begun.number), (node, number));
        assert!(can_write(storage, begun.session).await);
    }
    // The database goes on counting from there.
    let next = registry.begin_incarnation(node).await.unwrap();
    assert_eq!(next.number, 11);
    let unknown = registry.begin_numbered(NodeNr(4711), 1).await;
    assert!(
        matches!(unknown, Err(RegistryError::NodeUnknown { .. })),
        "{unknown:?}"
    );
}

/// A start under a number that is not greater than the last one's begins nothing and
/// fences nobody; a greater one fences all before it (I-2).
pub async fn r18_a_number_that_is_over_changes_nothing(storage: &Storage) {
    let registry = &storage.registry;
    let node = mint(storage).await;
    let earlier = registry.begin_numbered(node, 2).await.unwrap().session;
    let last = registry.begin_numbered(node, 5).await.unwrap().session;
    assert!(!can_write(storage, earlier).await);
    for late in [0, 1, 2, 3, 5] {
        let refused = registry.begin_numbered(node, late).await;
        let Err(RegistryError::IncarnationOver { number, stored, .. }) = refused else {
            panic!("should be refused: {refused:?}");
        };
        assert_eq!((number, stored), (late, 5));
        assert!(can_write(storage, last).await, "fenced by {late}");
    }
    let next = registry.begin_numbered(node, 6).await.unwrap().session;
    assert!(!can_write(storage, last).await);
    assert!(can_write(storage, next).await);
}
