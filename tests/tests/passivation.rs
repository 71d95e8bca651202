//! Entities leave memory all the time and lose no command by it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial::proto::v1::PassivateRequest;
use perennial::proto::v1::cluster_service_client::ClusterServiceClient;
use perennial_tests::client::{Client, command};
use perennial_tests::eventually::eventually;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use perennial_tests::seed::Random;
use serde_json::json;

const COUNTERS: u64 = 40;
const CLIENTS: u64 = 16;
const COMMANDS_OF_EACH: u64 = 250;
const SOON: Duration = Duration::from_secs(60);

/// Far more entities in use than may be live, and an idle time-out so short that
/// an entity often stops just as its next command comes.
#[tokio::test]
async fn evicted_and_idle_entities_lose_no_command() {
    let options = NodeOptions::default()
        .setting("sharding.passivation.active_entity_limit", "4")
        .setting("sharding.passivation.idle_timeout", "20ms");
    let node = NodeProcess::start(options).await.unwrap();
    add_from_many_clients(&node).await;
}

/// The same while somebody keeps asking every entity to leave.
#[tokio::test]
async fn passivation_on_request_loses_no_command() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let mut cluster = ClusterServiceClient::connect(node.address()).await.unwrap();
    let passivating = async {
        loop {
            for counter in 0..COUNTERS {
                let request = PassivateRequest {
                    entity_type: "counter".to_owned(),
                    entity_id: format!("c{counter}"),
                };
                cluster.passivate(request).await.unwrap();
            }
        }
    };
    tokio::select! {
        () = add_from_many_clients(&node) => {}
        () = passivating => {}
    }
}

/// Each type leaves after its own time, or after that of all others.
#[tokio::test]
async fn types_of_entities_have_idle_times_of_their_own() {
    let options = NodeOptions::default()
        .setting("sharding.passivation.idle_timeout", "1h")
        .setting("sharding.passivation.idle_timeouts", "counter=50ms");
    let node = NodeProcess::start(options).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let open = json!({"open": {"owner": "ada"}});
    client.send(command("account", "a", &open)).await.unwrap();
    let add = command("counter", "a", &json!({"add": 1}));
    client.send(add).await.unwrap();
    let left = eventually("the counter to leave", SOON, async || {
        let described = client.describe("counter", "a").await.unwrap();
        (described.state == "passive").then_some(())
    });
    left.await.unwrap();
    let stays = client.describe("account", "a").await.unwrap();
    assert_eq!(stays.state, "live");

    let misspelt =
        NodeOptions::default().setting("sharding.passivation.idle_timeouts", "acount=1s");
    let error = NodeProcess::start(misspelt).await.unwrap_err();
    let said = format!("{error:#}");
    assert!(
        said.contains("\"acount\", which is no entity type"),
        "{said}"
    );
    assert!(said.contains("airport, counter"), "{said}");
}

async fn add_from_many_clients(node: &NodeProcess) {
    let mut random = Random::from_environment();
    let client = Client::connect(&node.address()).await.unwrap();
    let mut expected = vec![0; usize::try_from(COUNTERS).unwrap()];
    let mut adding = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let counters: Vec<u64> = (0..COMMANDS_OF_EACH)
            .map(|_| random.below(COUNTERS))
            .collect();
        for counter in &counters {
            expected[usize::try_from(*counter).unwrap()] += 1;
        }
        let client = client.clone();
        adding.spawn(async move {
            for counter in counters {
                let add = command("counter", &format!("c{counter}"), &json!({"add": 1}));
                client.send(add).await.unwrap();
            }
        });
    }
    let all = tokio::time::timeout(Duration::from_secs(100), adding.join_all());
    all.await.unwrap();
    for (counter, value) in expected.into_iter().enumerate() {
        let (state, _) = client
            .state("counter", &format!("c{counter}"))
            .await
            .unwrap();
        assert_eq!(state, json!({"value": value}), "counter c{counter}");
    }
}
