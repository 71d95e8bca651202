//! The status page at the HTTP port: the cluster as a picture, and an entity
//! inspector. For people with a browser; programs have metrics and gRPC.
//!
//! Everything is rendered here and read-only. A small script fetches the changing part
//! of the page again; without it the browser reloads the page. Where it may be looked at
//! is decided in `access.rs`, who may look by the rules for clients (`auth.rs`): both are
//! asked in one place, [`guarded`], and the rights to an entity where it is shown. What is shown comes from
//! `overview.rs` (the cluster) and `inspection.rs` (one entity); the rest is markup,
//! in which maud escapes whatever comes from outside.

mod access;
mod cluster_page;
mod entity_page;
mod indented;
mod inspection;
mod layout;
mod overview;
mod shard_picture;
mod shown;

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use axum::extract::{Query, Request, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use maud::Markup;
use perennial_persistence::journal::Journal;

use self::access::{Refused, Visitor, may_see};
use self::inspection::{Asked, Inspector};
use self::overview::Observer;
use crate::auth::denials::{count_denied, count_unknown};
use crate::auth::{Access, Caller, Denied, Right};
use crate::connections::protection::{ConnectionFacts, Protection};
use crate::intake::Intake;
use crate::node::cluster_view::ClusterView;
use crate::tls::client_certificate::ClientCertificate;

/// Read once by a browser, and again when the program changes.
const STYLE: &str = include_str!("status_page/page.css");
const SCRIPT: &str = include_str!("status_page/page.js");
const ICON: &str = include_str!("status_page/icon.svg");

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const SECURITY_HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// What the page shows, once the node has it; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct StatusPage(Arc<OnceLock<Sources>>);

struct Sources {
    observer: Observer,
    inspector: Inspector,
}

impl StatusPage {
    /// From now on there is something to show.
    pub(crate) fn open(&self, view: ClusterView, intake: Arc<Intake>, journal: Arc<dyn Journal>) {
        let sources = Sources {
            observer: Observer::new(view),
            inspector: Inspector::new(intake, journal),
        };
        // A node is put together once.
        let _ = self.0.set(sources);
    }
}

/// The page and what belongs to it.
pub(crate) fn router(page: StatusPage, access: Arc<Access>) -> Router {
    Router::new()
        .route("/", get(cluster))
        .route("/live", get(live))
        .route("/entity", get(entity))
        .route("/page.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route(
            "/page.js",
            get(|| asset("text/javascript; charset=utf-8", SCRIPT)),
        )
        .route("/icon.svg", get(|| asset("image/svg+xml", ICON)))
        // Not of what is not here: the port has other pages.
        .route_layer(middleware::from_fn_with_state(access, guarded))
        .with_state(page)
}

/// The one place where it is asked who may see all this; adds the headers that keep
/// browsers from showing it to others.
async fn guarded(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let facts = request.extensions().get::<ConnectionFacts>();
    let host = request.headers().get(header::HOST);
    let visitor = Visitor {
        protection: facts.map_or(Protection::Open, |facts| facts.protection),
        host: host.and_then(|host| host.to_str().ok()),
    };
    let known = match may_see(&visitor) {
        Ok(()) => known(&access, &request),
        Err(refused) => Err(Box::new(refused.into_response())),
    };
    let mut response = match known {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refused) => *refused,
    };
    for (name, value) in SECURITY_HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Who looks; the cluster is for those who may see it.
fn known(access: &Access, request: &Request) -> Result<Arc<Caller>, Box<Response>> {
    let certificate = request.extensions().get::<ClientCertificate>();
    let caller = access.authorize_http(request.headers(), certificate, now());
    let caller = caller.map_err(|error| {
        count_unknown(error);
        Box::new(error.into_response())
    })?;
    if ["/", "/live"].contains(&request.uri().path()) {
        let may = caller.may_somewhere(Right::Status);
        may.map_err(|denied| Box::new(not_allowed(&denied)))?;
    }
    Ok(caller)
}

/// Whether the caller may see what it asks for: a list needs `read`, an entity its events
/// too.
fn may_inspect(caller: &Caller, asked: &Asked) -> Result<(), Denied> {
    if asked.entity_type.is_empty() {
        return Ok(());
    }
    caller.may(Right::Read, &asked.entity_type)?;
    if asked.id.is_empty() {
        return Ok(());
    }
    caller.may(Right::Events, &asked.entity_type)
}

fn not_allowed(denied: &Denied) -> Response {
    count_denied(denied);
    let page = layout::message("Not for you", &denied.to_string());
    (StatusCode::FORBIDDEN, page).into_response()
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let page = layout::message("Not from here", &self.to_string());
        (StatusCode::FORBIDDEN, page).into_response()
    }
}

async fn cluster(State(page): State<StatusPage>) -> Response {
    match page.0.get() {
        Some(sources) => {
            let overview = sources.observer.look().await;
            cluster_page::page(&overview).into_response()
        }
        None => starting(),
    }
}

/// The part of the page that changes.
async fn live(State(page): State<StatusPage>) -> Response {
    match page.0.get() {
        Some(sources) => {
            let overview = sources.observer.look().await;
            cluster_page::live(&overview).into_response()
        }
        None => starting(),
    }
}

async fn entity(
    State(page): State<StatusPage>,
    Extension(caller): Extension<Arc<Caller>>,
    Query(asked): Query<Asked>,
) -> Response {
    if let Err(denied) = may_inspect(&caller, &asked) {
        return not_allowed(&denied);
    }
    let Some(sources) = page.0.get() else {
        return starting();
    };
    let inspector = &sources.inspector;
    let mut types = inspector.type_names();
    types.retain(|name| caller.may(Right::Read, name).is_ok());
    let shown = match inspector.inspect(&asked).await {
        Ok(found) => (StatusCode::OK, entity_page::page(&asked, &types, &found)),
        Err(error) => (error.status(), entity_page::failed(&asked, &types, &error)),
    };
    shown.into_response()
}

fn starting() -> Response {
    let text = "It looks for its cluster, or for its journal: the log says more. This page appears \
                when it has found them.";
    let page: Markup = layout::message("This node is starting", text);
    (StatusCode::SERVICE_UNAVAILABLE, page).into_response()
}

async fn asset(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, content_type)], text)
}

/// The clock of the page.
fn now() -> SystemTime {
    SystemTime::now()
}
