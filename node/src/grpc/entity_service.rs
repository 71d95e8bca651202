//! `EntityService`: commands, states, listings, deletions. The first stop of a
//! command.
//!
//! It checks and translates; what a command means is the entity's business.
//! `SendStream` has a file of its own, `command_stream.rs`. Next: `intake.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_persistence::command::{Reply, Request as EntityRequest};
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::journal::Journal;
use perennial_persistence::sequence_nr::SequenceNr;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::audit::{AdminAction, Audit};
use super::client::Client;
use super::command_stream::{CommandStream, OUTSTANDING_MAX};
use super::deadline::Deadline;
use super::paced::{Responses, paced};
use super::request::{ParsedCommand, parse_command, parse_entity};
use super::run_to_end;
use super::status::{ServiceError, status_of};
use crate::auth::Right;
use crate::intake::Intake;
use crate::proto::v1;

/// Page size of a listing that asks for none.
const PAGE_SIZE_DEFAULT: u32 = 100;
/// Largest page of a listing; one that asks for more gets this.
const PAGE_SIZE_MAX: u32 = 1000;

/// The service; one for a node.
pub(crate) struct EntityService {
    pub(crate) intake: Arc<Intake>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) audit: Arc<Audit>,
    /// Cancelled when the node begins to stop.
    pub(crate) stopping: CancellationToken,
    /// Streams that are not finished.
    pub(crate) streams: TaskTracker,
    /// How long a client may leave responses unread.
    pub(crate) slow_reader_timeout: Duration,
}

#[tonic::async_trait]
impl v1::entity_service_server::EntityService for EntityService {
    async fn send(
        &self,
        request: Request<v1::SendRequest>,
    ) -> Result<Response<v1::SendResponse>, Status> {
        let deadline = Deadline::of_call(request.metadata(), Instant::now());
        let parent = self.intake.trace_parent(request.metadata());
        let client = Client::of(request.extensions())?;
        let mut send = request.into_inner();
        let allowed = client.may(Right::Send, &send.entity_type);
        let parsed = allowed
            .and_then(|()| parse_command(&self.intake, &mut send))
            .inspect_err(|error| self.intake.refused(&send.entity_type, error.reason()))?;
        let ParsedCommand {
            served,
            persistence_id,
            request,
        } = parsed;
        let answer = self
            .intake
            .command(served, persistence_id, request, deadline, parent);
        Ok(Response::new(response_of(answer.await.map_err(status_of)?)))
    }

    type SendStreamStream = Responses<v1::SendResponse>;

    async fn send_stream(
        &self,
        request: Request<Streaming<v1::SendRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        let deadline = Deadline::of_call(request.metadata(), Instant::now());
        let parent = self.intake.trace_parent(request.metadata());
        let client = Client::of(request.extensions())?;
        let (sender, cut_off, responses) = paced(OUTSTANDING_MAX, self.slow_reader_timeout);
        let intake = Arc::clone(&self.intake);
        let stream = CommandStream::new(intake, client, sender, cut_off, deadline, parent);
        let stopping = self.stopping.clone();
        // A task, not part of the response: when the client goes away, what it
        // sent is still in work, and counted until it is done.
        self.streams
            .spawn(stream.run(request.into_inner(), stopping));
        Ok(Response::new(responses))
    }

    async fn get_state(
        &self,
        request: Request<v1::GetStateRequest>,
    ) -> Result<Response<v1::GetStateResponse>, Status> {
        let deadline = Deadline::of_call(request.metadata(), Instant::now());
        let client = Client::of(request.extensions())?;
        let parent = self.intake.trace_parent(request.metadata());
        let get = request.into_inner();
        client.may(Right::Read, &get.entity_type)?;
        let (_, persistence_id) = parse_entity(&self.intake, &get.entity_type, &get.entity_id)?;
        let answer = match get.at_sequence_nr {
            None => {
                let state = EntityRequest::State;
                self.intake
                    .ask(persistence_id, state, deadline, parent)
                    .await
            }
            Some(nr) => {
                let in_flight = self.intake.admission.admit().map_err(status_of)?;
                let region = self.intake.region.clone();
                run_to_end(async move {
                    let answer = region.state_at(&persistence_id, SequenceNr::new(nr)).await;
                    drop(in_flight);
                    answer
                })
                .await?
            }
        };
        let Reply {
            payload,
            sequence_nr,
            ..
        } = answer.map_err(status_of)?;
        Ok(Response::new(v1::GetStateResponse {
            content_type: payload.codec.content_type().to_owned(),
            payload: payload.bytes,
            sequence_nr: sequence_nr.get(),
        }))
    }

    async fn list_entities(
        &self,
        request: Request<v1::ListEntitiesRequest>,
    ) -> Result<Response<v1::ListEntitiesResponse>, Status> {
        let client = Client::of(request.extensions())?;
        let list = request.into_inner();
        client.may(Right::Read, &list.entity_type)?;
        let served = self
            .intake
            .served_type(&list.entity_type)
            .map_err(status_of)?;
        let in_flight = self.intake.admission.admit().map_err(status_of)?;
        let after = page_token::read(&list.page_token, served.name)?;
        let page_size = match list.page_size {
            0 => PAGE_SIZE_DEFAULT,
            size => size.min(PAGE_SIZE_MAX),
        };
        let limit = page_size as usize;
        let (journal, entity_type) = (Arc::clone(&self.journal), served.name);
        let listings = run_to_end(async move {
            let listings = journal.list_entities(entity_type, after.as_deref(), limit);
            let listings = listings.await.map_err(ServiceError::from);
            drop(in_flight);
            listings
        })
        .await??;
        // A full page may be the last: then the next one is empty.
        let next_page_token = match listings.last() {
            Some(last) if listings.len() == limit => page_token::write(&last.persistence_id),
            _ => String::new(),
        };
        let entities = listings
            .into_iter()
            .map(|listing| v1::list_entities_response::Entity {
                entity_type: listing.persistence_id.entity_type().to_owned(),
                entity_id: listing.persistence_id.entity_id().to_owned(),
                sequence_nr: listing.sequence_nr.get(),
            })
            .collect();
        Ok(Response::new(v1::ListEntitiesResponse {
            entities,
            next_page_token,
        }))
    }

    async fn delete_entity(
        &self,
        request: Request<v1::DeleteEntityRequest>,
    ) -> Result<Response<v1::DeleteEntityResponse>, Status> {
        let deadline = Deadline::of_call(request.metadata(), Instant::now());
        let client = Client::of(request.extensions())?;
        let asked = request.into_inner();
        let action = AdminAction::DeleteEntity {
            entity_type: asked.entity_type.clone(),
            entity_id: asked.entity_id.clone(),
        };
        let deleted = self.delete(&asked, deadline);
        let sequence_nr = self.audit.admin(&client, &action, deleted).await?.get();
        Ok(Response::new(v1::DeleteEntityResponse { sequence_nr }))
    }
}

impl EntityService {
    async fn delete(
        &self,
        asked: &v1::DeleteEntityRequest,
        deadline: Option<Deadline>,
    ) -> Result<SequenceNr, ServiceError> {
        let (_, persistence_id) = parse_entity(&self.intake, &asked.entity_type, &asked.entity_id)?;
        let in_flight = self.intake.admission.admit()?;
        let region = self.intake.region.clone();
        let deleted = run_to_end(async move {
            let deleted = region.delete(&persistence_id).await;
            drop(in_flight);
            deleted
        });
        let deleted = match deadline {
            None => deleted.await?,
            // It goes on without its caller.
            Some(Deadline(at)) => match tokio::time::timeout_at(at.into(), deleted).await {
                Ok(deleted) => deleted?,
                Err(_) => {
                    let applied = Applied::Unknown;
                    Err(CommandError::DeadlineExceeded { applied })
                }
            },
        };
        Ok(deleted?)
    }
}

/// The response to a command that was answered.
pub(super) fn response_of(reply: Reply) -> v1::SendResponse {
    v1::SendResponse {
        content_type: reply.payload.codec.content_type().to_owned(),
        payload: reply.payload.bytes,
        sequence_nr: reply.sequence_nr.get(),
        duplicate: reply.duplicate,
        correlation_id: 0,
        status: None,
    }
}

/// Page tokens: the last entity of a page, in hexadecimal, so that no client is
/// tempted to read or make one.
pub(crate) mod page_token {
    use perennial_persistence::persistence_id::PersistenceId;

    use crate::grpc::status::ServiceError;

    pub(crate) fn write(last: &PersistenceId) -> String {
        last.as_str()
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The id to go on after; `None` for the first page.
    pub(crate) fn read(token: &str, entity_type: &str) -> Result<Option<String>, ServiceError> {
        if token.is_empty() {
            return Ok(None);
        }
        let last = decode(token).ok_or(ServiceError::PageToken)?;
        if last.entity_type() != entity_type {
            return Err(ServiceError::PageToken);
        }
        Ok(Some(last.entity_id().to_owned()))
    }

    fn decode(token: &str) -> Option<PersistenceId> {
        let digits = token.as_bytes();
        if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let pairs = (0..token.len()).step_by(2);
        let bytes: Option<Vec<u8>> = pairs
            .map(|at| u8::from_str_radix(&token[at..at + 2], 16).ok())
            .collect();
        PersistenceId::parse(&String::from_utf8(bytes?).ok()?).ok()
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    mod tests {
        use super::*;

        #[test]
        fn a_token_leads_on_in_its_own_listing() {
            let last = PersistenceId::new("counter", "São Paulo").unwrap();
            let token = write(&last);
            assert_eq!(
                read(&token, "counter").unwrap().as_deref(),
                Some("São Paulo")
            );
            assert_eq!(read("", "counter").unwrap(), None);
        }

        #[test]
        fn a_foreign_token_is_refused() {
            let account = write(&PersistenceId::new("account", "ada").unwrap());
            for token in [&account, "zz", "abc", "00", "ff", "é", "636f756e746572"] {
                assert!(read(token, "counter").is_err(), "{token}");
            }
        }
    }
}
