//! The vote of a member whose own log says that it does not vote any more.
//!
//! Pure: it sees that log and says with what a candidate's is compared. It does not know
//! who leads, nor how raft votes; `answers.rs` asks raft for the vote accordingly.
//!
//! Voters are replaced by two entries: from the first on old and new ones decide
//! together, from the second on the new ones alone. A voter that goes may have the
//! second when none that stays has it: as the leader that wrote it, or because that
//! leader reached nobody else. Should there be an election then, whoever stands goes by
//! the first entry and needs the vote of the one that goes. That one would refuse,
//! because its own log is longer, and cannot stand itself, since openraft lets only
//! voters do that. Nobody would ever lead again.
//!
//! So, for its vote, its log ends before the entry by which it does not vote. It goes
//! back on nothing: what follows is committed by those that vote then, and it is none
//! of them. Whoever stands by the entries before needs a majority of these too, which
//! refuses if they have committed what follows.

use openraft::EntryPayload;
use perennial_persistence::registry::NodeNr;

use super::store::Image;
use super::types::LogId;

/// Where a candidate's log ends, for raft to compare it with the log of the member `me`:
/// as far as that one's, if the candidate has all of it that counts.
pub(super) fn compared(me: NodeNr, log: &Image, candidate: Option<LogId>) -> Option<LogId> {
    match surplus(me, log) {
        Some(surplus) if candidate >= Some(surplus.after) => candidate.max(Some(surplus.last)),
        _ => candidate,
    }
}

/// The end of a log that says nothing about its member's vote.
struct Surplus {
    /// The last entry that counts.
    after: LogId,
    last: LogId,
}

fn surplus(me: NodeNr, log: &Image) -> Option<Surplus> {
    let entries = log.entries.values().map(|(entry, _)| entry);
    let (parted_at, voters) = entries.rev().find_map(|entry| match &entry.payload {
        EntryPayload::Membership(membership) => Some((entry.log_id, membership)),
        EntryPayload::Blank | EntryPayload::Normal(_) => None,
    })?;
    // What is committed needs no help: one of those that have it can be elected.
    if Some(parted_at) <= log.committed || voters.voter_ids().any(|voter| voter == me.0) {
        return None;
    }
    let before = log.entries.range(..parted_at.index).next_back();
    let after = before.map_or(log.purged, |(_, (entry, _))| Some(entry.log_id))?;
    let (_, (last, _)) = log.entries.last_key_value()?;
    Some(Surplus {
        after,
        last: last.log_id,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod parting_vote_test;
