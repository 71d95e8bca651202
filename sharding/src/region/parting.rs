//! How a node that has handed its shards off parts from those that send to it.
//!
//! A sender may learn of a handoff later than the owner does, and send a command
//! meanwhile. The owner returns it, if it is still there, and if what it says still
//! gets through. So it stays until every sender has closed its stream (I-9); a sender
//! does, once it goes by a state in which the node has left, and has heard of
//! everything that is out there. Nothing is said for this but the end of a stream. A
//! sender that hangs, or does not know that it should, is not waited for for ever.
//!
//! What is decided, and what the stopping node counts. Next: `keeper.rs` and `link.rs`,
//! which perform it at the sender; [`Region::part`](super::Region::part), at the owner.

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::SessionUuid;
use tokio::sync::watch;

use crate::cluster_state::ClusterState;

/// What becomes of a link to a session of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkFate {
    /// The node owns shards, or may be given some.
    GoesOn,
    /// Nothing new is sent there: it ends as soon as nothing is out.
    Retires,
    /// Nobody will answer there.
    Ends,
}

/// What becomes of a link, by one state of the cluster.
pub(super) fn fate_of(state: &ClusterState, node: NodeNr, session: SessionUuid) -> LinkFate {
    if state.has_left(node, session) {
        LinkFate::Retires
    } else if state.is_current(node, session) {
        LinkFate::GoesOn
    } else {
        LinkFate::Ends
    }
}

/// The streams on which other nodes send to this one.
#[derive(Debug, Default)]
pub(super) struct Arrivers(watch::Sender<Streams>);

#[derive(Debug, Default)]
struct Streams {
    open: usize,
    /// No more are taken.
    is_closed: bool,
}

/// One of the streams, for as long as it lasts.
#[derive(Debug)]
pub(super) struct Arriver<'a>(&'a Arrivers);

impl Arrivers {
    /// A stream comes; `None` when no more are taken.
    pub(super) fn enter(&self) -> Option<Arriver<'_>> {
        let is_taken = self.0.send_if_modified(|streams| {
            if !streams.is_closed {
                streams.open += 1;
            }
            !streams.is_closed
        });
        // Not before it is known: an arriver that is dropped is one that goes.
        is_taken.then(|| Arriver(self))
    }

    /// Takes no more of them, and returns when the last has ended. Safe to cancel; it
    /// stays closed.
    pub(super) async fn close(&self) {
        let mut streams = self.0.subscribe();
        self.0.send_modify(|streams| streams.is_closed = true);
        // No error: the sender is at hand.
        let _ = streams.wait_for(|streams| streams.open == 0).await;
    }
}

impl Drop for Arriver<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|streams| streams.open -= 1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt;
    use perennial_persistence::writer::ShardNr;
    use uuid::Uuid;

    use super::*;
    use crate::cluster_state::{ClusterCommand, DrainedBy, Member, MemberStatus};

    const A: NodeNr = NodeNr(1);
    const B: NodeNr = NodeNr(2);

    fn session(node: NodeNr, incarnation: u64) -> SessionUuid {
        SessionUuid(Uuid::from_u64_pair(node.0, incarnation))
    }

    fn join(node: NodeNr, incarnation: u64) -> ClusterCommand {
        let member = Member {
            node,
            incarnation,
            session: session(node, incarnation),
            address: String::new(),
            peer_address: String::new(),
            version: String::new(),
            weight: 1,
            status: MemberStatus::Joining,
            removing: false,
        };
        ClusterCommand::Join { member, at: 0 }
    }

    /// Two nodes that are up; the first owns the only shard.
    fn cluster() -> ClusterState {
        let mut state = ClusterState::new(Uuid::nil(), 1, 1);
        for node in [A, B] {
            apply(&mut state, &join(node, 1));
            let session = session(node, 1);
            let up = ClusterCommand::Up {
                node,
                session,
                at: 0,
            };
            apply(&mut state, &up);
        }
        let shards = vec![(ShardNr(0), A, session(A, 1))];
        apply(&mut state, &ClusterCommand::Assign { shards, at: 0 });
        state
    }

    fn apply(state: &mut ClusterState, command: &ClusterCommand) {
        state.apply(state.index + 1, command);
    }

    fn leave(remove: bool) -> ClusterCommand {
        ClusterCommand::Leave {
            node: A,
            session: session(A, 1),
            remove,
            at: 0,
        }
    }

    fn hand_off(state: &mut ClusterState) {
        let epoch = state.shards[0].epoch;
        let shards = vec![(ShardNr(0), epoch, B)];
        apply(state, &ClusterCommand::BeginHandoff { shards, at: 0 });
    }

    fn drained(state: &mut ClusterState) {
        let drained = ClusterCommand::Drained {
            shard: ShardNr(0),
            session: session(A, 1),
            epoch: state.shards[0].epoch,
            by: DrainedBy::Owner,
            at: 0,
        };
        apply(state, &drained);
    }

    fn fate(state: &ClusterState) -> LinkFate {
        fate_of(state, A, session(A, 1))
    }

    #[test]
    fn a_link_retires_when_the_node_leaves_and_owns_nothing() {
        let mut state = cluster();
        assert_eq!(fate(&state), LinkFate::GoesOn);
        apply(&mut state, &leave(false));
        assert_eq!(fate(&state), LinkFate::GoesOn, "it owns a shard");
        hand_off(&mut state);
        assert_eq!(fate(&state), LinkFate::GoesOn, "it hands it off");
        drained(&mut state);
        assert_eq!(fate(&state), LinkFate::Retires);
        let session = session(A, 1);
        let down = ClusterCommand::Down {
            node: A,
            session,
            at: 0,
        };
        apply(&mut state, &down);
        assert_eq!(fate(&state), LinkFate::Ends, "nobody is there any more");
        apply(&mut state, &join(A, 2));
        assert_eq!(fate(&state), LinkFate::Ends, "that is another session");
    }

    #[test]
    fn a_link_goes_on_to_a_node_that_owns_nothing_and_stays() {
        let mut state = cluster();
        hand_off(&mut state);
        drained(&mut state);
        assert_eq!(fate(&state), LinkFate::GoesOn);
    }

    #[test]
    fn a_link_to_a_node_that_was_removed_retires() {
        let mut state = cluster();
        apply(&mut state, &leave(true));
        hand_off(&mut state);
        drained(&mut state);
        apply(&mut state, &ClusterCommand::Remove { node: A, at: 0 });
        assert!(state.member(A).is_none());
        assert_eq!(fate(&state), LinkFate::Retires);
    }

    #[test]
    fn closing_waits_for_those_inside_and_lets_nobody_in() {
        let arrivers = Arrivers::default();
        let (one, other) = (arrivers.enter().unwrap(), arrivers.enter().unwrap());
        assert_eq!(arrivers.close().now_or_never(), None);
        assert!(arrivers.enter().is_none());
        drop(one);
        assert_eq!(arrivers.close().now_or_never(), None);
        drop(other);
        assert_eq!(arrivers.close().now_or_never(), Some(()));
        assert!(arrivers.enter().is_none());
    }
}
