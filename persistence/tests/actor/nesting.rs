//! Persisting in callbacks: O24 to O31.

use crate::fixture::{Backend, Fixture, only};
use crate::subject::{Cx, Script, Subject, show};

on_each_backend!(
    o24_commands_keep_their_order_whatever_they_do,
    o25_nested_persists,
    o26_nested_persist_asyncs,
    o27_deeply_nested_persists,
    o28_deeply_nested_persist_asyncs,
    o29_persist_async_in_persist,
    o30_persist_in_persist_async,
    o31_a_nested_persist_makes_commands_wait,
);

async fn o24_commands_keep_their_order_whatever_they_do(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            match x.as_str() {
                "a" => cx.persist(x, |_, _, _| {}),
                "b" => {
                    (0..1_000).for_each(|_| std::thread::yield_now());
                    cx.persist_async(x, |_, _, _| {});
                }
                _ => {}
            }
        }),
    )
    .await;
    assert_eq!(f.observe(&["a", "b", "c", "d"]).await, ["a", "b", "c", "d"]);
}

async fn o25_nested_persists(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            for n in [1, 2] {
                let inner = format!("{x}-inner-{n}");
                cx.persist(format!("{x}-outer-{n}"), move |subject, event, cx| {
                    show(subject, event, cx);
                    cx.persist(inner, show);
                });
            }
        }),
    )
    .await;
    assert_eq!(
        f.observe(&["a", "b"]).await,
        [
            "a",
            "a-outer-1",
            "a-outer-2",
            "a-inner-1",
            "a-inner-2",
            "b",
            "b-outer-1",
            "b-outer-2",
            "b-inner-1",
            "b-inner-2"
        ]
    );
}

async fn o26_nested_persist_asyncs(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            for n in [1, 2] {
                let inner = format!("{x}-inner-{n}");
                cx.persist_async(format!("{x}-outer-{n}"), move |subject, event, cx| {
                    show(subject, event, cx);
                    cx.persist_async(inner, show);
                });
            }
        }),
    )
    .await;
    let lines = f.observe(&["a", "b"]).await;
    for x in ["a", "b"] {
        let own = ["", "-outer-1", "-outer-2", "-inner-1", "-inner-2"].map(|s| format!("{x}{s}"));
        assert_eq!(only(&lines, x), own);
    }
}

fn deeper(x: String, n: u32, cx: &mut Cx<'_>) {
    if n <= 6 {
        cx.persist(format!("{x}-{n}"), move |subject, event, cx| {
            show(subject, event, cx);
            deeper(x, n + 1, cx);
        });
    }
}

async fn o27_deeply_nested_persists(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            deeper(x, 1, cx);
        }),
    )
    .await;
    let expected: Vec<String> = ["a", "b"]
        .iter()
        .flat_map(|x| {
            std::iter::once((*x).to_owned()).chain((1..=6).map(move |n| format!("{x}-{n}")))
        })
        .collect();
    assert_eq!(f.observe(&["a", "b"]).await, expected);
}

fn deeper_async(x: String, n: u32, cx: &mut Cx<'_>) {
    if n <= 6 {
        cx.persist_async(format!("{x}-{n}"), move |subject, event, cx| {
            show(subject, event, cx);
            deeper_async(x, n + 1, cx);
        });
    }
}

async fn o28_deeply_nested_persist_asyncs(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            deeper_async(x, 1, cx);
        }),
    )
    .await;
    let own = |x: &str| -> Vec<String> {
        std::iter::once(x.to_owned())
            .chain((1..=6).map(|n| format!("{x}-{n}")))
            .collect()
    };
    assert_eq!(f.observe(&["a"]).await, own("a"));
    let lines = f.observe(&["b", "c"]).await;
    assert_eq!(only(&lines, "b"), own("b"));
    assert_eq!(only(&lines, "c"), own("c"));
}

async fn o29_persist_async_in_persist(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            for n in [1, 2] {
                let inner = format!("{x}-inner-async-{n}");
                cx.persist(format!("{x}-outer-{n}"), move |subject, event, cx| {
                    show(subject, event, cx);
                    cx.persist_async(inner, show);
                });
            }
        }),
    )
    .await;
    assert_eq!(
        f.observe(&["a"]).await,
        [
            "a",
            "a-outer-1",
            "a-outer-2",
            "a-inner-async-1",
            "a-inner-async-2"
        ]
    );
}

async fn o30_persist_in_persist_async(on: Backend) {
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            for n in [1, 2] {
                let inner = format!("{x}-inner-{n}");
                cx.persist_async(format!("{x}-outer-async-{n}"), move |subject, event, cx| {
                    show(subject, event, cx);
                    cx.persist(inner, show);
                });
            }
        }),
    )
    .await;
    assert_eq!(
        f.observe(&["a"]).await,
        [
            "a",
            "a-outer-async-1",
            "a-outer-async-2",
            "a-inner-1",
            "a-inner-2"
        ]
    );
}

async fn o31_a_nested_persist_makes_commands_wait(on: Backend) {
    fn done(subject: &mut Subject, _: String, _: &mut Cx<'_>) {
        subject.log.push("done");
    }
    let f = Fixture::new(
        on,
        Script::new(|subject, x, cx| {
            subject.log.push(&x);
            cx.persist_async(format!("{x}-outer-async"), move |subject, event, cx| {
                show(subject, event, cx);
                cx.persist(format!("{x}-inner"), |subject, event, cx| {
                    show(subject, event, cx);
                    cx.become_(done);
                });
            });
        }),
    )
    .await;
    f.journal.hold();
    let a = f.tell("a");
    f.log.wait_for("a").await;
    f.journal.step();
    f.log.wait_for("a-outer-async").await;
    // The inner write is out, and b waits for its callback.
    let b = f.tell("b");
    f.journal.release();
    for answer in [a, b] {
        crate::fixture::answered(answer).await.unwrap();
    }
    assert_eq!(f.log.take(), ["a", "a-outer-async", "a-inner", "done"]);
}
