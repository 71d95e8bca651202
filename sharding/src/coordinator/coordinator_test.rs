//! Stories of whole clusters, told in simulated time.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::ShardNr;

use super::CoordinatorSettings;
use super::simulation::World;
use crate::cluster_state::{ClusterCommand, Home, MemberStatus};

const A: NodeNr = NodeNr(1);
const B: NodeNr = NodeNr(2);
const C: NodeNr = NodeNr(3);
const S: ShardNr = ShardNr(0);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// So many nodes share so many shards.
fn cluster(nodes: usize, shards: u32) -> World {
    let mut world = World::new(shards, CoordinatorSettings::for_shards(shards));
    for _ in 0..nodes {
        world.add_node("1");
    }
    world.run(ms(1000));
    assert_eq!(world.unrest(), None);
    world.moves = 0;
    world
}

fn shards_of(world: &World, node: NodeNr) -> usize {
    world.state.shards_of(node).count()
}

fn status(world: &World, node: NodeNr) -> Option<MemberStatus> {
    world.state.member(node).map(|member| member.status)
}

#[track_caller]
fn at_rest_within(world: &mut World, time: Duration) {
    let until = world.now + time;
    while let Some(unrest) = world.unrest() {
        assert!(world.now < until, "not at rest: {unrest}");
        world.run(ms(100));
    }
}

#[test]
fn nodes_that_start_together_share_the_shards_without_a_move() {
    let world = cluster(3, 100);
    assert_eq!(world.moves, 0);
}

#[test]
fn a_dead_nodes_shards_go_to_the_others_and_nothing_else_moves() {
    let mut world = cluster(3, 100);
    let had = shards_of(&world, A);
    world.kill(A);
    world.elect(B);
    world.run(ms(1900));
    assert_eq!(shards_of(&world, A), had, "not before down_after");
    world.run(ms(300));
    at_rest_within(&mut world, ms(200));
    assert_eq!(status(&world, A), Some(MemberStatus::Down));
    assert_eq!(world.moves, 0);
    assert!(world.state.condemned.is_empty());
}

/// A pauses, B takes over and dies before anybody has fenced A, C takes over, A
/// resumes. The simulation checks every recovery against the fences (I-2).
#[test]
fn double_failover() {
    let mut world = cluster(3, 30);
    world.elect(C);
    world.nodes.get_mut(&A).unwrap().heard = false;
    // Nobody reaches the journal, so nobody fences.
    for node in world.nodes.values_mut() {
        node.journal_in_reach = false;
    }
    world.run(ms(2200));
    assert_eq!(status(&world, A), Some(MemberStatus::Down));
    assert_eq!(shards_of(&world, A), 0);
    world.kill(B);
    world.run(ms(2200));
    assert_eq!(shards_of(&world, C), 30);
    let waiting = |world: &World| {
        let shards = world.state.shards.iter();
        shards.filter(|shard| !shard.unfenced.is_empty()).count()
    };
    assert!(waiting(&world) > 10);
    assert!(
        world
            .state
            .shards
            .iter()
            .any(|shard| shard.unfenced.len() == 2),
        "some shards lost two owners"
    );
    for node in world.nodes.values_mut() {
        node.journal_in_reach = true;
        node.heard = true;
    }
    at_rest_within(&mut world, ms(5000));
    assert_eq!(waiting(&world), 0);
}

/// A new leader must not take the silence before its time for death.
#[test]
fn a_new_leader_begins_with_an_empty_detector() {
    let mut world = cluster(3, 100);
    world.kill(A);
    for _ in 0..3 {
        world.run(ms(1500));
        world.elect(B);
    }
    assert_eq!(
        status(&world, A),
        Some(MemberStatus::Up),
        "each had too little time"
    );
    world.run(ms(2200));
    assert_eq!(status(&world, A), Some(MemberStatus::Down));
    assert_eq!(status(&world, C), Some(MemberStatus::Up));
}

/// It has fenced its earlier session itself, so nobody else has to, and nobody else
/// is given its shards in between.
#[test]
fn a_node_restarted_within_down_after_gets_its_shards_back() {
    let mut world = cluster(3, 100);
    let had: Vec<ShardNr> = world.state.shards_of(B).collect();
    world.restart(B, "1");
    at_rest_within(&mut world, ms(1000));
    assert_eq!(world.state.shards_of(B).collect::<Vec<_>>(), had);
    assert_eq!(world.moves, 0);
    assert!(world.state.shard(had[0]).unwrap().epoch.0 & 0xffff_ffff == 2);
}

#[test]
fn a_node_that_does_not_come_up_does_not_hold_up_homes() {
    let mut world = cluster(2, 20);
    world.restart(B, "1");
    world.commit(0);
    world.kill(B);
    world.run(ms(1000));
    assert_eq!(shards_of(&world, A), 20);
}

#[test]
fn drain_with_removal() {
    let mut world = cluster(3, 100);
    let had = shards_of(&world, B);
    world.leave(B, true);
    world.run(ms(100));
    let handoffs = world.state.handoffs().count() + (had - shards_of(&world, B));
    assert!(handoffs <= 20, "{handoffs} at once");
    at_rest_within(&mut world, ms(2000));
    world.run(ms(500));
    assert_eq!(status(&world, B), None);
    assert_eq!(world.moves, had, "only what had to");
}

/// Its successor does.
#[test]
fn a_leader_that_is_to_be_removed_hands_over_when_its_shards_have_gone() {
    let mut world = cluster(3, 30);
    world.leave(A, true);
    world.run(ms(100));
    assert_eq!(status(&world, A), Some(MemberStatus::Leaving));
    assert_eq!(world.handovers, 0, "it leads while it has shards");
    at_rest_within(&mut world, ms(3000));
    assert_eq!(status(&world, A), None);
    assert_eq!(world.handovers, 1);
}

/// Asked for again for as long as it has not come true, and not by those who stay.
#[test]
fn leadership_is_handed_over_only_by_who_is_to_be_removed_and_until_it_is() {
    let mut world = cluster(3, 30);
    world.leave(B, true);
    world.leave(C, false);
    world.run(ms(3000));
    assert_eq!(world.handovers, 0);
    // Nobody is there who could have its shards, or lead.
    world.leave(A, true);
    world.run(ms(3000));
    assert_eq!(world.handovers, 0);
    world.add_node("1");
    world.run(ms(5000));
    assert_eq!(status(&world, A), None);
    assert_eq!(world.handovers, 1);
}

#[test]
fn a_leader_that_could_not_hand_over_asks_again() {
    let mut world = cluster(2, 4);
    world.leave(A, true);
    world.successors = false;
    world.run(ms(3000));
    assert_eq!(status(&world, A), Some(MemberStatus::Leaving));
    assert!(world.handovers > 5);
    world.successors = true;
    world.run(ms(300));
    assert_eq!(status(&world, A), None);
}

#[test]
fn the_last_node_keeps_its_shards_while_it_leaves() {
    let mut world = cluster(1, 10);
    world.leave(A, false);
    world.run(ms(3000));
    assert_eq!(shards_of(&world, A), 10);
}

#[test]
fn scale_from_three_to_five_and_back() {
    let mut world = cluster(3, 120);
    let (d, e) = (world.add_node("1"), world.add_node("1"));
    world.run(ms(500));
    at_rest_within(&mut world, ms(20_000));
    let theirs = shards_of(&world, d) + shards_of(&world, e);
    assert_eq!(world.moves, theirs, "shards went to the new nodes only");
    world.leave(d, true);
    world.leave(e, true);
    world.run(ms(500));
    at_rest_within(&mut world, ms(20_000));
    assert_eq!(world.moves, 2 * theirs);
    assert_eq!(world.state.members.len(), 3);
}

/// Balancing after each step would take two moves for each.
#[test]
fn a_rolling_update_moves_each_shard_about_one_and_a_half_times() {
    let mut world = cluster(5, 160);
    world.elect(NodeNr(9));
    for node in (1..=5).map(NodeNr) {
        world.leave(node, false);
        world.run(ms(200));
        while shards_of(&world, node) > 0 {
            world.run(ms(100));
        }
        world.kill(node);
        world.run(ms(5000));
        assert_eq!(status(&world, node), Some(MemberStatus::Down));
        world.restart(node, "2");
        world.run(ms(5000));
    }
    at_rest_within(&mut world, ms(20_000));
    assert!(world.moves <= 250, "{} moves", world.moves);
}

#[test]
fn versions_that_differ_for_good_do_not_hold_up_balance_for_ever() {
    let mut world = cluster(2, 20);
    let c = world.add_node("2");
    world.run(ms(30_000));
    assert_eq!(shards_of(&world, c), 0);
    world.run(ms(40_000));
    assert_eq!(world.unrest(), None);
}

#[test]
fn a_shard_that_does_not_drain_is_fenced_alone() {
    let mut world = cluster(3, 30);
    world.nodes.get_mut(&B).unwrap().stuck = true;
    let had = shards_of(&world, B);
    world.leave(B, false);
    world.run(ms(10_900));
    assert_eq!(shards_of(&world, B), had);
    assert_eq!(
        world.state.handoffs().count(),
        3,
        "no more than may be at once"
    );
    world.run(ms(500));
    assert_eq!(shards_of(&world, B), had - 3);
    assert_eq!(
        status(&world, B),
        Some(MemberStatus::Leaving),
        "its neighbours stay"
    );
}

/// Whoever does not even know of the handoff may still be answering reads.
#[test]
fn an_owner_that_does_not_follow_the_log_is_taken_for_dead() {
    let mut world = cluster(3, 30);
    world.proposals.push(ClusterCommand::Leave {
        node: B,
        session: world.nodes[&B].session(),
        remove: false,
        at: 0,
    });
    world.commit(0);
    // B sends heartbeats, but applies nothing any more.
    let began = world.now;
    while status(&world, B) == Some(MemberStatus::Leaving) {
        world.now += ms(100);
        for node in [A, B, C] {
            world.heartbeat(node);
        }
        world.tick();
        while !world.proposals.is_empty() {
            world.commit(0);
        }
        for node in [A, C] {
            world.follow(node, 1000);
            world.work(node);
        }
        assert!(world.now < began + ms(20_000));
    }
    assert!(world.now >= began + ms(13_000), "its lease has run out");
    at_rest_within(&mut world, ms(20_000));
}

/// An owner says what it knows only in a heartbeat, and may be told to drain faster
/// than the next one comes.
#[test]
fn i9_owners_live_through_handoffs_that_may_take_less_than_a_heartbeat() {
    let settings = CoordinatorSettings {
        handoff_timeout: ms(50),
        ..CoordinatorSettings::for_shards(30)
    };
    let mut world = World::new(30, settings);
    let mut nodes = vec![world.add_node("1"), world.add_node("1")];
    for round in 0..400_u64 {
        if round == 40 {
            assert_eq!(world.unrest(), None);
            nodes.push(world.add_node("1"));
        }
        // Signs of life, and what comes of the log, every 200 ms.
        world.now += ms(50);
        if round.is_multiple_of(4) {
            for &node in &nodes {
                world.heartbeat(node);
                world.follow(node, 1000);
                world.work(node);
            }
        }
        world.tick();
        while !world.proposals.is_empty() {
            world.commit(0);
        }
        for member in world.state.members.values() {
            assert_ne!(member.status, MemberStatus::Down, "in round {round}");
        }
    }
    assert!(shards_of(&world, C) > 0);
    assert_eq!(world.unrest(), None);
}

#[test]
fn nothing_moves_while_the_journal_is_out_of_reach() {
    let mut world = cluster(2, 20);
    for node in world.nodes.values_mut() {
        node.journal_in_reach = false;
    }
    world.add_node("1");
    world.nodes.get_mut(&C).unwrap().journal_in_reach = false;
    world.run(ms(20_000));
    assert_eq!(world.moves, 0);
    assert_eq!(shards_of(&world, C), 0);
    for node in world.nodes.values_mut() {
        node.journal_in_reach = true;
    }
    at_rest_within(&mut world, ms(5000));
}

#[test]
fn who_alone_cannot_reach_the_journal_loses_its_shards() {
    let mut world = cluster(3, 30);
    world.nodes.get_mut(&B).unwrap().journal_in_reach = false;
    world.run(ms(4000));
    assert!(shards_of(&world, B) > 0);
    world.run(ms(4000));
    assert_eq!(shards_of(&world, B), 0);
    assert!(world.state.condemned.is_empty(), "others have fenced it");
}

#[test]
fn a_wave_of_moves_is_bounded_and_follows_the_last_after_an_interval() {
    let mut world = cluster(2, 100);
    world.add_node("1");
    let mut largest = 0;
    let before = world.now;
    while world.unrest().is_some() || world.moves == 0 {
        let moved = world.moves;
        world.run(ms(100));
        largest = largest.max(world.moves - moved);
    }
    assert_eq!(largest, 10);
    assert!(world.now >= before + ms(4000), "40 moves in waves of 10");
}

#[test]
fn the_receiver_dies_during_a_handoff() {
    let mut world = cluster(2, 2);
    let (from, to) = match world.state.shard(S).unwrap().home {
        Home::Owned { node, .. } if node == A => (A, B),
        _ => (B, A),
    };
    world.elect(from);
    world.nodes.get_mut(&from).unwrap().stuck = true;
    world.leave(from, false);
    world.run(ms(200));
    assert_eq!(world.state.owner_of(S).unwrap().handing_off_to, Some(to));
    world.kill(to);
    world.run(ms(2500));
    let owner = world.state.owner_of(S).unwrap();
    assert_eq!((owner.node, owner.handing_off_to), (from, None));
}
