//! With what a member compares a candidate's log, before and after it has parted.

use std::collections::BTreeSet;

use openraft::{CommittedLeaderId, EmptyNode, Membership};

use super::*;
use crate::cluster_state::ClusterCommand;
use crate::raft::types::Entry;

const ME: NodeNr = NodeNr(1);

fn at(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn command(log_id: LogId) -> Entry {
    Entry {
        log_id,
        payload: EntryPayload::Normal(ClusterCommand::Remove {
            node: NodeNr(9),
            at: 0,
        }),
    }
}

/// These vote from then on, each set by itself; nodes 1 to 4 have the log.
fn voters(log_id: LogId, configs: &[&[u64]]) -> Entry {
    let configs = configs
        .iter()
        .map(|config| config.iter().copied().collect());
    let configs: Vec<BTreeSet<u64>> = configs.collect();
    let everybody = (1..=4).map(|node| (node, EmptyNode::new()));
    let everybody: std::collections::BTreeMap<u64, EmptyNode> = everybody.collect();
    Entry {
        log_id,
        payload: EntryPayload::Membership(Membership::new(configs, everybody)),
    }
}

fn log(entries: impl IntoIterator<Item = Entry>) -> Image {
    let entries = entries.into_iter();
    Image {
        entries: entries.map(|e| (e.log_id.index, (e, 1))).collect(),
        ..Image::default()
    }
}

/// Node 2 follows node 1; of the replacement it may lack the second entry.
fn replaced() -> Image {
    log([
        command(at(1, 3)),
        voters(at(1, 4), &[&[1], &[2]]),
        command(at(1, 5)),
        voters(at(1, 6), &[&[2]]),
        command(at(1, 7)),
    ])
}

#[test]
fn what_follows_the_loss_of_the_vote_does_not_count() {
    let log = replaced();
    for all_that_counts in [at(1, 5), at(1, 6), at(1, 7)] {
        let compared = compared(ME, &log, Some(all_that_counts));
        assert_eq!(compared, Some(at(1, 7)), "{all_that_counts}");
    }
    for too_little in [None, Some(at(0, 9)), Some(at(1, 3)), Some(at(1, 4))] {
        assert_eq!(compared(ME, &log, too_little), too_little);
    }
    for more in [at(1, 8), at(2, 6)] {
        assert_eq!(compared(ME, &log, Some(more)), Some(more));
    }
}

/// Those that vote by its log answer for all of theirs, in a joint configuration too.
#[test]
fn whoever_votes_compares_all_it_has() {
    let log = replaced();
    let candidate = Some(at(1, 5));
    assert_eq!(compared(NodeNr(2), &log, candidate), candidate);

    let mut joint = log;
    joint.entries.split_off(&6);
    let candidate = Some(at(1, 4));
    assert_eq!(compared(ME, &joint, candidate), candidate);
    assert_eq!(compared(NodeNr(2), &joint, candidate), candidate);
}

/// A voter that has it can be elected then.
#[test]
fn what_is_committed_counts() {
    let mut log = replaced();
    let candidate = Some(at(1, 5));
    log.committed = Some(at(1, 5));
    assert_eq!(compared(ME, &log, candidate), Some(at(1, 7)));
    log.committed = Some(at(1, 6));
    assert_eq!(compared(ME, &log, candidate), candidate);
}

#[test]
fn the_entry_before_may_be_in_the_snapshot() {
    let mut log = replaced();
    log.entries = log.entries.split_off(&6);
    log.purged = Some(at(1, 5));
    assert_eq!(compared(ME, &log, Some(at(1, 5))), Some(at(1, 7)));
    assert_eq!(compared(ME, &log, Some(at(1, 4))), Some(at(1, 4)));
}

/// Who has no log at all is never taken for somebody who has.
#[test]
fn without_an_entry_before_everything_counts() {
    let log = log([voters(at(0, 0), &[&[2]]), command(at(1, 1))]);
    assert_eq!(compared(ME, &log, None), None);
    assert_eq!(compared(ME, &log, Some(at(0, 0))), Some(at(0, 0)));
    assert_eq!(compared(ME, &Image::default(), None), None);
}
