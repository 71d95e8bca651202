//! When to take snapshots of an entity, and what may be deleted after one.
//!
//! A snapshot is taken with every `every` events, and when the entity's own
//! condition says so. One taken by the count starts a *chain*: when it is saved,
//! older events (if asked for) and then older snapshots are deleted. There is
//! one chain at a time, and one snapshot being saved at a time; what comes due
//! meanwhile is skipped, and the next chain covers it.
//!
//! A pure value, one for each live entity: it performs nothing, the caller does
//! and reports back. Nothing is deleted before a newer snapshot is saved, and no
//! event that follows a snapshot which is meant to stay. Next:
//! `snapshot_store.rs`.

use crate::sequence_nr::SequenceNr;

/// Settings `persistence.snapshot.*`, and an entity type's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionSettings {
    /// A snapshot with every so many events; 0 for none by the count, and then
    /// no deletions either.
    pub every: u32,
    /// Snapshots that stay, the newest included, at least 1. With
    /// `delete_events` one more stays: the one from which the events left go on.
    pub keep: u32,
    /// Whether events older than the oldest snapshot that stays are deleted.
    pub delete_events: bool,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            every: 100,
            keep: 2,
            delete_events: false,
        }
    }
}

/// `persistence.snapshot.keep` is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "persistence.snapshot.keep is 0: use at least 1, or persistence.snapshot.every = 0 to have no snapshots"
)]
pub struct InvalidRetentionSettings;

impl RetentionSettings {
    /// Checks the settings; to be called once, where they are read.
    ///
    /// # Errors
    /// [`InvalidRetentionSettings`] when no older snapshot would be kept.
    pub fn validate(self) -> Result<Self, InvalidRetentionSettings> {
        if self.keep == 0 {
            return Err(InvalidRetentionSettings);
        }
        Ok(self)
    }

    /// What lies at or below this number is not needed any more when a snapshot
    /// is saved at `snapshot`.
    #[must_use]
    pub fn delete_upper_bound(&self, snapshot: SequenceNr) -> SequenceNr {
        let kept = u64::from(self.every) * u64::from(self.keep);
        SequenceNr::new(snapshot.get().saturating_sub(kept))
    }

    /// Whether one of the numbers, both inclusive, is a multiple of `every`.
    fn is_due(&self, first: SequenceNr, last: SequenceNr) -> bool {
        let every = u64::from(self.every);
        every > 0 && last.get() / every > first.previous().get() / every
    }
}

/// A snapshot to be taken of the state as it is at `sequence_nr`. Report
/// [`Retention::snapshot_saved`] or [`Retention::snapshot_failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing else is taken until this one is reported saved or failed"]
pub struct TakeSnapshot {
    /// The last event the state contains.
    pub sequence_nr: SequenceNr,
}

/// Something to be deleted. Report [`Retention::deleted`] or
/// [`Retention::delete_failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "no other chain starts until this is reported deleted or failed"]
pub enum Deletion {
    /// Events up to this number, inclusive.
    Events(SequenceNr),
    /// Snapshots up to this number, inclusive.
    Snapshots(SequenceNr),
}

/// The snapshots of one live entity.
#[derive(Debug)]
pub struct Retention {
    settings: RetentionSettings,
    saving: Option<Saving>,
    deleting: Option<Deletion>,
}

#[derive(Debug, Clone, Copy)]
struct Saving {
    sequence_nr: SequenceNr,
    /// Taken by the count, so that deletions follow.
    begins_chain: bool,
}

impl Retention {
    /// For an entity that was just started.
    #[must_use]
    pub const fn new(settings: RetentionSettings) -> Self {
        Self {
            settings,
            saving: None,
            deleting: None,
        }
    }

    /// Events `first` to `last`, both inclusive, are stored and applied.
    /// `asked` says that the entity wants a snapshot at one of them; such a one
    /// deletes nothing unless it is due by the count as well.
    ///
    /// A write of several events gets one snapshot, at its last: the state
    /// between events of an atomic write is never stored.
    pub fn after_write(
        &mut self,
        first: SequenceNr,
        last: SequenceNr,
        asked: bool,
    ) -> Option<TakeSnapshot> {
        self.take(last, self.settings.is_due(first, last), asked)
    }

    /// The entity wants a snapshot of the state as it is, without an event of its own.
    /// There is none before the first event.
    pub fn asked(&mut self, last: SequenceNr) -> Option<TakeSnapshot> {
        self.take(last, false, last > SequenceNr::ZERO)
    }

    /// Recovery has ended at `last`, for which so many events were replayed on
    /// top of the snapshot, if there was one. As many as would have been due by
    /// the count are worth a snapshot, or every recovery would replay them.
    pub fn after_recovery(&mut self, replayed: u64, last: SequenceNr) -> Option<TakeSnapshot> {
        let every = u64::from(self.settings.every);
        self.take(last, every > 0 && replayed >= every, false)
    }

    /// The snapshot is saved. Returns what to delete now.
    pub fn snapshot_saved(&mut self, sequence_nr: SequenceNr) -> Option<Deletion> {
        let saving = self
            .saving
            .take_if(|saving| saving.sequence_nr == sequence_nr)?;
        if !saving.begins_chain {
            return None;
        }
        let bound = self.settings.delete_upper_bound(sequence_nr);
        let deletion = if self.settings.delete_events {
            Deletion::Events(bound)
        } else {
            Deletion::Snapshots(bound)
        };
        self.delete(deletion)
    }

    /// The snapshot could not be saved: nothing is deleted for it. The next one
    /// that is due is tried like any other.
    pub fn snapshot_failed(&mut self) {
        self.saving = None;
    }

    /// What was to be deleted is. Returns what to delete next.
    pub fn deleted(&mut self) -> Option<Deletion> {
        match self.deleting.take()? {
            // One less: the snapshot at the bound is where the events that are
            // left begin, so it stays useful.
            Deletion::Events(to) => self.delete(Deletion::Snapshots(to.previous())),
            Deletion::Snapshots(_) => None,
        }
    }

    /// What was to be deleted could not be. This chain ends; the next one
    /// deletes at least as much.
    pub fn delete_failed(&mut self) {
        self.deleting = None;
    }

    fn take(&mut self, last: SequenceNr, due: bool, asked: bool) -> Option<TakeSnapshot> {
        // A second chain is skipped as a whole, its snapshot with it; one that
        // the entity asks for does not wait for deletions.
        let begins_chain = due && self.deleting.is_none();
        if self.saving.is_some() || !(begins_chain || asked) {
            return None;
        }
        self.saving = Some(Saving {
            sequence_nr: last,
            begins_chain,
        });
        Some(TakeSnapshot { sequence_nr: last })
    }

    fn delete(&mut self, deletion: Deletion) -> Option<Deletion> {
        let (Deletion::Events(to) | Deletion::Snapshots(to)) = deletion;
        self.deleting = (to > SequenceNr::ZERO).then_some(deletion);
        self.deleting
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod retention_test;
