//! The traces of section 5.7 of the cases, TS1 to TS15: the user's stash, and what
//! waits while an entity is busy.
//!
//! Where this engine goes further than the originals the difference stands beside
//! the number. What is common to all: every command is answered (I-8), so what is
//! lost there is refused here, and says that it was not applied.

use std::time::{Duration, Instant};

use perennial_persistence::backoff::BackoffSettings;
use perennial_persistence::command::{ReplyTo, Request};
use perennial_persistence::command_error::{Applied, CommandError, StashLimit};
use perennial_persistence::engine::{EngineSettings, EntityState, StashOverflow};
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::writer::Epoch;

use crate::counter::{Command, Counter, State};
use crate::fixture::{Acks, Node, SHARD, answered, command_request};

use Command::{Activate, Deactivate, Get, Increment, IncrementThenThrow, Throw, Unhandled, Update};

/// Sends commands to one entity and sees the answers in order.
struct Client {
    node: Node,
    acks: Acks,
}

impl Client {
    async fn new() -> Self {
        Self::with(EngineSettings::default()).await
    }

    async fn with(settings: EngineSettings) -> Self {
        let backoff = BackoffSettings {
            min: Duration::from_millis(1),
            max: Duration::from_millis(2),
            ..settings.backoff
        };
        let settings = EngineSettings {
            backoff,
            ..settings
        };
        Self {
            node: Node::with(settings, Counter).await,
            acks: Acks::new(),
        }
    }

    fn tell(&mut self, name: &str, command: Command) {
        self.acks.tell::<Counter>(&self.node, "c", name, &command);
    }

    fn tell_all(&mut self, commands: &[(&str, Command)]) {
        for (name, command) in commands {
            self.tell(name, *command);
        }
    }

    async fn expect<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        self.acks.expect(names).await;
    }

    /// The next answer is the state.
    async fn expect_state(&mut self, value: u64, active: bool) {
        let (name, answer) = self.acks.next().await;
        assert_eq!(name, "get");
        let state: (u64, bool) = serde_json::from_slice(&answer.unwrap().payload.bytes).unwrap();
        assert_eq!(state, (value, active));
    }

    /// The next answer is an error to this command, which was not applied.
    async fn expect_refused(&mut self, expected: &str) -> CommandError {
        let (name, answer) = self.acks.next().await;
        assert_eq!(name, expected, "{answer:?}");
        let error = answer.unwrap_err();
        assert_eq!(error.applied(), Applied::No, "{error}");
        error
    }

    /// Returns when everything sent before is handled as far as it can be: the worker
    /// answers this when it takes in what is new, and takes in nothing else before it has
    /// handled that.
    async fn until_handled(&self) {
        self.node.engine.describe(SHARD, &entity()).await;
    }

    /// The state, as soon as the entity is back.
    async fn state_when_back(&self) -> (u64, bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.node.ask::<Counter>("c", &Get).await {
                Err(CommandError::BackingOff { .. }) if Instant::now() < deadline => {
                    tokio::task::yield_now().await;
                }
                answer => return answer.unwrap(),
            }
        }
    }
}

fn names(prefix: &str, numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|n| format!("{prefix}-{n}")).collect()
}

#[tokio::test]
async fn ts1_unstashed_commands_go_before_later_ones() {
    let mut c = Client::new().await;
    let sent = [("1", Increment), ("2", Deactivate), ("3", Increment)];
    c.tell_all(&sent);
    c.tell_all(&[("4", Increment), ("get", Get)]);
    c.expect(["1", "2"]).await;
    c.expect_state(1, false).await;
    c.tell_all(&[("5", Activate), ("6", Increment), ("get", Get)]);
    c.expect(["5", "3", "4", "6"]).await;
    c.expect_state(4, true).await;
}

#[tokio::test]
async fn ts2_a_read_behind_the_unstashing_sees_the_unstashed() {
    let mut c = Client::new().await;
    c.tell_all(&[("1", Increment), ("2", Deactivate), ("3", Increment)]);
    c.tell_all(&[("4", Increment), ("5", Update(100)), ("get", Get)]);
    c.expect(["1", "2", "5"]).await;
    c.expect_state(100, false).await;
    c.tell_all(&[("6", Activate), ("get", Get)]);
    c.expect(["6", "3", "4"]).await;
    c.expect_state(102, true).await;
}

#[tokio::test]
async fn ts3_everything_at_once_keeps_its_order() {
    let mut c = Client::new().await;
    c.tell_all(&[("inc-1", Increment), ("deact", Deactivate)]);
    c.tell_all(&[
        ("inc-2", Increment),
        ("inc-3", Increment),
        ("inc-4", Increment),
    ]);
    c.tell("act", Activate);
    c.tell_all(&[
        ("inc-5", Increment),
        ("inc-6", Increment),
        ("inc-7", Increment),
    ]);
    c.tell("get", Get);
    c.expect(["inc-1", "deact", "act", "inc-2", "inc-3", "inc-4"])
        .await;
    c.expect(["inc-5", "inc-6", "inc-7"]).await;
    c.expect_state(7, true).await;
}

#[tokio::test]
async fn ts4_a_long_conversation() {
    let mut c = Client::new().await;
    let tell = |c: &mut Client, prefix: &str, count: u32, command: Command| {
        for name in names(prefix, 1..=count) {
            c.tell(&name, command);
        }
    };
    tell(&mut c, "inc-1", 100, Increment);
    tell(&mut c, "deact-2", 3, Deactivate);
    for n in 1..=100 {
        c.tell(&format!("inc-3-{n}"), Increment);
        if n % 10 == 0 {
            c.tell("unhandled", Unhandled);
        }
    }
    c.tell("get", Get);
    for n in 1..=5 {
        c.tell(&format!("upd-4-{n}"), Update(n * 1000));
    }
    tell(&mut c, "act-5", 3, Activate);
    tell(&mut c, "inc-6", 100, Increment);
    c.tell("get", Get);
    for n in 6..=8 {
        c.tell(&format!("upd-7-{n}"), Update(n * 1000));
    }
    tell(&mut c, "deact-8", 3, Deactivate);
    tell(&mut c, "inc-9", 100, Increment);
    tell(&mut c, "act-10", 3, Activate);
    c.tell("get", Get);

    let expect = async |c: &mut Client, prefix: &str, numbers| {
        let names = names(prefix, numbers);
        c.expect(names.iter().map(String::as_str)).await;
    };
    expect(&mut c, "inc-1", 1..=100).await;
    expect(&mut c, "deact-2", 1..=3).await;
    for _ in 0..10 {
        let unhandled = c.expect_refused("unhandled").await;
        assert!(matches!(unhandled, CommandError::Unhandled { .. }));
    }
    c.expect_state(100, false).await;
    expect(&mut c, "upd-4", 1..=5).await;
    expect(&mut c, "act-5", 1..=1).await;
    expect(&mut c, "inc-3", 1..=100).await;
    expect(&mut c, "act-5", 2..=3).await;
    expect(&mut c, "inc-6", 1..=100).await;
    c.expect_state(5200, true).await;
    expect(&mut c, "upd-7", 6..=8).await;
    expect(&mut c, "deact-8", 1..=3).await;
    expect(&mut c, "act-10", 1..=1).await;
    expect(&mut c, "inc-9", 1..=100).await;
    expect(&mut c, "act-10", 2..=3).await;
    c.expect_state(8100, true).await;
    c.acks.expect_nothing();
}

/// TS5. The originals lose the stashed 2 and 3 without a word; here they are refused
/// with BACKING_OFF.
#[tokio::test]
async fn ts5_a_failure_refuses_what_is_stashed() {
    let mut c = Client::new().await;
    c.tell_all(&[("inc-1", Increment), ("deact", Deactivate)]);
    c.tell_all(&[("inc-2", Increment), ("inc-3", Increment), ("get", Get)]);
    c.expect(["inc-1", "deact"]).await;
    c.expect_state(1, false).await;
    c.tell("throw", Throw);
    let thrown = c.expect_refused("throw").await;
    assert!(matches!(thrown, CommandError::Panicked { .. }), "{thrown}");
    for lost in ["inc-2", "inc-3"] {
        let refused = c.expect_refused(lost).await;
        assert!(
            matches!(refused, CommandError::BackingOff { .. }),
            "{refused}"
        );
    }
    assert_eq!(c.state_when_back().await, (1, false));
    c.tell_all(&[("inc-4", Increment), ("get", Get)]);
    c.expect_state(1, false).await;
    c.tell_all(&[("act", Activate), ("inc-5", Increment), ("get", Get)]);
    c.expect(["act", "inc-4", "inc-5"]).await;
    c.expect_state(3, true).await;
}

/// TS6. The event of the command that throws after the commit stays; its sender is
/// told that it may have been applied. What waited behind it is refused, where the
/// originals are silent.
#[tokio::test]
async fn ts6_a_failure_refuses_what_waits() {
    let mut c = Client::new().await;
    c.tell_all(&[("slow", Get), ("inc-1", Increment), ("inc-2", Increment)]);
    c.tell("throw-3", IncrementThenThrow);
    for name in names("inc", 4..=10) {
        c.tell(&name, Increment);
    }
    c.expect(["slow", "inc-1", "inc-2"]).await;
    let (name, answer) = c.acks.next().await;
    assert_eq!(
        (name, answer.unwrap_err().applied()),
        ("throw-3", Applied::Unknown)
    );
    for name in names("inc", 4..=10) {
        c.expect_refused(&name).await;
    }
    assert_eq!(c.state_when_back().await, (3, true));
    c.tell_all(&[("inc-11", Increment), ("get", Get)]);
    c.expect(["inc-11"]).await;
    c.expect_state(4, true).await;
}

/// TS7, with each command sent after the one before is answered. When they are sent
/// at once they share an append and fail with it from the fifth on: nothing tells
/// them apart from one that the journal refused for being out of reach.
#[tokio::test]
async fn ts7_a_failed_write_costs_its_command() {
    let mut c = Client::new().await;
    c.node.faults().at(Operation::Write, 5, Fault::Fail);
    for name in names("inc", 1..=10) {
        c.tell(&name, Increment);
        match name.as_str() {
            "inc-5" => drop(c.expect_refused("inc-5").await),
            name => c.expect([name]).await,
        }
    }
    c.tell("get", Get);
    c.expect_state(9, true).await;

    c.node.faults().at(Operation::Write, 5, Fault::Fail);
    let at_once = names("inc", 11..=20);
    for name in &at_once {
        c.tell(name, Increment);
    }
    c.expect(at_once[..4].iter().map(String::as_str)).await;
    for name in &at_once[4..] {
        c.expect_refused(name).await;
    }
    c.tell("get", Get);
    c.expect_state(13, true).await;
}

/// TS8, with a write that the journal rejects: the others go on, in their order. One
/// that fails because the journal is out of reach takes along what shares its append,
/// but nothing that is still put aside.
#[tokio::test]
async fn ts8_a_failed_write_does_not_end_the_unstashing() {
    for (fault, acked, value) in [
        (Fault::Reject, &["inc-2", "inc-4", "inc-5", "inc-6"][..], 5),
        (Fault::Fail, &["inc-2"][..], 2),
    ] {
        let mut c = Client::new().await;
        c.tell_all(&[("inc-1", Increment), ("deact", Deactivate)]);
        for name in names("inc", 2..=5) {
            c.tell(&name, Increment);
        }
        c.expect(["inc-1", "deact"]).await;
        c.node.faults().at(Operation::Write, 3, fault);
        c.tell_all(&[("act", Activate), ("inc-6", Increment)]);
        c.expect(["act"]).await;
        let mut left = acked.to_vec();
        for _ in 0..5 {
            match c.acks.next().await {
                (name, Ok(_)) => assert_eq!(name, left.remove(0)),
                (_, Err(error)) => assert_eq!(error.applied(), Applied::No, "{error}"),
            }
        }
        assert!(left.is_empty(), "{left:?} not acked");
        c.tell("get", Get);
        c.expect_state(value, true).await;
    }
}

/// TS8 with the failure at the write that takes back what is put aside: that stays
/// where it is.
#[tokio::test]
async fn ts8_a_failed_activation_leaves_the_stash() {
    let mut c = Client::new().await;
    c.tell_all(&[
        ("deact", Deactivate),
        ("inc-1", Increment),
        ("inc-2", Increment),
    ]);
    c.expect(["deact"]).await;
    c.node.faults().at(Operation::Write, 1, Fault::Fail);
    c.tell("act-1", Activate);
    c.expect_refused("act-1").await;
    c.tell_all(&[("get", Get), ("act-2", Activate)]);
    c.expect_state(0, false).await;
    c.expect(["act-2", "inc-1", "inc-2"]).await;
}

#[tokio::test]
async fn ts9_a_read_of_the_state_keeps_its_place() {
    let c = Client::new().await;
    let tell = || c.node.tell::<Counter>("c", &Increment);
    let before = [tell(), tell()];
    let state = c.node.request("counter", "c", Request::State);
    let after = [tell(), tell()];
    let state = answered(state).await.unwrap();
    let state: State = serde_json::from_slice(&state.payload.bytes).unwrap();
    assert_eq!(state.value, 2);
    for (number, asked) in before.into_iter().chain(after).enumerate() {
        assert_eq!(asked.reply().await.unwrap().0, number as u64 + 1);
    }
}

/// TS10. One more than fits is answered, whatever the rule says.
#[tokio::test]
async fn ts10_a_full_stash_refuses_one_command() {
    for (stash_overflow, stash_capacity) in [
        (StashOverflow::Reply, 5),
        (StashOverflow::Drop, 5),
        (
            StashOverflow::Reply,
            EngineSettings::default().stash_capacity,
        ),
    ] {
        let mut c = Client::with(EngineSettings {
            stash_capacity,
            stash_overflow,
            ..EngineSettings::default()
        })
        .await;
        c.tell("deact", Deactivate);
        c.expect(["deact"]).await;
        let commands = names("cmd", 0..=stash_capacity as u32);
        for name in &commands {
            c.tell(name, Increment);
            c.until_handled().await;
        }
        let refused = c.expect_refused(&commands[stash_capacity]).await;
        let limit = StashLimit::Entity(stash_capacity);
        let expected = match stash_overflow {
            StashOverflow::Drop => CommandError::Dropped(limit),
            _ => CommandError::StashFull(limit),
        };
        assert_eq!(refused, expected);
        // The next one is let in, or nothing could ever bring back what was put aside.
        c.tell("get", Get);
        c.expect_state(0, false).await;
        c.tell("act", Activate);
        c.expect(["act"]).await;
        c.tell("done-unstashing", Get);
        let stashed = commands[..stash_capacity].iter().map(String::as_str);
        c.expect(stashed).await;
        c.expect(["done-unstashing"]).await;
    }
}

/// TS11. The entity fails; what is put aside is refused, and it comes back after its
/// back-off.
#[tokio::test]
async fn ts11_a_full_stash_fails_the_entity() {
    let mut c = Client::with(EngineSettings {
        stash_capacity: 5,
        stash_overflow: StashOverflow::Fail,
        ..EngineSettings::default()
    })
    .await;
    c.tell("deact", Deactivate);
    c.expect(["deact"]).await;
    for name in names("cmd", 0..=4) {
        c.tell(&name, Increment);
        c.until_handled().await;
    }
    c.tell("cmd-5", Increment);
    let full = c.expect_refused("cmd-5").await;
    assert_eq!(full, CommandError::StashFull(StashLimit::Entity(5)));
    for name in names("cmd", 0..=4) {
        let refused = c.expect_refused(&name).await;
        assert!(matches!(refused, CommandError::BackingOff { .. }));
    }
    assert_eq!(c.state_when_back().await, (0, false));
}

/// What waits and what is put aside share one capacity (I-10).
#[tokio::test]
async fn what_waits_and_what_is_put_aside_are_bounded_together() {
    let mut c = Client::with(EngineSettings {
        stash_capacity: 5,
        ..EngineSettings::default()
    })
    .await;
    c.tell("deact", Deactivate);
    c.expect(["deact"]).await;
    for name in ["inc-1", "inc-2", "inc-3"] {
        c.tell(name, Increment);
        c.until_handled().await;
    }
    let delay = Fault::Delay(Duration::from_millis(50));
    c.node.faults().at(Operation::Write, 1, delay);
    c.tell("upd", Update(1));
    c.until_handled().await;
    // Three are put aside, so two may wait for the update to be stored.
    c.tell_all(&[("get", Get), ("get", Get), ("too many", Get)]);
    let limit = StashLimit::Entity(5);
    let full = c.expect_refused("too many").await;
    assert_eq!(full, CommandError::StashFull(limit));
    c.expect(["upd"]).await;
    c.expect_state(1, false).await;
    c.expect_state(1, false).await;
    c.tell("act", Activate);
    c.expect(["act", "inc-1", "inc-2", "inc-3"]).await;
}

/// The budget of the node is one for all entities. It refuses and fails nobody, serves
/// those in memory that keep up, and is given back.
#[tokio::test]
async fn a_node_bounds_what_waits_for_all_its_entities() {
    let mut c = Client::with(EngineSettings {
        stash_total: 4,
        stash_overflow: StashOverflow::Fail,
        ..EngineSettings::default()
    })
    .await;
    let ask = async |id: &str, command: Command| c.node.ask::<Counter>(id, &command).await;
    ask("other", Increment).await.unwrap();
    ask("c", Deactivate).await.unwrap();
    let mut put_aside = Acks::new();
    for name in names("inc", 1..=4) {
        put_aside.tell::<Counter>(&c.node, "c", &name, &Increment);
        c.until_handled().await;
    }
    let full = CommandError::StashFull(StashLimit::Node(4));
    assert_eq!(ask("new", Get).await, Err(full.clone()));
    assert_eq!(ask("other", Get).await, Ok((1, true)));
    let delay = Fault::Delay(Duration::from_millis(50));
    c.node.faults().at(Operation::Write, 1, delay);
    c.acks.tell::<Counter>(&c.node, "other", "out", &Increment);
    c.until_handled().await;
    // The next one may wait behind the write that is out, one more may not.
    c.acks.tell::<Counter>(&c.node, "other", "next", &Get);
    c.acks.tell::<Counter>(&c.node, "other", "too many", &Get);
    assert_eq!(c.expect_refused("too many").await, full);
    c.expect(["out", "next"]).await;
    c.node.ask::<Counter>("c", &Activate).await.unwrap();
    put_aside.expect(["inc-1", "inc-2", "inc-3", "inc-4"]).await;
    assert_eq!(c.node.ask::<Counter>("new", &Get).await, Ok((0, true)));
}

/// TS12. The originals drop what is put aside when the entity stops. Here the next
/// incarnation has it, and an entity with something put aside is not idle.
#[tokio::test]
async fn ts12_stopping_keeps_what_is_stashed() {
    let mut c = Client::with(EngineSettings {
        idle_timeout: Duration::from_millis(1),
        ..EngineSettings::default()
    })
    .await;
    c.tell_all(&[
        ("deact", Deactivate),
        ("inc-1", Increment),
        ("inc-2", Increment),
    ]);
    c.expect(["deact"]).await;
    c.node.passivate::<Counter>("c").await;
    let described = c.node.engine.describe(SHARD, &entity()).await;
    assert_ne!(described.state, EntityState::Passive);
    c.tell_all(&[("act", Activate), ("get", Get)]);
    c.expect(["act", "inc-1", "inc-2"]).await;
    c.expect_state(2, true).await;
}

/// TS12 when the whole node stops: what is put aside is sent back.
#[tokio::test]
async fn ts12_the_end_of_the_node_refuses_what_is_stashed() {
    let mut c = Client::new().await;
    c.tell_all(&[("deact", Deactivate), ("inc-1", Increment)]);
    c.expect(["deact"]).await;
    c.node.engine.stop().await;
    let refused = c.expect_refused("inc-1").await;
    assert!(matches!(refused, CommandError::ShardUnavailable { .. }));
}

/// TS13. The originals stop before 6; here the next incarnation handles it.
#[tokio::test]
async fn ts13_stopping_lets_the_unstashed_go_first() {
    let mut c = Client::new().await;
    c.tell_all(&[("inc-1", Increment), ("deact-2", Deactivate)]);
    c.tell_all(&[("inc-3", Increment), ("inc-4", Increment)]);
    c.expect(["inc-1", "deact-2"]).await;
    c.tell("act-5", Activate);
    let engine = c.node.engine.clone();
    let passivation = tokio::spawn(async move { engine.passivate(SHARD, &entity()).await });
    tokio::task::yield_now().await;
    c.tell("inc-6", Increment);
    c.expect(["act-5", "inc-3", "inc-4", "inc-6"]).await;
    passivation.await.unwrap();
    assert_eq!(c.state_when_back().await, (4, true));
}

/// TS14. A stop asked for during the recovery does not interrupt it, and loses
/// nothing.
#[tokio::test]
async fn ts14_stopping_during_the_recovery_loses_nothing() {
    let mut c = Client::new().await;
    for name in names("inc", 1..=3) {
        c.tell(&name, Increment);
        c.expect([name.as_str()]).await;
    }
    c.node.passivate::<Counter>("c").await;
    let delay = Fault::Delay(Duration::from_millis(30));
    c.node.faults().at(Operation::ReadEvents, 1, delay);
    c.tell("get", Get);
    c.node.passivate::<Counter>("c").await;
    c.expect_state(3, true).await;
}

/// TS15: many commands during a stuck replay. What does not fit is refused at once,
/// and the rest is answered without a deep stack.
#[tokio::test]
async fn ts15_a_stuck_replay_keeps_as_much_as_fits() {
    let capacity = 20_000;
    let mut c = Client::with(EngineSettings {
        stash_capacity: capacity,
        queue_capacity: 50_000,
        ..EngineSettings::default()
    })
    .await;
    c.tell("inc", Increment);
    c.expect(["inc"]).await;
    c.node.passivate::<Counter>("c").await;
    let delay = Fault::Delay(Duration::from_millis(300));
    c.node.faults().at(Operation::ReadEvents, 1, delay);
    for _ in 0..2 * capacity + 1 {
        c.tell("get", Get);
    }
    let (mut refused, mut replied) = (0, 0);
    for _ in 0..2 * capacity + 1 {
        match c.acks.next().await.1 {
            Ok(_) => replied += 1,
            Err(CommandError::StashFull(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        replied >= capacity && refused > 0,
        "{replied} and {refused}"
    );
}

/// What is put aside keeps its deadline.
#[tokio::test]
async fn what_is_stashed_too_long_is_answered() {
    let mut c = Client::new().await;
    c.tell("deact", Deactivate);
    c.expect(["deact"]).await;
    let (reply_to, answer) = ReplyTo::ask();
    let request = command_request::<Counter>(&Increment, "");
    let deadline = Instant::now() + Duration::from_millis(20);
    c.node
        .deliver("counter", "c", request, reply_to, Some(deadline));
    c.tell("inc", Increment);
    let late = answered(answer).await.unwrap_err();
    let applied = Applied::No;
    assert_eq!(late, CommandError::DeadlineExceeded { applied });
    c.tell_all(&[("act", Activate), ("get", Get)]);
    c.expect(["act", "inc"]).await;
    c.expect_state(1, true).await;
}

/// I-8: nor is it forgotten while the entity is busy with others all the time.
#[tokio::test(start_paused = true)]
async fn i8_what_is_stashed_too_long_is_answered_while_others_are_stored() {
    let mut c = Client::new().await;
    c.tell("deact", Deactivate);
    c.expect(["deact"]).await;
    for write in 1..=1_000 {
        let slow = Fault::Delay(Duration::from_millis(10));
        c.node.faults().at(Operation::Write, write, slow);
    }
    let begun = tokio::time::Instant::now();
    let (reply_to, answer) = ReplyTo::ask();
    let request = command_request::<Counter>(&Increment, "");
    let deadline = begun.into_std() + Duration::from_millis(200);
    c.node
        .deliver("counter", "c", request, reply_to, Some(deadline));
    // One waits whenever the other is stored.
    let update = async || loop {
        c.node.ask::<Counter>("c", &Update(1)).await.unwrap();
    };
    let late: CommandError = tokio::select! {
        late = answered(answer) => late.unwrap_err(),
        never = update() => never,
        never = update() => never,
        () = tokio::time::sleep(Duration::from_secs(1)) => panic!("I-8: no answer in time"),
    };
    let applied = Applied::No;
    assert_eq!(late, CommandError::DeadlineExceeded { applied });
}

/// What is put aside when the entity is deleted is for its next life.
#[tokio::test]
async fn a_deletion_hands_on_what_is_put_aside() {
    let mut c = Client::new().await;
    c.tell_all(&[("inc-1", Increment), ("deact", Deactivate)]);
    c.expect(["inc-1", "deact"]).await;
    c.tell_all(&[("inc-2", Increment), ("inc-3", Increment)]);
    c.until_handled().await;
    let id = entity();
    let deletion = c.node.engine.delete(SHARD, Epoch(1), &id);
    let deletion = tokio::time::timeout(Duration::from_secs(20), deletion);
    deletion.await.expect("it should end").unwrap();
    c.expect(["inc-2", "inc-3"]).await;
    c.tell("get", Get);
    c.expect_state(2, true).await;
}

/// I-8: a retry of a command that was stored is answered from its first run, not put
/// aside.
#[tokio::test]
async fn i8_a_retry_is_not_put_aside() {
    let mut c = Client::new().await;
    let inc = || {
        let request = command_request::<Counter>(&Increment, "id-1");
        answered(c.node.request("counter", "c", request))
    };
    inc().await.unwrap();
    c.node.ask::<Counter>("c", &Deactivate).await.unwrap();
    assert!(inc().await.unwrap().duplicate);
    c.node.passivate::<Counter>("c").await;
    let inc = || {
        let request = command_request::<Counter>(&Increment, "id-1");
        answered(c.node.request("counter", "c", request))
    };
    assert!(inc().await.unwrap().duplicate);
    c.tell("get", Get);
    c.expect_state(1, false).await;
}

fn entity() -> PersistenceId {
    PersistenceId::new("counter", "c").unwrap()
}
