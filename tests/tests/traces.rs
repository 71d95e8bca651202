//! A traced command over two nodes is one trace: from the client's span through the
//! node it came to, to the owner of its entity, its recovery and its append. What a
//! collector gets is looked at.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use perennial::proto::v1::entity_service_client::EntityServiceClient;
use perennial_tests::client::command;
use perennial_tests::database::TestDatabase;
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const SOON: Duration = Duration::from_secs(60);
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

/// A span, and the process it comes from.
#[derive(Clone)]
struct Received {
    instance: String,
    span: Span,
}

/// Collects what nodes send.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Received>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_process in request.into_inner().resource_spans {
            let resource = of_process.resource.unwrap_or_default();
            let instance = text_of(&resource.attributes, "service.instance.id");
            assert_eq!(text_of(&resource.attributes, "service.name"), "perennial");
            let spans = of_process.scope_spans.into_iter().flat_map(|it| it.spans);
            self.0.lock().unwrap().extend(spans.map(|span| Received {
                instance: instance.clone(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address
    }

    /// By their names; one of each.
    fn of_trace(&self, trace_id: &str) -> HashMap<String, Received> {
        let received = self.0.lock().unwrap();
        let of_trace = received
            .iter()
            .filter(|it| hex(&it.span.trace_id) == trace_id);
        of_trace
            .map(|it| (it.span.name.clone(), it.clone()))
            .collect()
    }

    fn names(&self) -> Vec<String> {
        self.all().into_iter().map(|it| it.span.name).collect()
    }

    fn all(&self) -> Vec<Received> {
        self.0.lock().unwrap().clone()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text_of(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|attribute| attribute.value.clone()?.value);
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn with_parent<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE_ID}-{CLIENT_SPAN}-{flags}");
    request
        .metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    request
}

#[tokio::test]
async fn a_command_to_another_nodes_entity_is_one_trace() {
    let collector = Collector::default();
    let endpoint = format!("http://{}", collector.serve().await);
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(2)
        .setting("telemetry.otlp.endpoint", &endpoint)
        // Only what its client wants traced.
        .setting("telemetry.otlp.sampling", "0")
        .postgres(&database)
        .await
        .unwrap();
    let cluster = cluster.start().await.unwrap();
    let client = cluster.client(0).await.unwrap();
    let (here, there) = (
        cluster.node_id(0, 0).await.unwrap(),
        cluster.node_id(1, 0).await.unwrap(),
    );
    let mut id = String::new();
    for nr in 0..1_000 {
        id = format!("c{nr}");
        if client.describe("counter", &id).await.unwrap().node_id == there {
            break;
        }
    }
    let mut entities = EntityServiceClient::connect(cluster.address(0))
        .await
        .unwrap();
    let add = || command("counter", &id, &json!({"add": 1}));
    // Neither of them is traced.
    let untraced = entities.send(with_parent(
        command("counter", "other", &json!({"add": 1})),
        "00",
    ));
    untraced.await.unwrap();
    let plain = entities.send(command("counter", "another", &json!({"add": 1})));
    plain.await.unwrap();
    entities.send(with_parent(add(), "01")).await.unwrap();

    let names = ["command", "forward", "serve", "recover", "replay", "append"];
    let spans = eventually("the spans of the command", SOON, async || {
        let spans = collector.of_trace(TRACE_ID);
        names
            .iter()
            .all(|name| spans.contains_key(*name))
            .then_some(spans)
    })
    .await
    .unwrap_or_else(|error| panic!("{error}; there are {:?}", collector.names()));
    assert_eq!(spans.len(), names.len(), "{:?}", spans.keys());
    let span = |name: &str| &spans[name].span;
    assert_eq!(hex(&span("command").parent_span_id), CLIENT_SPAN);
    for (child, parent) in [
        ("forward", "command"),
        ("serve", "forward"),
        ("recover", "serve"),
        ("replay", "recover"),
        ("append", "serve"),
    ] {
        assert_eq!(span(child).parent_span_id, span(parent).span_id, "{child}");
        assert!(span(child).start_time_unix_nano >= span(parent).start_time_unix_nano);
    }
    // Of the same process, and so of the same clock.
    for (child, parent) in [
        ("forward", "command"),
        ("recover", "serve"),
        ("replay", "recover"),
        ("append", "serve"),
    ] {
        let (child_end, end) = (
            span(child).end_time_unix_nano,
            span(parent).end_time_unix_nano,
        );
        assert!(child_end <= end, "{child}");
    }
    // Each step in the process where it happened.
    let instance = |name: &str| spans[name].instance.clone();
    assert!(cluster.address(0).ends_with(&instance("command")));
    assert!(cluster.address(1).ends_with(&instance("serve")));
    assert_eq!(instance("forward"), instance("command"));
    assert_eq!(instance("recover"), instance("serve"));
    assert_eq!(instance("append"), instance("serve"));
    let attribute = |name: &str, key: &str| text_of(&span(name).attributes, key);
    assert_eq!(attribute("command", "perennial.node"), here);
    assert_eq!(attribute("serve", "perennial.node"), there);
    assert_eq!(attribute("forward", "perennial.to"), there);
    assert_eq!(
        attribute("command", "perennial.entity"),
        format!("counter|{id}")
    );
    assert_eq!(attribute("command", "perennial.outcome"), "replied");

    // The batch is a trace of its own, and each knows the other.
    let append = span("append");
    let batch = eventually("the batch", SOON, async || {
        let all = collector.all();
        all.into_iter().find(|it| it.span.name == "append batch")
    })
    .await
    .unwrap()
    .span;
    assert_eq!(append.links.len(), 1);
    assert_eq!(batch.links.len(), 1);
    assert_eq!(append.links[0].span_id, batch.span_id);
    assert_eq!(batch.links[0].span_id, append.span_id);
    assert_eq!(hex(&batch.links[0].trace_id), TRACE_ID);
    assert_ne!(hex(&batch.trace_id), TRACE_ID);
    assert!(batch.parent_span_id.is_empty());

    // And nothing of the others.
    let all = collector.all();
    assert_eq!(all.len(), names.len() + 1, "{:?}", collector.names());
}
