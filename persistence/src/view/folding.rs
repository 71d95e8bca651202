//! A view's state, and how it is brought up to date. Next: `view.rs`, the task that owns
//! it.

use crate::behavior::guard;
use crate::codec::{self, Codec};
use crate::event_adapter::EventAdapters;
use crate::event_sourced::EventSourced;
use crate::event_sourced::behavior::for_each_event;
use crate::journal::StoredEvent;
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::replay::{Replay, ReplayDamage};
use crate::retention::{Deletion, Retention, RetentionSettings};
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::SnapshotCriteria;
use crate::storage::Storage;

use super::{Read, View, ViewError, ViewSettings, ViewSnapshots};

/// A view's state, and what it is folded from.
pub(super) struct Folding<V: View> {
    view: V,
    adapters: EventAdapters<<V::Entity as EventSourced>::Event>,
    persistence_id: PersistenceId,
    storage: Storage,
    settings: ViewSettings,
    state: V::State,
    /// The last event in the state.
    seen: SequenceNr,
    /// At which number the entity that the state is of was deleted before, zero if it
    /// never was.
    life: SequenceNr,
    /// The state can be gone on from. If not, it is begun anew, with a snapshot if there
    /// is one.
    is_sound: bool,
    retention: Retention,
}

impl<V: View> Folding<V> {
    pub(super) fn new(
        view: V,
        persistence_id: PersistenceId,
        storage: &Storage,
        settings: ViewSettings,
    ) -> Self {
        let none = RetentionSettings {
            every: 0,
            ..RetentionSettings::default()
        };
        let retention = settings.snapshots.as_ref().map_or(none, |s| s.retention);
        Self {
            view,
            adapters: V::Entity::adapters(),
            persistence_id,
            storage: storage.clone(),
            settings,
            state: V::State::default(),
            seen: SequenceNr::ZERO,
            life: SequenceNr::ZERO,
            is_sound: false,
            retention: Retention::new(RetentionSettings {
                // They are the entity's.
                delete_events: false,
                ..retention
            }),
        }
    }

    pub(super) fn persistence_id(&self) -> &PersistenceId {
        &self.persistence_id
    }

    pub(super) fn read(&self, read: Read<V::State>) {
        if guard(|| read(&self.state, self.seen)).is_err() {
            tracing::warn!(view_of = %self.persistence_id, "a look at a view panicked");
        }
    }

    pub(super) async fn update(&mut self) -> Result<SequenceNr, ViewError> {
        if !self.is_sound {
            self.begin().await?;
        }
        let first = self.seen.next();
        let folded = self.fold().await;
        // Also what was folded before it failed is worth a snapshot.
        if self.is_sound && self.seen >= first {
            self.take_snapshot(first).await;
        }
        folded.map(|()| self.seen)
    }

    /// Begins with the newest snapshot that is understood and not of an entity that was
    /// deleted since.
    async fn begin(&mut self) -> Result<(), ViewError> {
        let bounds = self.storage.journal.bounds(&self.persistence_id).await?;
        let (mut state, mut seen) = (V::State::default(), bounds.tombstone);
        let mut criteria = SnapshotCriteria::ALL;
        criteria.min_sequence_nr = bounds.first_snapshot();
        if let Some(own) = &self.settings.snapshots {
            let snapshots = &self.storage.snapshots;
            while let Some(snapshot) = snapshots.load(&own.view_id, criteria).await? {
                if let Some(stored) = decode::<V>(&snapshot.payload) {
                    (state, seen) = (stored, snapshot.sequence_nr);
                    break;
                }
                tracing::warn!(view = %own.view_id, sequence_nr = %snapshot.sequence_nr, "the snapshot is not understood; trying an older one, then the events");
                criteria.max_sequence_nr = snapshot.sequence_nr.previous();
            }
        }
        (self.state, self.seen, self.is_sound) = (state, seen, true);
        self.life = bounds.tombstone;
        Ok(())
    }

    /// Folds the events there are into the state.
    async fn fold(&mut self) -> Result<(), ViewError> {
        let bounds = self.storage.journal.bounds(&self.persistence_id).await?;
        if bounds.tombstone > self.life {
            // The entity was deleted: nothing of it is to be seen any more.
            (self.state, self.seen) = (V::State::default(), bounds.tombstone);
            self.life = bounds.tombstone;
        }
        if self.seen < bounds.deleted_to {
            return Err(ViewError::HistoryDeleted {
                seen: self.seen,
                deleted_to: bounds.deleted_to,
            });
        }
        let to = self.seen.plus(self.settings.replay_max.max(1));
        let to = to.min(bounds.highest);
        if to <= self.seen {
            return Ok(());
        }
        let damaged = |damage: ReplayDamage| ViewError::Damaged {
            message: damage.to_string(),
        };
        let filter = self.settings.replay_filter;
        let replay = Replay::new(&self.persistence_id, self.seen, bounds, to, filter);
        let mut replay = replay.map_err(damaged)?;
        // The live entity's recovery reports them.
        let mut issues = Vec::new();
        while let Some(range) = replay.next_page() {
            let stored = self.storage.journal.read_events(&range).await?;
            issues.clear();
            for event in replay.take_page(stored, &mut issues).map_err(damaged)? {
                self.apply(&event)?;
            }
        }
        // The last ones may have been discarded by the filter.
        self.seen = to;
        Ok(())
    }

    fn apply(&mut self, event: &StoredEvent) -> Result<(), ViewError> {
        let Self {
            view,
            adapters,
            state,
            ..
        } = self;
        let at = event.sequence_nr;
        let folded = for_each_event::<V::Entity>(adapters, &event.payload, |event| {
            view.apply(state, event, at);
        });
        if let Err(error) = folded {
            // The state may have half of it.
            self.is_sound = false;
            return Err(ViewError::Event {
                sequence_nr: at,
                manifest: event.payload.manifest.to_string(),
                message: error.to_string(),
            });
        }
        self.seen = at;
        Ok(())
    }

    /// Takes a snapshot if one is due for the events from `first` on, and deletes what it
    /// replaces. It only saves time, so what fails is tried with the next.
    async fn take_snapshot(&mut self, first: SequenceNr) {
        let Some(ViewSnapshots { view_id, right, .. }) = self.settings.snapshots.clone() else {
            return;
        };
        let Some(take) = self.retention.after_write(first, self.seen, false) else {
            return;
        };
        let encoded = guard(|| codec::encode::<_, V::Codec>(&self.state, ""));
        let Ok(Ok(payload)) = encoded else {
            tracing::warn!(view = %view_id, "the state of a view cannot be encoded: no snapshot is taken");
            self.retention.snapshot_failed();
            return;
        };
        let snapshots = &self.storage.snapshots;
        let nr = take.sequence_nr;
        if let Err(error) = snapshots.save(right, &view_id, nr, &payload).await {
            tracing::warn!(view = %view_id, %error, "a snapshot of a view was not saved");
            self.retention.snapshot_failed();
            return;
        }
        if let Some(Deletion::Snapshots(to)) = self.retention.snapshot_saved(nr) {
            let criteria = SnapshotCriteria::up_to(to);
            if let Err(error) = snapshots.delete(right, &view_id, criteria).await {
                tracing::warn!(view = %view_id, %error, "old snapshots of a view were not deleted");
            }
            // Deleted or not: the next chain covers it.
            self.retention.delete_failed();
        }
    }
}

fn decode<V: View>(snapshot: &Payload) -> Option<V::State> {
    if snapshot.codec != <V::Codec as Codec<V::State>>::ID {
        return None;
    }
    guard(|| <V::Codec as Codec<V::State>>::decode(&snapshot.bytes))
        .ok()?
        .ok()
}
