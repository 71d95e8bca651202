//! A bounded queue of spans on their way to the collector, whose losses are counted.
//!
//! The library's own batches do the work; it keeps to itself how much it drops, so
//! what waits is counted around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Counter, counter};
use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfig, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};

const DROPPED: &str = "perennial_trace_spans_dropped_total";

/// Spans that ended and are to be sent.
#[derive(Debug)]
pub(super) struct Bounded {
    batches: BatchSpanProcessor,
    /// Spans that ended and are not being sent yet.
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
}

impl Bounded {
    /// Sends spans with an exporter, of which `waiting_max` wait at most, beside those of
    /// the batch being sent. `config` must have a queue of at least that size.
    pub(super) fn new(
        exporter: impl SpanExporter + 'static,
        config: BatchConfig,
        waiting_max: usize,
    ) -> Self {
        let waiting = Arc::new(AtomicUsize::new(0));
        let sending = Sending {
            exporter,
            waiting: Arc::clone(&waiting),
            is_failing: AtomicBool::new(false),
        };
        let batches = BatchSpanProcessor::builder(sending).with_batch_config(config);
        Self {
            batches: batches.build(),
            waiting,
            waiting_max,
        }
    }
}

// The handle is asked for with each loss, which is seldom: the recorder of the process
// is installed after the first of these is made.
fn dropped(reason: &'static str) -> Counter {
    counter!(DROPPED, "reason" => reason)
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        let free = |waiting: usize| (waiting < self.waiting_max).then_some(waiting + 1);
        let counted = self
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, free);
        match counted {
            Ok(_) => self.batches.on_end(span),
            Err(_) => dropped("queue_full").increment(1),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// An exporter that says what it could not send.
#[derive(Debug)]
struct Sending<E> {
    exporter: E,
    waiting: Arc<AtomicUsize>,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Sending<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        let sent = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) => {
                dropped("not_sent").increment(count as u64);
                if !was_failing {
                    tracing::warn!(%error, "traces cannot be sent to the collector, and are lost until they can: see telemetry.otlp.endpoint, and the collector there");
                }
            }
            Ok(()) if was_failing => tracing::info!("traces are sent to the collector again"),
            Ok(()) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::sync::{Mutex, MutexGuard};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::trace::{BatchConfigBuilder, SdkTracerProvider};

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    /// Says how many spans it was given, and ends as it is told.
    #[derive(Debug)]
    struct Told {
        given: SyncSender<usize>,
        ends: Mutex<Receiver<OTelSdkResult>>,
    }

    impl Told {
        fn ends(&self) -> MutexGuard<'_, Receiver<OTelSdkResult>> {
            self.ends.lock().unwrap()
        }
    }

    impl SpanExporter for Told {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.given.send(batch.len()).unwrap();
            self.ends().recv().unwrap()
        }
    }

    #[test]
    fn a_slow_collector_gets_what_fits_and_the_rest_is_dropped() {
        const FIT: usize = 4;
        let (given, batches) = sync_channel(16);
        let (end, ends) = sync_channel(16);
        let exporter = Told {
            given,
            ends: Mutex::new(ends),
        };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(FIT)
            .with_max_export_batch_size(1)
            .build();
        let bounded = Bounded::new(exporter, config, FIT);
        let waiting = Arc::clone(&bounded.waiting);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(bounded)
            .build();
        let tracer = provider.tracer("test");
        let ended = || tracer.start("a").end();

        // The first is being sent, and does not end.
        ended();
        assert_eq!(batches.recv_timeout(SOON).unwrap(), 1);
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || (0..FIT + 3).for_each(|_| ended()));
        let said = recorder.handle().render();
        assert!(said.contains("{reason=\"queue_full\"} 3"), "{said}");
        assert_eq!(waiting.load(Ordering::Relaxed), FIT);
        // It fails, which takes none of the others along.
        let failed = OTelSdkError::InternalFailure("gone".to_owned());
        end.send(Err(failed)).unwrap();
        for _ in 0..FIT {
            assert_eq!(batches.recv_timeout(SOON).unwrap(), 1);
            end.send(Ok(())).unwrap();
        }
        provider.shutdown().unwrap();
        assert!(batches.try_recv().is_err(), "the others were dropped");
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }
}
