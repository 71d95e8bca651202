//! How a node begins and ends: it waits for its database, is ready when it takes
//! commands, stays ready through an outage of the journal, and says good-bye.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use perennial_tests::client::{Client, command};
use perennial_tests::database::{self, TestDatabase};
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;
use perennial_tests::node_process::{NodeOptions, NodeProcess, free_ports};
use perennial_tests::proxy::{Flow, Proxy};
use perennial_tests::{cli, http};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const SOON: Duration = Duration::from_secs(60);

/// The node is alive and not ready while it waits, and says for what: first for the
/// database, then for its schema.
#[tokio::test]
async fn a_node_waits_for_its_database_and_its_schema() {
    let database = TestDatabase::new().await;
    let server = database::server_address(&database).await.unwrap();
    let [nobody] = free_ports().unwrap();
    let way = Proxy::start(nobody).await.unwrap();
    let url = database::url_through(&database, way.address());
    let mut node =
        NodeProcess::stopped(NodeOptions::default().journal(url.clone()).serve()).unwrap();
    node.spawn().unwrap();
    let says = async |node: &NodeProcess, what: &str| {
        let said = eventually(what, SOON, async || {
            node.output().contains(what).then_some(())
        });
        said.await
            .unwrap_or_else(|error| panic!("{error}; {}", node.output()));
    };
    says(&node, "the journal is not there yet: waiting for it").await;
    assert_eq!(http::get(node.http_address(), "/livez").unwrap().0, 200);
    assert_eq!(http::get(node.http_address(), "/readyz").unwrap().0, 503);

    way.set_upstream(server);
    says(&node, "run `perennial journal migrate`").await;
    assert_eq!(http::get(node.http_address(), "/readyz").unwrap().0, 503);

    // Not a blocking call: the way to the database runs in this test.
    let migrated = cli::run(["journal", "migrate", "--journal", &url])
        .await
        .unwrap();
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    node.ready().await.unwrap();
    says(&node, "the journal is there").await;
}

/// Taking all nodes out of their Service would only hide why commands fail.
#[tokio::test]
async fn an_outage_of_the_journal_makes_no_node_unready() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(2)
        .postgres(&database)
        .await
        .unwrap();
    let cluster = cluster
        .setting("persistence.circuit_breaker.max_failures", "1")
        .setting("persistence.append_timeout", "1s")
        .start()
        .await
        .unwrap();
    let client = Client::connect(&cluster.address(0)).await.unwrap();
    let add = || command("counter", "outage", &json!({"add": 1}));
    client.send(add()).await.unwrap();
    let set = |flow| (0..2).for_each(|node| cluster.database_link(node).unwrap().set(flow));

    set(Flow::Cut);
    let refused = eventually("commands to be refused", SOON, async || {
        let failure = client.send(add()).await.err()?;
        (failure.reason == "JOURNAL_UNAVAILABLE").then_some(failure)
    });
    assert_eq!(refused.await.unwrap().applied, "no");
    // Longer than a node needs to be taken for dead.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        for node in 0..2 {
            let address = cluster.process(node).unwrap().http_address();
            assert_eq!(http::get(address, "/readyz").unwrap().0, 200, "node {node}");
        }
        let failure = client.send(add()).await.unwrap_err();
        assert!(!failure.reason.is_empty(), "{failure:?}");
    }

    set(Flow::Open);
    let recovered = eventually("commands to be answered again", SOON, async || {
        client.send(add()).await.ok()
    });
    recovered.await.unwrap();
}

/// The cluster is told that a node leaves, and is gone before it has taken all of its
/// shards: what nobody can decide any more is not waited for.
#[tokio::test]
async fn a_node_whose_cluster_is_gone_does_not_wait_to_be_drained() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    // It would wait for others to take its shards for six of these minutes.
    let cluster = cluster.setting("node.drain_timeout", "10m");
    let mut cluster = cluster.start().await.unwrap();
    let node_id = cluster.node_id(0, 1).await.unwrap();
    let client = cluster.client(0).await.unwrap();
    let other = cluster.client(1).await.unwrap();
    let add = |entity: &str| command("counter", entity, &json!({"add": 1}));
    let mut at_home = None;
    for entity in (0..).map(|nr| format!("e{nr}")) {
        client.send(add(&entity)).await.unwrap();
        let described = client.describe("counter", &entity).await.unwrap();
        if described.node_id == node_id {
            at_home = Some(entity);
            break;
        }
    }

    // An entity with an append under way keeps its shard on the node.
    cluster.database_link(0).unwrap().set(Flow::Stalled);
    let late = add(&at_home.unwrap());
    let late = tokio::spawn(async move { client.send(late).await });
    cluster.process(0).unwrap().signal("TERM").unwrap();
    let leaving = eventually("the node to leave", SOON, async || {
        let members = other.cluster().await.ok()?.members;
        let node = members.into_iter().find(|node| node.node_id == node_id)?;
        (node.status == "leaving").then_some(())
    });
    leaving.await.unwrap();
    cluster.kill(1);
    cluster.kill(2);
    cluster.database_link(0).unwrap().set(Flow::Open);

    let ended = cluster.process_mut(0).unwrap().ended().await;
    assert!(ended.unwrap().success(), "{}", cluster.outputs());
    let _ = late.await.unwrap();
}

/// First nobody is sent to the node any more, then it waits for its shards to go, and
/// connections are told before they end.
#[tokio::test]
async fn a_node_that_stops_is_unready_first_and_says_goodbye() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    let cluster = cluster.setting("node.drain_timeout", "3s");
    let mut cluster = cluster.start().await.unwrap();
    let node = cluster.process(0).unwrap();
    let (http_address, pid) = (node.http_address(), node.pid());
    let mut connection = Http2::connect(&cluster.address(0)).await;
    // Nobody takes its shards, so that each step can be seen.
    cluster.pause(1).unwrap();
    cluster.pause(2).unwrap();
    let signalled = Command::new("kill")
        .args(["-TERM", &pid.to_string()])
        .status();
    assert!(signalled.unwrap().success());

    let unready = eventually("the node to be unready", SOON, async || {
        let (status, _) = http::get(http_address, "/readyz").ok()?;
        (status == 503).then_some(())
    });
    unready.await.unwrap();
    assert_eq!(http::get(http_address, "/livez").unwrap().0, 200);
    let health = cli::run(["health", "--address", &cluster.address(0)])
        .await
        .unwrap();
    assert_eq!(health.code, Some(1), "{health:?}");

    assert!(
        connection.until_goaway().await,
        "the connection ended without GOAWAY"
    );
    cluster.resume(1).unwrap();
    cluster.resume(2).unwrap();
}

/// As much of HTTP/2 as it takes to see how a connection ends.
struct Http2(TcpStream);

impl Http2 {
    async fn connect(address: &str) -> Self {
        let mut stream = TcpStream::connect(address.trim_start_matches("http://"))
            .await
            .unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        stream.write_all(&frame(SETTINGS, 0, &[])).await.unwrap();
        Self(stream)
    }

    /// Whether a GOAWAY comes before the end.
    async fn until_goaway(&mut self) -> bool {
        loop {
            let mut head = [0; 9];
            if self.0.read_exact(&mut head).await.is_err() {
                return false;
            }
            let [high, middle, low, kind, flags, ..] = head;
            let len = u32::from_be_bytes([0, high, middle, low]);
            let mut body = vec![0; usize::try_from(len).unwrap()];
            self.0.read_exact(&mut body).await.unwrap();
            match (kind, flags) {
                (GOAWAY, _) => return true,
                (SETTINGS, 0) => self.0.write_all(&frame(SETTINGS, ACK, &[])).await.unwrap(),
                (PING, 0) => self.0.write_all(&frame(PING, ACK, &body)).await.unwrap(),
                _ => {}
            }
        }
    }
}

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    let head = [len[1], len[2], len[3], kind, flags, 0, 0, 0, 0];
    [&head, body].concat()
}

/// Streams that watch the health never end by themselves; anybody may open them.
#[tokio::test]
async fn who_watches_the_health_is_told_and_does_not_keep_the_node() {
    let drain_timeout = Duration::from_secs(600);
    let options = NodeOptions::default().setting("node.drain_timeout", "600s");
    let mut node = NodeProcess::start(options).await.unwrap();
    let channel = Endpoint::from_shared(node.address())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let asked = HealthCheckRequest {
        service: String::new(),
    };
    let mut health = HealthClient::new(channel);
    let mut watched = health.watch(asked).await.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let began = Instant::now();
    let ended = node.terminate();
    let watching = async {
        let mut last = first.status();
        while let Ok(Some(told)) = watched.message().await {
            last = told.status();
        }
        last
    };
    let (ended, last) = tokio::join!(ended, watching);
    assert!(ended.unwrap().success());
    assert_eq!(last, ServingStatus::NotServing);
    let took = began.elapsed();
    assert!(took < drain_timeout / 4, "{took:?}");
}
