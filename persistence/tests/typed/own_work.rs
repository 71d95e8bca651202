//! Work outside that an entity began of its own accord: no sender waits for it, so it
//! ends with the incarnation that began it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use perennial_persistence::codec::Json;
use perennial_persistence::effect::Effect;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::writer::Epoch;
use serde::{Deserialize, Serialize};

use crate::fixture::{Node, SHARD, wait_until};

const BEAT: Duration = Duration::from_millis(10);

/// Ticks from its recovery on, with one beat between two ticks.
#[derive(Clone, Default)]
struct Clock {
    ticks: Arc<AtomicU32>,
    stores_ticks: bool,
}

#[derive(Serialize, Deserialize)]
enum Command {
    Tick,
    /// Stores a tick before the next.
    Store,
    Add(u32),
    Get,
}

#[derive(Serialize, Deserialize)]
enum Event {
    Ticked,
    Added(u32),
}

impl EventSourced for Clock {
    const ENTITY_TYPE: &'static str = "clock";
    type State = u32;
    type Command = Command;
    type Event = Event;
    type Reply = u32;
    type Codec = Json;

    fn handle(&self, state: &u32, command: Command) -> Effect<Self> {
        match command {
            Command::Tick => {
                self.ticks.fetch_add(1, Ordering::Relaxed);
                let next = match self.stores_ticks {
                    true => Command::Store,
                    false => Command::Tick,
                };
                Effect::run_outside(async {
                    tokio::time::sleep(BEAT).await;
                    next
                })
            }
            Command::Store => {
                Effect::persist(Event::Ticked).then_run_outside(|_| async { Command::Tick })
            }
            Command::Add(n) => Effect::persist(Event::Added(n)).then_reply(|sum| *sum),
            Command::Get => Effect::reply(*state),
        }
    }

    fn apply(&self, sum: &mut u32, event: Event) {
        if let Event::Added(n) = event {
            *sum += n;
        }
    }

    fn after_recovery(&self, _sum: &u32) -> Option<Command> {
        Some(Command::Tick)
    }
}

impl Clock {
    /// In ten beats of a paused clock.
    async fn ticks_in_ten_beats(&self) -> u32 {
        let before = self.ticks.load(Ordering::Relaxed);
        tokio::time::sleep(10 * BEAT).await;
        self.ticks.load(Ordering::Relaxed) - before
    }
}

/// A deletion waits for what a sender waits for, and for nothing else.
#[tokio::test(start_paused = true)]
async fn a_deletion_does_not_wait_for_work_of_the_entitys_own() {
    let clock = Clock::default();
    let node = Node::running(clock.clone()).await;
    node.ask::<Clock>("c", &Command::Add(1)).await.unwrap();
    let id = PersistenceId::new("clock", "c").unwrap();
    let deletion = node.engine.delete(SHARD, Epoch(1), &id);
    let deletion = tokio::time::timeout(Duration::from_secs(20), deletion).await;
    deletion.expect("it should end").unwrap();
    assert_eq!(clock.ticks_in_ten_beats().await, 0);
    assert_eq!(node.ask::<Clock>("c", &Command::Get).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn work_of_the_entitys_own_is_begun_once_whatever_restarts() {
    let clock = Clock::default();
    let node = Node::running(clock.clone()).await;
    node.ask::<Clock>("c", &Command::Get).await.unwrap();
    for _ in 0..3 {
        node.passivate::<Clock>("c").await;
        node.ask::<Clock>("c", &Command::Get).await.unwrap();
    }
    let ticks = clock.ticks_in_ten_beats().await;
    assert!((9..=11).contains(&ticks), "{ticks}");
}

/// What has come back and is not handled yet when the entity starts over is of the past
/// like what is still outside.
#[tokio::test(start_paused = true)]
async fn what_came_back_ends_with_the_incarnation_too() {
    let clock = Clock {
        stores_ticks: true,
        ..Clock::default()
    };
    let node = Node::running(clock.clone()).await;
    for n in 1..=3 {
        // A tick comes back while this is being stored, and so is not handled before the
        // entity leaves.
        node.faults().at_payload("Added", Fault::Delay(3 * BEAT));
        let added = node.tell::<Clock>("c", &Command::Add(1));
        let writes = node.faults().count(Operation::Write);
        wait_until("the write", || {
            node.faults().count(Operation::Write) > writes
        })
        .await;
        let passivated = node.passivate::<Clock>("c");
        let (added, ()) = tokio::join!(added.reply(), passivated);
        assert_eq!(added.unwrap(), n);
        assert_eq!(node.ask::<Clock>("c", &Command::Get).await.unwrap(), n);
    }
    let ticks = clock.ticks_in_ten_beats().await;
    assert!((9..=11).contains(&ticks), "{ticks}");
}
