//! A connection of the command line to a node: says who calls, and why a node
//! refused it.
//!
//! Where it goes and what it trusts is decided in `client.rs`; how a refusal is
//! noticed, in `tls/refusal.rs`.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http;
use futures::future::BoxFuture;
use rustls::AlertDescription;
use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tower::Service;

use crate::tls::refusal::Refusal;

type Calls = InterceptedService<Channel, Bearer>;
type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// See the head of this file.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    calls: Calls,
    refusal: Refusal,
}

/// Adds the token, if there is one, to every call.
#[derive(Debug, Clone)]
pub(super) struct Bearer(pub(super) Option<MetadataValue<Ascii>>);

/// The node refused the connection, and with it the call, which it has not read.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error(
    "the node refused the connection: alert {0:?}; if it asks for certificates of clients, show it one that it \
     trusts with --tls-cert and --tls-key"
)]
pub(super) struct Refused(pub(super) AlertDescription);

impl Connection {
    pub(super) fn new(channel: Channel, bearer: Bearer, refusal: Refusal) -> Self {
        Self {
            calls: InterceptedService::new(channel, bearer),
            refusal,
        }
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let mut status = Self::unavailable(refused.to_string());
        status.set_source(Arc::new(refused));
        status
    }
}

type Sent = http::Request<tonic::body::Body>;

impl Service<Sent> for Connection {
    type Response = <Calls as Service<Sent>>::Response;
    type Error = AnyError;
    type Future = BoxFuture<'static, Result<Self::Response, AnyError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
        self.calls.poll_ready(context).map_err(AnyError::from)
    }

    fn call(&mut self, request: Sent) -> Self::Future {
        let answer = self.calls.call(request);
        let refusal = self.refusal.clone();
        Box::pin(async move {
            answer.await.map_err(|error| match refusal.alert() {
                Some(alert) => Status::from(Refused(alert)).into(),
                None => error.into(),
            })
        })
    }
}
