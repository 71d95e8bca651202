//! The HTTP port: `/livez`, `/readyz` and `/metrics`, in which there is no entity data, so
//! that probes and scrapers need no rights; and the status page, which has its own idea
//! of who may see it. Next: `status_page.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::auth::Access;
use crate::node::engine_place::EnginePlace;
use crate::status_page::{self, StatusPage};

/// Whether the node takes commands; false while it starts and once it stops.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Returns what it was before.
    pub(crate) fn set(&self, ready: bool) -> bool {
        self.0.swap(ready, Ordering::Relaxed)
    }

    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Shown {
    readiness: Readiness,
    metrics: PrometheusHandle,
    engine: EnginePlace,
}

/// The pages of the HTTP port.
pub(crate) fn router(
    readiness: Readiness,
    metrics: PrometheusHandle,
    engine: EnginePlace,
    status_page: StatusPage,
    access: Arc<Access>,
) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Shown {
            readiness,
            metrics,
            engine,
        })
        .merge(status_page::router(status_page, access))
}

async fn readyz(State(shown): State<Shown>) -> impl IntoResponse {
    if shown.readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "starting, rejoining or stopping\n",
        )
    }
}

async fn metrics_text(State(shown): State<Shown>) -> impl IntoResponse {
    gauge!("perennial_live_entities").set(shown.engine.live_entities() as f64);
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (content_type, shown.metrics.render())
}
