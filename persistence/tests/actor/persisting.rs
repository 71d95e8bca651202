//! Persisting, become and unbecome: O1 to O12, O15 to O17, O35.

use crate::fixture::{Backend, Fixture, answered, only, texts, wait_until};
use crate::subject::{Cx, Script, Subject, show_counted, update};

on_each_backend!(
    o01_persist_all_runs_its_callback_for_each_event,
    o02_several_persist_alls_keep_their_order,
    o03_inline_code_runs_before_any_callback,
    o04_numbers_follow_the_last_one_whatever_an_event_is_for,
    o05_what_was_changed_inline_is_gone_after_a_restart,
    o06_become_and_unbecome_in_the_first_callback,
    o07_become_and_unbecome_in_the_last_callback,
    o08_become_as_the_first_action,
    o09_become_as_the_last_action,
    o10_persist_async_does_not_delay_commands,
    o11_replies_of_many_commands_keep_their_order,
    o12_callbacks_never_overlap_or_change_places,
    o15_persist_and_persist_async_mixed,
    o16_persist_then_persist_async,
    o17_outcomes_of_an_old_incarnation_never_reach_a_new_one,
    o35_a_callback_replies_when_the_event_is_stored,
);

fn two(_: &mut Subject, x: String, cx: &mut Cx<'_>) {
    cx.persist_all(vec![format!("{x}-1"), format!("{x}-2")], update);
}

async fn o01_persist_all_runs_its_callback_for_each_event(on: Backend) {
    let f = Fixture::new(on, Script::new(two)).await;
    assert_eq!(f.state_after(&["b"]).await, ["a-1", "a-2", "b-1", "b-2"]);
}

async fn o02_several_persist_alls_keep_their_order(on: Backend) {
    let script = Script::new(|subject, x, cx| {
        two(subject, x.clone(), cx);
        cx.persist_all(vec![format!("{x}-3"), format!("{x}-4")], update);
    });
    let f = Fixture::new(on, script).await;
    assert_eq!(
        f.state_after(&["b"]).await,
        ["a-1", "a-2", "b-1", "b-2", "b-3", "b-4"]
    );
}

fn two_and_inline(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
    cx.persist_all(vec![format!("{x}-11"), format!("{x}-12")], update);
    subject.texts.push(format!("{x}-10"));
}

async fn o03_inline_code_runs_before_any_callback(on: Backend) {
    let f = Fixture::new(on, Script::new(two_and_inline)).await;
    assert_eq!(
        f.state_after(&["b", "c"]).await,
        ["a-1", "a-2", "b-10", "b-11", "b-12", "c-10", "c-11", "c-12"]
    );
}

/// The originals' placeholder event, which recovery skips, is an ordinary event here
/// that the actor ignores: adapters that drop events are not the actor's business.
async fn o04_numbers_follow_the_last_one_whatever_an_event_is_for(on: Backend) {
    let mut script = Script::new(|_, x, cx| {
        if x == "filtered" {
            return cx.persist("placeholder".to_owned(), |_, _, _| {});
        }
        let next = cx.last_sequence_nr().next();
        cx.persist(format!("{x}-{next}"), update);
    });
    script.completed = |subject, _| subject.texts.retain(|text| text != "placeholder");
    let f = Fixture::new(on, script).await;
    assert_eq!(
        f.state_after(&["filtered", "b", "boom", "c"]).await,
        ["a-1", "a-2", "b-4", "c-5"]
    );
}

async fn o05_what_was_changed_inline_is_gone_after_a_restart(on: Backend) {
    let f = Fixture::new(on, Script::new(two_and_inline)).await;
    assert_eq!(
        f.state_after(&["b", "boom", "c"]).await,
        ["a-1", "a-2", "b-11", "b-12", "c-10", "c-11", "c-12"]
    );
}

async fn o06_become_and_unbecome_in_the_first_callback(on: Backend) {
    fn second(_: &mut Subject, x: String, cx: &mut Cx<'_>) {
        cx.persist(format!("{x}-21"), |subject, event, cx| {
            update(subject, event, cx);
            cx.unbecome();
        });
        cx.persist(format!("{x}-22"), update);
    }
    check_becoming(on, second).await;
}

async fn o07_become_and_unbecome_in_the_last_callback(on: Backend) {
    fn second(_: &mut Subject, x: String, cx: &mut Cx<'_>) {
        cx.persist(format!("{x}-21"), update);
        cx.persist(format!("{x}-22"), |subject, event, cx| {
            update(subject, event, cx);
            cx.unbecome();
        });
    }
    check_becoming(on, second).await;
}

async fn check_becoming(on: Backend, second: fn(&mut Subject, String, &mut Cx<'_>)) {
    let mut script = Script::new(|_, x, cx| {
        cx.persist(format!("{x}-0"), |subject, event, cx| {
            update(subject, event, cx);
            cx.become_(subject.script.replacement);
        });
    });
    script.replacement = second;
    let f = Fixture::new(on, script).await;
    assert_eq!(
        f.state_after(&["b", "c", "d", "e"]).await,
        ["a-1", "a-2", "b-0", "c-21", "c-22", "d-0", "e-21", "e-22"]
    );
}

fn thirty(subject: &mut Subject, x: &str, cx: &mut Cx<'_>) {
    cx.persist_all(vec![format!("{x}-31"), format!("{x}-32")], update);
    subject.texts.push(format!("{x}-30"));
}

const O08: [&str; 10] = [
    "a-1", "a-2", "b-0", "c-30", "c-31", "c-32", "d-0", "e-30", "e-31", "e-32",
];

async fn o08_become_as_the_first_action(on: Backend) {
    fn second(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
        cx.unbecome();
        thirty(subject, &x, cx);
    }
    let f = Fixture::new(
        on,
        Script::new(|_, x, cx| {
            cx.become_(second);
            cx.persist(format!("{x}-0"), update);
        }),
    )
    .await;
    assert_eq!(f.state_after(&["b", "c", "d", "e"]).await, O08);
}

async fn o09_become_as_the_last_action(on: Backend) {
    fn second(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
        thirty(subject, &x, cx);
        cx.unbecome();
    }
    let f = Fixture::new(
        on,
        Script::new(|_, x, cx| {
            cx.persist(format!("{x}-0"), update);
            cx.become_(second);
        }),
    )
    .await;
    assert_eq!(f.state_after(&["b", "c", "d", "e"]).await, O08);
}

async fn o10_persist_async_does_not_delay_commands(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            cx.persist_async(x, show_counted);
        }),
    )
    .await;
    f.journal.hold();
    let (x, y) = (f.tell("x"), f.tell("y"));
    // Both commands are handled while the first write is out.
    f.log.wait_for("y").await;
    assert_eq!(f.log.lines(), ["x", "y"]);
    f.journal.release();
    for answer in [x, y] {
        answered(answer).await.unwrap();
    }
    assert_eq!(f.log.take(), ["x", "y", "x-1", "y-2"]);
}

async fn o11_replies_of_many_commands_keep_their_order(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            for _ in 0..3 {
                cx.persist_async(format!("a-{}", &x[2..]), |subject, event, cx| {
                    let text = subject.count(event);
                    subject.log.push(&text);
                    cx.reply(&vec![text]);
                });
            }
        }),
    )
    .await;
    let commands: Vec<String> = (1..=10).map(|i| format!("c-{i}")).collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let replies = f.run(&commands).await;
    let lines = f.log.take();
    assert_eq!(only(&lines, "c-"), commands);
    let acks: Vec<String> = (0..30)
        .map(|i| format!("a-{}-{}", i / 3 + 1, i + 1))
        .collect();
    assert_eq!(only(&lines, "a-"), acks);
    for (i, reply) in replies.into_iter().enumerate() {
        // To the sender of its own command; the first reply counts.
        assert_eq!(reply.unwrap(), [format!("a-{}-{}", i + 1, 3 * i + 1)]);
    }
}

async fn o12_callbacks_never_overlap_or_change_places(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            cx.persist_async(x.clone(), |subject, event, _| {
                (0..1_000).for_each(|_| std::thread::yield_now());
                let text = subject.count(&format!("{event}-a"));
                subject.log.push(text);
            });
            cx.persist_async(x, |subject, event, _| {
                let text = subject.count(&format!("{event}-b"));
                subject.log.push(text);
            });
        }),
    )
    .await;
    assert_eq!(f.observe(&["x"]).await, ["x", "x-a-1", "x-b-2"]);
}

async fn o15_persist_and_persist_async_mixed(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            cx.persist(format!("{x}-e1"), show_counted);
            cx.persist_async(format!("{x}-ea2"), show_counted);
            cx.persist(format!("{x}-e3"), show_counted);
        }),
    )
    .await;
    assert_eq!(
        f.observe(&["a", "b", "c"]).await,
        [
            "a", "a-e1-1", "a-ea2-2", "a-e3-3", "b", "b-e1-4", "b-ea2-5", "b-e3-6", "c", "c-e1-7",
            "c-ea2-8", "c-e3-9"
        ]
    );
}

/// Which of a command and the asynchronous callback before it comes first is free;
/// here it is the callback, because both writes go out together.
async fn o16_persist_then_persist_async(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            cx.persist(format!("{x}-e1"), show_counted);
            cx.persist_async(format!("{x}-ea2"), show_counted);
        }),
    )
    .await;
    assert_eq!(
        f.observe(&["a", "b", "c"]).await,
        [
            "a", "a-e1-1", "a-ea2-2", "b", "b-e1-3", "b-ea2-4", "c", "c-e1-5", "c-ea2-6"
        ]
    );
}

async fn o17_outcomes_of_an_old_incarnation_never_reach_a_new_one(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|_, x, cx| {
            if x == "done" {
                return cx.reply(&vec![x]);
            }
            cx.persist_async(x.clone(), move |subject, event, _| {
                if *event != x {
                    subject.log.push(format!("{x} got {event}"));
                }
            });
        }),
    )
    .await;
    let numbers: Vec<String> = (1..=100).map(|i| i.to_string()).collect();
    let mut commands: Vec<&str> = numbers.iter().map(String::as_str).collect();
    commands.push("boom");
    commands.extend(numbers[..20].iter().map(String::as_str));
    commands.push("done");
    let answers = f.run(&commands).await;
    assert_eq!(answers.last().unwrap().as_ref().unwrap(), &["done"]);
    assert!(
        answers[101..].iter().all(Result::is_ok),
        "kept over the restart"
    );
    assert_eq!(f.log.take(), [""; 0]);
}

async fn o35_a_callback_replies_when_the_event_is_stored(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|_, x, cx| {
            cx.persist(x, |_, event, cx| cx.reply(&vec![event.clone()]));
        }),
    )
    .await;
    f.journal.hold();
    let answer = f.tell("a");
    wait_until("the write", || f.journal.sent().len() == 1).await;
    f.journal.release();
    let answer = answered(answer).await.unwrap();
    assert_eq!(answer.sequence_nr.get(), 3);
    assert_eq!(texts(Ok(answer)).unwrap(), ["a"]);
}
