//! Side effects after the commit, and work that runs outside of the entity.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use perennial_persistence::codec::Json;
use perennial_persistence::command::ReplyTo;
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::fixture::{Acks, Node, SHARD, answered, command_request, wait_until};

/// Orders that are charged by a service outside.
#[derive(Clone)]
struct Orders {
    /// What calls to the service wait for.
    service: Arc<Semaphore>,
    /// Calls begun.
    calls: Arc<AtomicU32>,
    /// What side effects saw of the state, last.
    seen: Arc<AtomicU32>,
    effects: Arc<AtomicU32>,
}

impl Orders {
    fn new() -> Self {
        Self {
            service: Arc::new(Semaphore::new(0)),
            calls: Arc::default(),
            seen: Arc::default(),
            effects: Arc::default(),
        }
    }

    /// A call to the service, as a value that does nothing until it is polled.
    fn call(&self, then: Command) -> impl Future<Output = Command> + Send + use<> {
        let Self { service, calls, .. } = self.clone();
        async move {
            calls.fetch_add(1, Ordering::Relaxed);
            service.acquire().await.unwrap().forget();
            then
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Command {
    Add(u32),
    AddThenRun(u32),
    /// Asks the service, then goes on as `Add`.
    Charge(u32),
    ChargeWhileCommandsWait(u32),
    /// Adds, and has the service asked afterwards, which adds again.
    AddThenCharge(u32),
    PanicOutside,
    Get,
}

impl EventSourced for Orders {
    const ENTITY_TYPE: &'static str = "orders";
    type State = Vec<u32>;
    type Command = Command;
    type Event = u32;
    type Reply = Vec<u32>;
    type Codec = Json;

    fn handle(&self, state: &Vec<u32>, command: Command) -> Effect<Self> {
        match command {
            Command::Add(n) => Effect::persist(n).then_reply(Clone::clone),
            Command::AddThenRun(n) => {
                let Self { seen, effects, .. } = self.clone();
                Effect::persist(n)
                    .then_run(move |state: &Vec<u32>| {
                        seen.store(state.iter().sum(), Ordering::Relaxed);
                    })
                    .then_run(move |_| {
                        effects.fetch_add(1, Ordering::Relaxed);
                    })
                    .then_reply(Clone::clone)
            }
            Command::Charge(n) => Effect::run_outside(self.call(Command::Add(n))),
            Command::ChargeWhileCommandsWait(n) => {
                Effect::run_outside(self.call(Command::Add(n))).while_commands_wait()
            }
            Command::AddThenCharge(n) => {
                let this = self.clone();
                Effect::persist(n)
                    .then_reply(Clone::clone)
                    .then_run_outside(move |state: &Vec<u32>| {
                        this.call(Command::Add(state.len() as u32 * 100))
                    })
            }
            Command::PanicOutside => Effect::run_outside(async { panic!("told to panic") }),
            Command::Get => Effect::reply(state.clone()),
        }
    }

    fn apply(&self, state: &mut Vec<u32>, event: u32) {
        state.push(event);
    }
}

/// At most once, on the state at its place, and never at a replay.
#[tokio::test]
async fn then_run_runs_once_after_the_commit() {
    let orders = Orders::new();
    let mut node = Node::running(orders.clone()).await;
    let ask = async |n| node.ask::<Orders>("o", &Command::AddThenRun(n)).await;
    ask(1).await.unwrap();
    // The state is that after its own events, whatever came along with it.
    let (asked, behind) = (
        node.tell::<Orders>("o", &Command::AddThenRun(2)),
        node.tell::<Orders>("o", &Command::Add(4)),
    );
    asked.reply().await.unwrap();
    assert_eq!(orders.seen.load(Ordering::Relaxed), 3);
    assert_eq!(behind.reply().await.unwrap(), [1, 2, 4]);
    node.faults().at(Operation::Write, 1, Fault::Fail);
    ask(8).await.unwrap_err();
    node.restart(orders.clone()).await;
    let state = node.ask::<Orders>("o", &Command::Get).await.unwrap();
    assert_eq!(state, [1, 2, 4]);
    assert_eq!(orders.effects.load(Ordering::Relaxed), 2);
}

/// The sender of the command gets the answer to what the work came back with; others
/// are handled meanwhile.
#[tokio::test]
async fn work_outside_answers_the_original_sender() {
    let orders = Orders::new();
    let node = Node::running(orders.clone()).await;
    let mut acks = Acks::new();
    acks.tell::<Orders>(&node, "o", "charge", &Command::Charge(1));
    acks.tell::<Orders>(&node, "o", "add", &Command::Add(2));
    acks.expect(["add"]).await;
    acks.expect_nothing();
    orders.service.add_permits(1);
    acks.expect(["charge"]).await;
    let state = node.ask::<Orders>("o", &Command::Get).await.unwrap();
    assert_eq!(state, [2, 1]);
}

#[tokio::test]
async fn commands_wait_for_work_outside_if_asked() {
    let orders = Orders::new();
    let node = Node::running(orders.clone()).await;
    let mut acks = Acks::new();
    let charge = Command::ChargeWhileCommandsWait(1);
    acks.tell::<Orders>(&node, "o", "charge", &charge);
    acks.tell::<Orders>(&node, "o", "add", &Command::Add(2));
    wait_until("the call", || orders.calls.load(Ordering::Relaxed) == 1).await;
    let id = perennial_persistence::persistence_id::PersistenceId::new("orders", "o").unwrap();
    let described = node.engine.describe(SHARD, &id).await;
    assert_eq!(described.waiting_for, "work that it runs outside");
    acks.expect_nothing();
    orders.service.add_permits(1);
    acks.expect(["charge", "add"]).await;
    let state = node.ask::<Orders>("o", &Command::Get).await.unwrap();
    assert_eq!(state, [1, 2]);
}

/// I-8: commands keep their deadlines while they wait for work that does not come back.
#[tokio::test(start_paused = true)]
async fn i8_commands_do_not_wait_longer_than_their_deadlines() {
    let orders = Orders::new();
    let node = Node::running(orders.clone()).await;
    let charge = node.tell::<Orders>("o", &Command::ChargeWhileCommandsWait(1));
    let (reply_to, answer) = ReplyTo::ask();
    let request = command_request::<Orders>(&Command::Add(2), "");
    let begun = tokio::time::Instant::now();
    let deadline = begun.into_std() + Duration::from_millis(200);
    node.deliver("orders", "o", request, reply_to, Some(deadline));
    let add = node.tell::<Orders>("o", &Command::Add(3));
    let late = answered(answer).await.unwrap_err();
    let applied = Applied::No;
    assert_eq!(late, CommandError::DeadlineExceeded { applied });
    assert!(begun.elapsed() < Duration::from_secs(1));
    orders.service.add_permits(1);
    assert_eq!(charge.reply().await.unwrap(), [1]);
    assert_eq!(add.reply().await.unwrap(), [1, 3]);
}

/// I-8: what the work came back with is stored under the id of the original command.
#[tokio::test]
async fn i8_a_retry_of_work_outside_has_one_effect() {
    let orders = Orders::new();
    let node = Node::running(orders.clone()).await;
    orders.service.add_permits(10);
    let charge = || {
        let request = command_request::<Orders>(&Command::Charge(1), "id-1");
        answered(node.request("orders", "o", request))
    };
    let (first, second) = futures::future::join(charge(), charge()).await;
    assert_ne!(first.unwrap().duplicate, second.unwrap().duplicate);
    assert!(charge().await.unwrap().duplicate);
    let state = node.ask::<Orders>("o", &Command::Get).await.unwrap();
    assert_eq!(state, [1]);
}

/// I-4: nothing leaves the entity before it is stored.
#[tokio::test]
async fn i4_work_outside_starts_after_the_commit() {
    let orders = Orders::new();
    let node = Node::running(orders.clone()).await;
    orders.service.add_permits(10);
    node.faults().at(Operation::Write, 1, Fault::Fail);
    let refused = node.ask::<Orders>("o", &Command::AddThenCharge(1)).await;
    refused.unwrap_err();
    assert_eq!(orders.calls.load(Ordering::Relaxed), 0);
    node.ask::<Orders>("o", &Command::AddThenCharge(1))
        .await
        .unwrap();
    wait_until("the call", || orders.calls.load(Ordering::Relaxed) == 1).await;
    let mut state = Vec::new();
    while state.len() < 2 {
        state = node.ask::<Orders>("o", &Command::Get).await.unwrap();
    }
    assert_eq!(state, [1, 100]);
}

/// An entity that waits for work outside is not idle; asked to leave all the same, its
/// next incarnation waits on.
#[tokio::test]
async fn work_outside_survives_a_passivation() {
    let orders = Orders::new();
    let settings = EngineSettings {
        idle_timeout: Duration::from_millis(1),
        ..EngineSettings::default()
    };
    let node = Node::with(settings, orders.clone()).await;
    let charge = node.tell::<Orders>("o", &Command::Charge(1));
    wait_until("the call", || orders.calls.load(Ordering::Relaxed) == 1).await;
    node.passivate::<Orders>("o").await;
    orders.service.add_permits(1);
    assert_eq!(charge.reply().await.unwrap(), [1]);
    wait_until("the entity to leave", || node.engine.live_entities() == 0).await;
}

/// The sender is told when its deadline passes; what happened outside is recorded all
/// the same.
#[tokio::test]
async fn work_outside_comes_back_after_its_deadline() {
    let orders = Orders::new();
    let node = Node::running(orders.clone()).await;
    let (reply_to, answer) = ReplyTo::ask();
    let request = command_request::<Orders>(&Command::Charge(1), "");
    let deadline = Instant::now() + Duration::from_millis(20);
    node.deliver("orders", "o", request, reply_to, Some(deadline));
    let late = answered(answer).await.unwrap_err();
    let applied = Applied::Unknown;
    assert_eq!(late, CommandError::DeadlineExceeded { applied });
    orders.service.add_permits(1);
    let mut state = Vec::new();
    while state.is_empty() {
        state = node.ask::<Orders>("o", &Command::Get).await.unwrap();
    }
    assert_eq!(state, [1]);
}

#[tokio::test]
async fn a_panic_outside_is_told_and_costs_nothing_else() {
    let node = Node::running(Orders::new()).await;
    node.ask::<Orders>("o", &Command::Add(1)).await.unwrap();
    let panicked = node.ask::<Orders>("o", &Command::PanicOutside).await;
    let panicked = panicked.unwrap_err();
    assert!(
        matches!(panicked, CommandError::Panicked { .. }),
        "{panicked}"
    );
    assert_eq!(panicked.applied(), Applied::No);
    let state = node.ask::<Orders>("o", &Command::Get).await.unwrap();
    assert_eq!(state, [1]);
}

#[tokio::test]
async fn the_end_of_the_node_does_not_wait_for_work_outside() {
    let orders = Orders::new();
    let node = Node::running(orders.clone()).await;
    let charge = node.tell::<Orders>("o", &Command::Charge(1));
    wait_until("the call", || orders.calls.load(Ordering::Relaxed) == 1).await;
    node.engine.stop().await;
    let refused = charge.reply().await.unwrap_err();
    assert!(
        matches!(refused, CommandError::ShardUnavailable { .. }),
        "{refused}"
    );
}

/// An entity that is to be deleted first finishes what goes on outside; what nobody
/// waits for is given up.
#[tokio::test]
async fn a_deletion_waits_for_work_outside() {
    let orders = Orders::new();
    let node = Node::running(orders.clone()).await;
    let mut acks = Acks::new();
    acks.tell::<Orders>(&node, "o", "then", &Command::AddThenCharge(1));
    acks.expect(["then"]).await;
    acks.tell::<Orders>(&node, "o", "charge", &Command::Charge(2));
    wait_until("the calls", || orders.calls.load(Ordering::Relaxed) == 2).await;
    let (engine, id) = (
        node.engine.clone(),
        perennial_persistence::persistence_id::PersistenceId::new("orders", "o").unwrap(),
    );
    let epoch = perennial_persistence::writer::Epoch(1);
    let deletion = tokio::spawn(async move { engine.delete(SHARD, epoch, &id).await });
    tokio::task::yield_now().await;
    acks.tell::<Orders>(&node, "o", "next", &Command::Add(3));
    acks.expect_nothing();
    orders.service.add_permits(2);
    acks.expect(["charge", "next"]).await;
    let deleted = deletion.await.unwrap().unwrap();
    assert_eq!(deleted.get(), 2, "one that was added, one that was charged");
    let state = node.ask::<Orders>("o", &Command::Get).await.unwrap();
    assert_eq!(state, [3]);
}
