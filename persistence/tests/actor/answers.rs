//! Every command is answered exactly once (I-8), whatever an actor does about it.

use std::time::{Duration, Instant};

use perennial_persistence::command::{Envelope, ReplyTo, Request};
use perennial_persistence::command_error::{Applied, CommandError, StashLimit};
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::payload::Payload;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};

use crate::fixture::{Backend, Fixture, answered, subject, texts, wait_until};
use crate::subject::{Cx, Script, Subject, update};

on_each_backend!(
    a_command_that_is_not_replied_to_is_answered_when_it_is_over,
    only_the_first_reply_is_given,
    a_kept_sender_replies_later,
    a_sender_may_reply_from_a_task,
    senders_of_an_actor_that_leaves_are_told,
    refusals_are_answered,
    the_state_is_shown_now_and_in_the_past,
    an_expected_sequence_number_is_checked,
    a_command_put_aside_for_too_long_is_answered,
    i8_a_retry_gets_the_stored_reply,
    i8_a_retry_without_a_stored_reply_gets_an_empty_one,
    i8_a_retry_waits_for_its_original,
    i8_a_retry_before_the_first_write_is_not_handled,
    i8_a_retry_waits_for_a_kept_sender_and_holds_nobody_up,
    i8_a_retry_gets_an_answer_that_was_given_early,
    i8_retries_of_one_command_are_bounded,
    i8_retries_are_found_after_a_restart_from_a_snapshot,
    completion_runs_after_all_events,
);

async fn a_command_that_is_not_replied_to_is_answered_when_it_is_over(on: Backend) {
    let f = Fixture::empty(
        on,
        Script::new(|_, x, cx| {
            cx.persist_async(x, |_, event, cx| {
                cx.persist_async(format!("{event}-nested"), |subject, event, _| {
                    subject.log.push(event);
                });
            });
        }),
    )
    .await;
    let reply = answered(f.tell("a")).await.unwrap();
    assert_eq!((reply.sequence_nr.get(), reply.payload.bytes.len()), (2, 0));
    assert_eq!(f.log.take(), ["a-nested"]);
}

async fn only_the_first_reply_is_given(on: Backend) {
    let f = Fixture::empty(
        on,
        Script::new(|_, x, cx| {
            cx.reply(&vec!["first".to_owned()]);
            assert!(cx.sender().unwrap().is_answered());
            cx.persist(x, |_, _, cx| cx.reply(&vec!["second".to_owned()]));
        }),
    )
    .await;
    assert_eq!(f.ask("a").await.unwrap(), ["first"]);
}

fn keep(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
    match x.as_str() {
        "keep" => {
            let sender = cx.sender().unwrap();
            subject.kept.push(sender.clone());
            subject.log.push("kept");
        }
        "forget" => subject.kept.clear(),
        _ => {
            for sender in subject.kept.drain(..) {
                sender.reply(&vec![x.clone()]);
            }
        }
    }
}

async fn a_kept_sender_replies_later(on: Backend) {
    let f = Fixture::empty(on, Script::new(keep)).await;
    let (one, two) = (f.tell("keep"), f.tell("keep"));
    f.ask("go").await.unwrap();
    for answer in [one, two] {
        assert_eq!(texts(answered(answer).await).unwrap(), ["go"]);
    }
    let forgotten = f.tell("keep");
    f.ask("forget").await.unwrap();
    assert_eq!(texts(answered(forgotten).await).unwrap(), [""; 0]);
}

async fn a_sender_may_reply_from_a_task(on: Backend) {
    let f = Fixture::empty(
        on,
        Script::new(|_, x, cx| {
            cx.persist(x, |_, event, cx| {
                let (sender, event) = (cx.sender().unwrap(), event.clone());
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    sender.reply(&vec![event]);
                });
            });
        }),
    )
    .await;
    assert_eq!(f.ask("a").await.unwrap(), ["a"]);
}

async fn senders_of_an_actor_that_leaves_are_told(on: Backend) {
    let f = Fixture::empty(
        on,
        Script::new(|subject, x, cx| match x.as_str() {
            "keep" => keep(subject, x, cx),
            _ => cx.persist(x, |subject, _, cx| {
                subject.kept.push(cx.sender().unwrap());
                subject.log.push("stored");
            }),
        }),
    )
    .await;
    let (kept, stored) = (f.tell("keep"), f.tell("a"));
    f.log.wait_for("stored").await;
    f.passivate().await;
    let error = answered(kept).await.unwrap_err();
    assert_eq!(error.applied(), Applied::No, "{error}");
    let error = answered(stored).await.unwrap_err();
    assert_eq!(error.applied(), Applied::Unknown, "{error}");
}

async fn refusals_are_answered(on: Backend) {
    let f = Fixture::empty(
        on,
        Script::new(|_, x, cx| match x.as_str() {
            "reject" => cx.reject("TOO_LATE", "it is too late"),
            _ => cx.unhandled(),
        }),
    )
    .await;
    let answers = f.run(&["reject", "what"]).await;
    assert!(
        matches!(&answers[0], Err(CommandError::Rejected { reason, .. }) if reason == "TOO_LATE")
    );
    assert!(matches!(&answers[1], Err(CommandError::Unhandled { .. })));
    let invalid = answered(f.request(Request::Command {
        payload: Payload::json("{}"),
        command_id: None,
        expected_sequence_nr: None,
        metadata: None,
    }))
    .await;
    assert!(matches!(invalid, Err(CommandError::PayloadInvalid { .. })));
}

async fn the_state_is_shown_now_and_in_the_past(on: Backend) {
    let f = Fixture::new(on, Script::new(|_, x, cx| cx.persist(x, update))).await;
    f.ask("b").await.unwrap();
    let state = answered(f.request(Request::State)).await;
    assert_eq!(texts(state).unwrap(), ["a-1", "a-2", "b"]);
    let past = f.engine.state_at(&subject(), SequenceNr::new(2)).await;
    assert_eq!(texts(past).unwrap(), ["a-1", "a-2"]);
}

async fn an_expected_sequence_number_is_checked(on: Backend) {
    let f = Fixture::new(on, Script::new(|_, x, cx| cx.persist(x, update))).await;
    let command = |expected| Request::Command {
        payload: Payload::json("\"b\""),
        command_id: None,
        expected_sequence_nr: Some(SequenceNr::new(expected)),
        metadata: None,
    };
    let mismatch = answered(f.request(command(1))).await.unwrap_err();
    assert!(
        matches!(mismatch, CommandError::SequenceNrMismatch { .. }),
        "{mismatch}"
    );
    assert_eq!(
        answered(f.request(command(2)))
            .await
            .unwrap()
            .sequence_nr
            .get(),
        3
    );
}

/// Its caller has gone; it is told when it is taken up, or when the actor is idle.
async fn a_command_put_aside_for_too_long_is_answered(on: Backend) {
    let settings = EngineSettings {
        idle_timeout: Duration::from_millis(1),
        ..Default::default()
    };
    let script = Script::new(|subject, x, cx| {
        subject.log.push(x);
        cx.stash().unwrap();
    });
    let f = Fixture::with(on, script, settings).await;
    let (reply_to, answer) = ReplyTo::ask();
    f.engine.deliver(Envelope {
        trace: Trace::NONE,
        arrival: 0,
        persistence_id: subject(),
        shard: ShardNr(0),
        epoch: Epoch(1),
        request: Request::Command {
            payload: Payload::json("\"a\""),
            command_id: None,
            expected_sequence_nr: None,
            metadata: None,
        },
        deadline: Some(Instant::now() + Duration::from_secs(2)),
        reply_to,
    });
    let late = answered(answer).await.unwrap_err();
    let applied = Applied::No;
    assert_eq!(late, CommandError::DeadlineExceeded { applied });
    wait_until("the actor to leave", || f.engine.live_entities() == 0).await;
}

fn replying(_: &mut Subject, x: String, cx: &mut Cx<'_>) {
    if let Some(x) = x.strip_prefix("silent ") {
        return cx.persist(x.to_owned(), |subject, event, cx| {
            update(subject, event, cx);
            cx.reply(&vec!["not stored".to_owned()]);
        });
    }
    let reply = vec![format!("did {x}")];
    cx.persist_replying(x, &reply, update);
}

async fn i8_a_retry_gets_the_stored_reply(on: Backend) {
    let f = Fixture::empty(on, Script::new(replying)).await;
    for duplicate in [false, true, true] {
        let reply = answered(f.tell_with("a", Some("id-1"))).await.unwrap();
        assert_eq!((reply.duplicate, reply.sequence_nr.get()), (duplicate, 1));
        assert_eq!(texts(Ok(reply)).unwrap(), ["did a"]);
    }
    assert_eq!(f.ask("state?").await.unwrap(), ["a"]);
}

async fn i8_a_retry_without_a_stored_reply_gets_an_empty_one(on: Backend) {
    let f = Fixture::empty(on, Script::new(replying)).await;
    let first = answered(f.tell_with("silent a", Some("id-1"))).await;
    assert_eq!(texts(first).unwrap(), ["not stored"]);
    let retry = answered(f.tell_with("silent a", Some("id-1")))
        .await
        .unwrap();
    assert!(retry.duplicate);
    assert_eq!(texts(Ok(retry)).unwrap(), [""; 0]);
    assert_eq!(f.ask("state?").await.unwrap(), ["a"]);
}

async fn i8_a_retry_waits_for_its_original(on: Backend) {
    let f = Fixture::empty(on, Script::new(|_, x, cx| cx.persist_async(x, update))).await;
    f.journal.hold();
    let answers: Vec<_> = (0..20).map(|_| f.tell_with("a", Some("id"))).collect();
    wait_until("the write", || f.journal.sent().len() == 1).await;
    f.journal.release();
    let mut originals = 0;
    for answer in answers {
        originals += usize::from(!answered(answer).await.unwrap().duplicate);
    }
    assert_eq!(originals, 1);
    assert_eq!(f.ask("state?").await.unwrap(), ["a"]);
}

/// The command writes in a callback that has to wait, twice.
fn late_writer(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
    if x == "other" {
        return cx.persist_async(x, update);
    }
    cx.defer_async(subject, x, |_, x, cx| {
        let reply = vec![format!("did {x}")];
        cx.persist_replying(format!("{x}-1"), &reply, update);
        cx.persist(format!("{x}-2"), update);
    });
}

async fn i8_a_retry_before_the_first_write_is_not_handled(on: Backend) {
    let f = Fixture::empty(on, Script::new(late_writer)).await;
    f.journal.hold();
    let other = f.tell("other");
    wait_until("the write", || f.journal.sent().len() == 1).await;
    let original = f.tell_with("x", Some("id"));
    let retry = f.tell_with("x", Some("id"));
    f.until_handled().await;
    f.journal.release();
    answered(other).await.unwrap();
    for (answer, duplicate) in [(original, false), (retry, true)] {
        let reply = answered(answer).await.unwrap();
        assert_eq!(reply.duplicate, duplicate);
        assert_eq!(texts(Ok(reply)).unwrap(), ["did x"]);
    }
    let later = answered(f.tell_with("x", Some("id"))).await.unwrap();
    assert!(later.duplicate);
    assert_eq!(f.ask("state?").await.unwrap(), ["other", "x-1", "x-2"]);
}

async fn i8_a_retry_waits_for_a_kept_sender_and_holds_nobody_up(on: Backend) {
    let f = Fixture::empty(on, Script::new(keep)).await;
    let original = f.tell_with("keep", Some("id"));
    let retry = f.tell_with("keep", Some("id"));
    f.ask("release").await.unwrap();
    let original = answered(original).await.unwrap();
    let retry = answered(retry).await.unwrap();
    assert!(retry.duplicate && !original.duplicate);
    assert_eq!(retry.payload, original.payload);
}

async fn i8_a_retry_gets_an_answer_that_was_given_early(on: Backend) {
    let script = Script::new(|_, x, cx| {
        cx.reply(&vec!["early".to_owned()]);
        cx.persist_async(x, update);
    });
    let f = Fixture::empty(on, script).await;
    f.journal.hold();
    for duplicate in [false, true] {
        let reply = answered(f.tell_with("a", Some("id"))).await.unwrap();
        assert_eq!(reply.duplicate, duplicate);
        assert_eq!(texts(Ok(reply)).unwrap(), ["early"]);
    }
    f.journal.release();
    f.engine.stop().await;
    assert_eq!(f.highest().await, 1);
}

async fn i8_retries_of_one_command_are_bounded(on: Backend) {
    let settings = EngineSettings {
        stash_capacity: 3,
        ..EngineSettings::default()
    };
    let f = Fixture::with(on, Script::new(keep), settings).await;
    f.ask("release").await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(f.tell_with("keep", Some("id")));
        f.until_handled().await;
    }
    let too_many = answered(answers.pop().unwrap()).await.unwrap_err();
    assert_eq!(too_many, CommandError::StashFull(StashLimit::Entity(3)));
    f.ask("release").await.unwrap();
    for answer in answers {
        answered(answer).await.unwrap();
    }
}

async fn i8_retries_are_found_after_a_restart_from_a_snapshot(on: Backend) {
    let script = Script::new(|subject, x, cx| match x.as_str() {
        "snap" => cx.save_snapshot(&subject.texts),
        _ => replying(subject, x, cx),
    });
    let mut f = Fixture::empty(on, script.clone()).await;
    for i in 0..5 {
        let id = format!("id-{i}");
        answered(f.tell_with(&i.to_string(), Some(&id)))
            .await
            .unwrap();
    }
    f.run(&["snap"]).await;
    f.log.wait_for("saved@5").await;
    f.restart(script).await;
    let answers: Vec<_> = (0..7)
        .map(|i| f.tell_with(&i.to_string(), Some(&format!("id-{i}"))))
        .collect();
    for (i, answer) in answers.into_iter().enumerate() {
        let reply = answered(answer).await.unwrap();
        assert_eq!(reply.duplicate, i < 5);
        assert_eq!(texts(Ok(reply)).unwrap(), [format!("did {i}")]);
    }
    assert_eq!(f.ask("state?").await.unwrap().len(), 7);
}

async fn completion_runs_after_all_events(on: Backend) {
    let f = Fixture::empty(
        on,
        Script::new(|_, x, cx| {
            let events = x.split_whitespace().map(str::to_owned).collect();
            cx.persist_all_then(events, update, |subject, cx| {
                cx.reply(&subject.texts);
            });
        }),
    )
    .await;
    assert_eq!(f.ask("a b c").await.unwrap(), ["a", "b", "c"]);
    assert_eq!(
        f.ask("").await.unwrap(),
        ["a", "b", "c"],
        "also with no events"
    );
}
