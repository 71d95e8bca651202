//! Deferring: O13, O14, O18 to O23.

use crate::fixture::{Backend, Fixture, only};
use crate::subject::{Cx, Script, Subject, show};

on_each_backend!(
    o13_with_nothing_pending_it_runs_inline,
    o14_it_waits_for_the_persist_before_it,
    o18_defers_keep_their_place,
    o19_each_command_has_its_own_order,
    o20_persist_persist_async_and_defers_mixed,
    o21_defers_alone_run_inline,
    o22_after_an_asynchronous_write,
    o23_a_synchronous_defer_after_an_asynchronous_write,
    within_a_callback_it_waits_for_the_callback_to_end,
);

async fn o13_with_nothing_pending_it_runs_inline(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            cx.defer_async(subject, "before-nil".to_owned(), show);
            cx.persist_all(Vec::new(), show);
            cx.defer_async(subject, "after-nil".to_owned(), show);
            subject.log.push(x);
        }),
    )
    .await;
    assert_eq!(
        f.observe(&["defer-x"]).await,
        ["before-nil", "after-nil", "defer-x"]
    );
    assert_eq!(f.journal.sent().len(), 0, "an empty list is no write");
}

async fn o14_it_waits_for_the_persist_before_it(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            cx.persist("before-nil".to_owned(), show);
            cx.persist_all(Vec::new(), show);
            cx.defer_async(subject, "after-nil".to_owned(), show);
            subject.log.push(x);
        }),
    )
    .await;
    assert_eq!(
        f.observe(&["persist-x"]).await,
        ["persist-x", "before-nil", "after-nil"]
    );
}

async fn o18_defers_keep_their_place(on: Backend) {
    fn synchronous(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
        cx.defer(subject, "d-1".to_owned(), show);
        cx.persist(format!("{x}-2"), show);
        cx.defer(subject, "d-3".to_owned(), show);
        cx.defer(subject, "d-4".to_owned(), show);
    }
    fn asynchronous(subject: &mut Subject, x: String, cx: &mut Cx<'_>) {
        cx.defer_async(subject, "d-1".to_owned(), show);
        cx.persist_async(format!("{x}-2"), show);
        cx.defer_async(subject, "d-3".to_owned(), show);
        cx.defer_async(subject, "d-4".to_owned(), show);
    }
    for receive in [synchronous, asynchronous] {
        let f = Fixture::new(on, Script::new(receive)).await;
        assert_eq!(f.observe(&["a"]).await, ["d-1", "a-2", "d-3", "d-4"]);
    }
}

async fn o19_each_command_has_its_own_order(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            cx.defer_async(subject, format!("{x}: d-1"), show);
            cx.persist_async(format!("{x}: pa-2"), show);
            cx.defer_async(subject, format!("{x}: d-3"), show);
            cx.defer_async(subject, format!("{x}: d-4"), |subject, event, cx| {
                show(subject, event, cx);
                cx.reply(&vec![event.clone()]);
            });
        }),
    )
    .await;
    let replies = f.run(&["a", "b"]).await;
    let lines = f.log.take();
    for (x, reply) in ["a", "b"].into_iter().zip(replies) {
        let own = ["d-1", "pa-2", "d-3", "d-4"].map(|step| format!("{x}: {step}"));
        assert_eq!(only(&lines, &format!("{x}:")), own);
        // Each sender hears of its own.
        assert_eq!(reply.unwrap(), own[3..]);
    }
}

async fn o20_persist_persist_async_and_defers_mixed(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            cx.persist(format!("{x}: p-1"), show);
            cx.persist_async(format!("{x}: pa-2"), show);
            cx.defer_async(subject, format!("{x}: d-3"), show);
            cx.defer_async(subject, format!("{x}: d-4"), show);
            cx.persist_async(format!("{x}: pa-5"), show);
            cx.defer_async(subject, format!("{x}: d-6"), show);
        }),
    )
    .await;
    let lines = f.observe(&["a", "b"]).await;
    for x in ["a", "b"] {
        let own = ["p-1", "pa-2", "d-3", "d-4", "pa-5", "d-6"].map(|step| format!("{x}: {step}"));
        assert_eq!(only(&lines, &format!("{x}:")), own);
    }
}

async fn o21_defers_alone_run_inline(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            for step in ["d-1", "d-2", "d-3"] {
                cx.defer_async(subject, step.to_owned(), show);
            }
            subject.log.push(x);
        }),
    )
    .await;
    assert_eq!(f.observe(&["a"]).await, ["d-1", "d-2", "d-3", "a"]);
    assert_eq!(f.journal.sent().len(), 0, "the journal is not asked");
}

async fn o22_after_an_asynchronous_write(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            cx.persist_async(format!("{x}-unit"), show);
            cx.defer_async(subject, format!("{x}-defer"), show);
        }),
    )
    .await;
    let lines = f.observe(&["x", "y"]).await;
    assert_eq!(only(&lines, "x"), ["x", "x-unit", "x-defer"]);
    assert_eq!(only(&lines, "y"), ["y", "y-unit", "y-defer"]);
}

async fn o23_a_synchronous_defer_after_an_asynchronous_write(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            cx.persist_async(format!("{x}-unit"), |_, _, _| {});
            cx.defer(subject, format!("{x}-defer"), show);
        }),
    )
    .await;
    assert_eq!(
        f.observe(&["x", "y"]).await,
        ["x", "x-defer", "y", "y-defer"]
    );
}

/// The running callback counts as pending (5.1 rule 4).
async fn within_a_callback_it_waits_for_the_callback_to_end(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|_, x, cx| {
            cx.persist(x, |subject, _, cx| {
                cx.defer(subject, "deferred".to_owned(), show);
                subject.log.push("callback");
            });
        }),
    )
    .await;
    assert_eq!(f.observe(&["a"]).await, ["callback", "deferred"]);
}
