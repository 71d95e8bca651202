#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use perennial_persistence::command::Request;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::peer::{BackFrame, Forwarded, PeerHandler};

const A: NodeNr = NodeNr(1);
const B: NodeNr = NodeNr(2);
const SOON: Duration = Duration::from_millis(100);

/// Counts what it is asked, and hands its streams to the test.
struct Counting {
    node: NodeNr,
    asked: AtomicU64,
    streams: mpsc::Sender<AcceptedStream>,
}

#[async_trait]
impl PeerHandler for Counting {
    async fn handle(
        &self,
        header: PeerHeader,
        _request: PeerRequest,
    ) -> Result<PeerResponse, PeerError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if header.to != self.node {
            return Err(PeerError::WrongPeer {
                node: header.to,
                address: String::new(),
                message: format!("this is node {}", self.node.0),
            });
        }
        Ok(PeerResponse::Done)
    }

    async fn accept(&self, stream: AcceptedStream) -> Result<(), PeerError> {
        let _ = self.streams.send(stream).await;
        Ok(())
    }
}

struct World {
    network: LoopbackNetwork,
    handler: Arc<Counting>,
    streams: mpsc::Receiver<AcceptedStream>,
}

impl World {
    fn new() -> Self {
        let network = LoopbackNetwork::new(7);
        let (streams, accepted) = mpsc::channel(8);
        let handler = Arc::new(Counting {
            node: B,
            asked: AtomicU64::new(0),
            streams,
        });
        network.listen(loopback_address(B), handler.clone());
        Self {
            network,
            handler,
            streams: accepted,
        }
    }

    async fn call(&self) -> Result<PeerResponse, PeerError> {
        let transport = self.network.transport();
        transport
            .call(&peer(B), header(), PeerRequest::Elect, SOON)
            .await
    }

    fn asked(&self) -> u64 {
        self.handler.asked.load(Ordering::SeqCst)
    }
}

fn peer(node: NodeNr) -> Peer {
    Peer {
        node,
        address: loopback_address(node),
    }
}

fn header() -> PeerHeader {
    PeerHeader {
        cluster_id: Uuid::nil(),
        generation: 1,
        from: A,
        session: SessionUuid(Uuid::nil()),
        to: B,
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_refused_or_for_somebody_else() {
    let world = World::new();
    assert_eq!(world.call().await.unwrap(), PeerResponse::Done);

    let other = PeerHeader {
        to: NodeNr(9),
        ..header()
    };
    let transport = world.network.transport();
    let wrong = transport
        .call(&peer(B), other, PeerRequest::Elect, SOON)
        .await;
    assert!(
        matches!(wrong, Err(PeerError::WrongPeer { .. })),
        "{wrong:?}"
    );

    world.network.close(&loopback_address(B));
    let refused = world.call().await;
    assert!(
        matches!(refused, Err(PeerError::Refused { .. })),
        "{refused:?}"
    );
}

/// Cut on the way there, the request is not handled; cut on the way back, it is.
#[tokio::test(start_paused = true)]
async fn directions_fail_by_themselves() {
    let world = World::new();
    let faults = world.network.faults();

    faults.cut_one_way(A, B);
    let lost = world.call().await;
    assert!(
        matches!(lost, Err(PeerError::Unreachable { .. })),
        "{lost:?}"
    );
    assert_eq!(world.asked(), 0);

    faults.heal(A, B);
    faults.cut_one_way(B, A);
    let lost = world.call().await;
    assert!(
        matches!(lost, Err(PeerError::Unreachable { .. })),
        "{lost:?}"
    );
    assert_eq!(world.asked(), 1);

    faults.heal_all();
    world.call().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_takes_its_time() {
    let world = World::new();
    let faults = world.network.faults();
    faults.delay(A, B, Duration::from_millis(30));
    faults.delay(B, A, Duration::from_millis(20));
    let began = Instant::now();
    world.call().await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_paused_node_gets_everything_when_it_resumes() {
    let world = World::new();
    world.network.faults().pause(B);
    let resume = async {
        tokio::time::sleep(SOON / 2).await;
        assert_eq!(world.asked(), 0);
        world.network.faults().resume(B);
    };
    let (answer, ()) = tokio::join!(world.call(), resume);
    answer.unwrap();
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_lose_equal_messages() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let world = World::new();
        world.network.faults().lose(A, B, 0.5);
        let mut arrived = Vec::new();
        for _ in 0..40 {
            arrived.push(world.call().await.is_ok());
        }
        assert!(arrived.contains(&true) && arrived.contains(&false));
        runs.push(arrived);
    }
    assert_eq!(runs[0], runs[1]);
}

fn forwarded(correlation_id: u64) -> Vec<Forwarded> {
    vec![Forwarded {
        correlation_id,
        routed_at: 1,
        shard: ShardNr(1),
        epoch: Epoch(1),
        persistence_id: PersistenceId::new("notes", "a").unwrap(),
        request: Request::State,
        time_left: None,
        trace: Trace::NONE,
    }]
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_in_order_both_ways_and_waits_for_a_cut_to_heal() {
    let mut world = World::new();
    let transport = world.network.transport();
    let mut here = transport.open(&peer(B), header()).await.unwrap();
    let mut there = world.streams.recv().await.unwrap();

    world.network.faults().cut(A, B);
    for id in 0..5 {
        here.frames.send(forwarded(id)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(there.frames.try_recv().is_err());
    world.network.faults().heal_all();
    for id in 0..5 {
        let batch = there.frames.recv().await.unwrap();
        let ids: Vec<u64> = batch.iter().map(|sent| sent.correlation_id).collect();
        assert_eq!(ids, [id]);
    }
    there.back.send(vec![BackFrame::Credit(3)]).await.unwrap();
    let back = here.back.recv().await.unwrap();
    assert!(matches!(back[..], [BackFrame::Credit(3)]));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_both_ends() {
    for how in ["broken", "killed", "dropped here", "dropped there", "cut"] {
        let mut world = World::new();
        let transport = world.network.transport();
        let here = transport.open(&peer(B), header()).await.unwrap();
        let there = world.streams.recv().await.unwrap();
        let (mut here, mut there) = (Some(here), Some(there));
        match how {
            "broken" => world.network.faults().break_streams(B, A),
            "killed" => world.network.close(&loopback_address(B)),
            "dropped here" => here = None,
            "dropped there" => there = None,
            _ => {
                // Noticed by the one who sends.
                world.network.faults().cut(A, B);
                let frames = &here.as_ref().unwrap().frames;
                frames.send(forwarded(1)).await.unwrap();
            }
        }
        if let Some(mut here) = here {
            assert!(here.back.recv().await.is_none(), "{how}");
        }
        if let Some(mut there) = there {
            assert!(there.frames.recv().await.is_none(), "{how}");
        }
    }
}
