//! Random histories: messages lost, repeated and overtaken, nodes that die, pause and
//! come back, leaders that change. At every step I-1 and I-2 hold, which the
//! simulation checks; once all is quiet every shard has a home and the cluster is
//! balanced.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_persistence::registry::NodeNr;
use proptest::prelude::*;
use proptest::sample::Index;

use super::CoordinatorSettings;
use super::simulation::World;
use crate::cluster_state::MemberStatus;

const SHARDS: u32 = 7;
const NODES_MAX: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Tick,
    /// Some proposal is committed; perhaps it comes again later.
    Commit(Index, bool),
    /// Something comes again.
    Repeat(Index),
    Lose(Index),
    Heartbeat(Index),
    Follow(Index, usize),
    Work(Index),
    /// Heartbeats, log and work of everybody who lives.
    EverythingWorks,
    Kill(Index),
    Restart(Index, bool),
    AddNode,
    Stuck(Index, bool),
    JournalInReach(Index, bool),
    Leave(Index, bool),
    Elect(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        4 => (0_u64..1500).prop_map(Step::Pass),
        6 => Just(Step::Tick),
        12 => (index(), any::<bool>()).prop_map(|(which, again)| Step::Commit(which, again)),
        2 => index().prop_map(Step::Repeat),
        1 => index().prop_map(Step::Lose),
        8 => index().prop_map(Step::Heartbeat),
        8 => (index(), 0_usize..10).prop_map(|(node, entries)| Step::Follow(node, entries)),
        8 => index().prop_map(Step::Work),
        6 => Just(Step::EverythingWorks),
        1 => index().prop_map(Step::Kill),
        2 => (index(), any::<bool>()).prop_map(|(node, new)| Step::Restart(node, new)),
        1 => Just(Step::AddNode),
        1 => (index(), any::<bool>()).prop_map(|(node, stuck)| Step::Stuck(node, stuck)),
        1 => (index(), any::<bool>()).prop_map(|(node, in_reach)| Step::JournalInReach(node, in_reach)),
        1 => (index(), any::<bool>()).prop_map(|(node, remove)| Step::Leave(node, remove)),
        1 => index().prop_map(Step::Elect),
    ]
}

fn perform(world: &mut World, step: &Step) {
    let numbers: Vec<NodeNr> = world.nodes.keys().copied().collect();
    let node = |index: &Index| numbers[index.index(numbers.len())];
    match step {
        Step::Pass(ms) => world.now += Duration::from_millis(*ms),
        Step::Tick => world.tick(),
        Step::Commit(which, again) if !world.proposals.is_empty() => {
            let which = which.index(world.proposals.len());
            if *again {
                let command = world.proposals[which].clone();
                world.repeats.push(command);
            }
            world.commit(which);
        }
        Step::Repeat(which) if !world.repeats.is_empty() => {
            world.repeat(which.index(world.repeats.len()));
        }
        Step::Lose(which) if !world.proposals.is_empty() => {
            world.proposals.remove(which.index(world.proposals.len()));
        }
        Step::Commit(..) | Step::Repeat(_) | Step::Lose(_) => {}
        Step::Heartbeat(index) => world.heartbeat(node(index)),
        Step::Follow(index, entries) => world.follow(node(index), *entries),
        Step::Work(index) => world.work(node(index)),
        Step::EverythingWorks => world.step(),
        Step::Kill(index) => world.kill(node(index)),
        Step::Restart(index, new) => {
            world.restart(node(index), if *new { "2" } else { "1" });
        }
        Step::AddNode if world.nodes.len() < NODES_MAX => {
            world.add_node("1");
        }
        Step::AddNode => {}
        Step::Stuck(index, stuck) => world.nodes.get_mut(&node(index)).unwrap().stuck = *stuck,
        Step::JournalInReach(index, in_reach) => {
            world.nodes.get_mut(&node(index)).unwrap().journal_in_reach = *in_reach;
        }
        Step::Leave(index, remove) => world.leave(node(index), *remove),
        Step::Elect(index) => world.elect(node(index)),
    }
}

/// Nothing breaks any more: who is dead stays so, and one more node comes, so that
/// somebody is there. Stuck nodes stay stuck.
fn let_it_settle(world: &mut World) {
    for node in world.nodes.values_mut() {
        node.journal_in_reach = true;
    }
    let new = world.add_node("1");
    world.elect(new);
    for _ in 0..1500 {
        world.run(Duration::from_millis(100));
        if world.unrest().is_none() && world.state.condemned.is_empty() {
            return;
        }
    }
    panic!("not at rest: {:?} {:#?}", world.unrest(), world.state);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn promises_hold_at_every_step_and_all_settles(
        steps in prop::collection::vec(step(), 1..250)
    ) {
        let mut world = World::new(SHARDS, CoordinatorSettings::for_shards(SHARDS));
        for _ in 0..3 {
            world.add_node("1");
        }
        for step in &steps {
            perform(&mut world, step);
        }
        let_it_settle(&mut world);

        // At rest nothing moves any more.
        let (moves, state) = (world.moves, world.state.clone());
        world.run(Duration::from_secs(3));
        prop_assert_eq!(world.moves, moves);
        prop_assert_eq!(&world.state.shards, &state.shards);
        for member in world.state.members.values() {
            let shards = world.state.shards_of(member.node).count();
            prop_assert!(member.status == MemberStatus::Up || shards == 0);
            prop_assert!(!member.removing || member.status == MemberStatus::Joining);
        }
    }
}
