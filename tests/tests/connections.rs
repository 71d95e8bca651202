//! Connections end all the time, and no command is lost or doubled with one.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_tests::client::{Client, command};
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const CONNECTIONS: usize = 16;
/// That share one.
const CALLERS: usize = 4;
const COMMANDS_EACH: u64 = 150;

/// I-8: a command is answered, or the client knows that nobody took it and gives it again,
/// without an id; then it is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_no_call_is_lost_when_connections_are_made_anew() {
    let options = NodeOptions::default().setting("node.limits.connection_age", "100ms");
    let node = NodeProcess::start(options).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut calling = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let client = Client::lazy(&node.address()).unwrap();
        for caller in 0..CALLERS {
            let client = client.clone();
            let id = format!("{connection}-{caller}");
            calling.spawn(async move {
                let mut given_again = 0;
                let mut answered = 0;
                while answered < COMMANDS_EACH {
                    match client
                        .send(command("counter", &id, &json!({"add": 1})))
                        .await
                    {
                        Ok(_) => answered += 1,
                        Err(failure) => {
                            assert!(failure.refused, "I-8: {failure}");
                            assert!(Instant::now() < deadline, "never taken: {failure}");
                            given_again += 1;
                        }
                    }
                    // So that connections are old in the middle of it.
                    sleep(Duration::from_millis(1)).await;
                }
                (id, given_again)
            });
        }
    }
    let client = Client::connect(&node.address()).await.unwrap();
    let mut given_again = 0;
    for (id, times) in calling.join_all().await {
        given_again += times;
        // The connection of those who ask is made anew, too.
        let events = loop {
            match client.state("counter", &id).await {
                Ok((_, events)) => break events,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        assert_eq!(events, COMMANDS_EACH, "{id}");
    }
    println!("{given_again} were given again");
    assert!(given_again > 0, "no connection ended at the wrong moment");
}
