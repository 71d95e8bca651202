//! I-8: with a command id, a command that stored events has its effect once.

use std::time::Duration;

use perennial_persistence::engine::EngineSettings;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::retention::RetentionSettings;

use crate::fixture::{Command, Fixture, add, answered, error, texts};

/// More command ids than any sensible cache.
const MANY: usize = 1_200;

#[tokio::test]
async fn i8_a_retry_gets_the_original_reply() {
    let f = Fixture::new().await;
    let first = f.ask_with("n", &add("a"), "id-1").await.unwrap();
    f.ask("n", &add("b")).await.unwrap();
    let retry = f.ask_with("n", &add("a"), "id-1").await.unwrap();
    assert!(retry.duplicate && !first.duplicate);
    assert_eq!(
        (texts(&retry), retry.sequence_nr),
        (texts(&first), first.sequence_nr)
    );
    // Another payload under the same id is answered like the first.
    let other = f.ask_with("n", &add("z"), "id-1").await.unwrap();
    assert!(other.duplicate);
    assert_eq!(f.list("n").await, ["a", "b"]);
}

/// A retry whose original is under way attaches to it.
#[tokio::test]
async fn i8_retries_sent_together_have_one_effect() {
    let f = Fixture::new().await;
    f.faults()
        .at(Operation::Write, 1, Fault::Delay(Duration::from_millis(30)));
    let answers: Vec<_> = (0..50)
        .map(|_| f.tell_with("n", &add("a"), Some("id")))
        .collect();
    let mut originals = 0;
    for answer in answers {
        let reply = answered(answer).await.unwrap();
        originals += usize::from(!reply.duplicate);
        assert_eq!(
            (texts(&reply), reply.sequence_nr.get()),
            (vec!["a".to_owned()], 1)
        );
    }
    assert_eq!(originals, 1);
    assert_eq!(f.highest("n").await, 1);
}

/// The index decides when the cache has forgotten: after many ids, after a
/// restart with snapshots, one by one and all at once.
#[tokio::test]
async fn i8_retries_are_found_beyond_the_cache() {
    for (every, restart) in [(0, false), (100, true), (0, true)] {
        let settings = EngineSettings {
            retention: RetentionSettings {
                every,
                ..RetentionSettings::default()
            },
            ..EngineSettings::default()
        };
        let mut f = Fixture::with(settings).await;
        load(&f, 0).await;
        if restart {
            f.restart().await.stop().await;
        }
        assert_eq!(load(&f, 0).await, MANY, "all are retries");
        assert_eq!(f.highest("n").await, MANY as u64);
        // Old and new ones mixed.
        assert_eq!(load(&f, MANY / 2).await, MANY / 2);
        assert_eq!(f.highest("n").await, (MANY + MANY / 2) as u64);
        assert_eq!(f.list("n").await.len(), MANY + MANY / 2);
    }
}

/// Sends `MANY` commands whose ids begin at `from`; returns how many were
/// answered as retries.
async fn load(f: &Fixture, from: usize) -> usize {
    let answers: Vec<_> = (from..from + MANY)
        .map(|i| f.tell_with("n", &add(&i.to_string()), Some(&format!("id-{i}"))))
        .collect();
    let mut duplicates = 0;
    for (i, answer) in answers.into_iter().enumerate() {
        let reply = answered(answer).await.unwrap();
        duplicates += usize::from(reply.duplicate);
        assert_eq!(texts(&reply).last(), Some(&(from + i).to_string()));
    }
    duplicates
}

/// A retry that would be refused today gets the reply it had then: the index is
/// asked before anything that stores nothing is answered.
#[tokio::test]
async fn i8_a_retry_is_not_refused_for_its_own_effect() {
    let mut f = Fixture::new().await;
    for i in 0..MANY {
        let command = Command::AddOnce(i.to_string());
        f.ask_with("n", &command, &format!("id-{i}")).await.unwrap();
    }
    f.restart().await.stop().await;
    for i in [0, 1, 500, MANY - 1] {
        let command = Command::AddOnce(i.to_string());
        let retry = f.ask_with("n", &command, &format!("id-{i}")).await.unwrap();
        assert!(retry.duplicate, "retry of {i}");
    }
    let fresh = f
        .ask_with("n", &Command::AddOnce("3".into()), "another id")
        .await;
    assert!(error(fresh).to_string().contains("there already"));
}

/// A duplicate in the middle of a round does not take its neighbours along.
#[tokio::test]
async fn i8_a_duplicate_in_a_round_leaves_the_others() {
    let mut f = Fixture::new().await;
    load(&f, 0).await;
    f.restart().await.stop().await;
    f.ask("n", &Command::List).await.unwrap();
    let before = f.tell_with("n", &add("before"), Some("new-1"));
    let duplicate = f.tell_with("n", &add("0"), Some("id-0"));
    let after = f.tell_with("n", &add("after"), Some("new-2"));
    let read = f.tell("n", &Command::List);
    assert!(!answered(before).await.unwrap().duplicate);
    assert!(answered(duplicate).await.unwrap().duplicate);
    assert!(!answered(after).await.unwrap().duplicate);
    let list = texts(&answered(read).await.unwrap());
    assert_eq!(list[MANY..], ["before", "after"]);
    assert_eq!(f.highest("n").await, MANY as u64 + 2);
}
