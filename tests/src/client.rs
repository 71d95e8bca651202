//! A plain gRPC client: one connection, JSON commands, errors taken apart.

use std::time::Duration;

use anyhow::{Context, Result};
use perennial::proto::unprocessed::was_not_processed;
use perennial::proto::v1::cluster_service_client::ClusterServiceClient;
use perennial::proto::v1::entity_service_client::EntityServiceClient;
use perennial::proto::v1::{
    DeleteEntityRequest, DescribeEntityRequest, DescribeEntityResponse, DrainRequest,
    GetClusterRequest, GetClusterResponse, GetStateRequest, ListEntitiesRequest, SendRequest,
    SendResponse,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt as _, StatusExt as _};

/// Longer than any single answer of a healthy node takes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// An error on the wire, taken apart (architecture of errors: README).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The gRPC status.
    pub code: Code,
    /// `ErrorInfo.reason`; empty when the error does not come from the service.
    pub reason: String,
    /// `no` or `unknown`; empty when the error does not come from the service.
    pub applied: String,
    /// For people.
    pub message: String,
    /// Nobody took the command: nobody listens there, or the connection was ending.
    pub refused: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            code,
            reason,
            applied,
            message,
            ..
        } = self;
        write!(f, "{code:?} {reason}: {message} (applied: {applied})")
    }
}

impl std::error::Error for Failure {}

impl Failure {
    fn new(code: Code, message: String, details: &ErrorDetails) -> Self {
        let info = details.error_info();
        let applied = info.and_then(|info| info.metadata.get("applied"));
        Self {
            code,
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            applied: applied.cloned().unwrap_or_default(),
            message,
            refused: false,
        }
    }

    /// Takes the error in a response of a stream apart.
    #[must_use]
    pub fn in_response(response: &SendResponse) -> Option<Self> {
        let status = response.status.as_ref()?;
        let details = status.get_error_details();
        let code = Code::from_i32(status.code);
        (code != Code::Ok).then(|| Self::new(code, status.message.clone(), &details))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let mut message = status.message().to_owned();
        let mut cause = std::error::Error::source(&status);
        while let Some(error) = cause {
            message.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Self {
            refused: was_not_processed(&status),
            ..Self::new(status.code(), message, &details)
        }
    }
}

/// A command in JSON, with nothing else set.
#[must_use]
pub fn command(entity_type: &str, entity_id: &str, json: &Value) -> SendRequest {
    SendRequest {
        entity_type: entity_type.to_owned(),
        entity_id: entity_id.to_owned(),
        payload: json.to_string().into(),
        ..SendRequest::default()
    }
}

/// The JSON in a reply.
///
/// # Errors
/// When it is none.
pub fn json(response: &SendResponse) -> Result<Value> {
    let text = &response.payload;
    serde_json::from_slice(text).with_context(|| format!("the reply is not JSON: {text:?}"))
}

/// A connection to a node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    entities: EntityServiceClient<Channel>,
    cluster: ClusterServiceClient<Channel>,
}

impl Client {
    /// Connects to `http://HOST:PORT`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("no connection to {address}"))?;
        Ok(Self::over(channel))
    }

    /// As [`Client::connect`], when the first command is sent, and again whenever
    /// the connection is lost.
    ///
    /// # Errors
    /// When it is no address.
    pub fn lazy(address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true);
        Ok(Self::over(endpoint.connect_lazy()))
    }

    fn over(channel: Channel) -> Self {
        Self {
            entities: EntityServiceClient::new(channel.clone()),
            // Of many shards.
            cluster: ClusterServiceClient::new(channel).max_decoding_message_size(64 << 20),
        }
    }

    /// Members, shards and what happened lately.
    ///
    /// # Errors
    /// What the service or the connection answers instead.
    pub async fn cluster(&self) -> Result<GetClusterResponse> {
        let asked = async {
            let mut cluster = self.cluster.clone();
            cluster.get_cluster(GetClusterRequest {}).await
        };
        let answer = tokio::time::timeout(ANSWERED_WITHIN, asked).await;
        Ok(answer
            .context("GetCluster is never answered")??
            .into_inner())
    }

    /// Where an entity lives and what it is doing.
    ///
    /// # Errors
    /// What the service or the connection answers instead.
    pub async fn describe(
        &self,
        entity_type: &str,
        entity_id: &str,
    ) -> Result<DescribeEntityResponse> {
        let request = DescribeEntityRequest {
            entity_type: entity_type.to_owned(),
            entity_id: entity_id.to_owned(),
        };
        let answer = self.cluster.clone().describe_entity(request).await;
        Ok(answer?.into_inner())
    }

    /// Hands all shards of a node to others; returns when that has begun.
    ///
    /// # Errors
    /// What the service or the connection answers instead.
    pub async fn drain(&self, node_id: &str, remove: bool) -> Result<()> {
        let node_id = node_id.to_owned();
        let request = DrainRequest { node_id, remove };
        self.cluster.clone().drain(request).await?;
        Ok(())
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// What the service or the connection answers instead.
    pub async fn send(&self, request: SendRequest) -> Result<SendResponse, Failure> {
        let mut entities = self.entities.clone();
        match tokio::time::timeout(ANSWERED_WITHIN, entities.send(request)).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(elapsed) => {
                Err(Status::deadline_exceeded(format!("never answered: {elapsed}")).into())
            }
        }
    }

    /// The latest state of an entity and its sequence number.
    ///
    /// # Errors
    /// What the service or the connection answers instead.
    pub async fn state(&self, entity_type: &str, entity_id: &str) -> Result<(Value, u64)> {
        let request = GetStateRequest {
            entity_type: entity_type.to_owned(),
            entity_id: entity_id.to_owned(),
            at_sequence_nr: None,
        };
        let state = self.entities.clone().get_state(request).await?.into_inner();
        Ok((serde_json::from_slice(&state.payload)?, state.sequence_nr))
    }

    /// Deletes an entity for good.
    ///
    /// # Errors
    /// What the service or the connection answers instead.
    pub async fn delete(&self, entity_type: &str, entity_id: &str) -> Result<(), Failure> {
        let request = DeleteEntityRequest {
            entity_type: entity_type.to_owned(),
            entity_id: entity_id.to_owned(),
        };
        self.entities.clone().delete_entity(request).await?;
        Ok(())
    }

    /// How many events the entities of a type have together, as listed.
    ///
    /// # Errors
    /// What the service or the connection answers instead.
    pub async fn stored_events(&self, entity_type: &str) -> Result<u64> {
        let mut request = ListEntitiesRequest {
            entity_type: entity_type.to_owned(),
            page_size: 1000,
            page_token: String::new(),
        };
        let mut events = 0;
        loop {
            let answer = self.entities.clone().list_entities(request.clone()).await;
            let page = answer?.into_inner();
            events += page
                .entities
                .iter()
                .map(|line| line.sequence_nr)
                .sum::<u64>();
            if page.next_page_token.is_empty() {
                return Ok(events);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Sends commands over one stream, at most `outstanding` at a time, until
    /// all are answered. `answered` gets each answer with its command's place in
    /// the order they were sent, counted from 0; `correlation_id` is overwritten.
    ///
    /// # Errors
    /// When the stream breaks; answers that came before were given out.
    pub async fn pipeline(
        &self,
        outstanding: usize,
        requests: impl IntoIterator<Item = SendRequest>,
        mut answered: impl FnMut(u64, SendResponse),
    ) -> Result<()> {
        let (sender, receiver) = mpsc::channel(outstanding);
        let mut requests = (0..).zip(requests);
        let mut sent_all = false;
        let mut waiting = 0;
        let mut responses = None;
        let mut opening = Box::pin(async {
            let mut entities = self.entities.clone();
            entities.send_stream(ReceiverStream::new(receiver)).await
        });
        loop {
            while !sent_all && waiting < outstanding {
                match requests.next() {
                    Some((place, mut request)) => {
                        request.correlation_id = place;
                        // There is room: no more than its capacity are outstanding.
                        sender.send(request).await.context("the stream broke")?;
                        waiting += 1;
                    }
                    None => sent_all = true,
                }
            }
            if waiting == 0 {
                return Ok(());
            }
            if responses.is_none() {
                responses = Some(opening.as_mut().await?.into_inner());
            }
            let Some(stream) = &mut responses else {
                continue;
            };
            let answer = tokio::time::timeout(ANSWERED_WITHIN, stream.message()).await;
            let answer = answer.context("a command on the stream is never answered")??;
            let response = answer.context("the stream ended before all was answered")?;
            waiting -= 1;
            answered(response.correlation_id, response);
        }
    }
}
