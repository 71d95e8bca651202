//! I-2: once a new owner of a shard has begun to recover, no earlier owner's write to
//! it commits. And I-1, as the journal sees it: one writer for a shard and an epoch.

use std::collections::BTreeMap;

use perennial_persistence::journal::Append;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};

use crate::verdict::Verdict;

/// An owner has begun to recover a shard's entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) shard: ShardNr,
    pub(crate) epoch: Epoch,
    pub(crate) session: SessionUuid,
}

#[derive(Default)]
pub(super) struct FencedWriters {
    /// Who has written to a shard under an epoch.
    writers: BTreeMap<(ShardNr, Epoch), SessionUuid>,
    /// The latest owner that has begun to recover.
    begun: BTreeMap<ShardNr, Begun>,
}

impl FencedWriters {
    pub(super) fn recovering(&mut self, begun: &[Begun]) {
        for begun in begun {
            let latest = self.begun.entry(begun.shard).or_insert(*begun);
            if latest.epoch < begun.epoch {
                *latest = *begun;
            }
        }
    }

    pub(super) fn stored(
        &mut self,
        session: SessionUuid,
        append: &Append,
        now: u64,
        verdict: &Verdict,
    ) {
        let (shard, epoch) = (append.shard, append.epoch);
        let writer = *self.writers.entry((shard, epoch)).or_insert(session);
        if writer != session {
            let what = format!("{session} and {writer} write to shard {shard} under epoch {epoch}");
            verdict.violated("I-1", now, what);
        }
        let later = (epoch.0.checked_add(1)).map(Epoch);
        let later = later.and_then(|later| {
            let of_shard = (shard, later)..=(shard, Epoch::LAST);
            self.writers.range(of_shard).next()
        });
        if let Some(((_, later), by)) = later {
            let what = format!(
                "{session} writes to shard {shard} under epoch {epoch}, after {by} has under {later}"
            );
            verdict.violated("I-2", now, what);
        }
        if let Some(begun) = self.begun.get(&shard)
            && begun.epoch > epoch
            && begun.session != session
        {
            let what = format!(
                "{session} writes to shard {shard} under epoch {epoch}, after {} has begun to recover it under {}",
                begun.session, begun.epoch
            );
            verdict.violated("I-2", now, what);
        }
    }
}
