//! What ends: tokens, and the keys they are signed with.

use std::time::{Duration, SystemTime};

use perennial::proto::v1::EventsRequest;
use perennial::proto::v1::entity_service_client::EntityServiceClient;
use perennial::proto::v1::event_service_client::EventServiceClient;
use perennial_tests::client::command;
use perennial_tests::eventually::eventually;
use perennial_tests::issuer::Issuer;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::world::{HOUR, SOON, reason, unauthenticated, with_token, world};

fn follow_counter() -> EventsRequest {
    EventsRequest {
        entity_type: "counter".into(),
        entity_id: "followed".into(),
        follow: true,
        ..EventsRequest::default()
    }
}

/// What was accepted before is answered, and everything the token opened ends with it.
#[tokio::test]
async fn streams_end_with_their_token() {
    const LIFETIME: Duration = Duration::from_secs(4);
    let world = world().await;
    let began = SystemTime::now();
    let token = world.issuer.token("shop-1", &[], LIFETIME);
    let mut events = EventServiceClient::new(world.channel.clone())
        .events(with_token(follow_counter(), &token))
        .await
        .unwrap()
        .into_inner();
    let (requests, receiver) = mpsc::channel(16);
    let stream = with_token(ReceiverStream::new(receiver), &token);
    let mut client = EntityServiceClient::new(world.channel.clone());
    let mut responses = client.send_stream(stream).await.unwrap().into_inner();
    for _ in 0..3 {
        requests
            .send(command("counter", "followed", &json!({"add": 1})))
            .await
            .unwrap();
        let response = responses.message().await.unwrap().unwrap();
        assert_eq!(response.status, None);
        let event = events.message().await.unwrap().unwrap();
        assert_eq!(event.sequence_nr, response.sequence_nr);
    }
    let ended = async {
        let of_commands = responses.message().await.unwrap_err();
        let of_events = events.message().await.unwrap_err();
        [of_commands, of_events]
    };
    for status in tokio::time::timeout(SOON, ended).await.unwrap() {
        assert_eq!(reason(&status), unauthenticated());
        assert!(status.message().contains("expired"), "{status:?}");
    }
    assert!(began.elapsed().unwrap() >= LIFETIME, "not before");
    let late = client
        .send(with_token(command("counter", "a", &json!("get")), &token))
        .await;
    assert_eq!(reason(&late.unwrap_err()), unauthenticated());
}

/// The issuer's way to new keys: the new one is published beside the old one, then used,
/// then the old one goes. Nobody notices, except who still comes with an old token.
#[tokio::test]
async fn keys_are_replaced_while_clients_are_served() {
    let world = world().await;
    let client = EntityServiceClient::new(world.channel.clone());
    let send = async |token: &str| {
        let add = command("counter", "busy", &json!({"add": 1}));
        client
            .clone()
            .send(with_token(add, token))
            .await
            .map(|_| ())
    };
    let second = Issuer::new("second").unwrap();
    let (old, new) = (
        world.token("shop-1", &[]),
        second.token("shop-1", &[], HOUR),
    );
    let reloads = || {
        world
            .node
            .metric_sum("perennial_jwks_reloads_total")
            .unwrap()
    };
    send(&old).await.unwrap();
    assert_eq!(reason(&send(&new).await.unwrap_err()), unauthenticated());

    Issuer::publish(&world.keys, &[&world.issuer, &second]).unwrap();
    eventually("the new key to be taken", SOON, async || {
        send(&old).await.unwrap();
        send(&new).await.ok()
    })
    .await
    .unwrap();
    assert_eq!(reloads(), 1.0);

    // What cannot be used changes nothing.
    for (broken, failures) in [("{", 2.0), (r#"{"keys":[]}"#, 3.0)] {
        std::fs::write(&world.keys, broken).unwrap();
        eventually("the trouble to be told", SOON, async || {
            send(&old).await.unwrap();
            send(&new).await.unwrap();
            (reloads() == failures).then_some(())
        })
        .await
        .unwrap();
    }
    assert!(
        world
            .node
            .output()
            .contains("the keys of tokens stay as they were")
    );

    Issuer::publish(&world.keys, &[&second]).unwrap();
    let status = eventually("the old key to go", SOON, async || {
        send(&new).await.unwrap();
        send(&old).await.err()
    })
    .await
    .unwrap();
    assert_eq!(reason(&status), unauthenticated());
}
