//! Which entities leave memory when there are too many: the traces of the field, for
//! a limit of the node.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_persistence::engine::{EngineSettings, EntityState};

use crate::fixture::{Fixture, add, notes, shard};
use crate::life::wait_until;

async fn limited(limit: usize) -> Fixture {
    let settings = EngineSettings {
        active_entity_limit: limit,
        workers: 1,
        ..EngineSettings::default()
    };
    Fixture::with(settings).await
}

/// Accesses entities one after another; after each nobody is above the limit.
async fn access(f: &Fixture, ids: impl IntoIterator<Item = u32>, limit: usize) {
    for id in ids {
        f.ask(&id.to_string(), &add("x")).await.unwrap();
        wait_until("the surplus to leave", || f.engine.live_entities() <= limit).await;
    }
}

async fn live(f: &Fixture, ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut live = Vec::new();
    for id in ids {
        let name = id.to_string();
        let described = f.engine.describe(shard(&name), &notes(&name)).await;
        if described.state != EntityState::Passive {
            live.push(id);
        }
    }
    live
}

fn range(from: u32, to: u32) -> Vec<u32> {
    (from..=to).collect()
}

#[tokio::test]
async fn the_least_recently_used_leaves_for_each_that_comes() {
    let f = limited(10).await;
    access(&f, 1..=10, 10).await;
    for id in 11..=20 {
        access(&f, [id], 10).await;
        assert_eq!(live(&f, 1..=20).await, range(id - 9, id));
    }
    // Being used again is what counts, not when they came.
    access(&f, [11, 12, 13], 10).await;
    access(&f, [21, 22], 10).await;
    let expected: Vec<u32> = range(11, 13).into_iter().chain(16..=22).collect();
    assert_eq!(live(&f, 1..=30).await, expected);
}

#[tokio::test]
async fn the_limit_can_be_changed_while_it_runs() {
    let f = limited(10).await;
    access(&f, 11..=20, 10).await;
    f.engine.set_active_entity_limit(6);
    wait_until("the surplus to leave", || f.engine.live_entities() <= 6).await;
    assert_eq!(live(&f, 11..=20).await, range(15, 20));
    access(&f, 1..=3, 6).await;
    let expected: Vec<u32> = range(1, 3).into_iter().chain(18..=20).collect();
    assert_eq!(live(&f, 1..=20).await, expected);
    f.engine.set_active_entity_limit(12);
    access(&f, 4..=9, 12).await;
    assert_eq!(f.engine.live_entities(), 12);
    access(&f, [10], 12).await;
    let expected: Vec<u32> = range(1, 10).into_iter().chain(19..=20).collect();
    assert_eq!(live(&f, 1..=20).await, expected);
}

#[tokio::test]
async fn the_idle_timeout_can_be_changed_while_it_runs() {
    let f = limited(10).await;
    access(&f, 1..=3, 10).await;
    let timeout = Duration::from_millis(200);
    let others = BTreeMap::from([("others".to_owned(), timeout)]);
    f.engine.set_idle_timeouts(Duration::from_secs(120), others);
    access(&f, [4], 10).await;
    assert_eq!(live(&f, 1..=4).await, [1, 2, 3, 4]);
    let these = BTreeMap::from([("notes".to_owned(), timeout)]);
    f.engine.set_idle_timeouts(Duration::from_secs(120), these);
    wait_until("all to leave", || f.engine.live_entities() == 0).await;
}
