//! Starting an entity for its first request. Next: `cell.rs`.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Resident, Worker};
use crate::command::Envelope;
use crate::command_error::{CommandError, StashLimit};
use crate::runtime::cell::{Cell, CellContext, count_overflow};

impl Worker {
    /// Starts an entity for its first request.
    pub(super) fn start(&mut self, envelope: Envelope) {
        if self.shared.stash_budget.is_used_up() {
            let limit = StashLimit::Node(self.shared.settings.stash_total);
            count_overflow(limit);
            let error = CommandError::StashFull(limit);
            envelope.reply_to.answer(Err(error));
            return;
        }
        let now = Instant::now();
        if let Some(failed) = self.failures.get_mut(&envelope.persistence_id) {
            if let Some(retry_after) = failed.backoff.remaining(now.into_std()) {
                let message = failed.message.clone();
                envelope.reply_to.answer(Err(CommandError::BackingOff {
                    message,
                    retry_after,
                }));
                return;
            }
            failed
                .backoff
                .starting(&self.shared.settings.backoff, now.into_std());
        }
        let shared = Arc::clone(&self.shared);
        let Some(factory) = shared.types.get(envelope.persistence_id.entity_type()) else {
            let entity_type = envelope.persistence_id.entity_type().to_owned();
            let error = CommandError::EntityTypeUnknown { entity_type };
            envelope.reply_to.answer(Err(error));
            return;
        };
        let writer = self.draw_writer();
        self.incarnations += 1;
        let mut cx = CellContext {
            now: now.into_std(),
            settings: &shared.settings,
            confirmations: &shared.confirmations,
            journal_out_of_reach: shared.is_journal_out_of_reach(),
            actions: &mut self.actions,
            last_ticket: &mut self.last_ticket,
        };
        let id = envelope.persistence_id.clone();
        let mut cell = match Cell::start(&envelope, factory, self.incarnations, writer, &mut cx) {
            Ok(cell) => cell,
            Err(error) => {
                let message = error.to_string();
                let retry_after = self.back_off(id, &message);
                envelope.reply_to.answer(Err(CommandError::RecoveryFailed {
                    message,
                    retry_after,
                }));
                return;
            }
        };
        cell.accept(envelope, &shared.settings, false);
        let slot = self.cells.insert(Resident {
            cell,
            ready: false,
            kept: 0,
            recovery: None,
        });
        self.by_id.insert(id, slot);
        self.recount(slot);
        if let Some(worker) = shared.residency.entered() {
            shared.workers()[worker].passivate_oldest();
        }
        self.perform(slot);
    }
}
