//! Sends traces to an OpenTelemetry collector, by OTLP over gRPC.
//!
//! Spans wait in a bounded queue and go out in batches, by a thread of their own; when
//! the collector does not keep up, spans are dropped and counted, and commands do not
//! notice: `telemetry/bounded.rs`. Only these two know OpenTelemetry's types.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, Sampler, SdkTracer, SdkTracerProvider};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::bounded::Bounded;
use super::trace_parent::TraceParent;

/// Spans that wait to be sent; further ones are dropped.
const QUEUE_MAX: usize = 8_192;
/// Spans sent at once.
const BATCH_MAX: usize = 512;
/// How long a span waits for others.
const SEND_INTERVAL: Duration = Duration::from_secs(1);
/// How long the collector may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans may take when the process ends.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Whether traces go anywhere.
pub(super) fn is_exporting() -> bool {
    PROVIDER.get().is_some()
}

/// Begins to send traces; once for a process, whose later calls get the same.
/// `instance` names this process among others. Needs a tokio runtime.
pub(super) fn tracer(endpoint: &str, instance: &str) -> Result<SdkTracer, ExporterBuildError> {
    if let Some(provider) = PROVIDER.get() {
        return Ok(provider.tracer("perennial"));
    }
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(SEND_TIMEOUT);
    if endpoint.starts_with("https:") {
        exporter = exporter.with_tls_config(ClientTlsConfig::new().with_native_roots());
    }
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_MAX)
        .with_max_export_batch_size(BATCH_MAX)
        .with_scheduled_delay(SEND_INTERVAL)
        .build();
    let resource = Resource::builder()
        .with_service_name("perennial")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", instance.to_owned()),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ])
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(Bounded::new(exporter.build()?, batches, QUEUE_MAX))
        // What is not to be traced has no spans.
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .build();
    Ok(PROVIDER.get_or_init(|| provider).tracer("perennial"))
}

/// Sends what waits, and nothing after it. Blocks for a moment.
pub(super) fn stop() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown_with_timeout(FAREWELL_MAX)
    {
        tracing::debug!(%error, "the last spans were not sent");
    }
}

/// Makes a span a child of one in another process, and lets the log say to which trace
/// it belongs.
pub(super) fn connect(span: &Span, parent: Option<TraceParent>) {
    if let Some(parent) = parent {
        let remote = SpanContext::new(
            TraceId::from_bytes(parent.trace_id),
            SpanId::from_bytes(parent.span_id),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        // Fails for spans that nobody listens to.
        let _ = span.set_parent(Context::new().with_remote_span_context(remote));
    }
    let context = span.context();
    let trace_id = context.span().span_context().trace_id();
    if trace_id != TraceId::INVALID {
        span.record("trace_id", tracing::field::display(trace_id));
    }
}

/// By which a process elsewhere goes on with a span's trace.
pub(super) fn parent_in(span: &Span) -> Option<TraceParent> {
    let context = span.context();
    let span = context.span();
    let context = span.span_context();
    context.is_valid().then(|| TraceParent {
        trace_id: context.trace_id().to_bytes(),
        span_id: context.span_id().to_bytes(),
        sampled: context.is_sampled(),
    })
}
