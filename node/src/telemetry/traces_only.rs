//! Lets spans of traces through to the collector, and nothing else.

use perennial_persistence::trace::TARGET;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// A filter of one layer. It is asked anew for each span, although its answer never
/// changes: which layers want a span is kept for the thread when they are asked, and
/// what they said about something else stays there when that never came to be. The
/// database driver asks so about each statement, and a span whose layers are not asked
/// because they always want it is then taken for one they do not want.
pub(super) struct TracesOnly;

impl<S: Subscriber> Filter<S> for TracesOnly {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        metadata.target() == TARGET
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == TARGET {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::span::{Attributes, Id};
    use tracing::{debug_span, info, info_span};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{EnvFilter, Layer};

    use super::*;

    /// The names of the spans, and `event` for each event, that came through.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<&'static str>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_new_span(&self, span: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
            self.0.lock().unwrap().push(span.metadata().name());
        }

        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push("event");
        }
    }

    #[test]
    fn a_question_about_something_else_takes_no_span_away() {
        let anything = tracing_subscriber::registry();
        let statement = tracing::subscriber::with_default(anything, || {
            debug_span!("statement").metadata().unwrap()
        });
        let (logged, traced) = (Seen::default(), Seen::default());
        let both = tracing_subscriber::registry()
            .with(logged.clone().with_filter(EnvFilter::new("info")))
            .with(traced.clone().with_filter(TracesOnly));
        tracing::subscriber::with_default(both, || {
            for _ in 0..2 {
                tracing::dispatcher::get_default(|it| it.enabled(statement));
                drop(info_span!(target: TARGET, "command"));
                info!("logged");
            }
        });
        assert_eq!(*traced.0.lock().unwrap(), ["command", "command"]);
        let logged = logged.0.lock().unwrap();
        assert_eq!(*logged, ["command", "event", "command", "event"]);
    }
}
