//! What is written down of who did what.

use perennial_tests::node_process::{NodeOptions, NodeProcess};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::world::{call, perennial, world};

/// Admin calls in the log, as pairs of action and outcome.
fn audited(node: &NodeProcess) -> Vec<Value> {
    let output = node.output();
    let lines = output
        .lines()
        .filter(|line| line.contains("perennial::audit"));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn admin_calls_are_written_down() {
    let world = world().await;
    let (operator, shop) = (
        world.token("ada", &["operators"]),
        world.token("shop-1", &[]),
    );
    let done = perennial(
        &world,
        Some(&operator),
        &["cluster", "passivate", "counter", "a"],
    )
    .await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let failed = perennial(
        &world,
        Some(&operator),
        &["cluster", "drain", "77", "--remove"],
    )
    .await;
    assert!(failed.stderr.contains("NODE_UNKNOWN"), "{failed:?}");
    let denied = perennial(&world, Some(&shop), &["delete", "counter", "a\n\"b"]).await;
    assert!(denied.stderr.contains("PERMISSION_DENIED"), "{denied:?}");
    let stranger = perennial(&world, None, &["delete", "counter", "a"]).await;
    assert!(stranger.stderr.contains("UNAUTHENTICATED"), "{stranger:?}");
    // Who may run the cluster may not read what is in it.
    let peek = perennial(&world, Some(&operator), &["state", "counter", "a"]).await;
    assert!(peek.stderr.contains("PERMISSION_DENIED"), "{peek:?}");
    let status = perennial(&world, Some(&operator), &["cluster", "status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");

    let lines = audited(&world.node);
    let pairs: Vec<(&str, &str)> = lines
        .iter()
        .map(|line| {
            (
                line["action"].as_str().unwrap(),
                line["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        pairs,
        [
            ("passivate", "attempted"),
            ("passivate", "done"),
            ("drain", "attempted"),
            ("drain", "failed"),
            ("delete_entity", "denied"),
            ("delete_entity", "denied"),
        ]
    );
    for line in &lines[..5] {
        assert!(
            line["remote"].as_str().unwrap().starts_with("127.0.0.1:"),
            "{line}"
        );
        assert_eq!(line["proven_by"], "token");
    }
    assert_eq!(lines[0]["subject"], "ada");
    assert_eq!(
        (&lines[1]["entity_type"], &lines[1]["entity_id"]),
        (&json!("counter"), &json!("a"))
    );
    assert_eq!(lines[0]["call"], lines[1]["call"]);
    assert_ne!(lines[1]["call"], lines[2]["call"]);
    assert_eq!(
        (&lines[3]["node_id"], &lines[3]["remove"]),
        (&json!("77"), &json!(true))
    );
    assert_eq!(lines[3]["reason"], "NODE_UNKNOWN");
    assert_eq!(lines[4]["subject"], "shop-1");
    assert_eq!(
        lines[4]["entity_id"], "a\n\"b",
        "what a client writes is data"
    );
    assert_eq!(
        (&lines[5]["subject"], &lines[5]["reason"]),
        (&Value::Null, &json!("missing"))
    );
    assert!(
        !world.node.output().contains(&operator),
        "a token is in the log"
    );
}

/// Without authentication everybody may do everything, and the log says both.
#[tokio::test]
async fn without_authentication_everything_is_as_it_was() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let channel = Endpoint::from_shared(node.address())
        .unwrap()
        .connect()
        .await
        .unwrap();
    for token in [None, Some("garbage")] {
        let path = "/perennial.v1.ClusterService/Drain";
        let status = call(&channel, path, token).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
    }
    let steal = call(&channel, "/perennial.v1.EntityService/Steal", None).await;
    assert_eq!(steal.unwrap_err().code(), Code::Unimplemented);
    assert!(node.output().contains("clients are not asked who they are"));
    let lines = audited(&node);
    assert_eq!(lines[0]["subject"], "anonymous");
    assert_eq!(lines[1]["outcome"], "failed");
}
