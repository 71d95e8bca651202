//! Ports and probes, tried on a node.

use perennial::Settings;
use perennial::config::Source;
use perennial::node::Node;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::files::{base, documents, list};

fn container() -> Value {
    base("statefulset.yaml").yaml["spec"]["template"]["spec"]["containers"][0].clone()
}

/// By name, as the container declares them.
fn port(name: &str) -> u64 {
    let container = container();
    let port = list(&container, "/ports")
        .iter()
        .find(|port| port["name"] == name);
    port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"]
        .as_u64()
        .unwrap()
}

#[test]
fn ports_are_those_that_nodes_listen_on() {
    let container = container();
    for (flag, name) in [
        ("listen", "grpc"),
        ("http", "http"),
        ("peer-listen", "peer"),
    ] {
        let argument = format!("--{flag}=0.0.0.0:{}", port(name));
        let arguments = list(&container, "/args");
        assert!(
            arguments.contains(&Value::from(argument.clone())),
            "{argument}"
        );
    }
    for (file, name) in [("service.yaml", "grpc"), ("service-peers.yaml", "peer")] {
        let service = base(file).yaml;
        let ports = list(&service, "/spec/ports");
        assert_eq!(ports.len(), 1, "{file}");
        assert_eq!(ports[0]["targetPort"], name, "{file}");
        assert_eq!(ports[0]["port"], port(name), "{file}");
    }
    let monitor = documents("kubernetes/components/monitoring/podmonitor.yaml").remove(0);
    assert_eq!(monitor.text("/spec/podMetricsEndpoints/0/port"), "http");
}

/// Liveness and start ask whether the process runs; only readiness asks for more, so that
/// no trouble elsewhere restarts a node.
#[tokio::test]
async fn a_node_answers_what_probes_and_scrapers_ask() {
    let mut settings = Settings::default();
    settings
        .set(
            "persistence.journal.url",
            "memory:",
            Source::Flag("--journal"),
        )
        .unwrap();
    let free = "127.0.0.1:0".parse().unwrap();
    let node = Node::builder()
        .settings(settings)
        .listen(free)
        .http(free)
        .start()
        .await
        .unwrap();
    let status = async |path: &str| {
        let mut connection = TcpStream::connect(node.http_address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status("/none").await, "404");

    let container = container();
    for (probe, path) in [
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ] {
        let asked = &container[probe]["httpGet"];
        assert_eq!(asked["path"], path, "{probe}");
        assert_eq!(asked["port"], "http", "{probe}");
        assert_eq!(status(path).await, "200", "{probe}");
    }
    let monitor = documents("kubernetes/components/monitoring/podmonitor.yaml").remove(0);
    assert_eq!(
        status(monitor.text("/spec/podMetricsEndpoints/0/path")).await,
        "200"
    );
    node.stop().await;
}
