//! What the inspector finds out about one entity, or which entities there are. It reads
//! the journal beside the live entity, so looking wakes nobody up and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use perennial_persistence::command::Answer;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::journal::{
    EntityListing, EventRange, Journal, StoredEvent, StreamBounds,
};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_sharding::region::EntityPlacement;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::grpc::request::parse_entity;
use crate::grpc::run_to_end;
use crate::grpc::status::ServiceError;
use crate::intake::Intake;

/// Events on one page.
pub(super) const EVENTS_MAX: u64 = 50;
const EVENT_BYTES_MAX: usize = 1 << 20;
/// Entities on one page.
pub(super) const ENTITIES_MAX: usize = 100;
/// Looks at once: people are few, and each look may read a long history.
const LOOKS_MAX: usize = 4;
/// How long one look may take.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// What is asked, as it stands in the link.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    #[serde(rename = "type")]
    pub(super) entity_type: String,
    /// Empty: which entities are there?
    pub(super) id: String,
    /// At which number the state is wanted; the latest if there is none.
    pub(super) at: String,
    /// The latest event of the page; the latest there is if there is none.
    pub(super) to: String,
    /// Of a list of entities: those after this one.
    pub(super) after: String,
}

/// What was found.
pub(super) enum Found {
    /// Nothing was asked.
    Nothing,
    /// Entities of a type, and whether there may be more.
    Entities(Vec<EntityListing>, bool),
    /// One entity.
    Entity(Box<Entity>),
}

/// One entity.
pub(super) struct Entity {
    /// What its owner says of it.
    pub(super) placement: Result<EntityPlacement, CommandError>,
    pub(super) bounds: StreamBounds,
    /// Of the state.
    pub(super) at: SequenceNr,
    pub(super) state: Answer,
    /// The first and the last event of the page, inclusive. Fewer are here if they are
    /// large: then the later ones are missing.
    pub(super) from: SequenceNr,
    pub(super) to: SequenceNr,
    pub(super) events: Vec<StoredEvent>,
}

impl Entity {
    /// The first event there is.
    pub(super) fn first(&self) -> SequenceNr {
        self.bounds.deleted_to.next()
    }
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub(super) enum InspectionError {
    /// As gRPC would say it.
    #[error("{}", .0.message())]
    Service(Box<Status>),
    #[error("{given:?} is no sequence number: give a whole number")]
    NotANumber { given: String },
    #[error("{LOOKS_MAX} others are looking already: try again in a moment")]
    Busy,
    #[error(
        "the journal did not answer within {LOOK_MAX:?}: see whether it is in reach, and try again"
    )]
    TooLong,
}

impl From<ServiceError> for InspectionError {
    fn from(error: ServiceError) -> Self {
        Self::Service(Box::new(error.into()))
    }
}

impl InspectionError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NotANumber { .. } => StatusCode::BAD_REQUEST,
            Self::Busy | Self::TooLong => StatusCode::SERVICE_UNAVAILABLE,
            Self::Service(status) => match status.code() {
                Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
                Code::NotFound => StatusCode::NOT_FOUND,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
        }
    }
}

/// Looks at entities.
pub(super) struct Inspector {
    intake: Arc<Intake>,
    journal: Arc<dyn Journal>,
    looks: Semaphore,
}

impl Inspector {
    pub(super) fn new(intake: Arc<Intake>, journal: Arc<dyn Journal>) -> Self {
        Self {
            intake,
            journal,
            looks: Semaphore::new(LOOKS_MAX),
        }
    }

    pub(super) fn type_names(&self) -> Vec<&'static str> {
        self.intake.type_names()
    }

    pub(super) async fn inspect(&self, asked: &Asked) -> Result<Found, InspectionError> {
        if asked.entity_type.is_empty() {
            return Ok(Found::Nothing);
        }
        let _look = self
            .looks
            .try_acquire()
            .map_err(|_| InspectionError::Busy)?;
        let looked = async {
            if asked.id.is_empty() {
                self.list(asked).await
            } else {
                self.look_at(asked).await
            }
        };
        match tokio::time::timeout(LOOK_MAX, looked).await {
            Ok(found) => found,
            Err(_) => Err(InspectionError::TooLong),
        }
    }

    async fn list(&self, asked: &Asked) -> Result<Found, InspectionError> {
        let served = self.intake.served_type(&asked.entity_type);
        let name = served.map_err(ServiceError::from)?.name;
        let after = (!asked.after.is_empty()).then(|| asked.after.clone());
        let journal = Arc::clone(&self.journal);
        let listed = run_to_end(async move {
            journal
                .list_entities(name, after.as_deref(), ENTITIES_MAX)
                .await
        });
        let entities = listed.await?.map_err(ServiceError::from)?;
        let more = entities.len() == ENTITIES_MAX;
        Ok(Found::Entities(entities, more))
    }

    async fn look_at(&self, asked: &Asked) -> Result<Found, InspectionError> {
        let (_, id) = parse_entity(&self.intake, &asked.entity_type, &asked.id)?;
        let (at, to) = (number(&asked.at)?, number(&asked.to)?);
        let journal = Arc::clone(&self.journal);
        let of = id.clone();
        let bounds = run_to_end(async move { journal.bounds(&of).await });
        let bounds = bounds.await?.map_err(ServiceError::from)?;
        let at = at.unwrap_or(bounds.highest);
        let first = bounds.deleted_to.next();
        let to = to.unwrap_or(bounds.highest).min(bounds.highest);
        let from = SequenceNr::new(to.get().saturating_sub(EVENTS_MAX - 1)).max(first);
        let (placement, state, events) = tokio::join!(
            self.intake.region.describe(&id),
            self.state(&id, at),
            self.events(&id, from, to),
        );
        Ok(Found::Entity(Box::new(Entity {
            placement,
            bounds,
            at,
            state: state?,
            from,
            to,
            events: events?,
        })))
    }

    async fn state(&self, id: &PersistenceId, at: SequenceNr) -> Result<Answer, InspectionError> {
        let (region, id) = (self.intake.region.clone(), id.clone());
        Ok(run_to_end(async move { region.state_at(&id, at).await }).await?)
    }

    async fn events(
        &self,
        id: &PersistenceId,
        from: SequenceNr,
        to: SequenceNr,
    ) -> Result<Vec<StoredEvent>, InspectionError> {
        if from > to {
            return Ok(Vec::new());
        }
        let range = EventRange {
            persistence_id: id.clone(),
            from,
            to,
            max_events: EVENTS_MAX as usize,
            max_bytes: EVENT_BYTES_MAX,
        };
        let journal = Arc::clone(&self.journal);
        let read = run_to_end(async move { journal.read_events(&range).await });
        Ok(read.await?.map_err(ServiceError::from)?)
    }
}

fn number(text: &str) -> Result<Option<SequenceNr>, InspectionError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let number = text.parse().map_err(|_| InspectionError::NotANumber {
        given: text.chars().take(40).collect(),
    })?;
    Ok(Some(SequenceNr::new(number)))
}
