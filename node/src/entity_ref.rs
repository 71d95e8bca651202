//! Typed references to entities, for code in the same process.
//!
//! A command sent through an [`EntityRef`] goes the same way as one that came by
//! gRPC, with the same limits, errors and promises. Next: `intake.rs`.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_persistence::codec::{self, Codec, CodecError};
use perennial_persistence::command::{CommandId, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::payload::{CodecId, Payload};
use perennial_persistence::persistence_id::PersistenceId;

use crate::grpc::deadline::Deadline;
use crate::intake::Intake;

/// How long [`EntityRef::ask`] waits unless told otherwise.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// A reference to one entity, live or not. Cheap to clone.
pub struct EntityRef<E: EventSourced> {
    intake: Arc<Intake>,
    persistence_id: PersistenceId,
    timeout: Duration,
    entity: PhantomData<fn() -> E>,
}

/// Why a question was not answered with a reply.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The command was refused or failed; it says whether it may have been applied.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The command has no encoding. Nothing was sent.
    #[error("the command cannot be encoded: {0}")]
    Encode(#[source] CodecError),
    /// The command was handled, and its reply is not one of this type: it is of an
    /// earlier version of the program, answered from the journal.
    #[error("the command was handled, but its reply cannot be decoded: {0}")]
    Decode(#[source] CodecError),
    /// The command was handled, and its handler gives no reply: use `tell`, or
    /// add `then_reply`.
    #[error("the command was handled, but its handler gives no reply")]
    NoReply,
}

impl<E: EventSourced> EntityRef<E> {
    pub(crate) fn new(intake: Arc<Intake>, persistence_id: PersistenceId) -> Self {
        Self {
            intake,
            persistence_id,
            timeout: ASK_TIMEOUT,
            entity: PhantomData,
        }
    }

    /// The entity's persistence id.
    #[must_use]
    pub fn persistence_id(&self) -> &PersistenceId {
        &self.persistence_id
    }

    /// The same reference with another time-out for [`EntityRef::ask`].
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sends a command and waits for its reply.
    ///
    /// Dropping the future stops the waiting, not the command.
    ///
    /// # Errors
    /// [`AskError`]; [`CommandError::applied`] says whether sending it again can
    /// have the effect twice. To be safe against that, use [`EntityRef::ask_once`].
    pub async fn ask(&self, command: &E::Command) -> Result<E::Reply, AskError> {
        self.send(command, None).await
    }

    /// As [`EntityRef::ask`], with a name for the command: however often it is
    /// sent with the same id, its events are stored once (promise I-8).
    ///
    /// # Errors
    /// As [`EntityRef::ask`].
    pub async fn ask_once(
        &self,
        command_id: CommandId,
        command: &E::Command,
    ) -> Result<E::Reply, AskError> {
        self.send(command, Some(command_id)).await
    }

    /// Sends a command and does not wait. Nobody learns what became of it.
    ///
    /// # Errors
    /// [`AskError::Encode`], a command that is too large, or an unregistered type: nothing
    /// was sent.
    pub fn tell(&self, command: &E::Command) -> Result<(), AskError> {
        self.intake.served_type(E::ENTITY_TYPE)?;
        let request = self.request(command, None)?;
        self.intake.tell(self.persistence_id.clone(), request);
        Ok(())
    }

    /// The command encoded, if it is not too large to be sent anywhere.
    fn request(
        &self,
        command: &E::Command,
        command_id: Option<CommandId>,
    ) -> Result<Request, AskError> {
        let request = request_of::<E>(command, command_id)?;
        if let Request::Command { payload, .. } = &request {
            self.intake.admission.check_len(payload.bytes.len())?;
        }
        Ok(request)
    }

    async fn send(
        &self,
        command: &E::Command,
        command_id: Option<CommandId>,
    ) -> Result<E::Reply, AskError> {
        let served = self.intake.served_type(E::ENTITY_TYPE)?;
        let request = self.request(command, command_id)?;
        let deadline = Deadline::after(self.timeout, Instant::now());
        let persistence_id = self.persistence_id.clone();
        let answer = self
            .intake
            .command(served, persistence_id, request, deadline, None);
        let payload = answer.await?.payload;
        if payload.bytes.is_empty() && payload.codec != CodecId::PROTOBUF {
            return Err(AskError::NoReply);
        }
        <E::Codec as Codec<E::Reply>>::decode(&payload.bytes).map_err(AskError::Decode)
    }
}

impl<E: EventSourced> Clone for EntityRef<E> {
    fn clone(&self) -> Self {
        Self {
            intake: Arc::clone(&self.intake),
            persistence_id: self.persistence_id.clone(),
            timeout: self.timeout,
            entity: PhantomData,
        }
    }
}

impl<E: EventSourced> std::fmt::Debug for EntityRef<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EntityRef")
            .field(&self.persistence_id)
            .finish()
    }
}

fn request_of<E: EventSourced>(
    command: &E::Command,
    command_id: Option<CommandId>,
) -> Result<Request, AskError> {
    let payload: Payload =
        codec::encode::<E::Command, E::Codec>(command, "").map_err(AskError::Encode)?;
    Ok(Request::Command {
        payload,
        command_id,
        expected_sequence_nr: None,
        metadata: None,
    })
}
