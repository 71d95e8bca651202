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
use perennial_sharding::region::Region;
use tokio::sync::oneshot;
use tracing::Instrument;

use crate::admission::{Admission, InFlight};
use crate::figures::CommandTally;
use crate::grpc::deadline::Deadline;
use crate::metrics::CommandMetrics;

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
    types: HashMap<&'static str, ServedType>,
    unknown_type: CommandMetrics,
}

impl Intake {
    /// The types are given with the codec of their commands.
    pub(crate) fn new(
        region: Region,
        admission: Admission,
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

    /// Sends a command and waits for its answer, at most until the deadline.
    pub(crate) async fn command(
        &self,
        served: &ServedType,
        persistence_id: PersistenceId,
        request: Request,
        deadline: Option<Deadline>,
    ) -> Answer {
        let started = Instant::now();
        let span = tracing::debug_span!(
            "command",
            entity = %persistence_id,
            shard = %self.region.shard_of(&persistence_id),
            command = request.command_id().map(tracing::field::display),
        );
        let asked = self.ask(persistence_id, request, deadline);
        let answer = asked.instrument(span).await;
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
    ) -> Answer {
        let in_flight = self.admission.admit()?;
        let Some(Deadline(at)) = deadline else {
            let (reply_to, receiver) = ReplyTo::ask();
            self.region.deliver(persistence_id, request, None, reply_to);
            return Unanswered::new(receiver, in_flight).answer().await;
        };
        let (reply_to, receiver, handling) = ReplyTo::ask_for_a_time();
        self.region
            .deliver(persistence_id, request, Some(at), reply_to);
        let mut unanswered = Unanswered::new(receiver, in_flight);
        // An answer that is there when the deadline passes is given.
        match tokio::time::timeout_at(at.into(), unanswered.answer()).await {
            Ok(answer) => answer,
            Err(_) => Err(CommandError::DeadlineExceeded {
                applied: match handling.give_up() {
                    true => Applied::No,
                    false => Applied::Unknown,
                },
            }),
        }
    }

    /// Sends a command nobody waits for. It is bounded by its entity's stash
    /// alone, because nothing tells when it is done.
    pub(crate) fn tell(&self, persistence_id: PersistenceId, request: Request) {
        self.region
            .deliver(persistence_id, request, None, ReplyTo::Nobody);
    }
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
