//! The floor under the wire: a server of the same contract that does nothing but
//! send every payload back.

use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{Stream, StreamExt as _};
use perennial::proto::v1::entity_service_server::{EntityService, EntityServiceServer};
use perennial::proto::v1::{
    DeleteEntityRequest, DeleteEntityResponse, GetStateRequest, GetStateResponse,
    ListEntitiesRequest, ListEntitiesResponse, SendRequest, SendResponse,
};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::client::Client;
use crate::eventually::eventually;
use crate::node_process::free_ports;

/// The subcommand of the running binary that calls [`serve`].
pub const SUBCOMMAND: &str = "echo-server";

const READY_WITHIN: Duration = Duration::from_secs(10);

/// An echo server as a process. It is killed when this is dropped.
pub struct EchoProcess {
    child: Child,
    listen: SocketAddr,
}

impl EchoProcess {
    /// Starts one and waits until it accepts connections.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start() -> Result<Self> {
        let [listen] = free_ports()?;
        let child = Command::new(std::env::current_exe()?)
            .args([SUBCOMMAND, &listen.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("the echo server could not be started")?;
        let echo = Self { child, listen };
        let ready = eventually("the echo server", READY_WITHIN, async || {
            Client::connect(&echo.address()).await.ok()
        });
        ready.await?;
        Ok(echo)
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for EchoProcess {
    fn drop(&mut self) {
        // Both fail only if the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until the process is killed.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(listen: SocketAddr) -> Result<()> {
    let service = EntityServiceServer::new(Echo);
    let server = Server::builder().tcp_nodelay(true).add_service(service);
    Ok(server.serve(listen).await?)
}

struct Echo;

#[tonic::async_trait]
impl EntityService for Echo {
    type SendStreamStream = Pin<Box<dyn Stream<Item = Result<SendResponse, Status>> + Send>>;

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        Ok(Response::new(echo(request.into_inner())))
    }

    async fn send_stream(
        &self,
        requests: Request<Streaming<SendRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        let responses = requests.into_inner().map(|request| request.map(echo));
        Ok(Response::new(Box::pin(responses)))
    }

    async fn get_state(
        &self,
        _: Request<GetStateRequest>,
    ) -> Result<Response<GetStateResponse>, Status> {
        Err(Status::unimplemented("only sends are echoed"))
    }

    async fn list_entities(
        &self,
        _: Request<ListEntitiesRequest>,
    ) -> Result<Response<ListEntitiesResponse>, Status> {
        Err(Status::unimplemented("only sends are echoed"))
    }

    async fn delete_entity(
        &self,
        _: Request<DeleteEntityRequest>,
    ) -> Result<Response<DeleteEntityResponse>, Status> {
        Err(Status::unimplemented("only sends are echoed"))
    }
}

fn echo(request: SendRequest) -> SendResponse {
    SendResponse {
        payload: request.payload,
        content_type: request.content_type,
        correlation_id: request.correlation_id,
        ..SendResponse::default()
    }
}
