//! The services over a real connection to a node in this process, whose journal
//! is in memory.

#![allow(clippy::unwrap_used, missing_docs)]

use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use perennial::config::Source;
use perennial::node::NodeBuilder;
use perennial::proto::v1::entity_service_client::EntityServiceClient;
use perennial::proto::v1::event_service_client::EventServiceClient;
use perennial::proto::v1::{
    DeleteEntityRequest, Event, EventsRequest, ListEntitiesRequest, SendRequest, SendResponse,
};
use perennial::samples::counter::{CounterCommand, CounterReply};
use perennial::samples::{Account, Counter};
use perennial::{Effect, EventSourced, Json, Node, Settings};
use perennial_persistence::command::CommandId;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::{RpcStatusExt, StatusExt};

/// No answer takes nearly so long.
const SOON: Duration = Duration::from_secs(30);

/// An entity type that keeps its worker busy, and tells how often it was begun.
struct Slow(watch::Sender<usize>);

impl EventSourced for Slow {
    const ENTITY_TYPE: &'static str = "slow";
    type State = ();
    type Command = u64;
    type Event = ();
    type Reply = ();
    type Codec = Json;

    fn handle(&self, (): &(), millis: u64) -> Effect<Self> {
        self.0.send_modify(|begun| *begun += 1);
        #[expect(
            clippy::disallowed_methods,
            reason = "a handler that blocks is the subject"
        )]
        std::thread::sleep(Duration::from_millis(millis));
        Effect::persist(()).then_reply(|&()| ())
    }

    fn apply(&self, (): &mut (), (): ()) {}
}

fn builder(changed: &[(&str, &str)]) -> NodeBuilder {
    builder_with(changed, watch::Sender::new(0))
}

fn builder_with(changed: &[(&str, &str)], slow_begun: watch::Sender<usize>) -> NodeBuilder {
    let mut settings = Settings::default();
    let journal = [("persistence.journal.url", "memory:")];
    for (key, value) in journal.iter().chain(changed) {
        settings.set(key, value, Source::Flag("test")).unwrap();
    }
    Node::builder()
        .settings(settings)
        .listen("127.0.0.1:0".parse().unwrap())
        .http("127.0.0.1:0".parse().unwrap())
        .peer_listen("127.0.0.1:0".parse().unwrap())
        .entity(Counter)
        .entity(Account)
        .entity(Slow(slow_begun))
}

struct World {
    node: Node,
    channel: Channel,
    entities: EntityServiceClient<Channel>,
}

async fn world(changed: &[(&str, &str)]) -> World {
    world_of(builder(changed)).await
}

async fn world_of(builder: NodeBuilder) -> World {
    let node = builder.start().await.unwrap();
    let address = format!("http://{}", node.grpc_address());
    let endpoint = Channel::from_shared(address).unwrap();
    let channel = endpoint.connect().await.unwrap();
    World {
        node,
        entities: EntityServiceClient::new(channel.clone()),
        channel,
    }
}

fn send(entity_type: &str, entity_id: &str, payload: &str) -> SendRequest {
    SendRequest {
        entity_type: entity_type.into(),
        entity_id: entity_id.into(),
        payload: payload.to_owned().into(),
        ..SendRequest::default()
    }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

fn applied(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap();
    info.metadata["applied"].clone()
}

/// Correlation id and reason, which is empty for a good answer.
fn told(response: &SendResponse) -> (u64, String) {
    let status = response.status.as_ref();
    let info = status.and_then(RpcStatusExt::get_details_error_info);
    let reason = info.map_or_else(String::new, |info| info.reason);
    (response.correlation_id, reason)
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_without_asking_the_entity() {
    let mut world = world(&[("node.max_payload", "2KiB")]).await;
    let good = || send("counter", "a", "\"get\"");
    let long = "x".repeat(3000);
    let beyond_decoding = "x".repeat(1 << 20);
    let bad = |code, reason: &'static str| (code, reason.to_owned());
    let (argument, range) = (Code::InvalidArgument, Code::OutOfRange);
    for (request, expected) in [
        (
            send("nope", "a", "1"),
            bad(Code::NotFound, "ENTITY_TYPE_UNKNOWN"),
        ),
        (
            send("", "a", "1"),
            bad(Code::NotFound, "ENTITY_TYPE_UNKNOWN"),
        ),
        (send("counter", "", "1"), bad(argument, "ENTITY_ID_INVALID")),
        (
            send("counter", "a|b", "1"),
            bad(argument, "ENTITY_ID_INVALID"),
        ),
        (send("counter", "a", "1"), bad(argument, "PAYLOAD_INVALID")),
        (send("counter", "a", &long), bad(range, "PAYLOAD_TOO_LARGE")),
        (
            send("counter", "a", &beyond_decoding),
            bad(range, "PAYLOAD_TOO_LARGE"),
        ),
        (
            SendRequest {
                metadata: [("key".into(), long.clone())].into(),
                ..good()
            },
            bad(range, "PAYLOAD_TOO_LARGE"),
        ),
        (
            SendRequest {
                command_id: "x".repeat(129),
                ..good()
            },
            bad(argument, "COMMAND_ID_INVALID"),
        ),
        (
            SendRequest {
                content_type: "text/plain".into(),
                ..good()
            },
            bad(argument, "PAYLOAD_INVALID"),
        ),
        (
            SendRequest {
                expected_sequence_nr: Some(1),
                ..good()
            },
            bad(Code::FailedPrecondition, "SEQUENCE_NR_MISMATCH"),
        ),
    ] {
        let status = world.entities.send(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), expected);
        assert_eq!(applied(&status), "no");
    }
    let request = SendRequest {
        content_type: "Application/JSON; charset=utf-8".into(),
        ..good()
    };
    let response = world.entities.send(request).await.unwrap().into_inner();
    assert_eq!(response.sequence_nr, 0);
}

#[tokio::test]
async fn a_stream_answers_each_entity_in_order_refusals_included() {
    let mut world = world(&[]).await;
    let requests = (0..300).map(|nr: u64| SendRequest {
        correlation_id: nr,
        content_type: if nr.is_multiple_of(5) {
            "text/plain"
        } else {
            ""
        }
        .into(),
        ..send("counter", &format!("c{}", nr % 3), r#"{"add":1}"#)
    });
    let stream = tokio_stream::iter(requests.collect::<Vec<_>>());
    let responses = world.entities.send_stream(stream).await.unwrap();
    let responses = responses
        .into_inner()
        .map(|response| told(&response.unwrap()));
    let responses: Vec<_> = responses.collect().await;
    assert_eq!(responses.len(), 300);
    for entity in 0..3 {
        let of_entity = responses.iter().filter(|(nr, _)| nr % 3 == entity);
        let numbers: Vec<u64> = of_entity.map(|(nr, _)| *nr).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
    for (nr, reason) in responses {
        let expected = if nr.is_multiple_of(5) {
            "PAYLOAD_INVALID"
        } else {
            ""
        };
        assert_eq!(reason, expected, "{nr}");
    }
}

/// I-10: what clients left behind counts as in flight until it is done, and not
/// longer.
#[tokio::test]
async fn clients_that_go_away_leak_nothing() {
    let mut world = world(&[("node.max_in_flight", "4")]).await;
    for _ in 0..3 {
        let (requests, receiver) = mpsc::channel(8);
        let stream = ReceiverStream::new(receiver);
        let responses = world.entities.send_stream(stream).await.unwrap();
        for _ in 0..4 {
            requests.send(send("slow", "a", "5")).await.unwrap();
        }
        drop((requests, responses));
        let call = world.entities.send(send("slow", "a", "5"));
        let _ = tokio::time::timeout(Duration::from_millis(1), call).await;
    }
    // All four places are free again, soon.
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let calls = (0..4).map(|_| {
            let mut entities = world.entities.clone();
            tokio::spawn(async move { entities.send(send("slow", "b", "50")).await })
        });
        let mut good = 0;
        for call in calls.collect::<Vec<_>>() {
            match call.await.unwrap() {
                Ok(_) => good += 1,
                Err(status) => assert_eq!(reason(&status), "OVERLOADED"),
            }
        }
        if good == 4 {
            break;
        }
        let now = tokio::time::Instant::now();
        assert!(now < deadline, "{good} of 4 places are free");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn too_many_at_once_are_refused() {
    let world = world(&[("node.max_in_flight", "2")]).await;
    let calls = (0..10).map(|_| {
        let mut entities = world.entities.clone();
        tokio::spawn(async move { entities.send(send("slow", "a", "100")).await })
    });
    let mut refused = 0;
    for call in calls.collect::<Vec<_>>() {
        if let Err(status) = call.await.unwrap() {
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert_eq!(reason(&status), "OVERLOADED");
            assert!(status.get_details_retry_info().is_some());
            refused += 1;
        }
    }
    assert!(refused > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i8_a_deadline_says_whether_the_command_was_begun() {
    let slow_begun = watch::Sender::new(0);
    let mut begun = slow_begun.subscribe();
    let world = world_of(builder_with(&[("persistence.workers", "1")], slow_begun)).await;
    // A channel of tonic's would itself give up after that time: on a busy machine
    // before it is told.
    let patient = legacy::Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let origin = format!("http://{}", world.node.grpc_address());
    let patient = EntityServiceClient::with_origin(patient, origin.parse().unwrap());
    let late = |payload: &str| {
        let mut request = Request::new(send("slow", "a", payload));
        request.set_timeout(Duration::from_millis(300));
        let mut entities = patient.clone();
        async move { entities.send(request).await.unwrap_err() }
    };
    // The first keeps the worker, so the second is not begun in time.
    let first = tokio::spawn(late("1000"));
    let waiting = begun.wait_for(|begun| *begun == 1);
    tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    let second = late("0").await;
    for (status, expected) in [(first.await.unwrap(), "unknown"), (second, "no")] {
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(applied(&status), expected);
    }
    // As it was said: the first had its effect, the second never has.
    let mut entities = world.entities.clone();
    let third = entities.send(send("slow", "a", "0")).await.unwrap();
    assert_eq!(third.into_inner().sequence_nr, 2);
}

async fn events(world: &World, request: EventsRequest) -> Result<tonic::Streaming<Event>, Status> {
    let mut client = EventServiceClient::new(world.channel.clone());
    Ok(client.events(request).await?.into_inner())
}

async fn add_one(world: &World, entity_id: &str) {
    let mut entities = world.entities.clone();
    let add = send("counter", entity_id, r#"{"add":1}"#);
    entities.send(add).await.unwrap();
}

/// A client that reads slowly, of an entity that is deleted meanwhile, does not take a
/// part for the whole.
#[tokio::test]
async fn events_that_are_deleted_while_they_are_read_are_missed() {
    /// More than one page, and more than is sent ahead of who does not read.
    const EVENTS: u64 = 600;
    let mut world = world(&[]).await;
    for _ in 0..EVENTS {
        let mut add = send("counter", "a", r#"{"add": 1}"#);
        add.metadata.insert("note".into(), "x".repeat(500));
        world.entities.send(add).await.unwrap();
    }
    let address = format!("http://{}", world.node.grpc_address());
    let endpoint = Channel::from_shared(address).unwrap();
    let endpoint = endpoint.initial_stream_window_size(1024);
    let asked = EventsRequest {
        entity_type: "counter".into(),
        entity_id: "a".into(),
        ..EventsRequest::default()
    };
    let mut slow = EventServiceClient::new(endpoint.connect().await.unwrap());
    let mut events = slow.events(asked).await.unwrap().into_inner();
    events.message().await.unwrap().unwrap();
    let deletion = DeleteEntityRequest {
        entity_type: "counter".into(),
        entity_id: "a".into(),
    };
    world.entities.delete_entity(deletion).await.unwrap();
    let mut read = 1;
    let missed = loop {
        match events.message().await {
            Ok(Some(event)) => {
                read += 1;
                assert_eq!(event.sequence_nr, read);
            }
            Ok(None) => panic!("it ends well after {read} of {EVENTS}"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&missed), "HISTORY_DELETED");
}

#[tokio::test]
async fn events_are_read_in_pages_and_followed() {
    let world = world(&[]).await;
    // More than a page.
    for _ in 0..300 {
        add_one(&world, "a").await;
    }
    let all = |follow| EventsRequest {
        entity_type: "counter".into(),
        entity_id: "a".into(),
        follow,
        ..EventsRequest::default()
    };
    let read = events(&world, all(false)).await.unwrap();
    let numbers = read.map(|event| event.unwrap().sequence_nr);
    let numbers: Vec<u64> = numbers.collect().await;
    assert_eq!(numbers, (1..=300).collect::<Vec<_>>());

    let mut followed = events(&world, all(true)).await.unwrap();
    for nr in 1..=300 {
        let event = followed.message().await.unwrap().unwrap();
        assert_eq!(event.sequence_nr, nr);
    }
    add_one(&world, "a").await;
    let next = tokio::time::timeout(SOON, followed.message())
        .await
        .unwrap();
    assert_eq!(next.unwrap().unwrap().sequence_nr, 301);

    let beyond = EventsRequest {
        from_sequence_nr: 303,
        ..all(false)
    };
    let status = events(&world, beyond).await.unwrap_err();
    assert_eq!(reason(&status), "SEQUENCE_NR_INVALID");

    // A node that stops ends the stream, and says why.
    let stopping = tokio::spawn(world.node.stop());
    let ended = tokio::time::timeout(SOON, followed.message())
        .await
        .unwrap();
    assert_eq!(reason(&ended.unwrap_err()), "SHARD_UNAVAILABLE");
    tokio::time::timeout(SOON, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn entities_are_listed_a_page_at_a_time() {
    let mut world = world(&[]).await;
    let ids: Vec<String> = (0..25).map(|nr| format!("c{nr:02}")).collect();
    for id in &ids {
        add_one(&world, id).await;
    }
    let mut found = Vec::new();
    let mut list = ListEntitiesRequest {
        entity_type: "counter".into(),
        page_size: 10,
        page_token: String::new(),
    };
    loop {
        let page = world.entities.list_entities(list.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.entities.len() <= 10);
        found.extend(page.entities.into_iter().map(|entity| entity.entity_id));
        list.page_token = page.next_page_token;
        if list.page_token.is_empty() {
            break;
        }
        let foreign = ListEntitiesRequest {
            entity_type: "account".into(),
            ..list.clone()
        };
        let status = world.entities.list_entities(foreign).await.unwrap_err();
        assert_eq!(reason(&status), "PAGE_TOKEN_INVALID");
    }
    assert_eq!(found, ids);
}

#[tokio::test]
async fn a_stopping_node_finishes_what_a_stream_has_sent() {
    let mut world = world(&[]).await;
    let (requests, receiver) = mpsc::channel(100);
    for nr in 0..100 {
        let request = SendRequest {
            correlation_id: nr,
            ..send("counter", "a", r#"{"add":1}"#)
        };
        requests.try_send(request).unwrap();
    }
    let stream = ReceiverStream::new(receiver);
    let responses = world.entities.send_stream(stream).await.unwrap();
    let mut responses = responses.into_inner();
    let first = responses.message().await.unwrap().unwrap();
    assert_eq!(told(&first), (0, String::new()));
    let stopping = tokio::spawn(world.node.stop());
    let mut answered = 1;
    let last = loop {
        match tokio::time::timeout(SOON, responses.message())
            .await
            .unwrap()
        {
            Ok(Some(response)) => {
                assert_eq!(told(&response), (answered, String::new()));
                answered += 1;
            }
            ended => break ended,
        }
    };
    assert_eq!(reason(&last.unwrap_err()), "SHARD_UNAVAILABLE");
    tokio::time::timeout(SOON, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_typed_reference_goes_the_same_way() {
    let world = world(&[]).await;
    let counter = world.node.entity_ref::<Counter>("a").unwrap();
    let reply = counter.ask(&CounterCommand::Add(5)).await.unwrap();
    assert_eq!(reply, CounterReply { value: 5 });
    for _ in 0..2 {
        let id = CommandId::parse("once").unwrap().unwrap();
        let reply = counter.ask_once(id, &CounterCommand::Add(1)).await.unwrap();
        assert_eq!(reply, CounterReply { value: 6 });
    }
    counter.tell(&CounterCommand::Add(10)).unwrap();
    let reply = counter.ask(&CounterCommand::Get).await.unwrap();
    assert_eq!(reply, CounterReply { value: 16 });
    let refused = counter.ask(&CounterCommand::Add(i64::MAX)).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("does not fit"), "{text}");
    assert!(world.node.entity_ref::<Counter>("a|b").is_err());
}

#[tokio::test]
async fn addresses_others_can_reach_are_refused_without_insecure() {
    let open: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let clients = || builder(&[]).listen(open);
    let peers = || builder(&[]).peer_listen(open);
    for node in [&clients as &dyn Fn() -> NodeBuilder, &peers] {
        let error = node().start().await.err().unwrap();
        assert!(error.to_string().contains("--insecure"), "{error}");
        node().insecure().start().await.unwrap().stop().await;
    }
    // It shows no more than that the node lives.
    let node = builder(&[]).http(open).start().await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let first = builder(&[]).start().await.unwrap();
    let second = builder(&[]).listen(first.grpc_address());
    let text = second.start().await.err().unwrap().to_string();
    for part in [first.grpc_address().to_string().as_str(), "--listen"] {
        assert!(text.contains(part), "{text}");
    }
}
