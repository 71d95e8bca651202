//! Each command: what it does, and that it does nothing when it no longer fits.
#![allow(clippy::unwrap_used)]

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use uuid::Uuid;

use super::events::RECENT_EVENTS_MAX;
use super::{ClusterCommand, ClusterState, DrainedBy, Home, Member, MemberStatus};

const A: NodeNr = NodeNr(1);
const B: NodeNr = NodeNr(2);
const C: NodeNr = NodeNr(3);
const S: ShardNr = ShardNr(0);
const GENERATION: u32 = 7;

/// The session of a node's n-th incarnation.
fn session(node: NodeNr, incarnation: u64) -> SessionUuid {
    SessionUuid(Uuid::from_u64_pair(node.0, incarnation))
}

fn member(node: NodeNr, incarnation: u64) -> Member {
    Member {
        node,
        incarnation,
        session: session(node, incarnation),
        address: format!("10.0.0.{}:7400", node.0),
        peer_address: format!("10.0.0.{}:7402", node.0),
        version: "1.0.0".to_owned(),
        weight: 1,
        status: MemberStatus::Joining,
        removing: false,
    }
}

fn epoch(n: u64) -> Epoch {
    Epoch((u64::from(GENERATION) << 32) + n)
}

fn join(node: NodeNr, incarnation: u64) -> ClusterCommand {
    let member = member(node, incarnation);
    ClusterCommand::Join { member, at: 1 }
}

fn up(node: NodeNr, incarnation: u64) -> ClusterCommand {
    let session = session(node, incarnation);
    ClusterCommand::Up {
        node,
        session,
        at: 2,
    }
}

fn down(node: NodeNr, incarnation: u64) -> ClusterCommand {
    let session = session(node, incarnation);
    ClusterCommand::Down {
        node,
        session,
        at: 3,
    }
}

fn leave(node: NodeNr, remove: bool) -> ClusterCommand {
    ClusterCommand::Leave {
        node,
        session: session(node, 1),
        remove,
        at: 4,
    }
}

fn assign(shard: ShardNr, node: NodeNr, incarnation: u64) -> ClusterCommand {
    ClusterCommand::Assign {
        shards: vec![(shard, node, session(node, incarnation))],
        at: 5,
    }
}

fn begin(epoch: Epoch, to: NodeNr) -> ClusterCommand {
    ClusterCommand::BeginHandoff {
        shards: vec![(S, epoch, to)],
        at: 6,
    }
}

fn drained(node: NodeNr, epoch: Epoch) -> ClusterCommand {
    ClusterCommand::Drained {
        shard: S,
        session: session(node, 1),
        epoch,
        by: DrainedBy::Owner,
        at: 7,
    }
}

fn fenced(node: NodeNr, incarnation: u64) -> ClusterCommand {
    ClusterCommand::Fenced {
        session: session(node, incarnation),
        at: 8,
    }
}

/// A, B and C are up; nobody owns anything.
fn three_up(shards: u32) -> ClusterState {
    let mut state = ClusterState::new(Uuid::from_u128(9), GENERATION, shards);
    for node in [A, B, C] {
        apply(&mut state, &join(node, 1));
        apply(&mut state, &up(node, 1));
    }
    state
}

/// The command changes the state, and nothing more when it comes again.
#[track_caller]
fn apply(state: &mut ClusterState, command: &ClusterCommand) {
    assert!(state.apply(state.index + 1, command), "{command:?} changes");
    refuse(state, command);
}

/// The command changes nothing but the index.
#[track_caller]
fn refuse(state: &mut ClusterState, command: &ClusterCommand) {
    let mut before = state.clone();
    assert!(
        !state.apply(state.index + 1, command),
        "{command:?} is stale"
    );
    before.index += 1;
    assert_eq!(*state, before);
}

fn owned(node: NodeNr, incarnation: u64) -> Home {
    let session = session(node, incarnation);
    Home::Owned { node, session }
}

fn unfenced(state: &ClusterState) -> Vec<SessionUuid> {
    state.shards[0].unfenced.iter().copied().collect()
}

#[test]
fn the_generation_is_the_upper_half_of_every_epoch() {
    let mut state = three_up(1);
    assert_eq!(state.shards[0].epoch, Epoch(7 << 32));
    apply(&mut state, &assign(S, A, 1));
    assert_eq!(state.shards[0].epoch, Epoch((7 << 32) + 1));
}

#[test]
fn only_a_member_that_is_up_with_this_session_is_given_shards() {
    let mut state = ClusterState::new(Uuid::nil(), GENERATION, 1);
    refuse(&mut state, &assign(S, A, 1));
    apply(&mut state, &join(A, 1));
    refuse(&mut state, &assign(S, A, 1));
    apply(&mut state, &up(A, 1));
    refuse(&mut state, &assign(S, A, 2));
    refuse(&mut state, &assign(ShardNr(1), A, 1));
    apply(&mut state, &assign(S, A, 1));
    let owner = state.owner_of(S).unwrap();
    assert_eq!((owner.node, owner.epoch), (A, epoch(1)));
    assert!(owner.may_recover);
}

#[test]
fn a_shard_is_handed_off() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    refuse(&mut state, &begin(epoch(0), B));
    refuse(&mut state, &begin(epoch(1), A));
    refuse(&mut state, &begin(epoch(1), NodeNr(9)));
    apply(&mut state, &begin(epoch(1), B));
    assert_eq!(state.owner_of(S).unwrap().node, A);
    assert_eq!(state.owner_of(S).unwrap().handing_off_to, Some(B));
    refuse(&mut state, &begin(epoch(1), C));
    refuse(&mut state, &drained(A, epoch(0)));
    refuse(&mut state, &drained(B, epoch(1)));
    apply(&mut state, &drained(A, epoch(1)));
    assert_eq!(state.shards[0].home, owned(B, 1));
    assert_eq!(state.shards[0].epoch, epoch(2));
    assert!(state.shards[0].unfenced.is_empty());
}

#[test]
fn shards_of_a_dead_node_wait_for_its_fence() {
    let mut state = three_up(2);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &down(A, 1));
    assert_eq!(state.condemned.get(&session(A, 1)), Some(&A));
    assert_eq!(state.shards[0].home, Home::Unassigned);
    assert_eq!(unfenced(&state), [session(A, 1)]);
    assert!(state.shards[1].unfenced.is_empty(), "never owned by A");
    apply(&mut state, &assign(S, B, 1));
    assert!(!state.owner_of(S).unwrap().may_recover);
    apply(&mut state, &fenced(A, 1));
    assert!(state.owner_of(S).unwrap().may_recover);
    assert!(state.condemned.is_empty());
}

/// A pauses, B takes over and dies before it has fenced A, C takes over.
#[test]
fn a_second_failover_waits_for_both_fences() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &down(A, 1));
    apply(&mut state, &assign(S, B, 1));
    apply(&mut state, &down(B, 1));
    apply(&mut state, &assign(S, C, 1));
    assert_eq!(unfenced(&state), [session(A, 1), session(B, 1)]);
    apply(&mut state, &fenced(B, 1));
    assert!(!state.owner_of(S).unwrap().may_recover);
    apply(&mut state, &fenced(A, 1));
    assert!(state.owner_of(S).unwrap().may_recover);
    assert_eq!(state.shards[0].epoch, epoch(3));
}

#[test]
fn a_handoff_passes_on_what_is_not_fenced_yet() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &down(A, 1));
    apply(&mut state, &assign(S, B, 1));
    apply(&mut state, &begin(epoch(2), C));
    apply(&mut state, &drained(B, epoch(2)));
    assert_eq!(state.owner_of(S).unwrap().node, C);
    assert_eq!(unfenced(&state), [session(A, 1)]);
}

/// The owner has perhaps fenced itself for the epoch it was handing off.
#[test]
fn if_the_receiver_dies_the_shard_returns_with_the_next_epoch() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &begin(epoch(1), B));
    apply(&mut state, &down(B, 1));
    assert_eq!(state.shards[0].home, owned(A, 1));
    assert_eq!(state.shards[0].epoch, epoch(2));
    assert!(unfenced(&state).is_empty());
    refuse(&mut state, &drained(A, epoch(1)));
}

#[test]
fn if_the_receiver_restarts_the_shard_returns_with_the_next_epoch() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &begin(epoch(1), B));
    apply(&mut state, &join(B, 2));
    assert_eq!(state.shards[0].home, owned(A, 1));
    assert_eq!(state.shards[0].epoch, epoch(2));
}

#[test]
fn if_the_receiver_leaves_a_drained_shard_is_nobodys() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &begin(epoch(1), B));
    apply(&mut state, &leave(B, false));
    apply(&mut state, &drained(A, epoch(1)));
    assert_eq!(state.shards[0].home, Home::Unassigned);
    assert!(unfenced(&state).is_empty());
    apply(&mut state, &assign(S, C, 1));
    assert_eq!(state.shards[0].epoch, epoch(2));
}

#[test]
fn if_the_owner_dies_while_it_hands_off_its_session_has_to_be_fenced() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &begin(epoch(1), B));
    apply(&mut state, &down(A, 1));
    assert_eq!(state.shards[0].home, Home::Unassigned);
    assert_eq!(unfenced(&state), [session(A, 1)]);
    refuse(&mut state, &drained(A, epoch(1)));
}

/// It fenced its earlier session itself before it joined.
#[test]
fn a_node_that_comes_back_leaves_nothing_to_fence() {
    let mut state = three_up(3);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &assign(ShardNr(1), A, 1));
    apply(&mut state, &down(A, 1));
    apply(&mut state, &assign(S, B, 1));
    apply(&mut state, &join(A, 2));
    assert!(state.condemned.is_empty());
    assert!(state.shards.iter().all(|shard| shard.unfenced.is_empty()));
    assert_eq!(state.member(A).unwrap().status, MemberStatus::Joining);
    assert_eq!(state.owner_of(S).unwrap().node, B);
}

#[test]
fn a_node_that_comes_back_before_it_was_missed_has_lost_its_shards() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &join(A, 2));
    assert_eq!(state.shards[0].home, Home::Unassigned);
    assert!(unfenced(&state).is_empty());
    refuse(&mut state, &up(A, 1));
    refuse(&mut state, &down(A, 1));
    refuse(&mut state, &join(A, 1));
    apply(&mut state, &up(A, 2));
    refuse(&mut state, &assign(S, A, 1));
    apply(&mut state, &assign(S, A, 2));
    assert_eq!(state.shards[0].epoch, epoch(2));
}

#[test]
fn a_condemned_session_cannot_join() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &down(A, 1));
    apply(&mut state, &ClusterCommand::Remove { node: A, at: 5 });
    refuse(&mut state, &join(A, 1));
    apply(&mut state, &join(A, 2));
    assert_eq!(
        unfenced(&state),
        [session(A, 1)],
        "it is fenced by others: nothing says which session came before this one"
    );
}

#[test]
fn a_member_is_removed_when_its_shards_have_gone() {
    let mut state = three_up(1);
    let remove = ClusterCommand::Remove { node: A, at: 5 };
    refuse(&mut state, &remove);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &leave(A, false));
    apply(&mut state, &leave(A, true));
    refuse(&mut state, &remove);
    apply(&mut state, &begin(epoch(1), B));
    refuse(&mut state, &remove);
    apply(&mut state, &drained(A, epoch(1)));
    apply(&mut state, &remove);
    assert!(state.member(A).is_none());
    assert!(state.condemned.is_empty());
}

#[test]
fn a_member_that_is_down_can_be_marked_for_removal() {
    let mut state = three_up(1);
    apply(&mut state, &down(A, 1));
    refuse(&mut state, &leave(A, false));
    apply(&mut state, &leave(A, true));
    assert_eq!(state.member(A).unwrap().status, MemberStatus::Down);
    assert!(state.member(A).unwrap().removing);
}

#[test]
fn only_condemned_sessions_are_fenced() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    refuse(&mut state, &fenced(A, 1));
    refuse(&mut state, &fenced(B, 4));
}

#[test]
fn recent_events_are_for_people_and_bounded() {
    let mut state = three_up(2);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &assign(ShardNr(1), A, 1));
    apply(&mut state, &down(A, 1));
    let last = state.recent_events.back().unwrap();
    assert_eq!(last.text, "node 1 is down: 2 shards need a new home");
    assert_eq!(last.at, 3);
    for incarnation in 2..300 {
        apply(&mut state, &join(A, incarnation));
    }
    assert_eq!(state.recent_events.len(), RECENT_EVENTS_MAX);
}

/// Those from which on the state tells.
fn told_since(state: &ClusterState, events: usize) -> Vec<(u64, &str)> {
    let recent = state.recent_events.iter().skip(events);
    recent.map(|event| (event.at, &*event.text)).collect()
}

#[test]
fn movements_takeovers_and_fences_are_told_with_their_time() {
    let mut state = three_up(3);
    let before = state.recent_events.len();
    let all = ClusterCommand::Assign {
        shards: (0..3).map(|nr| (ShardNr(nr), A, session(A, 1))).collect(),
        at: 20,
    };
    apply(&mut state, &all);
    let begin_two = ClusterCommand::BeginHandoff {
        shards: vec![(S, epoch(1), B), (ShardNr(1), epoch(1), C)],
        at: 21,
    };
    apply(&mut state, &begin_two);
    // More of the same movement.
    let begin_more = ClusterCommand::BeginHandoff {
        shards: vec![(ShardNr(2), epoch(1), B)],
        at: 22,
    };
    apply(&mut state, &begin_more);
    apply(&mut state, &drained(A, epoch(1)));
    let drained = |shard, by, at| ClusterCommand::Drained {
        shard: ShardNr(shard),
        session: session(A, 1),
        epoch: epoch(1),
        by,
        at,
    };
    apply(&mut state, &drained(1, DrainedBy::Force, 23));
    apply(&mut state, &drained(2, DrainedBy::Owner, 24));
    apply(&mut state, &down(B, 1));
    apply(&mut state, &fenced(B, 1));
    assert_eq!(
        told_since(&state, before),
        [
            (20, "new homes: 3 shards at node 1"),
            (
                21,
                "handoffs began: 1 shard from node 1 to node 2, 1 shard from node 1 to node 3"
            ),
            (
                23,
                "shard 1 was taken from node 1, which took too long to hand it off"
            ),
            (24, "handoffs ended: 3 shards moved"),
            (3, "node 2 is down: 2 shards need a new home"),
            (8, "node 2 is fenced: it cannot write any more"),
        ]
    );
}

/// Also when it ends by a death.
#[test]
fn a_movement_that_comes_to_nothing_is_told_as_ended() {
    let mut state = three_up(1);
    apply(&mut state, &assign(S, A, 1));
    apply(&mut state, &begin(epoch(1), B));
    let before = state.recent_events.len();
    apply(&mut state, &down(B, 1));
    assert_eq!(
        told_since(&state, before),
        [
            (3, "handoffs ended: no shard has moved"),
            (3, "node 2 is down")
        ]
    );
}

#[test]
fn an_older_index_does_not_set_the_state_back() {
    let mut state = three_up(1);
    let index = state.index;
    state.apply(1, &fenced(A, 1));
    assert_eq!(state.index, index);
}
