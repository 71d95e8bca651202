//! Persist, update the state, then, when all events of the command are stored, bring a
//! read model up to date and confirm: the completion runs once, after all callbacks,
//! and what waits runs in a task that replies when it is done.
//!
//! `cargo run -p perennial-persistence --example subscription`

use std::sync::{Arc, Mutex, PoisonError};

use perennial_persistence::actor::{Context, PersistentActor, Recovered};
use perennial_persistence::codec::Json;
use serde::{Deserialize, Serialize};

#[path = "shared/engine.rs"]
mod engine;
use engine::{Done, Example};

#[derive(Serialize, Deserialize)]
enum Command {
    Upgrade { plan: String, seats: u32 },
}

#[derive(Debug, Serialize, Deserialize)]
enum Event {
    PlanChanged(String),
    SeatsChanged(u32),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Subscription {
    plan: String,
    seats: u32,
}

impl Subscription {
    /// The events that lead to what is asked for; none when it is so already.
    fn upgrade(&self, plan: String, seats: u32) -> Vec<Event> {
        let plan = (plan != self.plan).then_some(Event::PlanChanged(plan));
        let seats = (seats != self.seats).then_some(Event::SeatsChanged(seats));
        plan.into_iter().chain(seats).collect()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::PlanChanged(plan) => self.plan.clone_from(plan),
            Event::SeatsChanged(seats) => self.seats = *seats,
        }
    }
}

/// What others query; in another database in earnest.
#[derive(Clone, Default)]
struct ReadModel(Arc<Mutex<Subscription>>);

impl ReadModel {
    async fn bring_up_to_date(&self, subscription: Subscription) {
        // Writing to a database would wait here.
        tokio::task::yield_now().await;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = subscription;
    }

    fn show(&self) -> String {
        format!(
            "{:?}",
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        )
    }
}

struct SubscriptionActor {
    state: Subscription,
    read_model: ReadModel,
}

impl PersistentActor for SubscriptionActor {
    type Command = Command;
    type Event = Event;
    type Snapshot = Subscription;
    type Reply = String;
    type Codec = Json;

    fn receive_command(&mut self, command: Command, cx: &mut Context<'_, Self>) {
        let Command::Upgrade { plan, seats } = command;
        cx.persist_all_then(
            self.state.upgrade(plan, seats),
            |actor: &mut Self, event, _| {
                println!("stored: {event:?}");
                actor.state.apply(event);
            },
            |actor, cx| {
                let (read_model, state) = (actor.read_model.clone(), actor.state.clone());
                let sender = cx.sender();
                tokio::spawn(async move {
                    read_model.bring_up_to_date(state).await;
                    if let Some(sender) = sender {
                        sender.reply(&"upgrade complete".to_owned());
                    }
                });
            },
        );
    }

    fn receive_recover(&mut self, recovered: Recovered<Self>, _: &mut Context<'_, Self>) {
        match recovered {
            Recovered::SnapshotOffer(offer) => self.state = offer.snapshot,
            Recovered::Event(event) => self.state.apply(&event),
            Recovered::Completed => {}
        }
    }
}

#[tokio::main]
async fn main() -> Done {
    let read_model = ReadModel::default();
    let shown = read_model.clone();
    let example = Example::start(move |_| SubscriptionActor {
        state: Subscription::default(),
        read_model: read_model.clone(),
    })
    .await?;
    for seats in [5, 20] {
        let plan = "team".to_owned();
        let reply = example.ask(&Command::Upgrade { plan, seats }).await?;
        println!("{reply}; the read model: {}", shown.show());
    }
    Ok(())
}
