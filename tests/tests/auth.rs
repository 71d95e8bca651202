//! Who calls, and what it may: a real node, real tokens, every call there is.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use perennial::proto::v1::entity_service_client::EntityServiceClient;
use perennial::proto::v1::event_service_client::EventServiceClient;
use perennial::proto::v1::{EventsRequest, SendRequest};
use perennial_tests::cli::{self, Outcome};
use perennial_tests::client::command;
use perennial_tests::eventually::eventually;
use perennial_tests::issuer::{Issuer, with_tokens};
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::{RpcStatusExt, StatusExt};

const HOUR: Duration = Duration::from_secs(3600);
/// No answer takes nearly so long.
const SOON: Duration = Duration::from_secs(30);

const RULES: &str = r#"[
    { subject = "shop-*", entity_types = ["counter"], allow = ["send", "read", "events"] },
    { subject = "reader", entity_types = ["*"], allow = ["read"] },
    { group = "watchers", allow = ["status"] },
    { group = "operators", allow = ["admin"] },
    { subject = "root", entity_types = ["*"], allow = ["send", "read", "events"] },
    { subject = "root", allow = ["admin", "status"] },
]"#;

/// A node that knows its clients by tokens.
struct World {
    node: NodeProcess,
    issuer: Issuer,
    keys: PathBuf,
    channel: Channel,
    _dir: TempDir,
}

async fn world() -> World {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("jwks.json");
    let issuer = Issuer::new("first").unwrap();
    Issuer::publish(&keys, &[&issuer]).unwrap();
    let options = with_tokens(NodeOptions::default(), &keys, RULES);
    let node = NodeProcess::start(options).await.unwrap();
    let endpoint = Endpoint::from_shared(node.address()).unwrap();
    World {
        channel: endpoint.connect().await.unwrap(),
        node,
        issuer,
        keys,
        _dir: dir,
    }
}

impl World {
    fn token(&self, subject: &str, groups: &[&str]) -> String {
        self.issuer.token(subject, groups, HOUR)
    }

    fn denials(&self) -> f64 {
        self.node
            .metric_sum("perennial_auth_denials_total")
            .unwrap()
    }
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no details: {status:?}"));
    assert_eq!(info.metadata["applied"], "no");
    (status.code(), info.reason)
}

fn unauthenticated() -> (Code, String) {
    (Code::Unauthenticated, "UNAUTHENTICATED".to_owned())
}

fn denied() -> (Code, String) {
    (Code::PermissionDenied, "PERMISSION_DENIED".to_owned())
}

/// Every call in the descriptions that a node serves.
fn calls() -> Vec<String> {
    let mut calls = Vec::new();
    for set in [
        perennial::proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ] {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    calls.push(format!(
                        "/{}.{}/{}",
                        file.package(),
                        service.name(),
                        method.name()
                    ));
                }
            }
        }
    }
    assert!(calls.len() >= 13, "{calls:?}");
    calls
}

/// Makes any call with one empty message, and tells how its first answer came out.
async fn call(channel: &Channel, path: &str, token: Option<&str>) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let request = token.map_or_else(|| Request::new(()), |token| with_token((), token));
    let path = PathAndQuery::try_from(path).unwrap();
    let codec = ProstCodec::<(), ()>::default();
    let answered = async {
        let mut answers = client
            .server_streaming(request, path, codec)
            .await?
            .into_inner();
        answers.message().await.map(|_| ())
    };
    tokio::time::timeout(SOON, answered).await.unwrap()
}

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

async fn perennial(world: &World, token: Option<&str>, args: &[&str]) -> Outcome {
    let mut command = cli::command(args).unwrap();
    command.env("PERENNIAL_ADDRESS", world.node.address());
    if let Some(token) = token {
        command.env("PERENNIAL_TOKEN", token);
    }
    cli::outcome(command.spawn().unwrap()).await.unwrap()
}

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

#[tokio::test]
async fn a_node_does_not_start_with_half_an_authentication() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("jwks.json");
    let refused = async |settings: &[(&str, &str)], said: &[&str]| {
        let mut command = cli::command(["dev", "--journal", "memory:"]).unwrap();
        command.current_dir(dir.path());
        for (key, value) in settings {
            let variable = format!("PERENNIAL_{}", key.replace('.', "__").to_uppercase());
            command.env(variable, value);
        }
        let began = Instant::now();
        let outcome = cli::outcome(command.spawn().unwrap()).await.unwrap();
        assert!(
            matches!(outcome.code, Some(1 | 2)),
            "{outcome:?} after {:?}",
            began.elapsed()
        );
        for part in said {
            assert!(outcome.stderr.contains(part), "{part}: {outcome:?}");
        }
    };
    let path = keys.display().to_string();
    let whole = [
        ("node.auth.jwt.jwks_file", path.as_str()),
        ("node.auth.jwt.issuer", "i"),
        ("node.auth.jwt.audience", "a"),
    ];
    refused(&whole, &["node.auth.jwt.jwks_file", "cannot be read"]).await;
    std::fs::write(&keys, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#).unwrap();
    refused(&whole, &["cannot be used", "shared secret"]).await;
    refused(&whole[..2], &["node.auth.jwt.audience is not set"]).await;
    refused(
        &[("node.auth.rules", "[{ subject = 'a' }]")],
        &["node.auth.rules", "allow"],
    )
    .await;
}

/// `perennial auth check` says before a node is asked what it would say.
#[tokio::test]
async fn a_token_can_be_tried_without_a_node() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("jwks.json");
    let issuer = Issuer::new("k").unwrap();
    Issuer::publish(&keys, &[&issuer]).unwrap();
    let config = dir.path().join("perennial.toml");
    let text = format!(
        "[node.auth.jwt]\njwks_file = \"{}\"\nissuer = \"https://issuer.example\"\naudience = \"perennial-tests\"\n\
         [[node.auth.rules]]\nsubject = \"shop-*\"\nentity_types = [\"counter\", \"cart-*\"]\nallow = [\"send\", \"read\"]\n\
         [[node.auth.rules]]\ncertificate = \"spiffe://shop/ops\"\nallow = [\"admin\"]\n",
        keys.display()
    );
    std::fs::write(&config, text).unwrap();
    let check = async |token: Option<&str>, more: &[&str]| {
        let config = config.to_str().unwrap();
        let args = [&["auth", "check", "--config", config][..], more].concat();
        let mut command = cli::command(args).unwrap();
        command.envs(token.map(|token| ("PERENNIAL_TOKEN", token)));
        cli::outcome(command.spawn().unwrap()).await.unwrap()
    };
    let shop = issuer.token("shop-1", &["shop"], HOUR);
    let good = check(Some(&shop), &["--output", "json"]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    let good = good.json().unwrap();
    assert_eq!(good["send"], json!(["counter", "cart-*"]));
    assert_eq!(
        (&good["events"], &good["admin"]),
        (&json!([]), &json!(false))
    );
    assert!(
        // As long as nodes take it: their clocks may be behind by node.auth.jwt.clock_skew.
        (3530..=3630).contains(&good["expires_in_seconds"].as_u64().unwrap()),
        "{good}"
    );

    let file = dir.path().join("token");
    std::fs::write(&file, format!("{shop}\n")).unwrap();
    let text = check(None, &["--token-file", file.to_str().unwrap()]).await;
    assert!(text.stdout.contains("send     counter, cart-*"), "{text:?}");
    let admin = check(None, &["--certificate", "spiffe://shop/ops"]).await;
    assert!(admin.stdout.contains("admin    yes"), "{admin:?}");

    let other = Issuer::new("k").unwrap().token("shop-1", &[], HOUR);
    let refused = check(Some(&other), &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("signature is wrong"), "{refused:?}");
    assert_eq!(check(None, &[]).await.code, Some(2));
}

#[tokio::test]
async fn the_command_line_keeps_tokens_off_the_network() {
    let mut command = cli::command(["state", "counter", "a"]).unwrap();
    command.env("PERENNIAL_ADDRESS", "192.0.2.1:7400");
    command.env("PERENNIAL_TOKEN", "abc");
    let refused = cli::outcome(command.spawn().unwrap()).await.unwrap();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("without encryption"), "{refused:?}");
    assert!(!refused.stderr.contains("abc"), "{refused:?}");
}

/// Status of a page of the HTTP port, asked with a token.
fn page(world: &World, path: &str, authorization: Option<&str>) -> u16 {
    let mut stream = TcpStream::connect(world.node.http_address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let authorization = authorization.map(|value| format!("Authorization: {value}\r\n"));
    let head = authorization.unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{head}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 401 {
        assert!(
            answer.to_lowercase().contains("www-authenticate: basic"),
            "{answer}"
        );
    }
    status
}

#[tokio::test]
async fn the_status_page_asks_for_the_same_rights() {
    let world = world().await;
    let entity = "/entity?type=counter&id=a";
    let (watcher, shop) = (
        world.token("ada", &["watchers"]),
        world.token("shop-1", &[]),
    );
    let reader = world.token("reader", &[]);
    for (path, expected) in [
        ("/livez", [200, 200, 200, 200]),
        ("/metrics", [200, 200, 200, 200]),
        ("/", [401, 200, 403, 403]),
        ("/live", [401, 200, 403, 403]),
        ("/entity", [401, 200, 200, 200]),
        ("/entity?type=counter", [401, 403, 200, 200]),
        (entity, [401, 403, 200, 403]),
        ("/entity?type=account&id=a", [401, 403, 403, 403]),
    ] {
        let tokens = [None, Some(&watcher), Some(&shop), Some(&reader)];
        let seen = tokens.map(|token| {
            let bearer = token.map(|token| format!("Bearer {token}"));
            page(&world, path, bearer.as_deref())
        });
        assert_eq!(
            seen, expected,
            "{path}: nobody, a watcher, the shop, a reader"
        );
    }
    // As a browser sends what a person has typed.
    let password = BASE64_STANDARD.encode(format!("ada:{watcher}"));
    assert_eq!(page(&world, "/", Some(&format!("Basic {password}"))), 200);
    assert_eq!(page(&world, "/", Some("Basic YWRhOng=")), 401);
}
