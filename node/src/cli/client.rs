//! The connection of the command line to a node.

use std::time::Duration;

use clap::Args;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::failure::Failure;
use crate::proto::v1::cluster_service_client::ClusterServiceClient;
use crate::proto::v1::entity_service_client::EntityServiceClient;
use crate::proto::v1::event_service_client::EventServiceClient;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Larger than any answer of a node: `node.max_payload` is the limit there.
const MESSAGE_LEN_MAX: usize = 1 << 30;

/// Flags of every command that talks to a node.
#[derive(Debug, Clone, Args)]
pub(super) struct ClientArgs {
    /// Where the node is.
    #[arg(
        long,
        env = "PERENNIAL_ADDRESS",
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT"
    )]
    pub(super) address: String,
    /// How long to wait for an answer.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(super) timeout: Duration,
}

impl ClientArgs {
    pub(super) async fn connect(&self) -> Result<Channel, Failure> {
        self.endpoint()?
            .connect()
            .await
            .map_err(|error| Failure::unreachable(&self.address, error))
    }

    pub(super) fn endpoint(&self) -> Result<Endpoint, Failure> {
        let plain = self.address.trim_start_matches("http://");
        let endpoint = Endpoint::from_shared(format!("http://{plain}")).map_err(|error| {
            Failure::usage(format!(
                "the address {:?} cannot be used: {error}; expected HOST:PORT",
                self.address
            ))
        })?;
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            // Finds out that a node is gone while nothing is being said.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10)))
    }

    pub(super) async fn entities(&self) -> Result<EntityServiceClient<Channel>, Failure> {
        Ok(entities(self.connect().await?))
    }

    pub(super) async fn events(&self) -> Result<EventServiceClient<Channel>, Failure> {
        Ok(EventServiceClient::new(self.connect().await?)
            .max_decoding_message_size(MESSAGE_LEN_MAX))
    }

    pub(super) async fn cluster(&self) -> Result<ClusterServiceClient<Channel>, Failure> {
        Ok(ClusterServiceClient::new(self.connect().await?)
            .max_decoding_message_size(MESSAGE_LEN_MAX))
    }

    /// A call with the time-out.
    pub(super) fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

pub(super) fn entities(channel: Channel) -> EntityServiceClient<Channel> {
    EntityServiceClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX)
}
