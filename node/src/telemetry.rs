//! Logs and traces of the process.
//!
//! Logs are for people on a terminal, JSON lines elsewhere, always on standard error.
//! `RUST_LOG` chooses what is logged; without it, `info` and above, and nothing of the
//! consensus library. What is logged about a command that is traced carries its
//! `trace_id`. Which commands are traced is decided in `telemetry/tracer.rs`, and where
//! traces go in `telemetry/otlp.rs`, if the program is built with the feature `otlp`.

#[cfg(feature = "otlp")]
mod bounded;
#[cfg(feature = "otlp")]
mod otlp;
pub(crate) mod trace_parent;
pub(crate) mod tracer;
#[cfg(feature = "otlp")]
mod traces_only;

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::TelemetrySettings;

/// The library that keeps the raft group calls it an error whenever a node does not
/// answer one of its messages: many times a second while one is down, and in every
/// election. What matters of that, this program says itself.
const DEFAULT: &str = "info,openraft=off";

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Exporting is not built in.
    #[error(
        "telemetry.otlp.endpoint is set, but this program cannot send traces: build it with the \
         feature otlp, or leave the setting empty"
    )]
    NotBuiltIn,
    /// The endpoint cannot be used.
    #[error("traces cannot be sent to {endpoint:?} (telemetry.otlp.endpoint): {message}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Starts logging in this process. Does nothing when somebody else has already.
pub fn start_logging() {
    let log = tracing_subscriber::registry()
        .with(log_filter())
        .with(log());
    let _ = log.try_init();
}

/// Starts logging in this process, and sending traces if there is a place for them.
/// Does nothing when somebody else has already. `instance` names this process among
/// others.
///
/// # Errors
/// [`TelemetryError`]; logging is started all the same.
pub fn start(settings: &TelemetrySettings, instance: &str) -> Result<(), TelemetryError> {
    let Some(endpoint) = &settings.otlp_endpoint else {
        start_logging();
        return Ok(());
    };
    start_both(endpoint, instance).inspect_err(|_| start_logging())
}

/// Sends the traces that wait, at the end of the process.
pub async fn stop() {
    #[cfg(feature = "otlp")]
    if traces_are_exported() {
        // It waits for a thread.
        let _ = tokio::task::spawn_blocking(otlp::stop).await;
    }
}

#[cfg(feature = "otlp")]
fn start_both(endpoint: &str, instance: &str) -> Result<(), TelemetryError> {
    let tracer = otlp::tracer(endpoint, instance).map_err(|error| TelemetryError::Endpoint {
        endpoint: endpoint.to_owned(),
        message: error.to_string(),
    })?;
    let traces = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(traces_only::TracesOnly);
    let log = log().with_filter(log_filter());
    let both = tracing_subscriber::registry().with(log).with(traces);
    let _ = both.try_init();
    Ok(())
}

#[cfg(not(feature = "otlp"))]
fn start_both(_: &str, _: &str) -> Result<(), TelemetryError> {
    Err(TelemetryError::NotBuiltIn)
}

/// Whether traces go anywhere, so that it makes sense to begin one.
#[cfg(feature = "otlp")]
fn traces_are_exported() -> bool {
    otlp::is_exporting()
}

/// Whether traces go anywhere, so that it makes sense to begin one.
#[cfg(not(feature = "otlp"))]
fn traces_are_exported() -> bool {
    false
}

fn log_filter() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT))
}

fn log<S: Subscriber + for<'a> LookupSpan<'a>>() -> Box<dyn Layer<S> + Send + Sync> {
    if std::io::stderr().is_terminal() {
        let log = tracing_subscriber::fmt::layer();
        log.with_writer(std::io::stderr).boxed()
    } else {
        json_log(std::io::stderr).boxed()
    }
}

/// A line says within which spans it was written, the outermost first: that one knows
/// the trace.
fn json_log<S, W>(writer: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .json()
        .flatten_event(true)
        .with_current_span(false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Seek, SeekFrom};
    use std::sync::Arc;

    use perennial_persistence::trace::{TARGET, Trace};
    use tracing::field::Empty;
    use tracing::info_span;

    use super::*;

    #[test]
    fn a_line_about_a_traced_command_says_which_trace() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let log = json_log(Arc::clone(&file)).with_filter(EnvFilter::new(DEFAULT));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            let span = info_span!(target: TARGET, "command", trace_id = Empty);
            span.record("trace_id", "4bf92f35");
            let command = Trace::of(span);
            let step = command.step(|span| info_span!(target: TARGET, parent: span, "recover"));
            command.in_scope(|| tracing::warn!("in the command"));
            step.in_scope(|| tracing::warn!("in a step of it"));
            Trace::NONE.in_scope(|| tracing::warn!("elsewhere"));
        });
        (&*file).seek(SeekFrom::Start(0)).unwrap();
        let written = std::io::read_to_string(&*file).unwrap();
        let trace_ids: Vec<_> = written
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["spans"][0]["trace_id"].as_str().map(str::to_owned)
            })
            .collect();
        let known = Some("4bf92f35".to_owned());
        assert_eq!(trace_ids, [known.clone(), known, None], "{written}");
    }
}
