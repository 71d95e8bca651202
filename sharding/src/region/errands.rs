//! What is asked of one entity besides commands: what it is doing, to leave memory, to
//! be deleted.
//!
//! Each goes to the owner of the shard as a call of its own, not over the link, and is
//! in no order with commands but the entity's own. Next: the engine, which does it.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::{EntityDescription, EntityState};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::{Epoch, ShardNr};

use super::Region;
use super::inner::now;
use super::route::{Direction, Owner};
use super::slot::Host;
use crate::peer::{PeerError, PeerRequest, PeerResponse};

/// How long another node may take to describe an entity.
const DESCRIBE_MAX: Duration = Duration::from_secs(2);
/// How long another node may take to passivate an entity, which finishes what it has
/// accepted.
const PASSIVATE_MAX: Duration = Duration::from_secs(30);

/// How often a deletion looks whether its shard has a home.
const HOME_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long another node may take to delete an entity, however long its history.
const DELETE_MAX: Duration = Duration::from_secs(300);

/// Where an entity lives and what it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityPlacement {
    /// The entity's shard.
    pub shard: ShardNr,
    /// The owner of the shard; `None` while it has none.
    pub node: Option<NodeNr>,
    /// Of the shard.
    pub epoch: Epoch,
    /// What the entity is doing.
    pub entity: EntityDescription,
}

/// What came of asking an owner.
enum Asked {
    /// It answered.
    Answered(PeerResponse),
    /// It was certainly not asked.
    NotReached,
    /// It may have done what it was asked for.
    Lost,
}

impl Region {
    /// Where an entity lives and what it is doing, by its owner's word.
    ///
    /// # Errors
    /// [`CommandError::ShardUnavailable`] when the owner does not answer.
    pub async fn describe(
        &self,
        persistence_id: &PersistenceId,
    ) -> Result<EntityPlacement, CommandError> {
        if let Some((epoch, entity)) = self.describe_here(persistence_id).await {
            return Ok(self.placement(persistence_id, Some(self.inner.node), epoch, entity));
        }
        let Some(owner) = self.owner_of(persistence_id) else {
            let entity = EntityDescription {
                state: EntityState::Passive,
                sequence_nr: SequenceNr::ZERO,
                queued: 0,
                waiting_for: "a home of its shard".into(),
            };
            return Ok(self.placement(persistence_id, None, Epoch::default(), entity));
        };
        let request = PeerRequest::Describe(persistence_id.clone());
        match self.ask_owner(owner, request, DESCRIBE_MAX).await {
            Asked::Answered(PeerResponse::Described(Some((epoch, entity)))) => {
                Ok(self.placement(persistence_id, Some(owner.node), epoch, entity))
            }
            _ => Err(self.unavailable(persistence_id)),
        }
    }

    /// What an entity is doing, and the epoch of its shard, if this node owns it.
    pub async fn describe_here(
        &self,
        persistence_id: &PersistenceId,
    ) -> Option<(Epoch, EntityDescription)> {
        let shard = self.shard_of(persistence_id);
        let (epoch, host) = self.hosted(shard)?;
        let entity = host.engine.describe(shard, persistence_id).await;
        Some((epoch, entity))
    }

    /// Takes an entity out of memory, wherever it is; returns when it has left or was
    /// not there.
    ///
    /// # Errors
    /// [`CommandError::ShardUnavailable`] when the owner does not answer.
    pub async fn passivate(&self, persistence_id: &PersistenceId) -> Result<(), CommandError> {
        if self.passivate_here(persistence_id).await {
            return Ok(());
        }
        let Some(owner) = self.owner_of(persistence_id) else {
            // Without a home it is not in memory, or about to leave it.
            return Ok(());
        };
        let request = PeerRequest::Passivate(persistence_id.clone());
        match self.ask_owner(owner, request, PASSIVATE_MAX).await {
            Asked::Answered(PeerResponse::Done) => Ok(()),
            _ => Err(self.unavailable(persistence_id)),
        }
    }

    /// As [`Region::passivate`], if this node owns the entity's shard; `false` if not.
    pub async fn passivate_here(&self, persistence_id: &PersistenceId) -> bool {
        let shard = self.shard_of(persistence_id);
        let Some((_, host)) = self.hosted(shard) else {
            return false;
        };
        host.engine.passivate(shard, persistence_id).await;
        true
    }

    /// Deletes an entity for good, wherever it is; see [`EntityEngine::delete`](perennial_persistence::engine::EntityEngine::delete).
    ///
    /// # Errors
    /// Those of [`EntityEngine::delete`](perennial_persistence::engine::EntityEngine::delete); [`CommandError::ShardUnavailable`] when the shard
    /// has no home for too long, and [`CommandError::OwnerLost`] when the owner does not say what came
    /// of it. Deleting can be repeated.
    pub async fn delete(&self, persistence_id: &PersistenceId) -> Result<SequenceNr, CommandError> {
        // Like a command, it waits for a home, and goes to the next one when the shard
        // leaves before it has begun.
        let patience = now() + self.inner.settings.homeless_max;
        loop {
            let mut answer = self.delete_here(persistence_id).await;
            if answer.is_none()
                && let Some(owner) = self.owner_of(persistence_id)
            {
                let request = PeerRequest::Delete(persistence_id.clone());
                answer = match self.ask_owner(owner, request, DELETE_MAX).await {
                    Asked::Answered(PeerResponse::Deleted(answer)) => answer,
                    // The shard has moved on, or this node knows it before the owner;
                    // or the owner has stopped, and soon somebody else is it.
                    Asked::Answered(_) | Asked::NotReached => None,
                    Asked::Lost => return Err(CommandError::OwnerLost),
                };
            }
            match answer {
                None | Some(Err(CommandError::ShardUnavailable { .. })) => {}
                Some(answer) => return answer,
            }
            if now() >= patience {
                return Err(self.unavailable(persistence_id));
            }
            tokio::time::sleep(HOME_LOOK_INTERVAL).await;
        }
    }

    /// As [`Region::delete`], if this node owns the entity's shard.
    pub async fn delete_here(
        &self,
        persistence_id: &PersistenceId,
    ) -> Option<Result<SequenceNr, CommandError>> {
        let shard = self.shard_of(persistence_id);
        let (epoch, host) = self.hosted(shard)?;
        Some(host.engine.delete(shard, epoch, persistence_id).await)
    }

    fn placement(
        &self,
        persistence_id: &PersistenceId,
        node: Option<NodeNr>,
        epoch: Epoch,
        entity: EntityDescription,
    ) -> EntityPlacement {
        EntityPlacement {
            shard: self.shard_of(persistence_id),
            node,
            epoch,
            entity,
        }
    }

    fn unavailable(&self, persistence_id: &PersistenceId) -> CommandError {
        CommandError::ShardUnavailable {
            shard: self.shard_of(persistence_id).0,
        }
    }

    fn hosted(&self, shard: ShardNr) -> Option<(Epoch, Arc<Host>)> {
        let slot = self.inner.lock(shard);
        match (slot.route.direction(), &slot.host) {
            (Direction::Here(epoch), Some(host)) => Some((epoch, Arc::clone(host))),
            _ => None,
        }
    }

    fn owner_of(&self, persistence_id: &PersistenceId) -> Option<Owner> {
        let shard = self.shard_of(persistence_id);
        match self.inner.lock(shard).route.direction() {
            Direction::There(owner) => Some(owner),
            _ => None,
        }
    }

    async fn ask_owner(&self, owner: Owner, request: PeerRequest, limit: Duration) -> Asked {
        let Some(transport) = &self.transport else {
            return Asked::NotReached;
        };
        let Some((peer, header)) = self.inner.address_of(owner.node) else {
            return Asked::NotReached;
        };
        match transport.call(&peer, header, request, limit).await {
            Ok(answer) => Asked::Answered(answer),
            Err(PeerError::Refused { .. } | PeerError::WrongPeer { .. }) => Asked::NotReached,
            Err(PeerError::Unreachable { .. }) => Asked::Lost,
        }
    }
}
