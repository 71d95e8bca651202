//! The shard region: finds an entity's home and hands requests to it.
//!
//! Every request of a node enters here, wherever it comes from. The region turns
//! the entity's name into a shard and the shard into a home. In a cluster of one
//! every shard lives on this node, under one epoch. It knows nothing of gRPC nor
//! of what entities do. Next: `engine.rs` of the persistence crate, which takes
//! the request to the entity.

use std::time::Instant;

use perennial_persistence::command::{Answer, Envelope, ReplyTo, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::{EntityDescription, EntityEngine};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::{Epoch, ShardNr};

use crate::shard_id::shard_of;

/// The epoch of every shard of a cluster of one: nothing ever moves.
const ONLY_EPOCH: Epoch = Epoch(1);

/// The shard region of a node; cheap to clone.
#[derive(Clone)]
pub struct Region {
    engine: EntityEngine,
    number_of_shards: u32,
}

/// Where an entity lives and what it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityPlacement {
    /// The entity's shard.
    pub shard: ShardNr,
    /// Of the shard.
    pub epoch: Epoch,
    /// What the entity is doing.
    pub entity: EntityDescription,
}

impl Region {
    /// A region of a cluster of one: every shard lives here.
    #[must_use]
    pub fn single_node(engine: EntityEngine, number_of_shards: u32) -> Self {
        Self {
            engine,
            number_of_shards,
        }
    }

    /// The shard of an entity.
    #[must_use]
    pub fn shard_of(&self, persistence_id: &PersistenceId) -> ShardNr {
        shard_of(persistence_id, self.number_of_shards)
    }

    /// Sends a request to its entity. Never waits; always answers.
    pub fn deliver(
        &self,
        persistence_id: PersistenceId,
        request: Request,
        deadline: Option<Instant>,
        reply_to: ReplyTo,
    ) {
        let shard = self.shard_of(&persistence_id);
        self.engine.deliver(Envelope {
            persistence_id,
            shard,
            epoch: ONLY_EPOCH,
            request,
            deadline,
            reply_to,
        });
    }

    /// Sends a request and waits for the answer. The deadline is checked before the
    /// entity handles the request; waiting no longer than that is the caller's
    /// business. Dropping the future does not take the request back.
    pub async fn ask(
        &self,
        persistence_id: PersistenceId,
        request: Request,
        deadline: Option<Instant>,
    ) -> Answer {
        let (reply_to, answer) = ReplyTo::ask();
        self.deliver(persistence_id, request, deadline, reply_to);
        // Dropped without an answer means that whoever had it broke down, at a
        // point that is not known.
        answer.await.unwrap_or(Err(CommandError::OwnerLost))
    }

    /// The state at a past number; see [`EntityEngine::state_at`].
    pub async fn state_at(&self, persistence_id: &PersistenceId, nr: SequenceNr) -> Answer {
        self.engine.state_at(persistence_id, nr).await
    }

    /// Where an entity lives and what it is doing.
    pub async fn describe(&self, persistence_id: &PersistenceId) -> EntityPlacement {
        let shard = self.shard_of(persistence_id);
        EntityPlacement {
            shard,
            epoch: ONLY_EPOCH,
            entity: self.engine.describe(shard, persistence_id).await,
        }
    }

    /// Deletes an entity for good; see [`EntityEngine::delete`].
    ///
    /// # Errors
    /// Those of [`EntityEngine::delete`].
    pub async fn delete(&self, persistence_id: &PersistenceId) -> Result<SequenceNr, CommandError> {
        let shard = self.shard_of(persistence_id);
        self.engine.delete(shard, ONLY_EPOCH, persistence_id).await
    }

    /// Takes an entity out of memory; returns when it has left or was not there.
    pub async fn passivate(&self, persistence_id: &PersistenceId) {
        let shard = self.shard_of(persistence_id);
        self.engine.passivate(shard, persistence_id).await;
    }
}
