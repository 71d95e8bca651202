//! Shards that leave this node: their cells finish what is out and go, and what
//! waits is handed back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::handing_back::HandBackReason;
use crate::writer::ShardNr;

use super::{CellContext, Worker};

/// Shards some of whose cells have not left yet.
#[derive(Default)]
pub(super) struct ClosingShards(BTreeMap<ShardNr, Closing>);

struct Closing {
    /// Slots of the cells that are still there.
    cells: BTreeSet<usize>,
    /// When work outside is not waited for any more.
    force_at: Instant,
    /// Told by dropping.
    _all_left: Vec<oneshot::Sender<()>>,
}

impl ClosingShards {
    /// A cell has left, or stays for another time of the shard.
    pub(super) fn left(&mut self, shard: ShardNr, slot: usize) {
        if let Some(closing) = self.0.get_mut(&shard) {
            closing.cells.remove(&slot);
            if closing.cells.is_empty() {
                self.0.remove(&shard);
            }
        }
    }
}

impl Worker {
    pub(super) fn close_shards(
        &mut self,
        shards: Vec<(ShardNr, oneshot::Sender<()>)>,
        limit: Duration,
    ) {
        let now = Instant::now();
        let mut waiters: BTreeMap<ShardNr, Vec<oneshot::Sender<()>>> = BTreeMap::new();
        for (shard, left) in shards {
            waiters.entry(shard).or_default().push(left);
        }
        self.give_up_deletions(|shard| waiters.contains_key(&shard));
        let is_of_shard = |(slot, resident): (usize, &super::Resident)| {
            let shard = resident.cell.shard;
            waiters.contains_key(&shard).then_some((shard, slot))
        };
        let cells: Vec<_> = self.cells.iter().filter_map(is_of_shard).collect();
        let mut staying: BTreeMap<ShardNr, BTreeSet<usize>> = BTreeMap::new();
        for (shard, slot) in cells {
            let mut cx = CellContext {
                now: now.into_std(),
                settings: &self.shared.settings,
                confirmations: &self.shared.confirmations,
                journal_out_of_reach: self.shared.is_journal_out_of_reach(),
                actions: &mut self.actions,
                last_ticket: &mut self.last_ticket,
            };
            let may_leave = self.cells[slot].cell.close(&mut cx);
            self.perform(slot);
            if may_leave {
                self.leave(slot, "handoff");
            } else {
                self.recount(slot);
                staying.entry(shard).or_default().insert(slot);
            }
        }
        for (shard, left) in waiters {
            let Some(cells) = staying.remove(&shard) else {
                continue;
            };
            let closing = self.closing.0.entry(shard).or_insert_with(|| Closing {
                cells: BTreeSet::new(),
                force_at: now + limit,
                _all_left: Vec::new(),
            });
            closing.cells.extend(cells);
            closing.force_at = closing.force_at.min(now + limit);
            closing._all_left.extend(left);
        }
    }

    pub(super) fn is_closed(&self, slot: usize) -> bool {
        let closing = self.closing.0.get(&self.cells[slot].cell.shard);
        closing.is_some_and(|closing| closing.cells.contains(&slot))
    }

    /// Whether a closed cell has nothing out any more.
    pub(super) fn has_finished(&self, slot: usize) -> bool {
        self.is_closed(slot) && !self.cells[slot].cell.is_outside()
    }

    /// Takes a closed cell out of memory, and hands back what it has.
    pub(super) fn leave_closed(&mut self, slot: usize) {
        let mut cx = CellContext {
            now: Instant::now().into_std(),
            settings: &self.shared.settings,
            confirmations: &self.shared.confirmations,
            journal_out_of_reach: self.shared.is_journal_out_of_reach(),
            actions: &mut self.actions,
            last_ticket: &mut self.last_ticket,
        };
        let cell = &mut self.cells[slot].cell;
        cell.hand_back_all(HandBackReason::Stopped, &mut cx);
        self.perform(slot);
        self.leave(slot, "handoff");
    }

    /// Does not wait for work outside any more where it takes too long.
    pub(super) fn force_overdue_shards(&mut self, now: Instant) {
        let overdue = self.closing.0.values().filter(|c| c.force_at <= now);
        let slots: Vec<usize> = overdue.flat_map(|c| c.cells.iter().copied()).collect();
        for slot in slots {
            // An append is waited for: it decides what is handed back.
            if self.cells[slot].cell.waits_only_outside() {
                self.leave_closed(slot);
            }
        }
    }
}
