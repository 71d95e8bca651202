//! A node that asks who calls, and ways to call it.

use std::path::PathBuf;
use std::time::Duration;

use perennial_tests::cli::{self, Outcome};
use perennial_tests::issuer::{Issuer, with_tokens};
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use prost::Message;
use prost_types::FileDescriptorSet;
use tempfile::TempDir;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// No answer takes nearly so long.
pub(crate) const SOON: Duration = Duration::from_secs(30);

const RULES: &str = r#"[
    { subject = "shop-*", entity_types = ["counter"], allow = ["send", "read", "events"] },
    { subject = "reader", entity_types = ["*"], allow = ["read"] },
    { group = "watchers", allow = ["status"] },
    { group = "operators", allow = ["admin"] },
    { subject = "root", entity_types = ["*"], allow = ["send", "read", "events"] },
    { subject = "root", allow = ["admin", "status"] },
]"#;

/// A node that knows its clients by tokens.
pub(crate) struct World {
    pub(crate) node: NodeProcess,
    pub(crate) issuer: Issuer,
    pub(crate) keys: PathBuf,
    pub(crate) channel: Channel,
    _dir: TempDir,
}

pub(crate) async fn world() -> World {
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
    pub(crate) fn token(&self, subject: &str, groups: &[&str]) -> String {
        self.issuer.token(subject, groups, HOUR)
    }

    pub(crate) fn denials(&self) -> f64 {
        self.node
            .metric_sum("perennial_auth_denials_total")
            .unwrap()
    }
}

pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

pub(crate) fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no details: {status:?}"));
    assert_eq!(info.metadata["applied"], "no");
    (status.code(), info.reason)
}

pub(crate) fn unauthenticated() -> (Code, String) {
    (Code::Unauthenticated, "UNAUTHENTICATED".to_owned())
}

pub(crate) fn denied() -> (Code, String) {
    (Code::PermissionDenied, "PERMISSION_DENIED".to_owned())
}

/// Every call in the descriptions that a node serves.
pub(crate) fn calls() -> Vec<String> {
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
pub(crate) async fn call(channel: &Channel, path: &str, token: Option<&str>) -> Result<(), Status> {
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

pub(crate) async fn perennial(world: &World, token: Option<&str>, args: &[&str]) -> Outcome {
    let mut command = cli::command(args).unwrap();
    command.env("PERENNIAL_ADDRESS", world.node.address());
    if let Some(token) = token {
        command.env("PERENNIAL_TOKEN", token);
    }
    cli::outcome(command.spawn().unwrap()).await.unwrap()
}
