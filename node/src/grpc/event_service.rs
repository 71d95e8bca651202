//! `EventService`: one entity's stored events, a page at a time, optionally
//! followed as they are stored.
//!
//! It reads the journal and never the entity, so it sees only what is committed
//! (promise I-4).

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::command_error::CommandError;
use perennial_persistence::journal::{
    EventRange, Journal, JournalError, StoredEvent, StreamBounds,
};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::client::{Client, Validity};
use super::paced::{CutOff, Responses, paced};
use super::request::parse_entity;
use super::run_to_end;
use super::status::{ServiceError, status_of};
use crate::auth::Right;
use crate::intake::Intake;
use crate::proto::v1;

/// How often a followed stream is looked at for new events: the most a follower
/// lags behind, besides the reading itself.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// Events read from the journal at once.
const PAGE_EVENTS_MAX: usize = 256;
/// Payload bytes read from the journal at once.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Events that wait for a slow client; then the journal is not read either.
const BUFFERED_EVENTS_MAX: usize = 16;

/// The service; one for a node.
pub(crate) struct EventService {
    pub(crate) intake: Arc<Intake>,
    pub(crate) journal: Arc<dyn Journal>,
    /// Cancelled when the node begins to stop.
    pub(crate) stopping: CancellationToken,
    /// Streams that are not finished.
    pub(crate) streams: TaskTracker,
    /// How long a client may leave an event unread.
    pub(crate) slow_reader_timeout: Duration,
}

#[tonic::async_trait]
impl v1::event_service_server::EventService for EventService {
    type EventsStream = Responses<v1::Event>;

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let client = Client::of(request.extensions())?;
        let asked = request.into_inner();
        client.may(Right::Events, &asked.entity_type)?;
        let (_, persistence_id) = parse_entity(&self.intake, &asked.entity_type, &asked.entity_id)?;
        // A stream counts as one request in work for as long as it is open.
        let in_flight = self.intake.admission.admit().map_err(status_of)?;
        let (journal, id) = (Arc::clone(&self.journal), persistence_id.clone());
        let bounds = run_to_end(async move { journal.bounds(&id).await }).await?;
        let bounds = bounds.map_err(ServiceError::from)?;
        let (from, to) = range_of(&asked, bounds)?;
        let (events, cut_off, responses) = paced(BUFFERED_EVENTS_MAX, self.slow_reader_timeout);
        let reader = Reader {
            journal: Arc::clone(&self.journal),
            persistence_id,
            next: from,
            to,
            follow: asked.follow,
            events,
            cut_off,
            validity: client.validity(),
        };
        let stopping = self.stopping.clone();
        self.streams.spawn(async move {
            reader.run(stopping).await;
            drop(in_flight);
        });
        Ok(Response::new(responses))
    }
}

/// First and last event to read, inclusive. Without `follow` the last is one
/// that is there now, so the reading ends.
fn range_of(
    asked: &v1::EventsRequest,
    bounds: StreamBounds,
) -> Result<(SequenceNr, SequenceNr), ServiceError> {
    let StreamBounds {
        highest,
        deleted_to,
        ..
    } = bounds;
    let to = match asked.to_sequence_nr {
        0 => SequenceNr::MAX,
        to => SequenceNr::new(to),
    };
    let from = match asked.from_sequence_nr {
        // Open: from the first that is there.
        0 => deleted_to.next(),
        from => SequenceNr::new(from),
    };
    if from <= deleted_to {
        return Err(CommandError::HistoryDeleted { deleted_to }.into());
    }
    let backwards = asked.to_sequence_nr != 0 && asked.from_sequence_nr != 0 && to < from;
    let beyond = from > highest.next() && !asked.follow;
    if backwards || beyond {
        return Err(ServiceError::EventRange { from, to, highest });
    }
    let to = if asked.follow { to } else { to.min(highest) };
    Ok((from, to))
}

/// Reads one range of one stream for one client.
struct Reader {
    journal: Arc<dyn Journal>,
    persistence_id: PersistenceId,
    next: SequenceNr,
    to: SequenceNr,
    follow: bool,
    events: mpsc::Sender<Result<v1::Event, Status>>,
    cut_off: CutOff<v1::Event>,
    /// How long the client is who it was.
    validity: Validity,
}

/// Why a reader stops before its range is read.
enum Stopped {
    /// The client is gone, or was cut off because it does not read.
    ClientGone,
    /// Reading failed, and the client is told.
    Failed(ServiceError),
}

impl Reader {
    /// Ends when the range is read, the client goes away, its token expires or the node
    /// stops; never while the journal is read, because that is not dropped half-way.
    async fn run(mut self, stopping: CancellationToken) {
        self.read(stopping).await;
        let Self {
            events, cut_off, ..
        } = self;
        drop(events);
        cut_off.keep_until_read();
    }

    async fn read(&mut self, stopping: CancellationToken) {
        while self.next <= self.to {
            let page = match stopping.is_cancelled() {
                true => Err(Stopped::Failed(ServiceError::Stopping)),
                false => self.send_page().await,
            };
            match page {
                Ok(0) if !self.follow => {
                    // Its last event was there when the range was decided.
                    let error = self.gap(None).await;
                    let _ = self.send(Err(error.into())).await;
                    return;
                }
                Ok(0) => tokio::select! {
                    error = self.validity.over() => {
                        let _ = self.send(Err(error.into())).await;
                        return;
                    }
                    () = stopping.cancelled() => {}
                    () = self.events.closed() => return,
                    () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
                },
                Ok(_) => {}
                Err(Stopped::ClientGone) => return,
                Err(Stopped::Failed(error)) => {
                    // Without it the stream would seem to end well.
                    let _ = self.send(Err(error.into())).await;
                    return;
                }
            }
        }
    }

    /// Reads what comes next and passes it on; how many events that were.
    async fn send_page(&mut self) -> Result<usize, Stopped> {
        let range = EventRange {
            persistence_id: self.persistence_id.clone(),
            from: self.next,
            to: self.to,
            max_events: PAGE_EVENTS_MAX,
            max_bytes: PAGE_BYTES_MAX,
        };
        let page = self.journal.read_events(&range).await;
        let page = page.map_err(|error| Stopped::Failed(error.into()))?;
        let count = page.len();
        for event in page {
            if event.sequence_nr != self.next {
                return Err(Stopped::Failed(self.gap(Some(event.sequence_nr)).await));
            }
            self.next = event.sequence_nr.next();
            // Also while the client is slow: nothing is sent to somebody else.
            tokio::select! {
                biased;
                error = self.validity.over() => return Err(Stopped::Failed(error)),
                sent = self.send(Ok(message_of(event))) => sent?,
            }
        }
        Ok(count)
    }

    /// Waits for a slow client, but not for ever.
    async fn send(&self, event: Result<v1::Event, Status>) -> Result<(), Stopped> {
        let sending = self.events.send(event);
        match tokio::time::timeout(self.cut_off.after(), sending).await {
            Ok(sent) => sent.map_err(|_| Stopped::ClientGone),
            Err(_) => {
                self.cut_off.cut_off();
                Err(Stopped::ClientGone)
            }
        }
    }

    /// Events are missing before `found`, or all that were there: deleted meanwhile, or
    /// the journal is damaged, as streams have no gaps (promise I-3).
    async fn gap(&self, found: Option<SequenceNr>) -> ServiceError {
        match self.journal.bounds(&self.persistence_id).await {
            Ok(StreamBounds { deleted_to, .. }) if deleted_to >= self.next => {
                CommandError::HistoryDeleted { deleted_to }.into()
            }
            Ok(_) => ServiceError::Journal(JournalError::Corrupt {
                persistence_id: self.persistence_id.to_string(),
                sequence_nr: self.next,
                message: match found {
                    Some(found) => format!("it is missing, the next event is {found}"),
                    None => format!(
                        "it is missing, as is all up to {}, which was there",
                        self.to
                    ),
                },
            }),
            Err(error) => error.into(),
        }
    }
}

fn message_of(event: StoredEvent) -> v1::Event {
    let persistence_id = event.persistence_id;
    let metadata = event.metadata.iter().flat_map(|map| map.iter());
    v1::Event {
        persistence_id: persistence_id.to_string(),
        entity_type: persistence_id.entity_type().to_owned(),
        entity_id: persistence_id.entity_id().to_owned(),
        sequence_nr: event.sequence_nr.get(),
        writer_uuid: event.writer.to_string(),
        content_type: event.payload.codec.content_type().to_owned(),
        manifest: event.payload.manifest.into_owned(),
        payload: event.payload.bytes,
        tags: event.tags,
        metadata: metadata
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        command_id: event
            .command_id
            .map_or_else(String::new, |id| id.as_str().to_owned()),
        created_at: Some(event.created_at.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn range(from: u64, to: u64, follow: bool) -> Result<(u64, u64), &'static str> {
        let asked = v1::EventsRequest {
            from_sequence_nr: from,
            to_sequence_nr: to,
            follow,
            ..v1::EventsRequest::default()
        };
        let bounds = StreamBounds {
            highest: SequenceNr::new(10),
            deleted_to: SequenceNr::new(3),
            ..StreamBounds::default()
        };
        match range_of(&asked, bounds) {
            Ok((from, to)) => Ok((from.get(), to.get())),
            Err(ServiceError::EventRange { .. }) => Err("range"),
            Err(_) => Err("deleted"),
        }
    }

    #[test]
    fn bounds_are_inclusive_and_zero_is_open() {
        let max = SequenceNr::MAX.get();
        for ((from, to, follow), expected) in [
            ((0, 0, false), Ok((4, 10))),
            ((4, 10, false), Ok((4, 10))),
            ((5, 5, false), Ok((5, 5))),
            ((5, 99, false), Ok((5, 10))),
            ((11, 0, false), Ok((11, 10))),
            ((12, 0, false), Err("range")),
            ((12, 0, true), Ok((12, max))),
            ((0, 0, true), Ok((4, max))),
            ((0, 12, true), Ok((4, 12))),
            ((6, 5, false), Err("range")),
            ((6, 5, true), Err("range")),
            ((3, 0, false), Err("deleted")),
            ((3, 0, true), Err("deleted")),
        ] {
            assert_eq!(
                range(from, to, follow),
                expected,
                "{from} to {to}, {follow}"
            );
        }
    }
}
