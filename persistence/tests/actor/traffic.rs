//! What goes to the journal: 5.5, and that an entity never has two appends out.

use crate::fixture::{Backend, Fixture, answered, wait_until};
use crate::subject::{Script, show};

on_each_backend!(
    case_5_5_1_a_write_waits_for_the_one_before,
    case_5_5_2_nested_writes_go_before_the_next_command,
    case_5_5_3_one_command_makes_one_batch,
    case_5_5_4_a_command_is_never_split,
    case_5_5_5_what_is_issued_meanwhile_is_the_next_batch,
    case_5_5_6_after_a_panic_nothing_more_is_sent,
);

async fn case_5_5_1_a_write_waits_for_the_one_before(on: Backend) {
    let f = Fixture::empty(on, Script::new(|_, x, cx| cx.persist_async(x, show))).await;
    f.journal.hold();
    let (a1, a2) = (f.tell("a-1"), f.tell("a-2"));
    wait_until("the first write", || f.journal.sent().len() == 1).await;
    let waits = |f: &Fixture| f.journal.sent() == [[["a-1"]]];
    assert!(waits(&f));
    f.journal.step();
    answered(a1).await.unwrap();
    wait_until("the second write", || f.journal.sent().len() == 2).await;
    assert_eq!(f.log.lines(), ["a-1"]);
    f.journal.release();
    answered(a2).await.unwrap();
    assert_eq!(f.journal.sent(), [[["a-1"]], [["a-2"]]]);
    assert_eq!(f.log.lines(), ["a-1", "a-2"]);
}

async fn case_5_5_2_nested_writes_go_before_the_next_command(on: Backend) {
    let script = Script::new(|_, x, cx| {
        if x != "1" {
            return cx.persist(x, show);
        }
        cx.persist(x, |subject, event, cx| {
            show(subject, event, cx);
            cx.persist("2".to_owned(), show);
        });
    });
    let f = Fixture::empty(on, script).await;
    assert_eq!(f.observe(&["1", "3"]).await, ["1", "2", "3"]);
    assert_eq!(f.journal.sent(), [[["1"]], [["2"]], [["3"]]]);
}

async fn case_5_5_3_one_command_makes_one_batch(on: Backend) {
    let script = Script::new(|_, _, cx| {
        cx.persist("1".to_owned(), |subject, event, cx| {
            show(subject, event, cx);
            cx.persist("2".to_owned(), show);
        });
        cx.persist("3".to_owned(), show);
    });
    let f = Fixture::empty(on, script).await;
    assert_eq!(f.observe(&["x"]).await, ["1", "3", "2"]);
    assert_eq!(f.journal.sent(), [vec![["1"], ["3"]], vec![["2"]]]);
}

async fn case_5_5_4_a_command_is_never_split(on: Backend) {
    let script = Script::new(|_, _, cx| {
        for i in 0..30 {
            cx.persist(i.to_string(), show);
        }
    });
    let f = Fixture::empty(on, script).await;
    let all: Vec<String> = (0..30).map(|i| i.to_string()).collect();
    assert_eq!(f.observe(&["x"]).await, all);
    let batch: Vec<_> = all.into_iter().map(|text| vec![text]).collect();
    assert_eq!(f.journal.sent(), [batch]);
}

/// The originals cut a batch after some 200 writes; here the group commit bounds a
/// statement, and an entity's batch is what waited.
async fn case_5_5_5_what_is_issued_meanwhile_is_the_next_batch(on: Backend) {
    let script = Script::new(|_, x, cx| {
        if x == "a" {
            for i in 0..11 {
                cx.persist_async(format!("a-{i}"), show);
            }
        } else {
            cx.persist_all_async(vec![format!("{x},1"), format!("{x},2")], show);
        }
    });
    let f = Fixture::empty(on, script).await;
    f.journal.hold();
    let a = f.tell("a");
    wait_until("the first write", || f.journal.sent().len() == 1).await;
    let rest: Vec<_> = (0..30).map(|i| f.tell(&i.to_string())).collect();
    // Commands go on, so a read among them is answered while the write is out.
    f.ask("state?").await.unwrap();
    f.journal.release();
    for answer in std::iter::once(a).chain(rest) {
        answered(answer).await.unwrap();
    }
    let first: Vec<_> = (0..11).map(|i| vec![format!("a-{i}")]).collect();
    let second: Vec<_> = (0..30)
        .map(|i| vec![format!("{i},1"), format!("{i},2")])
        .collect();
    let shown: Vec<String> = first.iter().chain(&second).flatten().cloned().collect();
    assert_eq!(f.journal.sent(), [first, second]);
    assert_eq!(f.log.take(), shown);
}

async fn case_5_5_6_after_a_panic_nothing_more_is_sent(on: Backend) {
    let f = Fixture::empty(on, Script::new(|_, x, cx| cx.persist_async(x, show))).await;
    f.journal.hold();
    let one = f.tell("1");
    wait_until("the first write", || f.journal.sent().len() == 1).await;
    let (two, boom) = (f.tell("2"), f.tell("boom"));
    let refused = answered(boom).await.unwrap_err();
    assert_eq!(
        refused.applied(),
        perennial_persistence::command_error::Applied::No
    );
    let refused = answered(two).await.unwrap_err();
    assert_eq!(
        refused.applied(),
        perennial_persistence::command_error::Applied::No
    );
    f.journal.release();
    // Stored, but its callback did not run.
    let unknown = answered(one).await.unwrap_err();
    assert_eq!(
        unknown.applied(),
        perennial_persistence::command_error::Applied::Unknown
    );
    assert_eq!(f.ask("state?").await.unwrap(), ["1"]);
    assert_eq!(f.journal.sent(), [[["1"]]]);
    assert_eq!(f.log.take(), [""; 0]);
}
