//! What links say to the region: commands answered, returned and lost.
//!
//! Called by `link.rs`, under no lock but the slot's. What becomes of a command is
//! decided in `route.rs`.

use std::collections::BTreeSet;

use perennial_persistence::command::Answer;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::writer::{SessionUuid, ShardNr};

use super::inner::{Inner, now};
use super::link::{Link, LinkEvents, Ticket};
use super::slot::Slot;

impl LinkEvents for Inner {
    fn answered(&self, by: SessionUuid, ticket: Ticket, answer: Answer) {
        let mut slot = self.lock(ticket.shard());
        let parcel = slot.route.answered(by, ticket.nr());
        let has_waiting = slot.route.waiting_len() > 0;
        drop(slot);
        if let Some(parcel) = parcel {
            parcel.answer(answer);
        }
        if has_waiting {
            self.change(ticket.shard(), |_| {});
        }
    }

    fn returned(&self, by: SessionUuid, ticket: Ticket) {
        self.change(ticket.shard(), |slot| {
            if let Some(parcel) = slot.route.returned(by, ticket.nr()) {
                self.figures.returned.increment(1);
                parcel.waits_since = Some(now());
            }
        });
    }

    fn has_room(&self, shards: BTreeSet<ShardNr>) {
        for shard in shards {
            self.change(shard, |_| {});
        }
    }

    fn lost(&self, link: &Link, unwritten: &BTreeSet<Ticket>) {
        for shard in self.shards() {
            let is_out = |slot: &Slot| {
                let owner = slot.route.out_to();
                owner.is_some_and(|owner| owner.session == link.session)
            };
            if is_out(&self.lock(shard)) {
                self.change(shard, |slot| self.lose(slot, link.session, unwritten));
            }
        }
    }
}

impl Inner {
    /// What is out at an owner that is one no more will not be answered: commands that
    /// can be repeated go to the next owner.
    pub(super) fn give_up_on(&self, slot: &mut Slot, session: SessionUuid) {
        self.lose(slot, session, &BTreeSet::new());
    }

    fn lose(&self, slot: &mut Slot, session: SessionUuid, unwritten: &BTreeSet<Ticket>) {
        let shard = slot.shard;
        let mut resent = 0;
        let now = now();
        let lost = slot.route.lost(session, |nr, parcel| {
            let is_unwritten = unwritten.contains(&Ticket::new(shard, nr));
            let resend = parcel.can_be_repeated() || is_unwritten;
            parcel.may_have_run |= !is_unwritten && !parcel.is_read();
            resent += u64::from(resend);
            parcel.waits_since = Some(now);
            resend
        });
        self.figures.resent.increment(resent);
        self.figures.owner_lost.increment(lost.len() as u64);
        for parcel in lost {
            parcel.refuse(CommandError::OwnerLost);
        }
    }
}
