//! At-least-once delivery from an entity, through the real engine: to another entity and
//! to a receiver in the same process (the row AtLeastOnceDelivery in 5.6 of the cases).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::codec::Json;
use perennial_persistence::command::{CommandId, Envelope, ReplyTo, Request};
use perennial_persistence::delivery::courier::{Carrier, Courier};
use perennial_persistence::delivery::{Deliveries, Delivery, DeliveryId, RedeliverySettings};
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::journal::memory::faults::Fault;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::Epoch;
use serde::{Deserialize, Serialize};

use crate::counter::{self, Counter};
use crate::fixture::{Node, SHARD, wait_until};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Destination {
    /// The counter of this id, which is incremented.
    Counter(String),
    /// The receiver in this process.
    Receiver,
}

/// Sends numbers, and remembers which are not confirmed.
struct Sender {
    courier: Courier<Destination, u32>,
}

#[derive(Serialize, Deserialize)]
enum Command {
    Send(Destination, u32),
    Confirm(DeliveryId),
    Resume,
    Unconfirmed,
}

#[derive(Serialize, Deserialize)]
enum Event {
    Sent(Destination, u32),
    Confirmed(DeliveryId),
}

const MAX_UNCONFIRMED: usize = 50;

impl EventSourced for Sender {
    const ENTITY_TYPE: &'static str = "sender";
    type State = Deliveries<Destination, u32>;
    type Command = Command;
    type Event = Event;
    type Reply = usize;
    type Codec = Json;

    fn handle(&self, state: &Self::State, command: Command) -> Effect<Self> {
        match command {
            Command::Send(destination, message) => {
                if let Err(full) = state.check_room(1, MAX_UNCONFIRMED) {
                    return Effect::reject("TOO_MANY_UNCONFIRMED", full.to_string());
                }
                let courier = self.courier.clone();
                Effect::persist(Event::Sent(destination, message))
                    .then_run_outside(move |state: &Self::State| {
                        let carried = courier.carry(state.unconfirmed().last().unwrap());
                        async move { Command::Confirm(carried.await) }
                    })
                    .then_reply(Deliveries::len)
            }
            Command::Confirm(id) if state.is_unconfirmed(id) => {
                Effect::persist(Event::Confirmed(id))
            }
            Command::Confirm(_) => Effect::none(),
            Command::Resume => state
                .unconfirmed()
                .fold(Effect::none(), |effect, delivery| {
                    let courier = self.courier.clone();
                    effect.then_run_outside(move |_| {
                        let carried = courier.resume(delivery);
                        async move { Command::Confirm(carried.await) }
                    })
                }),
            Command::Unconfirmed => Effect::reply(state.len()),
        }
    }

    fn apply(&self, state: &mut Self::State, event: Event) {
        match event {
            Event::Sent(destination, message) => {
                state.deliver(destination, message);
            }
            Event::Confirmed(id) => {
                state.confirm(id);
            }
        }
    }

    fn after_recovery(&self, state: &Self::State) -> Option<Command> {
        (!state.is_empty()).then_some(Command::Resume)
    }
}

/// Reaches entities through the engine, as it would through the region, and the receiver
/// directly.
#[derive(Clone, Default)]
struct Post {
    engine: Arc<OnceLock<EntityEngine>>,
    received: Arc<Mutex<Vec<u32>>>,
    /// Lost once.
    lose: Arc<Mutex<BTreeSet<u32>>>,
    /// Nothing arrives.
    is_down: Arc<AtomicBool>,
    /// How often something was sent, whether it arrived or not.
    sent: Arc<AtomicU32>,
}

#[async_trait]
impl Carrier<Destination, u32> for Post {
    async fn carry(&self, delivery: &Delivery<Destination, u32>) -> bool {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let is_lost = self.lose.lock().unwrap().remove(&delivery.message);
        if is_lost || self.is_down.load(Ordering::Relaxed) {
            return false;
        }
        let Destination::Counter(id) = &delivery.destination else {
            self.received.lock().unwrap().push(delivery.message);
            return true;
        };
        let (reply_to, answer) = ReplyTo::ask();
        let increment = serde_json::to_vec(&counter::Command::Increment).unwrap();
        // By this a repetition has no second effect (I-8).
        let command_id = CommandId::parse(&format!("sender {}", delivery.id)).unwrap();
        self.engine.get().unwrap().deliver(Envelope {
            trace: Trace::NONE,
            arrival: 0,
            persistence_id: PersistenceId::new("counter", id).unwrap(),
            shard: SHARD,
            epoch: Epoch(1),
            request: Request::Command {
                payload: Payload::json(increment),
                command_id,
                expected_sequence_nr: None,
                metadata: None,
            },
            deadline: None,
            reply_to,
        });
        matches!(answer.await, Ok(Ok(_)))
    }
}

impl Post {
    fn received(&self) -> Vec<u32> {
        self.received.lock().unwrap().clone()
    }

    fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    /// How often something is sent in ten intervals, by a paused clock.
    async fn sent_in_ten_intervals(&self) -> u32 {
        let before = self.sent.load(Ordering::Relaxed);
        tokio::time::sleep(10 * INTERVAL).await;
        self.sent.load(Ordering::Relaxed) - before
    }
}

const INTERVAL: Duration = Duration::from_millis(30);

async fn node(post: &Post) -> Node {
    let settings = RedeliverySettings {
        interval: INTERVAL,
        ..RedeliverySettings::default()
    };
    let courier = Courier::start(settings, post.clone());
    let mut types = EntityTypes::new();
    types.register(Counter).unwrap();
    types.register(Sender { courier }).unwrap();
    let node = Node::of_types(EngineSettings::default(), types).await;
    let _ = post.engine.set(node.engine.clone());
    node
}

async fn send(node: &Node, destination: Destination, message: u32) -> usize {
    let command = Command::Send(destination, message);
    node.ask::<Sender>("s", &command).await.unwrap()
}

async fn wait_for_all(node: &Node) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while node
        .ask::<Sender>("s", &Command::Unconfirmed)
        .await
        .unwrap()
        > 0
    {
        assert!(tokio::time::Instant::now() < deadline, "not confirmed");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_lost_on_the_way_arrives_later() {
    let post = Post::default();
    post.lose.lock().unwrap().extend([3, 6]);
    let node = node(&post).await;
    for message in 1..=6 {
        send(&node, Destination::Receiver, message).await;
    }
    wait_for_all(&node).await;
    assert_eq!(post.received(), [1, 2, 4, 5, 3, 6]);
}

/// An entity as destination: the answer to its command is the confirmation, and a message
/// that it was told twice has its effect once.
#[tokio::test]
async fn an_entity_receives_through_its_commands() {
    let post = Post::default();
    let node = node(&post).await;
    // The first write of the receiver, whichever of all writes that is.
    node.faults().at_payload("Incremented", Fault::LoseAnswer);
    for message in 1..=5 {
        send(&node, Destination::Counter("c".into()), message).await;
    }
    wait_for_all(&node).await;
    let counted = node.ask::<Counter>("c", &counter::Command::Get).await;
    assert_eq!(counted.unwrap(), (5, true));
}

/// What came back from outside and could not be stored is not forgotten for as long as
/// the entity stays in memory.
#[tokio::test]
async fn a_confirmation_that_the_journal_refuses_comes_again() {
    let post = Post::default();
    let node = node(&post).await;
    node.faults().at_payload("Confirmed", Fault::Fail);
    send(&node, Destination::Receiver, 1).await;
    wait_for_all(&node).await;
    assert_eq!(post.received(), [1, 1]);
}

/// After a recovery the unconfirmed go before the fresh, in their order.
#[tokio::test]
async fn what_is_unconfirmed_is_sent_again_after_a_recovery() {
    let post = Post::default();
    post.set_down(true);
    let node = node(&post).await;
    for message in 1..=3 {
        let unconfirmed = send(&node, Destination::Receiver, message).await;
        assert_eq!(unconfirmed, message as usize);
    }
    // It leaves although deliveries are under way; those are given up with it.
    node.passivate::<Sender>("s").await;
    assert_eq!(node.engine.live_entities(), 0);
    post.set_down(false);
    send(&node, Destination::Receiver, 4).await;
    wait_for_all(&node).await;
    let mut first_arrivals = Vec::new();
    for message in post.received() {
        if !first_arrivals.contains(&message) {
            first_arrivals.push(message);
        }
    }
    assert_eq!(first_arrivals, [1, 2, 3, 4]);
}

/// However often the entity starts over, each delivery is under way once: what an
/// incarnation had begun ends with it.
#[tokio::test(start_paused = true)]
async fn deliveries_do_not_multiply_with_restarts() {
    let post = Post::default();
    post.set_down(true);
    let node = node(&post).await;
    for message in 1..=3 {
        send(&node, Destination::Receiver, message).await;
    }
    for _ in 0..5 {
        node.passivate::<Sender>("s").await;
        let unconfirmed = node.ask::<Sender>("s", &Command::Unconfirmed).await;
        assert_eq!(unconfirmed.unwrap(), 3);
    }
    // Each ten times, give or take the ends.
    let sent = post.sent_in_ten_intervals().await;
    assert!((27..=33).contains(&sent), "{sent}");
    // Without an entity there is nobody to send for.
    node.passivate::<Sender>("s").await;
    assert_eq!(post.sent_in_ten_intervals().await, 0);
}

/// Of an entity that is deleted nothing is sent any more.
#[tokio::test(start_paused = true)]
async fn a_deletion_ends_deliveries() {
    let post = Post::default();
    post.set_down(true);
    let node = node(&post).await;
    for message in 1..=3 {
        send(&node, Destination::Receiver, message).await;
    }
    let id = PersistenceId::new("sender", "s").unwrap();
    node.engine.delete(SHARD, Epoch(1), &id).await.unwrap();
    assert_eq!(post.sent_in_ten_intervals().await, 0);
}

#[tokio::test]
async fn the_unconfirmed_are_limited() {
    let post = Post::default();
    post.set_down(true);
    let node = node(&post).await;
    for message in 1..=MAX_UNCONFIRMED {
        send(&node, Destination::Receiver, message as u32).await;
    }
    let more = Command::Send(Destination::Receiver, 0);
    let refused = node.ask::<Sender>("s", &more).await.unwrap_err();
    assert!(refused.to_string().contains("50 is the limit"), "{refused}");
    post.set_down(false);
    wait_for_all(&node).await;
    wait_until("all", || post.received().len() >= MAX_UNCONFIRMED).await;
}
