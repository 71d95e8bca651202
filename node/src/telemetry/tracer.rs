//! Which commands are traced, and how a trace begins and goes on in this process.
//!
//! The choice is made once, where a command enters the cluster: one that comes with a
//! `traceparent` is traced if that says so, others by chance. A command that is not
//! chosen costs a comparison. The steps on its way are spans of other crates; see
//! `trace.rs` of the persistence crate.

use perennial_persistence::command::Request;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::trace::{TARGET, Trace};
use perennial_persistence::writer::ShardNr;
use tracing::field::Empty;
use tracing::{Span, info_span};

use super::trace_parent::TraceParent;

/// Begins traces; one for a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tracer {
    node: NodeNr,
    /// Of the commands that come without a trace; `None` when traces go nowhere.
    share: Option<f64>,
}

impl Tracer {
    /// Of a node that traces this share of its commands, if traces go anywhere.
    pub(crate) fn new(node: NodeNr, share: f64) -> Self {
        Self {
            node,
            share: super::traces_are_exported().then_some(share),
        }
    }

    /// Whether traces go anywhere.
    pub(crate) fn is_on(&self) -> bool {
        self.share.is_some()
    }

    /// The trace of a request that enters the cluster here; mostly none.
    pub(crate) fn begin(
        &self,
        parent: Option<TraceParent>,
        persistence_id: &PersistenceId,
        shard: impl FnOnce() -> ShardNr,
        request: &Request,
    ) -> Trace {
        let Some(share) = self.share else {
            return Trace::NONE;
        };
        if !is_chosen(parent, share, rand::random) {
            return Trace::NONE;
        }
        let span = info_span!(
            target: TARGET,
            parent: None,
            "command",
            otel.kind = "server",
            otel.status_code = Empty,
            perennial.node = self.node.0,
            perennial.entity = %persistence_id,
            perennial.shard = shard().0,
            perennial.command_id = request.command_id().map(tracing::field::display),
            perennial.reads = matches!(request, Request::State),
            perennial.outcome = Empty,
            trace_id = Empty,
        );
        begun(span, parent)
    }
}

/// What a traced request came to.
pub(crate) fn ended(trace: &Trace, outcome: &str, failed: bool) {
    if let Some(span) = trace.span() {
        span.record("perennial.outcome", outcome);
        if failed {
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// The trace of a request that another node sent, as its frame has it; empty for none.
pub(crate) fn sent_on(traceparent: &str, persistence_id: &PersistenceId) -> Trace {
    if traceparent.is_empty() || !super::traces_are_exported() {
        return Trace::NONE;
    }
    let Some(parent) = TraceParent::parse(traceparent).filter(|parent| parent.sampled) else {
        return Trace::NONE;
    };
    let span = info_span!(
        target: TARGET,
        parent: None,
        "serve",
        otel.kind = "server",
        perennial.node = Empty,
        perennial.entity = %persistence_id,
        trace_id = Empty,
    );
    begun(span, Some(parent))
}

/// For the frame to another node; empty for none.
pub(crate) fn to_send(trace: &Trace) -> String {
    let parent = trace.span().and_then(parent_in);
    parent.map_or_else(String::new, |parent| parent.to_string())
}

fn is_chosen(parent: Option<TraceParent>, share: f64, luck: impl FnOnce() -> f64) -> bool {
    match parent {
        Some(parent) => parent.sampled,
        None => share > 0.0 && luck() < share,
    }
}

#[cfg(feature = "otlp")]
fn begun(span: Span, parent: Option<TraceParent>) -> Trace {
    super::otlp::connect(&span, parent);
    Trace::of(span)
}

#[cfg(feature = "otlp")]
fn parent_in(span: &Span) -> Option<TraceParent> {
    super::otlp::parent_in(span)
}

#[cfg(not(feature = "otlp"))]
fn begun(span: Span, _: Option<TraceParent>) -> Trace {
    Trace::of(span)
}

#[cfg(not(feature = "otlp"))]
fn parent_in(_: &Span) -> Option<TraceParent> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(sampled: bool) -> Option<TraceParent> {
        Some(TraceParent {
            trace_id: [1; 16],
            span_id: [2; 8],
            sampled,
        })
    }

    #[test]
    fn the_client_decides_and_chance_where_it_does_not() {
        for share in [0.0, 0.5, 1.0] {
            assert!(is_chosen(parent(true), share, || 0.99));
            assert!(!is_chosen(parent(false), share, || 0.0));
        }
        assert!(is_chosen(None, 0.5, || 0.49));
        assert!(!is_chosen(None, 0.5, || 0.5));
        assert!(is_chosen(None, 1.0, || 0.999_999));
        assert!(!is_chosen(None, 0.0, || 0.0));
    }
}
