//! Who leads, who may believe it, and how leadership goes to another.

use super::*;

/// A leader on the wrong side goes on believing, but cannot confirm it, and what is
/// proposed to it is not committed.
#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_confirms_nothing() {
    let mut world = World::of_three().await;
    let old = world.leader().await;
    world.node(old).confirm_leadership().await.unwrap();
    let everybody: Vec<NodeNr> = world.running.keys().copied().collect();
    world.network.faults().isolate(NodeNr(old), everybody);

    let cut_off = world.running.remove(&NodeNr(old)).unwrap();
    let refused = cut_off.confirm_leadership().await;
    assert!(
        matches!(refused, Err(ProposeError::NoLeader { .. })),
        "{refused:?}"
    );
    let proposed = cut_off.propose(numbered(1)).await;
    assert!(
        matches!(proposed, Err(ProposeError::Unknown { .. })),
        "{proposed:?}"
    );

    let new = world.leader().await;
    assert_ne!(new, old);
    let index = world.node(new).propose(numbered(2)).await.unwrap();
    world.network.faults().heal_all();
    let state = wait_for_index(cut_off.state(), index).await;
    assert_eq!(effects(&state), [2]);
}

/// Its messages arrive, the answers do not: it is confirmed by nobody. Whom it cannot
/// reach elect another leader, who must be confirmed meanwhile.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_nobody_confirms_nothing() {
    let world = World::of_three().await;
    let old = world.leader().await;
    let faults = world.network.faults();
    for other in world.running.keys().filter(|node| node.0 != old) {
        faults.cut_one_way(*other, NodeNr(old));
    }
    for _ in 0..5 {
        world.node(old).confirm_leadership().await.unwrap_err();
    }
    faults.heal_all();
    let leader = world.leader().await;
    world.node(leader).propose(numbered(1)).await.unwrap();
}

/// Confirmations asked for at the same time share a round.
#[tokio::test(start_paused = true)]
async fn many_confirmations_share_a_round() {
    let world = World::of_three().await;
    let leader = world.leader().await;
    let delay = Duration::from_millis(10);
    for other in world.running.keys().filter(|node| node.0 != leader) {
        world.network.faults().delay(NodeNr(leader), *other, delay);
    }
    let began = Instant::now();
    let asked = (0..500).map(|_| world.node(leader).confirm_leadership());
    for confirmed in futures::future::join_all(asked).await {
        confirmed.unwrap();
    }
    // The round that was under way, and the next.
    assert!(began.elapsed() <= 4 * delay, "{:?}", began.elapsed());
}

/// Also while nodes give signs of life, each of which has leadership confirmed.
#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_faster_than_it_is_lost() {
    let world = World::of_three().await;
    let mut signs = tokio::task::JoinSet::new();
    for control in world.running.values() {
        let control = control.clone();
        signs.spawn(async move {
            loop {
                let _ = control.confirm_leadership().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    for _ in 0..3 {
        let old = world.leader().await;
        let began = Instant::now();
        let handed_over = world.node(old).hand_over_leadership(PATIENCE).await;
        assert!(handed_over);
        let took = began.elapsed();
        assert!(took < world.settings.election_max, "{took:?}");
        assert_ne!(world.leader().await, old);
        // The former leader follows, and can lead again.
        world.node(old).propose(numbered(1)).await.unwrap();
    }
}

/// The one voter lacks an entry that is on its way to it, the other one soon has it:
/// whichever is asked to stand must not be one that lacks it, as it could not win, and
/// its attempts would keep the other one from winning.
#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_while_an_entry_is_on_its_way() {
    for is_late in [2, 3] {
        let world = World::of_three().await;
        let old = world.leader().await;
        let faults = world.network.faults();
        let others = world.running.keys().filter(|node| node.0 != old);
        for (number, other) in others.enumerate() {
            let millis = if number + 2 == is_late { 100 } else { 10 };
            faults.delay(NodeNr(old), *other, Duration::from_millis(millis));
        }
        let proposing = tokio::spawn({
            let control = world.node(old).clone();
            async move { control.propose(numbered(1)).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        faults.heal_all();

        let began = Instant::now();
        let handed_over = world.node(old).hand_over_leadership(PATIENCE).await;
        let took = began.elapsed();
        assert!(handed_over, "after {took:?}");
        assert!(took < world.settings.election_max, "{took:?}");
        assert_ne!(world.leader().await, old);
        proposing.await.unwrap().unwrap();
    }
}

/// Given up half-way, leadership goes on, here or there.
#[tokio::test(start_paused = true)]
async fn a_handover_can_be_cancelled() {
    let world = World::of_three().await;
    for after in [1, 20, 60, 200, 400] {
        let leader = world.leader().await;
        let handing_over = world.node(leader).hand_over_leadership(PATIENCE);
        let _ = timeout(Duration::from_millis(after), handing_over).await;
        let index = world.node(leader).propose(numbered(after)).await.unwrap();
        let state = wait_for_index(world.node(leader).state(), index).await;
        assert!(effects(&state).contains(&after), "{after} ms");
    }
}

/// Nobody to hand over to: it goes on leading.
#[tokio::test(start_paused = true)]
async fn a_leader_without_successor_stays() {
    let mut world = World::new();
    world.form(1).await;
    assert!(!world.node(1).hand_over_leadership(PATIENCE).await);
    world.node(1).propose(numbered(1)).await.unwrap();
    world.node(1).confirm_leadership().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_only_voter_leads_at_once_when_it_is_restarted() {
    let mut world = World::new();
    world.form(1).await;
    let index = world.node(1).propose(numbered(1)).await.unwrap();
    for _ in 0..3 {
        world.kill(1).await;
        let began = Instant::now();
        world.start(1).await;
        world.node(1).confirm_leadership().await.unwrap();
        assert!(
            began.elapsed() < Duration::from_millis(50),
            "{:?}",
            began.elapsed()
        );
        // What was committed is there when leadership is confirmed.
        let state = world.node(1).state().borrow().clone();
        assert!(state.index >= index);
        assert_eq!(effects(&state), [1]);
    }
}
