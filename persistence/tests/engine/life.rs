//! The ordinary life of entities: commands, recovery, passivation, snapshots.

use std::time::Duration;

use perennial_persistence::command::Request;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::{EngineSettings, EntityState};
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::payload::Payload;
use perennial_persistence::retention::RetentionSettings;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::SnapshotCriteria;

use crate::fixture::{Command, Fixture, add, answered, error, notes, nr, shard, texts};

#[tokio::test]
async fn a_command_is_stored_and_answered() {
    let f = Fixture::new().await;
    let first = f.ask("n", &add("a")).await;
    assert_eq!(
        (texts(first.as_ref().unwrap()), nr(&first).get()),
        (vec!["a".to_owned()], 1)
    );
    let all = Command::AddAll(vec!["b".into(), "c".into()]);
    assert_eq!(nr(&f.ask("n", &all).await).get(), 3);
    assert_eq!(f.list("n").await, ["a", "b", "c"]);
    assert_eq!(f.highest("n").await, 3);
}

/// I-6: replay equals live, from events alone and from snapshot and events.
#[tokio::test]
async fn i6_replay_equals_live() {
    for every in [0, 1, 7, 100] {
        let settings = EngineSettings {
            retention: RetentionSettings {
                every,
                ..RetentionSettings::default()
            },
            ..EngineSettings::default()
        };
        let mut f = Fixture::with(settings).await;
        let answers: Vec<_> = (0..250)
            .map(|i| f.tell("n", &add(&i.to_string())))
            .collect();
        for answer in answers {
            answered(answer).await.unwrap();
        }
        let live = f.list("n").await;
        f.restart().await.stop().await;
        assert_eq!(f.list("n").await, live, "snapshot every {every}");
    }
}

/// I-12: commands sent without waiting are executed one after another, in order,
/// and a read among them sees exactly what was sent before it.
#[tokio::test]
async fn i12_commands_and_reads_keep_their_order() {
    let f = Fixture::new().await;
    let mut reads = Vec::new();
    let mut writes = Vec::new();
    for i in 0..300 {
        writes.push(f.tell("n", &add(&i.to_string())));
        reads.push(f.tell("n", &Command::List));
    }
    for (i, read) in reads.into_iter().enumerate() {
        assert_eq!(texts(&answered(read).await.unwrap()).len(), i + 1);
    }
    for (i, write) in writes.into_iter().enumerate() {
        assert_eq!(nr(&answered(write).await).get(), i as u64 + 1);
    }
}

/// Many commands of one entity go out in few appends (5.5 of the design).
#[tokio::test]
async fn a_busy_entity_is_stored_in_batches() {
    let f = Fixture::new().await;
    f.ask("n", &add("first")).await.unwrap();
    let faults = f.faults();
    faults.at(Operation::Write, 1, Fault::Delay(Duration::from_millis(50)));
    let before = faults.count(Operation::Append);
    let answers: Vec<_> = (0..200)
        .map(|i| f.tell("n", &add(&i.to_string())))
        .collect();
    for answer in answers {
        answered(answer).await.unwrap();
    }
    let appends = faults.count(Operation::Append) - before;
    assert!(appends <= 5, "{appends} appends for 200 commands");
}

#[tokio::test]
async fn refusals_store_nothing_and_change_nothing() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    let refused = error(f.ask("n", &Command::AddOnce("a".into())).await);
    assert!(matches!(refused, CommandError::Rejected { reason, .. } if reason == "ALREADY_THERE"));
    let unhandled = error(f.ask("n", &Command::Unhandled).await);
    assert!(matches!(unhandled, CommandError::Unhandled { .. }));
    // J19: an event that cannot be encoded takes no sequence number.
    let rejected = error(f.ask("n", &Command::Unencodable).await);
    assert!(
        matches!(rejected, CommandError::PersistRejected { .. }),
        "{rejected}"
    );
    let request = Request::Command {
        payload: Payload::json("{\"no such\": 1}"),
        command_id: None,
        expected_sequence_nr: None,
        metadata: None,
    };
    let invalid = error(answered(f.request("n", request)).await);
    assert!(matches!(invalid, CommandError::PayloadInvalid { .. }));
    assert_eq!(f.list("n").await, ["a"]);
    assert_eq!(f.highest("n").await, 1);
}

#[tokio::test]
async fn an_expected_sequence_number_is_checked() {
    let f = Fixture::new().await;
    f.ask("n", &add("a")).await.unwrap();
    let request = |expected| Request::Command {
        payload: Payload::json(serde_json::to_vec(&add("b")).unwrap()),
        command_id: None,
        expected_sequence_nr: Some(SequenceNr::new(expected)),
        metadata: None,
    };
    let mismatch = error(answered(f.request("n", request(0))).await);
    let (expected, actual) = (SequenceNr::ZERO, SequenceNr::new(1));
    assert_eq!(
        mismatch,
        CommandError::SequenceNrMismatch { expected, actual }
    );
    assert_eq!(nr(&answered(f.request("n", request(1))).await).get(), 2);
}

#[tokio::test]
async fn idle_entities_leave_and_come_back() {
    let settings = EngineSettings {
        idle_timeout: Duration::from_millis(300),
        ..EngineSettings::default()
    };
    let f = Fixture::with(settings).await;
    f.ask("n", &add("a")).await.unwrap();
    assert_eq!(f.engine.live_entities(), 1);
    wait_until("the entity to leave", || f.engine.live_entities() == 0).await;
    assert_eq!(f.list("n").await, ["a"]);
}

/// The node-wide limit holds over all workers, and nothing is lost by it.
#[tokio::test]
async fn the_least_recently_used_leave_above_the_limit() {
    let settings = EngineSettings {
        active_entity_limit: 10,
        workers: 3,
        ..EngineSettings::default()
    };
    let f = Fixture::with(settings).await;
    // Ids of different lengths are in different shards, hence on all workers.
    let id = |i: usize| format!("{i:0width$}", width = 3 + i % 3);
    for i in 0..100 {
        f.ask(&id(i), &add(&i.to_string())).await.unwrap();
    }
    wait_until("the surplus to leave", || f.engine.live_entities() <= 10).await;
    for i in 0..100 {
        assert_eq!(f.list(&id(i)).await, [i.to_string()]);
    }
}

/// 5.4: a command that arrives while the entity stops starts the next incarnation.
#[tokio::test]
async fn stopping_loses_no_command() {
    let f = Fixture::new().await;
    let stopping: Vec<_> = (0..100)
        .map(|i| f.tell("n", &Command::ThenStop(i.to_string())))
        .collect();
    for answer in stopping {
        answered(answer).await.unwrap();
    }
    assert_eq!(f.list("n").await.len(), 100);
    let (more, passivated) = (f.tell("n", &add("x")), f.passivate("n"));
    let after = f.tell("n", &add("y"));
    passivated.await;
    answered(more).await.unwrap();
    answered(after).await.unwrap();
    assert_eq!(f.list("n").await.len(), 102);
}

#[tokio::test]
async fn then_snapshot_saves_the_state_and_recovery_uses_it() {
    let settings = EngineSettings {
        retention: RetentionSettings {
            every: 0,
            ..RetentionSettings::default()
        },
        ..EngineSettings::default()
    };
    let mut f = Fixture::with(settings).await;
    f.ask("n", &add("a")).await.unwrap();
    f.ask("n", &Command::ThenSnapshot("b".into()))
        .await
        .unwrap();
    let snapshots = f.storage.snapshots.clone();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let saved = loop {
        assert!(tokio::time::Instant::now() < deadline, "no snapshot");
        if let Some(saved) = snapshots
            .load(&notes("n"), SnapshotCriteria::ALL)
            .await
            .unwrap()
        {
            break saved;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(saved.sequence_nr.get(), 2);
    f.ask("n", &add("c")).await.unwrap();
    f.restart().await.stop().await;
    assert_eq!(f.list("n").await, ["a", "b", "c"]);
}

/// I-11: no more recoveries at once than there are permits, and all get their turn.
#[tokio::test]
async fn i11_many_recoveries_wait_for_three_permits() {
    let settings = EngineSettings {
        max_concurrent_recoveries: 3,
        ..EngineSettings::default()
    };
    let mut f = Fixture::with(settings).await;
    for i in 0..60 {
        f.ask(&i.to_string(), &add("a")).await.unwrap();
    }
    f.restart().await.stop().await;
    let answers: Vec<_> = (0..60)
        .map(|i| f.tell(&i.to_string(), &Command::List))
        .collect();
    for answer in answers {
        assert_eq!(texts(&answered(answer).await.unwrap()), ["a"]);
    }
}

#[tokio::test]
async fn the_state_at_a_past_number_is_computed() {
    let f = Fixture::new().await;
    for i in 0..250 {
        f.ask("n", &add(&i.to_string())).await.unwrap();
    }
    for at in [0, 1, 99, 100, 101, 200, 250] {
        let past = f.engine.state_at(&notes("n"), SequenceNr::new(at)).await;
        assert_eq!(texts(past.as_ref().unwrap()).len() as u64, at);
    }
    let beyond = f.engine.state_at(&notes("n"), SequenceNr::new(251)).await;
    assert!(matches!(
        error(beyond),
        CommandError::SequenceNrBeyondStream { .. }
    ));
}

#[tokio::test]
async fn a_description_says_what_an_entity_does() {
    let f = Fixture::new().await;
    let id = notes("n");
    let describe = || f.engine.describe(shard("n"), &id);
    assert_eq!(describe().await.state, EntityState::Passive);
    f.ask("n", &add("a")).await.unwrap();
    let live = describe().await;
    assert_eq!((live.state, live.sequence_nr.get()), (EntityState::Live, 1));
    f.passivate("n").await;
    assert_eq!(describe().await.state, EntityState::Passive);
}

/// A stopping engine answers what it accepted and refuses the rest.
#[tokio::test]
async fn stop_answers_everything() {
    let f = Fixture::new().await;
    let answers: Vec<_> = (0..100)
        .map(|i| f.tell("n", &add(&i.to_string())))
        .collect();
    f.engine.stop().await;
    let mut stored = 0;
    for answer in answers {
        match answered(answer).await {
            Ok(_) => stored += 1,
            Err(refused) => assert!(matches!(refused, CommandError::ShardUnavailable { .. })),
        }
    }
    assert_eq!(f.highest("n").await, stored);
    let late = error(f.ask("n", &Command::List).await);
    assert!(matches!(late, CommandError::ShardUnavailable { .. }));
}

pub(crate) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
        tokio::task::yield_now().await;
    }
}
