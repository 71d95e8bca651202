//! How a cell gives back what it did not begin: because its shard leaves this node,
//! because the journal refuses its writes, or because it may not answer from memory.
//!
//! What is out is finished; what waits goes back as it came. Nothing of it had an
//! effect, so whoever owns the shard next can begin it (I-9).

use crate::command::Envelope;
use crate::handing_back::HandBackReason;
use crate::writer::Epoch;

use super::{Action, Aside, Cell, CellContext, Queued, Stage};

impl Cell {
    /// The cell's shard leaves: gives back what waits. Returns whether it can leave
    /// memory now; else it will have nothing to do when what is out is finished.
    pub(crate) fn close(&mut self, cx: &mut CellContext<'_>) -> bool {
        if self.work.is_none() {
            return true;
        }
        self.hand_back_waiting(HandBackReason::Stopped, cx);
        // What it looks up or recovers for is given back.
        let is_writing = match self.stage {
            Stage::Storing => true,
            Stage::Recovering => false,
            // An actor goes on with other commands, and looks them up, meanwhile.
            Stage::Ready | Stage::LookingUp => {
                self.is_actor() && {
                    let status = self.actor().status();
                    status.writing || status.pending > 0
                }
            }
        };
        let is_outside = self.is_outside();
        let work = self.work();
        work.closing = is_writing || is_outside;
        !work.closing
    }

    /// Whether work goes on outside for it.
    pub(crate) fn is_outside(&self) -> bool {
        self.aside().is_some_and(Aside::is_outside)
    }

    /// Whether, of what a closed cell waits for, only work outside is left.
    pub(crate) fn waits_only_outside(&self) -> bool {
        self.is_outside() && self.stage != Stage::Storing
    }

    /// A request comes under a later epoch than the cell's: the entity starts over
    /// under that, when what is out is finished. Returns whether the cell wants to run.
    pub(crate) fn supersede(&mut self, epoch: Epoch) -> bool {
        self.work().next_epoch = Some(epoch);
        self.stop_requested = true;
        self.stage == Stage::Ready
    }

    /// The epoch under which a next incarnation in this place writes.
    pub(super) fn adopt_next_epoch(&mut self) {
        if let Some(work) = &mut self.work
            && let Some(epoch) = work.next_epoch.take()
        {
            work.closing = false;
            self.epoch = epoch;
        }
    }

    /// Whether it leaves, although commands wait for it.
    pub(super) fn leaves_for_good(&self) -> bool {
        self.work
            .as_ref()
            .is_some_and(|work| work.closing && work.next_epoch.is_none())
    }

    /// Gives back everything that waits, that is kept for later, and that goes on
    /// outside.
    pub(crate) fn hand_back_all(&mut self, reason: HandBackReason, cx: &mut CellContext<'_>) {
        let Some(work) = &mut self.work else { return };
        let kept = work.aside.drain();
        let returned = work.returned.drain(..);
        let all: Vec<Queued> = kept.chain(returned).chain(work.stash.drain(..)).collect();
        self.hand_back(reason, all, cx);
    }

    fn hand_back_waiting(&mut self, reason: HandBackReason, cx: &mut CellContext<'_>) {
        let Some(work) = &mut self.work else { return };
        let put_aside = work.aside.take_put_aside();
        let returned = work.returned.drain(..);
        let waiting = put_aside
            .into_iter()
            .chain(returned)
            .chain(work.stash.drain(..));
        let waiting: Vec<Queued> = waiting.collect();
        self.hand_back(reason, waiting, cx);
    }

    pub(super) fn hand_back(
        &mut self,
        reason: HandBackReason,
        queued: Vec<Queued>,
        cx: &mut CellContext<'_>,
    ) {
        if queued.is_empty() {
            return;
        }
        let envelope = |queued: Queued| Envelope {
            persistence_id: self.persistence_id.clone(),
            shard: self.shard,
            epoch: self.epoch,
            arrival: queued.arrival,
            request: queued.request,
            deadline: queued.deadline,
            reply_to: queued.reply_to,
            trace: queued.trace,
        };
        let envelopes = queued.into_iter().map(envelope).collect();
        cx.actions.push(Action::HandBack(reason, envelopes));
    }
}
