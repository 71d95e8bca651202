//! How commands and reads enter the node, whoever brings them: gRPC
//! (`grpc/entity_service.rs`, `grpc/command_stream.rs`) or a typed reference in
//! the same process (`entity_ref.rs`).
//!
//! Here are the limits, the metrics and the waiting for an answer; where an
//! entity lives is the region's business, which is the next stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use perennial_persistence::command::{Answer, ReplyTo, Request};
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::payload::CodecId;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::trace::Trace;
use perennial_sharding::region::Region;
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;

use crate::admission::{Admission, InFlight};
use crate::figures::CommandTally;
use crate::grpc::deadline::Deadline;
use crate::grpc::status::reason_of;
use crate::metrics::CommandMetrics;
use crate::telemetry::trace_parent::TraceParent;
use crate::telemetry::tracer::{self, Tracer};

/// An entity type this node serves.
pub(crate) struct ServedType {
    pub(crate) name: &'static str,
    /// What its commands are encoded with.
    pub(crate) command_codec: CodecId,
    pub(crate) metrics: CommandMetrics,
}

/// Where requests enter. One for a node.
pub(crate) struct Intake {
    pub(crate) region: Region,
    pub(crate) admission: Admission,
    tracer: Tracer,
    types: HashMap<&'static str, ServedType>,
    unknown_type: CommandMetrics,
}

impl Intake {
    /// The types are given with the codec of their commands.
    pub(crate) fn new(
        region: Region,
        admission: Admission,
        tracer: Tracer,
        types: impl IntoIterator<Item = (&'static str, CodecId)>,
        tally: &Arc<CommandTally>,
    ) -> Self {
        let served = |(name, command_codec)| {
            let metrics = CommandMetrics::new(name, Arc::clone(tally));
            (
                name,
                ServedType {
                    name,
                    command_codec,
                    metrics,
                },
            )
        };
        Self {
            region,
            admission,
            tracer,
            types: types.into_iter().map(served).collect(),
            // One label for all wrong names: labels must not be up to clients.
            unknown_type: CommandMetrics::new("unknown", Arc::clone(tally)),
        }
    }

    /// The type of this name.
    ///
    /// # Errors
    /// [`CommandError::EntityTypeUnknown`].
    pub(crate) fn served_type(&self, name: &str) -> Result<&ServedType, CommandError> {
        self.types
            .get(name)
            .ok_or_else(|| CommandError::EntityTypeUnknown {
                entity_type: name.chars().take(80).collect(),
            })
    }

    /// The names of all types, in order.
    pub(crate) fn type_names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.types.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// Counts a command that was refused before it was handed on.
    pub(crate) fn refused(&self, entity_type: &str, reason: &str) {
        self.types
            .get(entity_type)
            .map_or(&self.unknown_type, |served| &served.metrics)
            .refused(reason);
    }

    /// Of the trace a call belongs to, if this node's part of it goes anywhere.
    pub(crate) fn trace_parent(&self, metadata: &MetadataMap) -> Option<TraceParent> {
        match self.tracer.is_on() {
            true => TraceParent::of_call(metadata),
            false => None,
        }
    }

    /// The trace of a request that a client sent; mostly none.
    pub(crate) fn trace(
        &self,
        parent: Option<TraceParent>,
        persistence_id: &PersistenceId,
        request: &Request,
    ) -> Trace {
        let shard = || self.region.shard_of(persistence_id);
        self.tracer.begin(parent, persistence_id, shard, request)
    }

    /// Sends a command and waits for its answer, at most until the deadline.
    pub(crate) async fn command(
        &self,
        served: &ServedType,
        persistence_id: PersistenceId,
        request: Request,
        deadline: Option<Deadline>,
        parent: Option<TraceParent>,
    ) -> Answer {
        let started = Instant::now();
        let answer = self.ask(persistence_id, request, deadline, parent).await;
        served.metrics.answered(&answer, started.elapsed());
        answer
    }

    /// Sends a request and waits for its answer, at most until the deadline.
    ///
    /// Dropping the future stops the waiting only: the request is in work until
    /// its answer exists, and counts as in flight until then.
    pub(crate) async fn ask(
        &self,
        persistence_id: PersistenceId,
        request: Request,
        deadline: Option<Deadline>,
        parent: Option<TraceParent>,
    ) -> Answer {
        let in_flight = self.admission.admit()?;
        let trace = self.trace(parent, &persistence_id, &request);
        let delivered = trace.clone();
        let region = &self.region;
        let Some(Deadline(at)) = deadline else {
            let (reply_to, receiver) = ReplyTo::ask();
            region.deliver_traced(persistence_id, request, None, reply_to, delivered);
            let answer = Unanswered::new(receiver, in_flight).answer().await;
            return end_trace(&trace, answer);
        };
        let (reply_to, receiver, handling) = ReplyTo::ask_for_a_time();
        region.deliver_traced(persistence_id, request, Some(at), reply_to, delivered);
        let mut unanswered = Unanswered::new(receiver, in_flight);
        // An answer that is there when the deadline passes is given.
        let answer = match tokio::time::timeout_at(at.into(), unanswered.answer()).await {
            Ok(answer) => answer,
            Err(_) => Err(CommandError::DeadlineExceeded {
                applied: match handling.give_up() {
                    true => Applied::No,
                    false => Applied::Unknown,
                },
            }),
        };
        end_trace(&trace, answer)
    }

    /// Sends a command nobody waits for. It is bounded by its entity's stash
    /// alone, because nothing tells when it is done.
    pub(crate) fn tell(&self, persistence_id: PersistenceId, request: Request) {
        self.region
            .deliver(persistence_id, request, None, ReplyTo::Nobody);
    }
}

/// Writes into a trace what came of its request.
pub(crate) fn end_trace(trace: &Trace, answer: Answer) -> Answer {
    if trace.span().is_some() {
        let (outcome, failed) = match &answer {
            Ok(reply) if reply.duplicate => ("duplicate", false),
            Ok(_) => ("replied", false),
            Err(error @ CommandError::Rejected { .. }) => (reason_of(error), false),
            Err(error) => (reason_of(error), true),
        };
        tracer::ended(trace, outcome, failed);
    }
    answer
}

/// A request handed on, whose answer is not here yet. If the one who waits goes
/// away first, a task takes over, so that the request counts until it is done.
struct Unanswered {
    waiting: Option<(oneshot::Receiver<Answer>, InFlight)>,
}

impl Unanswered {
    fn new(receiver: oneshot::Receiver<Answer>, in_flight: InFlight) -> Self {
        Self {
            waiting: Some((receiver, in_flight)),
        }
    }

    async fn answer(&mut self) -> Answer {
        let answer = match &mut self.waiting {
            Some((receiver, _)) => receiver.await.ok(),
            None => None,
        };
        self.waiting = None;
        // Without an answer only a bug of the engine ends the waiting; what
        // became of the command is not known then.
        answer.unwrap_or(Err(CommandError::OwnerLost))
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some((receiver, in_flight)) = self.waiting.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = receiver.await;
                drop(in_flight);
            });
        }
    }
}
