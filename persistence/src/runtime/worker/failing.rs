//! What becomes of an entity that has failed, and for how long it stays down.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::Worker;
use crate::backoff::Backoff;
use crate::command_error::CommandError;
use crate::persistence_id::PersistenceId;
use crate::runtime::cell::Failure;

/// Entities whose failures are remembered; beyond it a further one restarts
/// without a back-off.
const FAILURES_MAX: usize = 10_000;

/// An entity that failed lately.
pub(super) struct Failed {
    pub(super) backoff: Backoff,
    pub(super) message: String,
}

impl Worker {
    pub(super) fn fail(&mut self, slot: usize, failure: Failure, message: String) {
        let retry_after = match failure {
            Failure::Journal => {
                let id = &self.cells[slot].cell.persistence_id;
                if let Some(failed) = self.failures.get_mut(id) {
                    failed.backoff.interrupted(Instant::now().into_std());
                }
                Duration::ZERO
            }
            Failure::Recovery | Failure::Handling => {
                let id = self.cells[slot].cell.persistence_id.clone();
                self.back_off(id, &message)
            }
        };
        let error = match failure {
            Failure::Recovery => CommandError::RecoveryFailed {
                message,
                retry_after,
            },
            Failure::Handling | Failure::Journal => CommandError::BackingOff {
                message,
                retry_after,
            },
        };
        let is_closed = self.is_closed(slot);
        let cell = &mut self.cells[slot].cell;
        if !is_closed {
            cell.refuse_all(&error);
        }
        if failure == Failure::Journal {
            let (id, to) = (&cell.persistence_id, cell.may_have_stored_to());
            self.deletions
                .note_undecided(id, to, Instant::now().into_std());
        }
        if is_closed {
            self.leave_closed(slot);
            return;
        }
        self.leave(slot, "failed");
    }

    /// Remembers a failure; returns how long the entity stays down.
    pub(super) fn back_off(&mut self, id: PersistenceId, message: &str) -> Duration {
        let settings = &self.shared.settings.backoff;
        let now = Instant::now().into_std();
        let random = self.random.random::<f64>();
        if let Some(failed) = self.failures.get_mut(&id) {
            failed.backoff.failed(settings, now, random);
            failed.message.clear();
            failed.message.push_str(message);
            return failed.backoff.remaining(now).unwrap_or_default();
        }
        if self.failures.len() >= FAILURES_MAX {
            metrics::counter!("perennial_backoffs_forgotten_total").increment(1);
            return Duration::ZERO;
        }
        let backoff = Backoff::first_failure(settings, now, random);
        let message = message.to_owned();
        self.failures.insert(id, Failed { backoff, message });
        backoff.remaining(now).unwrap_or_default()
    }
}
