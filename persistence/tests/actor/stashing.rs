//! The stash: T1 to T5, and what becomes of commands put aside when the actor stops.
//!
//! 5.4, the bounded internal stash: dead letters do not exist, as every command has an
//! answer. `reply` is the default here, and says STASH_FULL; `drop` says that it
//! dropped the command; `fail` stops the actor, as the default of the originals does,
//! with an answer to the command that did not fit and to those that waited.

use std::time::Duration;

use perennial_persistence::backoff::BackoffSettings;
use perennial_persistence::command_error::{Applied, CommandError, StashLimit};
use perennial_persistence::engine::{EngineSettings, StashOverflow};

use crate::fixture::{Backend, Fixture, answered, wait_until};
use crate::subject::{Cx, Script, Subject, show, update};

on_each_backend!(
    t1_a_stashed_command_comes_after_the_one_that_unstashes,
    t2_stashed_commands_are_prepended,
    t3_the_stash_survives_a_panic,
    t4_a_stash_while_a_write_is_out,
    t5_stash_in_a_callback_is_an_error,
    case_5_4_reply_answers_what_does_not_fit,
    case_5_4_drop_answers_that_it_was_dropped,
    case_5_4_fail_stops_the_actor,
    a_stop_loses_nothing_that_waits,
    a_passivation_loses_nothing_that_waits,
    an_engine_that_stops_answers_what_was_put_aside,
);

fn stash_first(subject: &mut Subject, x: &str, cx: &mut Cx<'_>) {
    if subject.counter == 0 {
        subject.counter = 1;
        cx.stash().unwrap();
    } else {
        subject.log.push(x);
    }
}

async fn t1_a_stashed_command_comes_after_the_one_that_unstashes(on: Backend) {
    fn in_command(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
        match x.as_str() {
            "a" => stash_first(subject, &x, cx),
            "b" => cx.persist(x, show),
            _ => {
                cx.unstash_all();
                subject.log.push(x);
            }
        }
    }
    fn in_callback(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
        match x.as_str() {
            "c" => cx.persist(x, |subject, event, cx| {
                show(subject, event, cx);
                cx.unstash_all();
            }),
            _ => in_command(subject, x, cx),
        }
    }
    for receive in [in_command, in_callback] {
        let f = Fixture::empty(on, Script::new(receive)).await;
        let replies = f.run(&["a", "b", "c"]).await;
        assert!(replies.iter().all(Result::is_ok));
        assert_eq!(f.log.take(), ["b", "c", "a"]);
    }
}

/// a persists and then everything but c is stashed, which brings it back.
fn until_c(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
    if x == "b-2" && subject.counter == 1 {
        panic!("told to panic at b-2");
    }
    if x == "a" {
        return cx.persist(x, |subject, event, cx| {
            update(subject, event, cx);
            cx.become_(process_c);
        });
    }
    cx.persist(x, update);
}

fn process_c(_: &mut Subject, x: String, cx: &mut Cx<'_>) {
    if x != "c" {
        return cx.stash().unwrap();
    }
    cx.persist(x, |subject, event, cx| {
        update(subject, event, cx);
        cx.unbecome();
    });
    cx.unstash_all();
}

fn process_c_in_callback(_: &mut Subject, x: String, cx: &mut Cx<'_>) {
    if x != "c" {
        return cx.stash().unwrap();
    }
    cx.persist(x, |subject, event, cx| {
        update(subject, event, cx);
        cx.unbecome();
        cx.unstash_all();
    });
}

async fn t2_stashed_commands_are_prepended(on: Backend) {
    fn in_callback(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
        if x == "a" {
            return cx.persist(x, |subject, event, cx| {
                update(subject, event, cx);
                cx.become_(process_c_in_callback);
            });
        }
        until_c(subject, x, cx);
    }
    for receive in [until_c, in_callback] {
        let f = Fixture::empty(on, Script::new(receive)).await;
        let commands = ["a", "b-1", "b-2", "c"].repeat(10);
        let expected = ["a", "c", "b-1", "b-2"].repeat(10);
        assert_eq!(f.state_after(&commands).await, expected);
    }
}

async fn t3_the_stash_survives_a_panic(on: Backend) {
    let mut script = Script::new(until_c);
    script.completed = |subject, _| subject.counter = 1;
    let f = Fixture::empty(on, script).await;
    let bs: Vec<String> = (1..=10).map(|i| format!("b-{i}")).collect();
    let mut commands = vec!["a"];
    commands.extend(bs.iter().map(String::as_str));
    commands.push("c");
    let answers = f.run(&commands).await;
    assert!(matches!(answers[2], Err(CommandError::Panicked { .. })));
    let mut expected = vec!["a", "c", "b-1"];
    expected.extend(&commands[3..11]);
    assert_eq!(f.ask("state?").await.unwrap(), expected);
}

async fn t4_a_stash_while_a_write_is_out(on: Backend) {
    let f = Fixture::empty(
        on,
        Script::new(|subject, x, cx| match x.as_str() {
            "a" => cx.persist_async(x, update),
            "b" if subject.counter == 0 => {
                subject.counter = 1;
                subject.log.push("stashed");
                cx.stash().unwrap();
            }
            "c" => {
                cx.persist_async(x, update);
                cx.unstash_all();
            }
            _ => cx.persist_async(x, update),
        }),
    )
    .await;
    f.journal.hold();
    let answers = [f.tell("a"), f.tell("b")];
    f.log.wait_for("stashed").await;
    f.journal.release();
    let c = f.tell("c");
    for answer in answers.into_iter().chain([c]) {
        answered(answer).await.unwrap();
    }
    assert_eq!(f.ask("state?").await.unwrap(), ["a", "c", "b"]);
}

async fn t5_stash_in_a_callback_is_an_error(on: Backend) {
    fn try_stash(subject: &mut Subject, _: &String, cx: &mut Cx<'_>) {
        subject.log.push(cx.stash().unwrap_err().to_string());
    }
    let mut script = Script::new(|subject, x, cx| match x.as_str() {
        "persist" => cx.persist(x, try_stash),
        "persist_async" => cx.persist_async(x, try_stash),
        // Inline, as nothing is pending.
        _ => cx.defer(subject, x, try_stash),
    });
    script.completed = |subject, cx| try_stash(subject, &String::new(), cx);
    let f = Fixture::empty(on, script).await;
    let expected = "Do not call stash inside of persist callback or during recovery.";
    assert_eq!(
        f.observe(&["persist", "persist_async", "defer"]).await,
        [expected; 4]
    );
}

async fn case_5_4_reply_answers_what_does_not_fit(on: Backend) {
    let full = CommandError::StashFull(StashLimit::Entity(10));
    what_does_not_fit_is_told(on, StashOverflow::Reply, full).await;
}

async fn case_5_4_drop_answers_that_it_was_dropped(on: Backend) {
    let dropped = CommandError::Dropped(StashLimit::Entity(10));
    what_does_not_fit_is_told(on, StashOverflow::Drop, dropped).await;
}

async fn what_does_not_fit_is_told(on: Backend, rule: StashOverflow, told: CommandError) {
    let f = capacity_10(on, rule).await;
    f.journal.hold();
    let a = f.tell("a");
    wait_until("the write", || f.journal.sent().len() == 1).await;
    let numbers: Vec<_> = (1..=20).map(|i| f.tell(&i.to_string())).collect();
    f.journal.release();
    answered(a).await.unwrap();
    for (i, answer) in numbers.into_iter().enumerate() {
        let expected = (i >= 10).then(|| told.clone());
        assert_eq!(answered(answer).await.err(), expected);
    }
    let mut expected = vec!["a".to_owned()];
    expected.extend((1..=10).map(|i| i.to_string()));
    assert_eq!(f.ask("state?").await.unwrap(), expected);
}

/// The write that is out when 11 comes has its callback and its answer.
async fn case_5_4_fail_stops_the_actor(on: Backend) {
    let f = capacity_10(on, StashOverflow::Fail).await;
    f.journal.hold();
    let a = f.tell("a");
    wait_until("the write", || f.journal.sent().len() == 1).await;
    let numbers: Vec<_> = (1..=11).map(|i| f.tell(&i.to_string())).collect();
    let mut errors = Vec::new();
    f.journal.release();
    answered(a).await.unwrap();
    for answer in numbers {
        errors.push(answered(answer).await.unwrap_err());
    }
    let trigger = errors.pop().unwrap();
    assert_eq!(trigger, CommandError::StashFull(StashLimit::Entity(10)));
    for error in errors {
        assert!(matches!(error, CommandError::BackingOff { .. }), "{error}");
        assert_eq!(error.applied(), Applied::No);
    }
    let later = f.ask("12").await.unwrap_err();
    assert!(matches!(later, CommandError::BackingOff { .. }), "{later}");
}

async fn capacity_10(on: Backend, stash_overflow: StashOverflow) -> Fixture {
    let day = Duration::from_secs(86_400);
    let settings = EngineSettings {
        stash_capacity: 10,
        stash_overflow,
        backoff: BackoffSettings {
            min: day,
            max: day,
            random_factor: 0.0,
        },
        ..EngineSettings::default()
    };
    let script = Script::new(|_, x, cx| cx.persist(x, update));
    Fixture::with(on, script, settings).await
}

/// The trap of the originals does not exist: what was accepted is handled, by this
/// incarnation or the next, and what was issued has its callback.
async fn a_stop_loses_nothing_that_waits(on: Backend) {
    let mut script = Script::new(|_, x, cx| {
        if x.starts_with('s') && cx.last_sequence_nr().get() < 2 {
            return cx.stash().unwrap();
        }
        cx.persist_async(x, show);
    });
    script.verbose = true;
    let f = Fixture::empty(on, script).await;
    let answers = f.run(&["s1", "a", "b", "stop", "s2", "c"]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(
        f.log.take(),
        [
            "completed",
            "a",
            "b",
            "post_stop",
            "a",
            "b",
            "completed",
            "s1",
            "s2",
            "c"
        ]
    );
}

async fn a_passivation_loses_nothing_that_waits(on: Backend) {
    let f = Fixture::empty(
        on,
        Script::new(|subject, x, cx| match x.as_str() {
            "wait" => cx.stash().unwrap(),
            "open" => {
                subject.script.receive = |_, x, cx| cx.persist(x, show);
                cx.unstash_all();
            }
            _ => cx.persist(x, show),
        }),
    )
    .await;
    let waiting = f.tell("wait");
    f.ask("a").await.unwrap();
    f.passivate().await;
    f.ask("open").await.unwrap();
    answered(waiting).await.unwrap();
    assert_eq!(f.log.take(), ["a", "wait"]);
}

async fn an_engine_that_stops_answers_what_was_put_aside(on: Backend) {
    let settings = EngineSettings {
        idle_timeout: Duration::from_millis(1),
        ..EngineSettings::default()
    };
    let script = Script::new(|subject, x, cx| {
        subject.log.push(x);
        cx.stash().unwrap();
    });
    let f = Fixture::with(on, script, settings).await;
    let waiting = f.tell("a");
    f.log.wait_for("a").await;
    f.engine.stop().await;
    let refused = answered(waiting).await.unwrap_err();
    assert!(
        matches!(refused, CommandError::ShardUnavailable { .. }),
        "{refused}"
    );
}
