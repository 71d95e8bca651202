//! `SendStream`: many commands under way at once on one stream.
//!
//! One task for a stream reads requests and passes answers on; a command costs
//! no task of its own. Everything is reserved before a request is read: the
//! place of its answer, the place of its response. So answering never waits, a
//! client that does not read its responses is not read from either, and at most
//! [`OUTSTANDING_MAX`] commands of a stream are between request and response.
//!
//! Responses to one entity come in the order of its requests. The engine answers
//! an entity in order; refusals made here wait for the answers before them.

use std::sync::Arc;
use std::time::Instant;

use perennial_persistence::command::{Answer, ReplyTo};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::trace::Trace;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::client::Client;
use super::deadline::Deadline;
use super::entity_service::response_of;
use super::paced::CutOff;
use super::request::{ParsedCommand, parse_command};
use super::status::{ServiceError, explained, message_of, status_of};
use crate::admission::InFlight;
use crate::auth::Right;
use crate::intake::{Intake, end_trace};
use crate::proto::v1::{SendRequest, SendResponse};
use crate::telemetry::trace_parent::TraceParent;

/// Commands of one stream that may be between request and response.
pub(super) const OUTSTANDING_MAX: usize = 1024;
/// Answers taken from the queue at once.
const ANSWERS_AT_ONCE: usize = 256;

type ResponsePlace = mpsc::OwnedPermit<Result<SendResponse, Status>>;

/// One stream of commands.
pub(super) struct CommandStream {
    intake: Arc<Intake>,
    client: Client,
    deadline: Option<Deadline>,
    parent: Option<TraceParent>,
    responses: mpsc::Sender<Result<SendResponse, Status>>,
    cut_off: CutOff<SendResponse>,
    /// Where the engine puts answers, with the index of the command's slot.
    answers: mpsc::Sender<(u64, Answer)>,
    answered: mpsc::Receiver<(u64, Answer)>,
    slots: Slots,
    /// Refusals that wait for answers before them; nearly always empty.
    held: Vec<Refusal>,
    /// Counts the requests, to tell earlier from later.
    next_request_nr: u64,
}

/// A command under way.
struct Slot {
    request_nr: u64,
    correlation_id: u64,
    persistence_id: PersistenceId,
    place: ResponsePlace,
    started: Instant,
    entity_type: &'static str,
    trace: Trace,
    _in_flight: InFlight,
}

/// A command that was not handed on.
struct Refusal {
    request_nr: u64,
    entity_type: String,
    entity_id: String,
    response: SendResponse,
    place: ResponsePlace,
}

impl CommandStream {
    pub(super) fn new(
        intake: Arc<Intake>,
        client: Client,
        responses: mpsc::Sender<Result<SendResponse, Status>>,
        cut_off: CutOff<SendResponse>,
        deadline: Option<Deadline>,
        parent: Option<TraceParent>,
    ) -> Self {
        let (answers, answered) = mpsc::channel(OUTSTANDING_MAX);
        Self {
            intake,
            client,
            deadline,
            parent,
            responses,
            cut_off,
            answers,
            answered,
            slots: Slots::default(),
            held: Vec::new(),
            next_request_nr: 0,
        }
    }

    /// Runs until the client has sent all and every command is answered. When
    /// the client goes away, its token expires or the node stops, nothing more is
    /// read, but what was read is finished.
    pub(super) async fn run(
        mut self,
        mut requests: Streaming<SendRequest>,
        stopping: CancellationToken,
    ) {
        let stopped = stopping.cancelled();
        let expired = self.client.validity().over();
        tokio::pin!(stopped, expired);
        let mut reading = true;
        let mut last_status = None;
        let mut free_place: Option<ResponsePlace> = None;
        let mut batch = Vec::new();
        while reading || !self.slots.is_empty() {
            if reading && free_place.is_none() {
                free_place = self.responses.clone().try_reserve_owned().ok();
            }
            // All branches can be dropped half-way without losing anything:
            // receiving and reserving are cancel-safe, and a request that is not
            // complete yet stays in the decoder.
            tokio::select! {
                biased;
                _ = self.answered.recv_many(&mut batch, ANSWERS_AT_ONCE), if !self.slots.is_empty() => {
                    for (slot, answer) in batch.drain(..) {
                        self.respond(slot, answer);
                    }
                }
                () = &mut stopped, if reading => {
                    reading = false;
                    // For the commands that were sent and not read: they can
                    // safely be sent again.
                    last_status = Some(ServiceError::Stopping.into());
                }
                error = &mut expired, if reading => {
                    reading = false;
                    last_status = Some(error.into());
                }
                place = self.responses.clone().reserve_owned(), if reading && free_place.is_none() => {
                    // Fails when the client is gone.
                    reading = place.is_ok();
                    free_place = place.ok();
                }
                // All is answered and no answer is read: its places are all taken.
                () = async { tokio::time::sleep(self.cut_off.after()).await }, if reading && free_place.is_none() && self.slots.is_empty() => {
                    self.cut_off.cut_off();
                    return;
                }
                request = requests.message(), if reading && free_place.is_some() => {
                    match (request, free_place.take()) {
                        (Ok(Some(request)), Some(place)) => self.accept(request, place),
                        (Ok(_), _) => reading = false,
                        (Err(status), _) => {
                            reading = false;
                            last_status = Some(explained(status));
                        }
                    }
                }
            }
        }
        if let Some(status) = last_status {
            // A client that is gone needs no status.
            let told = self.responses.send(Err(status));
            if tokio::time::timeout(self.cut_off.after(), told)
                .await
                .is_err()
            {
                self.cut_off.cut_off();
            }
        }
        // What is answered is not read yet.
        let Self {
            responses,
            slots,
            held,
            cut_off,
            ..
        } = self;
        drop((responses, slots, held));
        cut_off.keep_until_read();
    }

    /// Hands a command on, or refuses it.
    fn accept(&mut self, mut send: SendRequest, place: ResponsePlace) {
        let request_nr = self.next_request_nr;
        self.next_request_nr += 1;
        if let Err((error, place)) = self.hand_on(&mut send, request_nr, place) {
            self.intake.refused(&send.entity_type, error.reason());
            let response = SendResponse {
                correlation_id: send.correlation_id,
                status: Some(message_of(&error.into())),
                ..SendResponse::default()
            };
            self.refuse(Refusal {
                request_nr,
                entity_type: send.entity_type,
                entity_id: send.entity_id,
                response,
                place,
            });
        }
    }

    fn hand_on(
        &mut self,
        send: &mut SendRequest,
        request_nr: u64,
        place: ResponsePlace,
    ) -> Result<(), (ServiceError, ResponsePlace)> {
        let intake = Arc::clone(&self.intake);
        let allowed = self.client.may(Right::Send, &send.entity_type);
        let parsed = match allowed.and_then(|()| parse_command(&intake, send)) {
            Ok(parsed) => parsed,
            Err(error) => return Err((error, place)),
        };
        let in_flight = match intake.admission.admit() {
            Ok(in_flight) => in_flight,
            Err(error) => return Err((error.into(), place)),
        };
        let ParsedCommand {
            served,
            persistence_id,
            request,
        } = parsed;
        // There is one place for each response place, and this command has one.
        let Ok(answer_place) = self.answers.clone().try_reserve_owned() else {
            let limit = OUTSTANDING_MAX;
            return Err((CommandError::Overloaded { limit }.into(), place));
        };
        let trace = intake.trace(self.parent, &persistence_id, &request);
        let slot = self.slots.insert(Slot {
            request_nr,
            correlation_id: send.correlation_id,
            persistence_id: persistence_id.clone(),
            place,
            started: Instant::now(),
            entity_type: served.name,
            trace: trace.clone(),
            _in_flight: in_flight,
        });
        let reply_to = ReplyTo::Stream {
            place: answer_place,
            correlation_id: slot,
        };
        let deadline = self.deadline.map(|Deadline(at)| at);
        let region = &intake.region;
        region.deliver_traced(persistence_id, request, deadline, reply_to, trace);
        Ok(())
    }

    /// Passes an answer on; refusals before and after it keep their place.
    fn respond(&mut self, slot: u64, answer: Answer) {
        let Some(slot) = self.slots.remove(slot) else {
            return;
        };
        if let Ok(served) = self.intake.served_type(slot.entity_type) {
            served.metrics.answered(&answer, slot.started.elapsed());
        }
        if !self.held.is_empty() {
            self.release(&slot.persistence_id, slot.request_nr);
        }
        let answer = end_trace(&slot.trace, answer);
        let mut response = answer.map_or_else(
            |error| SendResponse {
                status: Some(message_of(&status_of(error))),
                ..SendResponse::default()
            },
            response_of,
        );
        response.correlation_id = slot.correlation_id;
        slot.place.send(Ok(response));
        if !self.held.is_empty() {
            let id = &slot.persistence_id;
            let next = self
                .slots
                .first_of(id.entity_type(), id.entity_id())
                .unwrap_or(u64::MAX);
            self.release(id, next);
        }
    }

    /// Answers a refusal now, or after the answers it must wait for.
    fn refuse(&mut self, refusal: Refusal) {
        let under_way = self
            .slots
            .first_of(&refusal.entity_type, &refusal.entity_id);
        if under_way.is_some() {
            self.held.push(refusal);
        } else {
            refusal.place.send(Ok(refusal.response));
        }
    }

    /// Answers the refusals of an entity made before a request.
    fn release(&mut self, persistence_id: &PersistenceId, before: u64) {
        let due = |refusal: &mut Refusal| {
            refusal.request_nr < before
                && refusal.entity_type == persistence_id.entity_type()
                && refusal.entity_id == persistence_id.entity_id()
        };
        for refusal in self.held.extract_if(.., due) {
            refusal.place.send(Ok(refusal.response));
        }
    }
}

/// The commands under way, by small numbers that are used again.
#[derive(Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

impl Slots {
    fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    fn insert(&mut self, slot: Slot) -> u64 {
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index] = Some(slot);
                index
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        };
        index as u64
    }

    fn remove(&mut self, index: u64) -> Option<Slot> {
        let index = usize::try_from(index).ok()?;
        let slot = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(slot)
    }

    /// The earliest request under way to an entity. Looks at all: it is asked
    /// only about refusals.
    fn first_of(&self, entity_type: &str, entity_id: &str) -> Option<u64> {
        let to_entity = |slot: &&Slot| {
            slot.persistence_id.entity_id() == entity_id
                && slot.persistence_id.entity_type() == entity_type
        };
        let under_way = self.slots.iter().flatten();
        under_way
            .filter(to_entity)
            .map(|slot| slot.request_nr)
            .min()
    }
}
