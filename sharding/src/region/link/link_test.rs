//! A link by itself: batches, credit, room, and what is said of a lost stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::registry::NodeNr;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::*;
use crate::peer::{PeerError, PeerRequest, PeerResponse};

const SOON: Duration = Duration::from_secs(60);

/// The other ends of the streams that were opened.
struct Other {
    frames: mpsc::Receiver<Vec<Forwarded>>,
    back: mpsc::Sender<Vec<BackFrame>>,
}

/// A transport that hands the other end of each stream to the test.
struct Transport(mpsc::Sender<Other>);

#[async_trait]
impl PeerTransport for Transport {
    async fn call(
        &self,
        _: &Peer,
        _: PeerHeader,
        _: PeerRequest,
        _: Duration,
    ) -> Result<PeerResponse, PeerError> {
        unreachable!("a link calls nobody")
    }

    async fn open(&self, _: &Peer, _: PeerHeader) -> Result<ForwardStream, PeerError> {
        let (frames, received) = mpsc::channel(2);
        let (back, answers) = mpsc::channel(2);
        let other = Other {
            frames: received,
            back,
        };
        self.0.send(other).await.unwrap();
        Ok(ForwardStream {
            frames,
            back: answers,
        })
    }
}

/// What the link has said.
#[derive(Default)]
struct Events {
    answered: Mutex<Vec<(Ticket, Answer)>>,
    returned: Mutex<Vec<Ticket>>,
    with_room: Mutex<BTreeSet<ShardNr>>,
    lost: Mutex<Vec<BTreeSet<Ticket>>>,
    count: AtomicUsize,
}

impl LinkEvents for Events {
    fn answered(&self, _: SessionUuid, ticket: Ticket, answer: Answer) {
        self.answered.lock().unwrap().push((ticket, answer));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn returned(&self, _: SessionUuid, ticket: Ticket) {
        self.returned.lock().unwrap().push(ticket);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn has_room(&self, shards: BTreeSet<ShardNr>) {
        self.with_room.lock().unwrap().extend(shards);
    }

    fn lost(&self, _: &Link, unwritten: &BTreeSet<Ticket>) {
        self.lost.lock().unwrap().push(unwritten.clone());
    }
}

struct World {
    link: Arc<Link>,
    events: Arc<Events>,
    others: mpsc::Receiver<Other>,
}

impl World {
    fn new() -> Self {
        let peer = Peer {
            node: NodeNr(2),
            address: "there".into(),
        };
        let link = Arc::new(Link::new(peer, SessionUuid(Uuid::from_u128(2))));
        let events = Arc::new(Events::default());
        let (opened, others) = mpsc::channel(1);
        let header = PeerHeader {
            cluster_id: Uuid::nil(),
            generation: 1,
            from: NodeNr(1),
            session: SessionUuid(Uuid::from_u128(1)),
            to: NodeNr(2),
        };
        let (of_task, told) = (Arc::clone(&link), Arc::clone(&events));
        tokio::spawn(async move { of_task.run(&Transport(opened), header, &*told).await });
        Self {
            link,
            events,
            others,
        }
    }

    async fn opened(&mut self) -> Other {
        let other = timeout(SOON, self.others.recv()).await.unwrap().unwrap();
        self.until(|world| world.link.lock().open).await;
        other
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, waiting).await.unwrap();
    }
}

fn outgoing(nr: u64) -> Outgoing {
    Outgoing {
        ticket: Ticket::new(ShardNr(3), nr),
        routed_at: 1,
        epoch: Epoch(1),
        persistence_id: PersistenceId::new("notes", "a").unwrap(),
        request: Request::State,
        deadline: None,
        trace: Trace::NONE,
    }
}

/// The numbers in the next batch.
async fn batch(other: &mut Other) -> Vec<u64> {
    let batch = timeout(SOON, other.frames.recv()).await.unwrap().unwrap();
    let nr = |forwarded: Forwarded| Ticket(forwarded.correlation_id).nr();
    batch.into_iter().map(nr).collect()
}

#[test]
fn a_ticket_is_shard_and_number() {
    for (shard, nr) in [(0, 1), (Ticket::SHARDS_MAX - 1, 1), (7, (1 << 44) - 1)] {
        let ticket = Ticket::new(ShardNr(shard), nr);
        assert_eq!((ticket.shard(), ticket.nr()), (ShardNr(shard), nr));
    }
}

#[tokio::test(start_paused = true)]
async fn as_much_is_written_as_there_is_credit_for() {
    let mut world = World::new();
    assert!(!world.link.push(outgoing(1)), "there is no stream yet");
    let mut other = world.opened().await;
    assert_eq!(*world.events.with_room.lock().unwrap(), [ShardNr(3)].into());
    for nr in 1..=5 {
        assert!(world.link.push(outgoing(nr)));
    }
    let early = timeout(Duration::from_secs(1), other.frames.recv()).await;
    assert!(early.is_err(), "there is no credit yet");
    other.back.send(vec![BackFrame::Credit(3)]).await.unwrap();
    assert_eq!(batch(&mut other).await, [1, 2, 3]);
    let answers = vec![
        BackFrame::Answer {
            correlation_id: Ticket::new(ShardNr(3), 1).0,
            answer: Err(CommandError::OwnerLost),
        },
        BackFrame::Returned {
            correlation_id: Ticket::new(ShardNr(3), 2).0,
            index: 9,
        },
        BackFrame::Credit(2),
    ];
    other.back.send(answers).await.unwrap();
    assert_eq!(batch(&mut other).await, [4, 5]);
    world
        .until(|w| w.events.count.load(Ordering::Relaxed) == 2)
        .await;
    assert_eq!(
        *world.events.returned.lock().unwrap(),
        [Ticket::new(ShardNr(3), 2)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_says_what_was_never_written_and_another_is_opened() {
    let mut world = World::new();
    let mut other = world.opened().await;
    other.back.send(vec![BackFrame::Credit(2)]).await.unwrap();
    for nr in 1..=4 {
        world.link.push(outgoing(nr));
    }
    let mut written = Vec::new();
    while written.len() < 2 {
        written.extend(batch(&mut other).await);
    }
    drop(other);
    world
        .until(|w| !w.events.lost.lock().unwrap().is_empty())
        .await;
    let unwritten = [3, 4].map(|nr| Ticket::new(ShardNr(3), nr));
    assert_eq!(world.events.lost.lock().unwrap()[0], unwritten.into());
    let mut again = world.opened().await;
    again.back.send(vec![BackFrame::Credit(1)]).await.unwrap();
    assert!(world.link.push(outgoing(3)));
    assert_eq!(batch(&mut again).await, [3]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_says_so_and_when_there_is_room_again() {
    let mut world = World::new();
    let mut other = world.opened().await;
    for nr in 0..QUEUE_MAX as u64 {
        assert!(world.link.push(outgoing(nr)));
    }
    assert!(!world.link.has_room(ShardNr(5)));
    assert!(!world.link.push(outgoing(0)));
    let credit = BackFrame::Credit(QUEUE_MAX as u32);
    other.back.send(vec![credit]).await.unwrap();
    while world.events.with_room.lock().unwrap().len() < 2 {
        assert!(batch(&mut other).await.len() <= BATCH_FRAMES_MAX);
    }
    let with_room = [ShardNr(3), ShardNr(5)];
    assert_eq!(*world.events.with_room.lock().unwrap(), with_room.into());
}

#[tokio::test(start_paused = true)]
async fn a_link_ends_with_the_session() {
    let mut world = World::new();
    let _other = world.opened().await;
    world.link.push(outgoing(1));
    world.link.end();
    world
        .until(|w| !w.events.lost.lock().unwrap().is_empty())
        .await;
    assert!(!world.link.push(outgoing(2)));
}

/// What is said of a command by its answer.
fn answer(nr: u64) -> BackFrame {
    BackFrame::Answer {
        correlation_id: Ticket::new(ShardNr(3), nr).0,
        answer: Err(CommandError::OwnerLost),
    }
}

/// The stream is closed, and no other is opened.
async fn assert_over(mut world: World, mut other: Other) {
    assert!(timeout(SOON, other.frames.recv()).await.unwrap().is_none());
    drop(other);
    assert!(timeout(SOON, world.others.recv()).await.unwrap().is_none());
    let lost = world.events.lost.lock().unwrap();
    assert!(lost.iter().all(BTreeSet::is_empty), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_retires_closes_its_stream_when_nothing_is_out() {
    let mut world = World::new();
    let other = world.opened().await;
    world.link.retire();
    assert_over(world, other).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_retires_hears_first_what_became_of_what_is_out() {
    let mut world = World::new();
    let mut other = world.opened().await;
    for nr in 1..=3 {
        assert!(world.link.push(outgoing(nr)));
    }
    world.link.retire();
    other.back.send(vec![BackFrame::Credit(2)]).await.unwrap();
    let mut written = Vec::new();
    while written.len() < 2 {
        written.extend(batch(&mut other).await);
    }
    let returned = BackFrame::Returned {
        correlation_id: Ticket::new(ShardNr(3), 1).0,
        index: 9,
    };
    let answers = vec![returned, answer(2), BackFrame::Credit(1)];
    other.back.send(answers).await.unwrap();
    assert_eq!(batch(&mut other).await, [3], "it had not been written yet");
    let early = timeout(Duration::from_secs(1), other.frames.recv()).await;
    assert!(early.is_err(), "the last is not answered");
    assert!(!world.link.has_ended());
    other.back.send(vec![answer(3)]).await.unwrap();
    world.until(|world| world.link.has_ended()).await;
    assert_eq!(world.events.count.load(Ordering::Relaxed), 3);
    assert_over(world, other).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_retires_does_not_connect_again() {
    let mut world = World::new();
    let other = world.opened().await;
    world.link.push(outgoing(1));
    world.link.retire();
    drop(other);
    assert!(timeout(SOON, world.others.recv()).await.unwrap().is_none());
    let unwritten = [Ticket::new(ShardNr(3), 1)];
    assert_eq!(world.events.lost.lock().unwrap()[0], unwritten.into());
}
