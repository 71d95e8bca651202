//! What becomes of connections between nodes.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use perennial_sharding::peer::{PeerRequest, PeerResponse, PeerTransport};
use tokio::time::{Instant, sleep, timeout};

use super::peer_test::{SOON, header, persistence_id, world};

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// I-1: a node that has ended does not vote, lead or answer, whoever still has a
/// connection to it.
#[tokio::test]
async fn i1_a_node_that_has_ended_hears_nothing_more() {
    let mut world = world().await;
    let answers = || world.recorder.answers.lock().unwrap();
    answers().push(PeerResponse::HeartbeatSeen);
    world.call(PeerRequest::Elect).await.unwrap();
    let mut stream = world.transport.open(&world.peer, header()).await.unwrap();
    let accepted = world.accepted.recv().await.unwrap();
    answers().push(PeerResponse::HeartbeatSeen);

    world.stopping.cancel();
    (&mut world.serving).await.unwrap();
    assert!(timeout(SOON, stream.back.recv()).await.unwrap().is_none());
    drop(accepted);
    let late = world.call(PeerRequest::Elect).await;
    late.unwrap_err();
    // Nothing holds what answered for it.
    let deadline = Instant::now() + SOON;
    while Arc::strong_count(&world.recorder) > 1 {
        assert!(Instant::now() < deadline, "something still holds it");
        sleep(LOOK_EVERY).await;
    }
}

/// I-9: deletions take long, and there may be many; the cluster goes on meanwhile.
#[tokio::test]
async fn i9_what_the_cluster_depends_on_does_not_wait_behind_errands() {
    const MANY: usize = 300;
    /// That one connection carries at once.
    const UNDER_WAY: usize = 256;
    let world = world().await;
    let deletions = (0..MANY).map(|_| world.call(PeerRequest::Delete(persistence_id())));
    let asking = async {
        let deadline = Instant::now() + SOON;
        while world.recorder.asked.lock().unwrap().len() < UNDER_WAY {
            assert!(Instant::now() < deadline, "the deletions do not arrive");
            sleep(LOOK_EVERY).await;
        }
        let answer = PeerResponse::HeartbeatSeen;
        world.recorder.answers.lock().unwrap().push(answer);
        world.call(PeerRequest::Elect).await
    };
    let answer = tokio::select! {
        _ = join_all(deletions) => panic!("nobody has answered the deletions"),
        answer = timeout(SOON / 2, asking) => answer.expect("never answered"),
    };
    assert_eq!(answer.unwrap(), PeerResponse::HeartbeatSeen);
}
