//! Clients that mean harm: each is stopped by a limit, counted, and takes nothing
//! from the others.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial::proto::v1::EventsRequest;
use perennial::proto::v1::event_service_client::EventServiceClient;
use perennial_tests::client::{Client, command};
use perennial_tests::eventually::eventually;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use perennial_tests::raw_http2::{
    END_HEADERS, ENHANCE_YOUR_CALM, PREFACE, REFUSED_STREAM, RawConnection, call_headers, encoded,
    kind, other_header,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_types::StatusExt;

const SOON: Duration = Duration::from_secs(60);
const SEND_STREAM: &str = "/perennial.v1.EntityService/SendStream";

async fn node(settings: &[(&str, &str)]) -> NodeProcess {
    let mut options = NodeOptions::default();
    for (key, value) in settings {
        options = options.setting(key, value);
    }
    NodeProcess::start(options).await.unwrap()
}

fn address(node: &NodeProcess) -> String {
    node.address().trim_start_matches("http://").to_owned()
}

/// A metric with its labels, as it is printed.
fn metric(node: &NodeProcess, name: &str) -> f64 {
    let (_, text) = perennial_tests::http::get(node.http_address(), "/metrics").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0.0, |value| value.trim().parse().unwrap())
}

async fn refused(node: &NodeProcess, port: &str, reason: &str, times: f64) {
    let name =
        format!("perennial_connections_refused_total{{port=\"{port}\",reason=\"{reason}\"}}");
    let counted = eventually("the refusal to be counted", SOON, async || {
        (metric(node, &name) >= times).then_some(())
    });
    let counted = counted.await;
    counted.unwrap_or_else(|error| panic!("{error}: {name} is {}", metric(node, &name)));
}

/// Others are served as if nothing were.
async fn assert_serves(node: &NodeProcess) {
    let client = Client::connect(&node.address()).await.unwrap();
    let sent = client
        .send(command("counter", "other", &json!("get")))
        .await;
    sent.unwrap();
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed() {
    let node = node(&[("node.limits.handshake_timeout", "300ms")]).await;
    for beginning in [&b""[..], b"P", &PREFACE[..20]] {
        let mut slow = RawConnection::silent(&address(&node)).await.unwrap();
        slow.send(beginning).await.unwrap();
        slow.bytes_until_closed().await.unwrap();
    }
    refused(&node, "client", "timeout", 1.0).await;
    refused(&node, "client", "silent", 1.0).await;
    // A head that never ends, and one of a size nobody needs.
    let http = node.http_address().to_string();
    let mut slow = RawConnection::silent(&http).await.unwrap();
    slow.send(b"GET /livez HTTP/1.1\r\nhost: a\r\n")
        .await
        .unwrap();
    slow.bytes_until_closed().await.unwrap();
    refused(&node, "http", "silent", 1.0).await;
    let mut large = RawConnection::silent(&http).await.unwrap();
    let line = format!("x: {}\r\n", "y".repeat(1000));
    large.send(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    for _ in 0..200 {
        if large.send(line.as_bytes()).await.is_err() {
            break;
        }
    }
    large.bytes_until_closed().await.unwrap();
    refused(&node, "http", "protocol", 1.0).await;
    // The port for other nodes has the same door.
    let mut peer = RawConnection::silent(&node.peer_address().to_string())
        .await
        .unwrap();
    peer.bytes_until_closed().await.unwrap();
    refused(&node, "peer", "timeout", 1.0).await;
    assert_serves(&node).await;
}

#[tokio::test]
async fn one_address_does_not_get_all_connections() {
    let node = node(&[
        ("node.limits.connections", "6"),
        ("node.limits.connections_per_address", "4"),
    ])
    .await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(RawConnection::open(&address(&node), &[]).await.unwrap());
    }
    for connection in &mut held {
        // Its settings: it is served.
        connection.next().await.unwrap().unwrap();
    }
    let mut further = RawConnection::silent(&address(&node)).await.unwrap();
    assert_eq!(further.bytes_until_closed().await.unwrap(), b"");
    refused(&node, "client", "address_full", 1.0).await;
    assert!((metric(&node, "perennial_connections{port=\"client\"}") - 4.0).abs() < 0.1);
    drop(held);
    let back = eventually("room for another connection", SOON, async || {
        let client = Client::connect(&node.address()).await.ok()?;
        client
            .send(command("counter", "other", &json!("get")))
            .await
            .ok()
    });
    back.await.unwrap();
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let node = node(&[("node.limits.streams_per_connection", "16")]).await;
    let mut many = RawConnection::open(&address(&node), &[]).await.unwrap();
    let headers = call_headers(SEND_STREAM);
    for nr in 0..200 {
        let opened = many
            .frame(kind::HEADERS, END_HEADERS, 2 * nr + 1, &headers)
            .await;
        opened.unwrap();
    }
    let mut refused = 0;
    while refused < 184 {
        let frame = many.next().await.unwrap().unwrap();
        if frame.kind == kind::RST_STREAM {
            assert_eq!(frame.error_code(), REFUSED_STREAM);
            refused += 1;
        }
    }
    assert_serves(&node).await;
}

#[tokio::test]
async fn headers_without_end_are_not_collected() {
    let node = node(&[]).await;
    let before = rss(&node);
    let mut giant = RawConnection::open(&address(&node), &[]).await.unwrap();
    giant
        .frame(kind::HEADERS, 0, 1, &call_headers(SEND_STREAM))
        .await
        .unwrap();
    let more = other_header("x-more", &"y".repeat(16_000));
    let mut sent = 0;
    for _ in 0..4000 {
        if giant.frame(kind::CONTINUATION, 0, 1, &more).await.is_err() {
            break;
        }
        sent += more.len();
    }
    assert!(sent < 60 << 20, "{sent} bytes of headers were taken");
    refused(&node, "client", "flood", 1.0).await;
    assert!(
        rss(&node) < before + (32 << 20),
        "{before} to {}",
        rss(&node)
    );
    assert_serves(&node).await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_without_end_cost_the_connection() {
    let node = node(&[]).await;
    let mut flood = RawConnection::open(&address(&node), &[]).await.unwrap();
    let headers = call_headers(SEND_STREAM);
    let mut bytes = Vec::new();
    for nr in 0..2000 {
        bytes.extend(encoded(kind::HEADERS, END_HEADERS, 2 * nr + 1, &headers));
        bytes.extend(encoded(
            kind::RST_STREAM,
            0,
            2 * nr + 1,
            &8_u32.to_be_bytes(),
        ));
    }
    // Fails half-way, or not.
    let _ = flood.send(&bytes).await;
    let mut gone = false;
    while let Ok(Some(frame)) = flood.next().await {
        gone |= frame.kind == kind::GOAWAY && frame.error_code() == ENHANCE_YOUR_CALM;
    }
    refused(&node, "client", "flood", 1.0).await;
    println!("the end was said: {gone}");
    assert_serves(&node).await;
}

/// Whoever takes all that one address may have does not keep the probes out.
#[tokio::test]
async fn one_address_does_not_get_all_of_the_http_port() {
    /// More than one address gets, and fewer than the port has.
    const MANY: usize = 300;
    let node = node(&[]).await;
    let http = node.http_address();
    let mut held = Vec::new();
    for _ in 0..MANY {
        held.push(TcpStream::connect(http).await.unwrap());
    }
    // The last of them has been looked at: it is closed without a word.
    let last = held.last_mut().unwrap();
    let closed = timeout(SOON, last.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    let probe = TcpSocket::new_v4().unwrap();
    probe.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut probe = probe.connect(http).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    probe.write_all(request).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, probe.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    drop(held);
    refused(&node, "http", "address_full", 1.0).await;
}

/// I-10: all is sent and answered, and nothing of it is read.
#[tokio::test]
async fn i10_who_does_not_read_the_last_answers_is_cut_off() {
    /// All that a stream carries at once, nearly.
    const COMMANDS: usize = 1000;
    let node = node(&[("node.limits.slow_reader_timeout", "500ms")]).await;
    let endpoint = Endpoint::from_shared(node.address()).unwrap();
    let channel = endpoint
        .initial_stream_window_size(64_u32)
        .connect()
        .await
        .unwrap();
    let mut entities =
        perennial::proto::v1::entity_service_client::EntityServiceClient::new(channel);
    let commands = (0..COMMANDS).map(|_| command("counter", "a", &json!({"add": 1})));
    let answers = entities
        .send_stream(tokio_stream::iter(commands.collect::<Vec<_>>()))
        .await
        .unwrap();
    let counted = eventually("the slow reader", SOON, async || {
        (node.metric_sum("perennial_slow_readers_total").ok()? >= 1.0).then_some(())
    });
    counted.await.unwrap();
    drop(answers);
    let client = Client::connect(&node.address()).await.unwrap();
    let (_, events) = client.state("counter", "a").await.unwrap();
    assert_eq!(events, COMMANDS as u64, "all of them were applied");
}

#[tokio::test]
async fn a_client_that_does_not_answer_whether_it_is_there_is_gone() {
    let node = node(&[
        ("node.limits.keepalive_interval", "200ms"),
        ("node.limits.keepalive_timeout", "200ms"),
    ])
    .await;
    let mut mute = RawConnection::open(&address(&node), &[]).await.unwrap();
    let frames = mute.until_closed().await.unwrap();
    assert!(
        frames.iter().any(|frame| frame.kind == kind::PING),
        "{frames:?}"
    );
    refused(&node, "client", "silent", 1.0).await;
}

#[tokio::test]
async fn a_connection_is_made_anew_when_it_is_old() {
    let node = node(&[("node.limits.connection_age", "300ms")]).await;
    let mut old = RawConnection::open(&address(&node), &[]).await.unwrap();
    loop {
        let frame = old.next().await.unwrap().unwrap();
        if frame.kind == kind::GOAWAY {
            assert_eq!(frame.error_code(), 0);
            break;
        }
    }
    assert_serves(&node).await;
}

#[tokio::test]
async fn who_does_not_read_is_cut_off_and_told_why() {
    let node = node(&[("node.limits.slow_reader_timeout", "500ms")]).await;
    let client = Client::connect(&node.address()).await.unwrap();
    // Far more than the node sends ahead of a client that makes no room for it: what gRPC
    // writes together (32 KiB), and some events.
    for _ in 0..100 {
        let mut add = command("counter", "a", &json!({"add": 1}));
        add.metadata.insert("note".into(), "x".repeat(2000));
        client.send(add).await.unwrap();
    }
    let endpoint = Endpoint::from_shared(node.address()).unwrap();
    let channel = endpoint
        .initial_stream_window_size(1024_u32)
        .connect()
        .await
        .unwrap();
    let asked = EventsRequest {
        entity_type: "counter".into(),
        entity_id: "a".into(),
        follow: true,
        ..EventsRequest::default()
    };
    let mut events = EventServiceClient::new(channel.clone());
    let mut subscribed = events.events(asked).await.unwrap().into_inner();
    let slow = async |times: f64| {
        let counted = eventually("the slow reader", SOON, async || {
            (node.metric_sum("perennial_slow_readers_total").ok()? >= times).then_some(())
        });
        counted.await.unwrap();
    };
    slow(1.0).await;
    let status = loop {
        match subscribed.message().await {
            Ok(event) => assert!(event.is_some(), "an end without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "SLOW_READER");

    // A stream of commands: answers that nobody reads keep the node from reading on.
    let mut entities =
        perennial::proto::v1::entity_service_client::EntityServiceClient::new(channel);
    let (requests, receiver) = mpsc::channel(16);
    let mut answers = entities
        .send_stream(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let feeding = tokio::spawn(async move {
        let mut sent = 0;
        while requests
            .send(command("counter", "b", &json!({"add": 1})))
            .await
            .is_ok()
        {
            sent += 1;
        }
        sent
    });
    slow(2.0).await;
    let status = loop {
        match answers.message().await {
            Ok(answer) => assert!(answer.is_some(), "an end without a reason"),
            Err(status) => break status,
        }
    };
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "SLOW_READER");
    drop(answers);
    println!(
        "{} commands were taken from the client",
        feeding.await.unwrap()
    );
    assert_serves(&node).await;
}

fn rss(node: &NodeProcess) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{}/statm", node.pid())).unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
