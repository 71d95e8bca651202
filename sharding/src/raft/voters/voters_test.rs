//! Who votes in groups that grow, shrink, lose nodes and get them back.

use perennial_persistence::writer::SessionUuid;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const LONG: Duration = Duration::from_secs(600);

fn nodes(numbers: &[u64]) -> BTreeSet<NodeNr> {
    numbers.iter().copied().map(NodeNr).collect()
}

fn member(node: u64, status: MemberStatus) -> Member {
    Member {
        node: NodeNr(node),
        incarnation: 1,
        session: SessionUuid(Uuid::from_u128(u128::from(node))),
        address: String::new(),
        peer_address: String::new(),
        version: String::new(),
        weight: 1,
        status,
        removing: false,
    }
}

fn state(members: &[u64]) -> ClusterState {
    let mut state = ClusterState::new(Uuid::nil(), 1, 1);
    for node in members {
        let up = member(*node, MemberStatus::Up);
        state.members.insert(NodeNr(*node), up);
    }
    state
}

/// Led by the first voter; everybody has caught up.
fn group(voters: &[u64], learners: &[u64]) -> Group {
    Group {
        leader: NodeNr(voters[0]),
        configs: vec![nodes(voters)],
        learners: nodes(learners),
        caught_up: nodes(voters).union(&nodes(learners)).copied().collect(),
    }
}

/// Who is no member has not been one for long enough.
fn due(group: &Group, state: &ClusterState) -> Option<GroupChange> {
    due_with_left_for(group, state, HEARS_OF_IT)
}

fn due_with_left_for(group: &Group, state: &ClusterState, left: Duration) -> Option<GroupChange> {
    let left_for = group.configs.iter().flatten().chain(&group.learners);
    let left_for = left_for.filter(|node| !state.members.contains_key(node));
    let left_for = left_for.map(|node| (*node, left)).collect();
    due_change(group, state, &left_for, 3, LONG)
}

fn due_with_down(group: &Group, state: &mut ClusterState, down: u64) -> Option<GroupChange> {
    let down = NodeNr(down);
    state.members.get_mut(&down).unwrap().status = MemberStatus::Down;
    let absent_for = BTreeMap::from([(down, LONG)]);
    due_change(group, state, &absent_for, 3, LONG)
}

fn voters(numbers: &[u64]) -> Option<GroupChange> {
    Some(GroupChange::Voters(nodes(numbers)))
}

#[test]
fn a_group_grows_from_one_to_three_at_once_and_no_further() {
    let add = |node| Some(GroupChange::Add(NodeNr(node)));
    assert_eq!(due(&group(&[1], &[]), &state(&[1])), None);
    assert_eq!(due(&group(&[1], &[]), &state(&[1, 2])), add(2));
    assert_eq!(due(&group(&[1], &[2]), &state(&[1, 2])), None, "two");
    let three = state(&[1, 2, 3]);
    assert_eq!(due(&group(&[1], &[2]), &three), add(3));
    assert_eq!(due(&group(&[1], &[2, 3]), &three), voters(&[1, 2, 3]));
    assert_eq!(due(&group(&[1, 2, 3], &[]), &three), None);
    assert_eq!(due(&group(&[1, 2, 3], &[4]), &state(&[1, 2, 3, 4])), None);
}

#[test]
fn who_has_not_caught_up_does_not_vote_yet() {
    let mut late = group(&[1], &[2, 3]);
    late.caught_up = nodes(&[1, 2]);
    assert_eq!(due(&late, &state(&[1, 2, 3])), None);
}

#[test]
fn a_change_that_was_interrupted_is_finished_first() {
    let mut half = group(&[1], &[4]);
    half.configs = vec![nodes(&[1]), nodes(&[1, 2, 3])];
    assert_eq!(due(&half, &state(&[1, 2, 3, 4, 5])), voters(&[1, 2, 3]));
}

#[test]
fn a_voter_that_is_down_for_long_is_replaced_if_another_can_vote() {
    let three = group(&[1, 2, 3], &[]);
    assert_eq!(due_with_down(&three, &mut state(&[1, 2, 3]), 2), None);
    let four = group(&[1, 2, 3], &[4]);
    let mut members = state(&[1, 2, 3, 4]);
    assert_eq!(due_with_down(&four, &mut members, 2), voters(&[1, 3, 4]));
    // Not yet for long enough.
    let short = BTreeMap::from([(NodeNr(2), LONG / 2)]);
    assert_eq!(due_change(&four, &members, &short, 3, LONG), None);
    // Back again, it has nothing to vote for any more.
    let replaced = group(&[1, 3, 4], &[2]);
    assert_eq!(due(&replaced, &state(&[1, 2, 3, 4])), None);
}

#[test]
fn a_removed_node_is_replaced_and_forgotten() {
    let four = group(&[1, 2, 3], &[4]);
    assert_eq!(due(&four, &state(&[1, 3, 4])), voters(&[1, 3, 4]));
    assert_eq!(
        due(&group(&[1, 3, 4], &[2]), &state(&[1, 3, 4])),
        Some(GroupChange::Remove(NodeNr(2)))
    );
    // Also while it is only about to leave.
    let mut leaving = state(&[1, 2, 3, 4]);
    leaving.members.get_mut(&NodeNr(3)).unwrap().removing = true;
    assert_eq!(due(&four, &leaving), voters(&[1, 2, 4]));
}

/// The log is how it learns of it.
#[test]
fn a_node_that_left_gets_the_log_for_a_moment_yet() {
    let group = group(&[1, 3, 4], &[2]);
    let left_for = |left| due_with_left_for(&group, &state(&[1, 3, 4]), left);
    assert_eq!(left_for(HEARS_OF_IT / 2), None);
    let removed = Some(GroupChange::Remove(NodeNr(2)));
    assert_eq!(left_for(HEARS_OF_IT), removed);
    let unseen = due_change(&group, &state(&[1, 3, 4]), &BTreeMap::new(), 3, LONG);
    assert_eq!(unseen, None, "this leader has not seen since when");
}

#[test]
fn of_two_that_remain_the_leader_votes() {
    let mut led_by_two = group(&[1, 2, 3], &[]);
    led_by_two.leader = NodeNr(2);
    assert_eq!(due(&led_by_two, &state(&[1, 2])), voters(&[2]));
}

/// The one who forms a group votes before it is a member.
#[test]
fn a_leader_that_has_not_joined_keeps_its_vote() {
    assert_eq!(due(&group(&[1], &[]), &state(&[])), None);
    let added = due(&group(&[1], &[]), &state(&[2]));
    assert_eq!(added, Some(GroupChange::Add(NodeNr(2))));
    assert_eq!(due(&group(&[1], &[2]), &state(&[2])), None);
}

proptest! {
    /// Whatever the group looks like: changes lead to one in which nothing is due,
    /// an odd number votes unless too few can, and the leader of a healthy cluster
    /// keeps its vote.
    #[test]
    fn changes_come_to_an_end(
        members in proptest::collection::btree_set(1_u64..9, 1..8),
        voting in proptest::collection::btree_set(1_u64..9, 1..6),
        down in proptest::collection::btree_set(1_u64..9, 0..4),
        leader in 0_usize..6,
        voters_max in prop_oneof![Just(1_usize), Just(3), Just(5)],
    ) {
        let mut state = state(&members.iter().copied().collect::<Vec<_>>());
        let mut absent_for = BTreeMap::new();
        let leader = NodeNr(*voting.iter().nth(leader % voting.len()).unwrap());
        for node in down.into_iter().map(NodeNr).filter(|node| *node != leader) {
            if let Some(member) = state.members.get_mut(&node) {
                member.status = MemberStatus::Down;
                absent_for.insert(node, LONG);
            }
        }
        let mut group = Group {
            leader,
            configs: vec![voting.into_iter().map(NodeNr).collect()],
            ..Group::default()
        };
        let mut changes = 0;
        loop {
            group.caught_up = group.learners.iter().chain(&group.configs[0])
                .filter(|node| !absent_for.contains_key(node)).copied().collect();
            let in_group = group.learners.iter().chain(&group.configs[0]);
            let left = in_group.filter(|node| !state.members.contains_key(node));
            absent_for.extend(left.map(|node| (*node, HEARS_OF_IT)));
            let Some(change) = due_change(&group, &state, &absent_for, voters_max, LONG) else { break };
            changes += 1;
            prop_assert!(changes < 40, "no end: {group:?}");
            match change {
                GroupChange::Add(node) => { group.learners.insert(node); }
                GroupChange::Remove(node) => { group.learners.remove(&node); }
                GroupChange::Voters(voters) => {
                    prop_assert!(!voters.is_empty());
                    prop_assert!(voters.len() <= voters_max);
                    group.learners.extend(group.configs[0].difference(&voters));
                    group.learners = group.learners.difference(&voters).copied().collect();
                    if !voters.contains(&group.leader) {
                        group.leader = *voters.iter().next().unwrap();
                    }
                    group.configs = vec![voters];
                }
            }
        }
        let voters = &group.configs[0];
        if state.members.contains_key(&group.leader) {
            prop_assert!(voters.contains(&group.leader));
            prop_assert!(voters.iter().all(|voter| state.members.contains_key(voter)));
            prop_assert!(group.learners.iter().all(|node| state.members.contains_key(node)));
        }
    }
}
