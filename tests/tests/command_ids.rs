//! I-8: a command with an id has its effect once, however often it is sent.

#![allow(clippy::unwrap_used)]

use perennial::proto::v1::{SendRequest, SendResponse};
use perennial_tests::client::{Client, Failure, command};
use perennial_tests::database::TestDatabase;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use serde_json::json;

/// More ids of one entity than a sensible cache holds.
const COMMANDS: usize = 3_000;
const OUTSTANDING: usize = 256;

#[tokio::test]
async fn retries_get_their_original_replies_on_sqlite() {
    retries_get_their_original_replies(NodeOptions::default()).await;
}

#[tokio::test]
async fn retries_get_their_original_replies_on_postgres() {
    let database = TestDatabase::new().await;
    retries_get_their_original_replies(NodeOptions::default().journal(database.url_text())).await;
}

/// All commands again, by the same node, after passivation forgot the cache, and
/// by a restarted node.
async fn retries_get_their_original_replies(options: NodeOptions) {
    let mut node = NodeProcess::start(options).await.unwrap();
    let first = send_all(&node).await;
    for (place, response) in first.iter().enumerate() {
        assert!(!response.duplicate);
        assert_eq!(response.sequence_nr, place as u64 + 1);
    }
    for round in ["live", "restarted"] {
        let again = send_all(&node).await;
        for (original, retry) in first.iter().zip(&again) {
            assert!(retry.duplicate, "{round}");
            assert_eq!(retry.payload, original.payload, "{round}");
        }
        assert_counted_once(&node).await;
        node.restart().await.unwrap();
    }
    assert_counted_once(&node).await;
}

async fn send_all(node: &NodeProcess) -> Vec<SendResponse> {
    let client = Client::connect(&node.address()).await.unwrap();
    let mut responses = vec![SendResponse::default(); COMMANDS];
    let commands = (0..COMMANDS).map(|place| add_one(&format!("id-{place}")));
    let sending = client.pipeline(OUTSTANDING, commands, |place, response| {
        assert_eq!(Failure::in_response(&response), None);
        responses[usize::try_from(place).unwrap()] = response;
    });
    sending.await.unwrap();
    responses
}

async fn assert_counted_once(node: &NodeProcess) {
    let client = Client::connect(&node.address()).await.unwrap();
    let (state, sequence_nr) = client.state("counter", "popular").await.unwrap();
    assert_eq!(state, json!({"value": COMMANDS}));
    assert_eq!(sequence_nr, COMMANDS as u64);
}

fn add_one(command_id: &str) -> SendRequest {
    SendRequest {
        command_id: command_id.to_owned(),
        ..command("counter", "popular", &json!({"add": 1}))
    }
}

/// A retry whose original is still under way attaches to it.
#[tokio::test]
async fn simultaneous_retries_share_one_effect() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    for round in 0..20 {
        let command_id = format!("same-{round}");
        let sent = (0..16).map(|_| client.send(add_one(&command_id)));
        let answers = futures::future::join_all(sent).await;
        let answers: Vec<SendResponse> = answers.into_iter().map(Result::unwrap).collect();
        let originals = answers.iter().filter(|answer| !answer.duplicate).count();
        assert_eq!(originals, 1);
        assert!(
            answers
                .iter()
                .all(|answer| answer.payload == answers[0].payload)
        );
    }
    let (state, _) = client.state("counter", "popular").await.unwrap();
    assert_eq!(state, json!({"value": 20}));
}

/// A rejection stores nothing and is decided anew each time.
#[tokio::test]
async fn a_rejected_command_may_succeed_later_under_its_id() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let account = |json| command("account", "a", &json);
    let withdraw = || SendRequest {
        command_id: "withdrawal".to_owned(),
        ..account(json!({"withdraw": {"amount": 30}}))
    };
    let open = account(json!({"open": {"owner": "ada"}}));
    client.send(open).await.unwrap();
    let refused = client.send(withdraw()).await.unwrap_err();
    assert_eq!(refused.reason, "INSUFFICIENT_FUNDS");
    let deposit = account(json!({"deposit": {"amount": 100}}));
    client.send(deposit).await.unwrap();
    let paid = client.send(withdraw()).await.unwrap();
    let repeated = client.send(withdraw()).await.unwrap();
    assert!(!paid.duplicate && repeated.duplicate);
    assert_eq!(paid.payload, repeated.payload);
    let (state, _) = client.state("account", "a").await.unwrap();
    assert!(state.to_string().contains("70"), "{state}");
}
