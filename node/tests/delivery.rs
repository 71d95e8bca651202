//! At-least-once delivery from one entity to others, through the region of a node.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use perennial::config::Source;
use perennial::entity_carrier::{Addressed, EntityRoad};
use perennial::samples::Counter;
use perennial::samples::counter::CounterCommand;
use perennial::{Effect, EventSourced, Json, Node, Settings};
use perennial_persistence::command::CommandId;
use perennial_persistence::delivery::courier::Courier;
use perennial_persistence::delivery::{Deliveries, Delivery, DeliveryId, RedeliverySettings};
use serde::{Deserialize, Serialize};

const PATIENCE: Duration = Duration::from_secs(30);

/// Adds numbers to counters, and knows which of them have not confirmed it.
struct Adder(Courier<String, i64>);

#[derive(Serialize, Deserialize)]
enum AdderCommand {
    Add { counter: String, number: i64 },
    Confirm(DeliveryId),
    Resume,
    Unconfirmed,
}

#[derive(Serialize, Deserialize)]
enum AdderEvent {
    Sent { counter: String, number: i64 },
    Confirmed(DeliveryId),
}

impl EventSourced for Adder {
    const ENTITY_TYPE: &'static str = "adder";
    type State = Deliveries<String, i64>;
    type Command = AdderCommand;
    type Event = AdderEvent;
    type Reply = usize;
    type Codec = Json;

    fn handle(&self, state: &Self::State, command: AdderCommand) -> Effect<Self> {
        match command {
            AdderCommand::Add { counter, number } => {
                let courier = self.0.clone();
                Effect::persist(AdderEvent::Sent { counter, number })
                    .then_run_outside(move |state: &Self::State| {
                        let carried = courier.carry(state.unconfirmed().last().unwrap());
                        async move { AdderCommand::Confirm(carried.await) }
                    })
                    .then_reply(Deliveries::len)
            }
            AdderCommand::Confirm(id) if state.is_unconfirmed(id) => {
                Effect::persist(AdderEvent::Confirmed(id))
            }
            AdderCommand::Confirm(_) => Effect::none(),
            AdderCommand::Resume => state
                .unconfirmed()
                .fold(Effect::none(), |effect, delivery| {
                    let courier = self.0.clone();
                    effect.then_run_outside(move |_| {
                        let carried = courier.resume(delivery);
                        async move { AdderCommand::Confirm(carried.await) }
                    })
                }),
            AdderCommand::Unconfirmed => Effect::reply(state.len()),
        }
    }

    fn apply(&self, state: &mut Self::State, event: AdderEvent) {
        match event {
            AdderEvent::Sent { counter, number } => {
                state.deliver(counter, number);
            }
            AdderEvent::Confirmed(id) => {
                state.confirm(id);
            }
        }
    }

    fn after_recovery(&self, state: &Self::State) -> Option<AdderCommand> {
        (!state.is_empty()).then_some(AdderCommand::Resume)
    }
}

fn to_counter(delivery: &Delivery<String, i64>) -> Addressed<Counter> {
    let command_id = format!("adder-a-{}", delivery.id);
    Addressed {
        entity_id: delivery.destination.clone(),
        command_id: CommandId::parse(&command_id).unwrap().unwrap(),
        command: CounterCommand::Add(delivery.message),
    }
}

async fn start(data_dir: &std::path::Path, road: &EntityRoad) -> Node {
    let redelivery = RedeliverySettings {
        interval: Duration::from_millis(50),
        ..RedeliverySettings::default()
    };
    let carrier = road.carrier::<Counter, _>(to_counter);
    let mut settings = Settings::default();
    let shards = ("sharding.number_of_shards", "8");
    settings
        .set(shards.0, shards.1, Source::Flag("test"))
        .unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    Node::builder()
        .settings(settings)
        .data_dir(data_dir)
        .migrate()
        .listen(any)
        .http(any)
        .peer_listen(any)
        .entity(Adder(Courier::start(redelivery, carrier)))
        .entity(Counter)
        .start()
        .await
        .unwrap()
}

/// Case 5.6, AtLeastOnceDelivery: what a node that ended has not delivered, because no
/// way was open, the next one delivers, and each number is added once.
#[tokio::test(flavor = "multi_thread")]
async fn entities_deliver_to_entities_across_a_restart() {
    let data_dir = tempfile::tempdir().unwrap();
    let node = start(data_dir.path(), &EntityRoad::new()).await;
    let adder = node.entity_ref::<Adder>("a").unwrap();
    for number in [1, 10, 100] {
        let counter = format!("c{}", number % 2);
        let command = AdderCommand::Add { counter, number };
        adder.ask(&command).await.unwrap();
    }
    assert_eq!(adder.ask(&AdderCommand::Unconfirmed).await.unwrap(), 3);
    node.stop().await;

    let road = EntityRoad::new();
    let node = start(data_dir.path(), &road).await;
    node.open_road(&road);
    let adder = node.entity_ref::<Adder>("a").unwrap();
    let delivered = async {
        while adder.ask(&AdderCommand::Unconfirmed).await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, delivered).await.unwrap();
    for (counter, value) in [("c0", 110), ("c1", 1)] {
        let counter = node.entity_ref::<Counter>(counter).unwrap();
        let answer = counter.ask(&CounterCommand::Get).await.unwrap();
        assert_eq!(answer.value, value);
    }
    node.stop().await;
}
