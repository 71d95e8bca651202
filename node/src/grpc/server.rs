//! Puts the services, health and reflection on the port for clients.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthReporter;
use tower::{Service, ServiceExt};

use super::cluster_service::ClusterService;
use super::entity_service::EntityService;
use super::event_service::EventService;
use super::gate::Gate;
use super::status::explained;
use crate::connections::connection::Connection;
use crate::connections::{ConnectionLimits, http2};
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::v1::cluster_service_server::{ClusterServiceServer, SERVICE_NAME as CLUSTER};
use crate::proto::v1::entity_service_server::{EntityServiceServer, SERVICE_NAME as ENTITY};
use crate::proto::v1::event_service_server::{EventServiceServer, SERVICE_NAME as EVENT};

/// What the health can be asked of; all of it when nothing is named.
const HEALTH_OF: [&str; 4] = ["", ENTITY, EVENT, CLUSTER];

/// Everything that is served to clients.
pub(crate) struct Services {
    pub(crate) entities: EntityService,
    pub(crate) events: EventService,
    pub(crate) cluster: ClusterService,
    /// Whom they are served to.
    pub(crate) gate: Arc<Gate>,
}

/// Why the services cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Reflection does not accept the contract's own description: a broken build.
    #[error(transparent)]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The health of each service, as `grpc.health.v1` tells it; serving at first.
pub(crate) async fn set_health(health: &HealthReporter, serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for service in HEALTH_OF {
        health.set_service_status(service, status).await;
    }
}

/// Ends the streams of those who watch the health, after they were told of it last. By
/// themselves they never end, and the port would wait for them.
pub(crate) async fn end_watches(health: &HealthReporter) {
    let mut health = health.clone();
    for service in HEALTH_OF {
        health.clear_service_status(service).await;
    }
}

/// Serves until `stopping` is cancelled and every call is finished. How long
/// that may take is the caller's to limit: a client can keep a call open.
pub(crate) fn serve(
    connections: mpsc::Receiver<Connection>,
    services: Services,
    health: &HealthReporter,
    limits: ConnectionLimits,
    stopping: CancellationToken,
) -> Result<impl Future<Output = ()> + use<>, ServeError> {
    let decode_len_max = services.entities.intake.admission.decode_len_max();
    let entities =
        EntityServiceServer::new(services.entities).max_decoding_message_size(decode_len_max);
    let health_service = tonic_health::server::HealthService::from_health_reporter(health.clone());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let others = Routes::new(EventServiceServer::new(services.events))
        .add_service(ClusterServiceServer::new(services.cluster))
        .add_service(HealthServer::new(health_service))
        .add_service(reflection)
        .prepare()
        .into_axum_router();
    let services = GatedServices {
        gate: services.gate,
        entities,
        others,
    };
    Ok(http2::serve(
        "client",
        connections,
        services,
        limits,
        stopping,
    ))
}

/// The services behind their gate; cheap to clone.
///
/// Commands do not go through a router with layers: each of these would allocate and
/// clone all that is behind it, for every call, which costs as much as handling the
/// command.
#[derive(Clone)]
pub(crate) struct GatedServices {
    gate: Arc<Gate>,
    entities: EntityServiceServer<EntityService>,
    others: Router,
}

impl GatedServices {
    /// Answers a call, if its client is let in.
    pub(crate) async fn answer(mut self, mut request: Request<Incoming>) -> Response<Body> {
        if let Err(refused) = self.gate.admit(&mut request) {
            return Status::from(refused).into_http();
        }
        let answered = if is_of(ENTITY, request.uri().path()) {
            self.entities.call(request).await
        } else {
            let answered = self.others.oneshot(request).await;
            answered.map(|response| response.map(Body::new))
        };
        match answered {
            Ok(response) => explain(response),
            Err(never) => match never {},
        }
    }
}

/// Whether a path leads to a method of the service of this name.
fn is_of(service: &str, path: &str) -> bool {
    let method = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(service));
    method.is_some_and(|method| method.starts_with('/'))
}

/// Gives the refusal of a message beyond the decode limit the details that all
/// errors of this contract have.
fn explain(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::OutOfRange => explained(status).into_http(),
        _ => response,
    }
}
