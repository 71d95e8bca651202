//! While the journal is out of reach, entities that are in memory stay there and answer
//! what needs no journal.

use std::time::Duration;

use perennial_persistence::command::Request;
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::engine::{EngineSettings, EntityState};
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::retention::RetentionSettings;

use crate::fixture::{Command, Fixture, add, answered, error, notes, shard, texts};

/// Recoveries so far: each reads the bounds of its stream once.
fn recoveries(f: &Fixture) -> u64 {
    f.faults().count(Operation::Bounds)
}

async fn expect_unavailable(f: &Fixture, id: &str, command: &Command) {
    let refused = error(f.ask(id, command).await);
    assert!(
        matches!(refused, CommandError::JournalUnavailable { .. }),
        "{refused}"
    );
    assert_eq!(refused.applied(), Applied::No);
}

/// Fails appends until the breaker is open: then nothing is sent any more.
async fn open_the_breaker(f: &Fixture, id: &str) {
    f.faults().set_outage(true);
    for _ in 0..20 {
        expect_unavailable(f, id, &add("during")).await;
    }
    let appends = f.faults().count(Operation::Append);
    expect_unavailable(f, id, &add("during")).await;
    assert_eq!(f.faults().count(Operation::Append), appends, "it is open");
}

/// Until the journal is probed and found to be back.
async fn serve_again(f: &Fixture, id: &str, text: &str) {
    f.faults().set_outage(false);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    while f.ask(id, &add(text)).await.is_err() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "served again within 2 s"
        );
        tokio::time::advance(Duration::from_millis(50)).await;
    }
}

/// One entity has its appends refused while the breaker is still closed, the other is
/// not asked before it is open. Neither stops, nor recovers when the journal is back.
#[tokio::test(start_paused = true)]
async fn entities_stay_and_answer_reads() {
    let f = Fixture::new().await;
    for id in ["a", "bb"] {
        f.ask(id, &add("before")).await.unwrap();
    }
    let before = recoveries(&f);
    f.faults().set_outage(true);
    expect_unavailable(&f, "a", &add("during")).await;
    assert_eq!(f.list("a").await, ["before"], "the breaker is closed yet");
    open_the_breaker(&f, "a").await;
    for id in ["a", "bb"] {
        expect_unavailable(&f, id, &add("during")).await;
        assert_eq!(f.list(id).await, ["before"]);
        let state = answered(f.request(id, Request::State)).await.unwrap();
        assert_eq!((texts(&state).len(), state.sequence_nr.get()), (1, 1));
        let described = f.engine.describe(shard(id), &notes(id)).await;
        assert_eq!(described.state, EntityState::Live);
    }
    serve_again(&f, "a", "after").await;
    serve_again(&f, "bb", "after").await;
    for id in ["a", "bb"] {
        assert_eq!(f.list(id).await, ["before", "after"]);
    }
    assert_eq!(recoveries(&f), before, "nobody recovered");
}

/// What a live entity would have to store, or cannot know without the journal, is
/// refused; what its rules refuse is refused as always.
#[tokio::test(start_paused = true)]
async fn what_needs_the_journal_is_refused() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    let first = f.ask_with("n", &add("b"), "id").await.unwrap();
    open_the_breaker(&f, "n").await;
    let rule = error(f.ask("n", &Command::AddOnce("a".into())).await);
    assert!(matches!(rule, CommandError::Rejected { .. }), "{rule}");
    expect_unavailable(&f, "n", &Command::AddOnce("c".into())).await;
    expect_unavailable(&f, "new", &Command::List).await;
    // The retry of what is stored needs the reply that is stored with it.
    let retry = error(f.ask_with("n", &add("b"), "id").await);
    assert!(
        matches!(retry, CommandError::JournalUnavailable { .. }),
        "{retry}"
    );
    serve_again(&f, "n", "d").await;
    let retry = f.ask_with("n", &add("b"), "id").await.unwrap();
    assert!(retry.duplicate);
    assert_eq!(retry.sequence_nr, first.sequence_nr);
    assert_eq!(f.list("n").await, ["a", "b", "d"]);
}

/// What was handled together with a write that is refused is handled again on the state
/// without it, and its command id is as new as before.
#[tokio::test]
async fn a_refused_round_leaves_no_trace() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    let before = recoveries(&f);
    let delay = Fault::Delay(Duration::from_millis(20));
    f.faults().at(Operation::Write, 1, delay);
    f.faults().at(Operation::Write, 2, Fault::Fail);
    let first = f.tell("n", &add("b"));
    f.engine.describe(shard("n"), &notes("n")).await;
    // It is handled, so these wait for it and make a round.
    let refused = f.tell_with("n", &add("c"), Some("id"));
    let read = f.tell("n", &Command::List);
    let once = f.tell("n", &Command::AddOnce("c".into()));
    answered(first).await.unwrap();
    let refused = error(answered(refused).await);
    assert!(matches!(refused, CommandError::JournalUnavailable { .. }));
    assert_eq!(texts(&answered(read).await.unwrap()), ["a", "b"]);
    // Its rejection came from a state that never was.
    assert_eq!(answered(once).await.unwrap().sequence_nr.get(), 3);
    let retry = f.ask_with("n", &add("d"), "id").await.unwrap();
    assert!(!retry.duplicate);
    assert_eq!(f.list("n").await, ["a", "b", "c", "d"]);
    assert_eq!(recoveries(&f), before);
    f.passivate("n").await;
    assert_eq!(f.list("n").await, ["a", "b", "c", "d"], "I-6");
}

/// A snapshot that was due with a refused write is not waited for.
#[tokio::test]
async fn a_refused_write_costs_no_later_snapshot() {
    let settings = EngineSettings {
        retention: RetentionSettings {
            every: 2,
            ..RetentionSettings::default()
        },
        ..EngineSettings::default()
    };
    let f = Fixture::with(settings).await;
    f.ask("n", &add("a")).await.unwrap();
    f.faults().at(Operation::Write, 1, Fault::Fail);
    expect_unavailable(&f, "n", &add("b")).await;
    assert_eq!(f.faults().count(Operation::SaveSnapshot), 0);
    f.ask("n", &add("c")).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while f.faults().count(Operation::SaveSnapshot) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "no snapshot");
        tokio::task::yield_now().await;
    }
}

/// Idle entities would not find the way back.
#[tokio::test(start_paused = true)]
async fn idle_entities_stay_until_the_journal_is_back() {
    let idle_timeout = Duration::from_secs(1);
    let f = Fixture::with(EngineSettings {
        idle_timeout,
        ..EngineSettings::default()
    })
    .await;
    f.ask("n", &add("a")).await.unwrap();
    f.ask("other", &add("a")).await.unwrap();
    open_the_breaker(&f, "other").await;
    tokio::time::sleep(10 * idle_timeout).await;
    assert_eq!(f.engine.live_entities(), 2);
    assert_eq!(f.list("n").await, ["a"]);
    f.faults().set_outage(false);
    let deadline = tokio::time::Instant::now() + 10 * idle_timeout;
    while f.engine.live_entities() > 0 {
        assert!(tokio::time::Instant::now() < deadline, "they should leave");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A write that the journal rejects, and a retry of what is stored, cost no recovery
/// either.
#[tokio::test]
async fn rejections_and_retries_recover_nobody() {
    let f = Fixture::new().await;
    f.ask_with("n", &add("a"), "id").await.unwrap();
    f.passivate("n").await;
    f.faults().at_payload("poison", Fault::Reject);
    f.list("n").await;
    let before = recoveries(&f);
    let refused = error(f.ask("n", &add("poison")).await);
    assert!(matches!(refused, CommandError::PersistRejected { .. }));
    assert!(f.ask_with("n", &add("a"), "id").await.unwrap().duplicate);
    f.ask("n", &add("b")).await.unwrap();
    assert_eq!(f.list("n").await, ["a", "b"]);
    assert_eq!(recoveries(&f), before);
}
