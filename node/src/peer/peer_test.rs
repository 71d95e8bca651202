//! Transport and server over real sockets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::command::Request;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::{EntityDescription, EntityState};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};
use perennial_sharding::cluster_state::{ClusterCommand, Member, MemberStatus};
use perennial_sharding::peer::{
    AcceptedStream, BackFrame, Forwarded, Heartbeat, NodeFigures, Peer, PeerError, PeerHandler,
    PeerRequest, PeerResponse, PeerTransport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;

use super::transport::GrpcTransport;
use super::*;
use crate::config::Settings;
use crate::connections::accepting::{Door, Encryption, accept};
use wire::control_service_client::ControlServiceClient;
use wire::forward_service_client::ForwardServiceClient;

const MAX_PAYLOAD: usize = 1 << 20;
/// Nothing here takes nearly so long.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// Answers each request with the answer prepared for it, and hands streams out.
pub(super) struct Recorder {
    pub(super) asked: Mutex<Vec<(PeerHeader, PeerRequest)>>,
    pub(super) answers: Mutex<Vec<PeerResponse>>,
    accepted: mpsc::Sender<AcceptedStream>,
}

#[async_trait]
impl PeerHandler for Recorder {
    async fn handle(
        &self,
        header: PeerHeader,
        request: PeerRequest,
    ) -> Result<PeerResponse, PeerError> {
        self.check(&header)?;
        self.asked.lock().unwrap().push((header, request));
        let answer = self.answers.lock().unwrap().pop();
        match answer {
            Some(answer) => Ok(answer),
            // Whoever asks more than is prepared waits for its deadline.
            None => std::future::pending().await,
        }
    }

    async fn accept(&self, stream: AcceptedStream) -> Result<(), PeerError> {
        self.check(&stream.header)?;
        self.accepted.send(stream).await.unwrap();
        // For as long as it lasts.
        std::future::pending().await
    }
}

impl Recorder {
    fn check(&self, header: &PeerHeader) -> Result<(), PeerError> {
        if header.to != NodeNr(2) {
            return Err(PeerError::WrongPeer {
                node: header.to,
                address: String::new(),
                message: "this is node 2".to_owned(),
            });
        }
        Ok(())
    }
}

pub(super) struct World {
    pub(super) recorder: Arc<Recorder>,
    pub(super) accepted: mpsc::Receiver<AcceptedStream>,
    pub(super) transport: GrpcTransport,
    pub(super) peer: Peer,
    address: SocketAddr,
    pub(super) stopping: CancellationToken,
    pub(super) serving: JoinHandle<()>,
    _stop_on_drop: DropGuard,
}

pub(super) async fn world() -> World {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, receiver) = mpsc::channel(4);
    let recorder = Arc::new(Recorder {
        asked: Mutex::default(),
        answers: Mutex::default(),
        accepted,
    });
    let limits = PeerLimits::of_payload(MAX_PAYLOAD);
    let stopping = CancellationToken::new();
    let handler = Arc::clone(&recorder);
    let door = Door {
        port: "test",
        encryption: Encryption::Off,
        limits: Settings::default().limits,
    };
    let connections = accept(listener, door, stopping.clone());
    let serving = tokio::spawn(server::serve(
        connections,
        handler,
        limits,
        stopping.clone(),
    ));
    World {
        recorder,
        accepted: receiver,
        transport: GrpcTransport::new(limits, Some("127.0.0.2".parse().unwrap())),
        peer: Peer {
            node: NodeNr(2),
            // A name, as in a real cluster.
            address: format!("localhost:{}", address.port()),
        },
        address,
        stopping: stopping.clone(),
        serving,
        _stop_on_drop: stopping.drop_guard(),
    }
}

impl World {
    pub(super) async fn call(&self, request: PeerRequest) -> Result<PeerResponse, PeerError> {
        self.transport
            .call(&self.peer, header(), request, SOON)
            .await
    }
}

pub(super) fn header() -> PeerHeader {
    PeerHeader {
        cluster_id: Uuid::from_u128(7),
        generation: 3,
        from: NodeNr(1),
        session: SessionUuid(Uuid::from_u128(8)),
        to: NodeNr(2),
    }
}

pub(super) fn persistence_id() -> PersistenceId {
    PersistenceId::new("counter", "a").unwrap()
}

fn forward(correlation_id: u64, payload: impl Into<bytes::Bytes>) -> Forwarded {
    Forwarded {
        trace: Trace::NONE,
        correlation_id,
        routed_at: 1,
        shard: ShardNr(2),
        epoch: Epoch(3),
        persistence_id: persistence_id(),
        request: Request::Command {
            payload: Payload::json(payload),
            command_id: None,
            expected_sequence_nr: None,
            metadata: None,
        },
        time_left: None,
    }
}

#[tokio::test]
async fn every_call_arrives_and_every_answer_comes_back() {
    let world = world().await;
    let member = Member {
        node: NodeNr(1),
        incarnation: 2,
        session: SessionUuid(Uuid::from_u128(9)),
        address: "a:1".into(),
        peer_address: "a:2".into(),
        version: "0.1.0".into(),
        weight: 1,
        status: MemberStatus::Joining,
        removing: false,
    };
    let requests = [
        PeerRequest::Raft(vec![0, 1, 255].into()),
        PeerRequest::Heartbeat(Heartbeat {
            number: 1,
            journal_in_reach: true,
            live_entities: 2,
            index: 3,
        }),
        PeerRequest::Propose(ClusterCommand::Join { member, at: 5 }),
        PeerRequest::Elect,
        PeerRequest::LiveEntities,
        PeerRequest::Describe(persistence_id()),
        PeerRequest::Passivate(persistence_id()),
        PeerRequest::Delete(persistence_id()),
        PeerRequest::Figures,
    ];
    let states = [
        EntityState::Passive,
        EntityState::Recovering,
        EntityState::Live,
        EntityState::Passivating,
        EntityState::BackingOff,
    ];
    let described = states.map(|state| {
        let description = EntityDescription {
            state,
            sequence_nr: SequenceNr::new(6),
            queued: 7,
            waiting_for: "the journal".into(),
        };
        PeerResponse::Described(Some((Epoch(5), description)))
    });
    let answers = [
        PeerResponse::Raft(vec![9; 100_000].into()),
        PeerResponse::HeartbeatSeen,
        PeerResponse::Committed { index: 1 },
        PeerResponse::NotLeader { leader: None },
        PeerResponse::NotLeader {
            leader: Some(NodeNr(3)),
        },
        PeerResponse::SessionOver,
        PeerResponse::LiveEntities(vec![(NodeNr(1), 2), (NodeNr(3), 4)]),
        PeerResponse::Described(None),
        PeerResponse::Deleted(None),
        PeerResponse::Deleted(Some(Ok(SequenceNr::new(6)))),
        PeerResponse::Deleted(Some(Err(CommandError::OwnerLost))),
        PeerResponse::Figures(Box::new(NodeFigures {
            commands_per_second: 1.5,
            failures_per_second: 0.25,
            events_per_second: 3.0,
            latencies: vec![0, 4, 5],
            history: vec![6, 0],
            live_entities: 7,
            commands_waiting: 8,
            recoveries_running: 9,
            recoveries_waiting: 10,
            recoveries_max: 11,
            journal_in_reach: true,
            index: 12,
            uptime: Duration::from_secs(13),
        })),
        PeerResponse::Done,
    ];
    let answers = answers.into_iter().chain(described);
    for (nr, answer) in answers.enumerate() {
        let request = requests[nr % requests.len()].clone();
        *world.recorder.answers.lock().unwrap() = vec![answer.clone()];
        assert_eq!(world.call(request.clone()).await.unwrap(), answer);
        let asked = world.recorder.asked.lock().unwrap().pop().unwrap();
        assert_eq!(asked, (header(), request));
    }
}

/// Who asks must be able to tell a process that is gone from one that is silent,
/// and both from one that is somebody else.
#[tokio::test]
async fn a_refused_connection_is_told_from_silence_and_from_the_wrong_node() {
    let world = world().await;
    // A port that was free just now.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let peer = Peer {
        node: NodeNr(9),
        address: address.to_string(),
    };
    for _ in 0..2 {
        let asked = world
            .transport
            .call(&peer, header(), PeerRequest::Elect, SOON);
        let error = asked.await.unwrap_err();
        assert!(matches!(error, PeerError::Refused { .. }), "{error}");
        let error = world.transport.open(&peer, header()).await.unwrap_err();
        assert!(matches!(error, PeerError::Refused { .. }), "{error}");
    }

    // It accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = Peer {
        node: NodeNr(9),
        address: silent.local_addr().unwrap().to_string(),
    };
    let deadline = Duration::from_millis(100);
    let asked = world
        .transport
        .call(&peer, header(), PeerRequest::Elect, deadline);
    let error = asked.await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");

    let unknown = Peer {
        node: NodeNr(9),
        address: "no such host.invalid:1".into(),
    };
    let asked = world
        .transport
        .call(&unknown, header(), PeerRequest::Elect, SOON);
    let error = asked.await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");

    let other = PeerHeader {
        to: NodeNr(5),
        ..header()
    };
    let asked = world
        .transport
        .call(&world.peer, other, PeerRequest::Elect, SOON);
    let error = asked.await.unwrap_err();
    assert!(matches!(error, PeerError::WrongPeer { .. }), "{error}");
    assert!(error.to_string().contains("this is node 2"), "{error}");
    let error = world.transport.open(&world.peer, other).await.unwrap_err();
    assert!(matches!(error, PeerError::WrongPeer { .. }), "{error}");
}

/// A node that restarts is found again, without anybody doing anything.
#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let world = world().await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = Peer {
        node: NodeNr(2),
        address: proxy.local_addr().unwrap().to_string(),
    };
    let upstream = world.address;
    tokio::spawn(async move {
        // Each connection lasts for a little more than one call.
        while let Ok((mut client, _)) = proxy.accept().await {
            let mut server = TcpStream::connect(upstream).await.unwrap();
            let copied = tokio::io::copy_bidirectional(&mut client, &mut server);
            let _ = tokio::time::timeout(Duration::from_millis(50), copied).await;
        }
    });
    let mut made_again = 0;
    let deadline = tokio::time::Instant::now() + SOON;
    while made_again < 3 {
        assert!(tokio::time::Instant::now() < deadline, "never again");
        *world.recorder.answers.lock().unwrap() = vec![PeerResponse::Done];
        let asked = world
            .transport
            .call(&peer, header(), PeerRequest::Elect, SOON);
        match asked.await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(PeerError::Unreachable { .. }) => made_again += 1,
            Err(other) => panic!("{other}"),
        }
    }
    *world.recorder.answers.lock().unwrap() = vec![PeerResponse::Done];
    assert_eq!(
        world.call(PeerRequest::Elect).await.unwrap(),
        PeerResponse::Done
    );
}

#[tokio::test]
async fn a_stream_carries_frames_of_any_size_both_ways_and_ends_on_both_sides() {
    let mut world = world().await;
    let mut stream = world.transport.open(&world.peer, header()).await.unwrap();
    let mut accepted = world.accepted.recv().await.unwrap();
    assert_eq!(accepted.header, header());

    // More than any window, in batches that are split.
    let sizes = [0, 1, 100_000, MAX_PAYLOAD];
    let sending = async {
        for round in 0..10_u64 {
            let frames = sizes.map(|size| forward(round, vec![b' '; size]));
            stream.frames.send(frames.into()).await.unwrap();
        }
    };
    let receiving = async {
        let mut received = 0;
        while received < 10 * sizes.len() {
            for forwarded in accepted.frames.recv().await.unwrap() {
                assert_eq!(forwarded.correlation_id, (received / sizes.len()) as u64);
                let Request::Command { payload, .. } = forwarded.request else {
                    panic!("no command");
                };
                assert_eq!(payload.bytes.len(), sizes[received % sizes.len()]);
                received += 1;
            }
        }
    };
    tokio::time::timeout(SOON, async { tokio::join!(sending, receiving) })
        .await
        .unwrap();
    accepted
        .back
        .send(vec![BackFrame::Credit(5)])
        .await
        .unwrap();
    let back = stream.back.recv().await.unwrap();
    assert!(matches!(back[..], [BackFrame::Credit(5)]), "{back:?}");

    // The sender ends it.
    drop(stream.frames);
    let end = tokio::time::timeout(SOON, accepted.frames.recv()).await;
    assert!(end.unwrap().is_none());
    let end = tokio::time::timeout(SOON, stream.back.recv()).await;
    assert!(end.unwrap().is_none());

    // The receiver ends it, by either half.
    let mut stream = world.transport.open(&world.peer, header()).await.unwrap();
    drop(world.accepted.recv().await.unwrap());
    let end = tokio::time::timeout(SOON, stream.back.recv()).await;
    assert!(end.unwrap().is_none());
    tokio::time::timeout(SOON, stream.frames.closed())
        .await
        .unwrap();

    // Nobody wants what comes back.
    let stream = world.transport.open(&world.peer, header()).await.unwrap();
    let mut accepted = world.accepted.recv().await.unwrap();
    drop(stream.back);
    let end = tokio::time::timeout(SOON, accepted.frames.recv()).await;
    assert!(end.unwrap().is_none());
}

/// A receiver that is slow to take commands still sends answers.
#[tokio::test]
async fn commands_that_wait_do_not_hold_up_answers() {
    let mut world = world().await;
    let mut stream = world.transport.open(&world.peer, header()).await.unwrap();
    let accepted = world.accepted.recv().await.unwrap();
    // Until nothing moves any more.
    let payload = bytes::Bytes::from(vec![b' '; MAX_PAYLOAD]);
    let stuck = async {
        loop {
            let frames = vec![forward(1, payload.clone())];
            let sent = stream.frames.send(frames);
            if tokio::time::timeout(Duration::from_millis(500), sent)
                .await
                .is_err()
            {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, stuck).await.unwrap();
    accepted
        .back
        .send(vec![BackFrame::Credit(1)])
        .await
        .unwrap();
    let back = tokio::time::timeout(SOON, stream.back.recv()).await;
    assert!(back.unwrap().is_some());
    // Nor calls, which have a connection of their own.
    *world.recorder.answers.lock().unwrap() = vec![PeerResponse::Done];
    let answer = world.call(PeerRequest::Elect).await;
    assert_eq!(answer.unwrap(), PeerResponse::Done);
}

#[tokio::test]
async fn hostile_messages_are_refused_and_the_node_goes_on() {
    let mut world = world().await;
    let url = format!("http://{}", world.address);
    let mut control = ControlServiceClient::connect(url.clone()).await.unwrap();
    let good = header_to_wire(&header());
    let elect = || Some(wire::call_request::Request::Elect(wire::Nothing {}));
    let call = |header, request| wire::CallRequest { header, request };
    let other_version = wire::Header {
        version: 2,
        ..good.clone()
    };
    let short_uuid = wire::Header {
        cluster_id: vec![1; 15].into(),
        ..good.clone()
    };
    let garbage = wire::call_request::Request::Propose(vec![255; 50].into());
    for (call, word) in [
        (call(None, elect()), "header"),
        (call(Some(other_version), elect()), "version"),
        (call(Some(short_uuid), elect()), "cluster_id"),
        (call(Some(good.clone()), None), "request"),
        (call(Some(good.clone()), Some(garbage)), "propose"),
    ] {
        let status = control.call(call).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(word), "{status}");
    }
    let huge = vec![0; CONTROL_LEN_MAX + 1].into();
    let huge = wire::call_request::Request::Raft(huge);
    let status = control.call(call(Some(good.clone()), Some(huge))).await;
    assert_eq!(status.unwrap_err().code(), Code::OutOfRange);

    // A stream that begins without a header, and one that goes wrong later.
    let mut forward = ForwardServiceClient::connect(url).await.unwrap();
    let batch = |header, frames| wire::ForwardBatch { header, frames };
    let no_header = tokio_stream::iter([batch(None, vec![])]);
    let status = forward.forward(no_header).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let malformed = wire::Forward::default();
    let (sender, later) = mpsc::channel(4);
    let sent = tokio_stream::wrappers::ReceiverStream::new(later);
    sender.send(batch(Some(good), vec![])).await.unwrap();
    let mut answered = forward.forward(sent).await.unwrap().into_inner();
    let mut accepted = world.accepted.recv().await.unwrap();
    sender.send(batch(None, vec![malformed])).await.unwrap();
    let status = answered.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(accepted.frames.recv().await.is_none());

    // Not even HTTP.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 1000], &[255; 1000]] {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        // The other end may have hung up before all is written.
        let _ = socket.write_all(bytes).await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(SOON, socket.read_to_end(&mut rest))
            .await
            .unwrap();
    }

    *world.recorder.answers.lock().unwrap() = vec![PeerResponse::Done];
    let answer = world.call(PeerRequest::Elect).await;
    assert_eq!(answer.unwrap(), PeerResponse::Done);
}
