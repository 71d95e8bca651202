//! Which call needs which right, and for what.

use std::time::Duration;

use perennial::proto::v1::SendRequest;
use perennial::proto::v1::entity_service_client::EntityServiceClient;
use perennial_tests::client::command;
use perennial_tests::issuer::Issuer;
use serde_json::json;
use tonic::Code;
use tonic_types::RpcStatusExt;

use crate::world::{HOUR, call, calls, denied, reason, unauthenticated, with_token, world};

#[tokio::test]
async fn every_call_but_health_needs_a_token() {
    let world = world().await;
    let expired = world.issuer.token("root", &[], Duration::ZERO);
    let stranger = Issuer::new("first").unwrap().token("root", &[], HOUR);
    let mut refused = 0;
    for path in calls() {
        for token in [None, Some("garbage"), Some(&*expired), Some(&*stranger)] {
            let result = call(&world.channel, &path, token).await;
            if path.starts_with("/grpc.health.v1.") {
                assert!(
                    !matches!(&result, Err(status) if status.code() == Code::Unauthenticated),
                    "{path}: {result:?}"
                );
                continue;
            }
            let status = result.unwrap_err();
            assert_eq!(reason(&status), unauthenticated(), "{path}");
            // What it says is of the token and of nobody else.
            assert!(!status.message().contains("root"), "{status:?}");
            refused += 1;
        }
    }
    assert_eq!(world.denials(), f64::from(refused));
    let unheard_of = call(&world.channel, "/perennial.v1.EntityService/Steal", None).await;
    assert_eq!(reason(&unheard_of.unwrap_err()), unauthenticated());
    let output = world.node.output();
    for secret in [&expired, &stranger] {
        assert!(!output.contains(secret.as_str()), "a token is in the log");
    }
}

#[tokio::test]
async fn every_call_needs_a_right() {
    let world = world().await;
    let (nobody, root) = (world.token("nobody", &[]), world.token("root", &[]));
    for path in calls() {
        let by_nobody = call(&world.channel, &path, Some(&nobody)).await;
        let by_root = call(&world.channel, &path, Some(&root)).await;
        let open = path.starts_with("/grpc.");
        match by_nobody {
            Err(status) if !open => assert_eq!(reason(&status), denied(), "{path}"),
            other => assert!(open, "{path}: {other:?}"),
        }
        // Empty messages are wrong, and root is told what is wrong with them.
        if let Err(status) = by_root {
            let refused = [Code::Unauthenticated, Code::PermissionDenied];
            assert!(!refused.contains(&status.code()), "{path}: {status:?}");
        }
    }
    // What there is no rule for is allowed to nobody.
    let unheard_of = call(
        &world.channel,
        "/perennial.v1.EntityService/Steal",
        Some(&root),
    )
    .await;
    assert_eq!(reason(&unheard_of.unwrap_err()), denied());
}

#[tokio::test]
async fn rights_are_by_entity_type() {
    let world = world().await;
    let mut client = EntityServiceClient::new(world.channel.clone());
    let (shop, reader) = (world.token("shop-1", &[]), world.token("reader", &[]));
    let add = || command("counter", "a", &json!({"add": 1}));
    client.send(with_token(add(), &shop)).await.unwrap();

    // Types there are and types there are not look the same.
    let mut told = Vec::new();
    for entity_type in ["account", "unheard-of"] {
        let send = command(entity_type, "a", &json!("balance"));
        let status = client.send(with_token(send, &shop)).await.unwrap_err();
        assert_eq!(reason(&status), denied());
        told.push(status.message().replace(entity_type, ""));
    }
    assert_eq!(told[0], told[1]);
    let status = client.send(with_token(add(), &reader)).await.unwrap_err();
    assert_eq!(reason(&status), denied());
    let get = || perennial::proto::v1::GetStateRequest {
        entity_type: "counter".into(),
        entity_id: "a".into(),
        at_sequence_nr: None,
    };
    for token in [&shop, &reader] {
        let state = client.get_state(with_token(get(), token)).await.unwrap();
        assert_eq!(state.into_inner().sequence_nr, 1);
    }

    // On a stream each command is looked at by itself, and the stream goes on.
    let requests: Vec<SendRequest> = (0..30)
        .map(|nr| SendRequest {
            correlation_id: nr,
            ..match nr % 3 {
                0 => command("account", "a", &json!("balance")),
                1 => command("nothing", "a", &json!("balance")),
                _ => add(),
            }
        })
        .collect();
    let stream = with_token(tokio_stream::iter(requests), &shop);
    let mut responses = client.send_stream(stream).await.unwrap().into_inner();
    let mut added = 0;
    while let Some(response) = responses.message().await.unwrap() {
        let info = response
            .status
            .as_ref()
            .and_then(RpcStatusExt::get_details_error_info);
        match response.correlation_id % 3 {
            2 => {
                assert_eq!(response.status, None);
                added += 1;
            }
            _ => assert_eq!(info.unwrap().reason, "PERMISSION_DENIED"),
        }
    }
    assert_eq!(added, 10);
}
