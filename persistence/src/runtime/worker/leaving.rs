//! How entities leave memory when nothing else is to become of them.

use super::Worker;
use crate::command_error::CommandError;

impl Worker {
    pub(super) fn passivate_oldest(&mut self) {
        if let Some(slot) = self.idle.pop_oldest() {
            self.leave(slot as usize, "limit");
        }
    }

    /// What a cell keeps for later cannot wait for the end of the node.
    pub(super) fn leave_parked(&mut self, slot: usize) {
        let cell = &mut self.cells[slot].cell;
        let shard = cell.shard.0;
        cell.refuse_all(&CommandError::ShardUnavailable { shard });
        self.leave(slot, "stopped");
    }

    /// Takes a cell out of memory.
    pub(super) fn leave(&mut self, slot: usize, reason: &'static str) {
        self.idle.remove(slot as u32);
        self.parked.remove(&slot);
        self.keeping.remove(&slot);
        let resident = self.cells.remove(slot);
        self.closing.left(resident.cell.shard, slot);
        self.shared.stash_budget.recount(resident.kept, 0);
        self.by_id.remove(&resident.cell.persistence_id);
        self.shared.residency.left();
        metrics::counter!("perennial_passivations_total", "reason" => reason).increment(1);
        if self.deletions.is_asked(&resident.cell.persistence_id) {
            self.delete_rows(resident.cell.persistence_id);
        }
    }
}
