//! What every snapshot store must do, case by case; see `journal/conformance.rs`
//! for how the kits are used.
//!
//! Left out: S13, because snapshots have no metadata of the caller's.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::journal::conformance::new_session;
use crate::journal::{JournalError, WriteRight};
use crate::payload::{CodecId, Payload};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{Snapshot, SnapshotCriteria};
use crate::storage::Storage;
use crate::writer::{Epoch, ShardNr};

/// Makes a `#[test]` of every case; see [`crate::journal_conformance_tests`].
#[macro_export]
macro_rules! snapshot_store_conformance_tests {
    ($run:path) => {
        $crate::snapshot_store_conformance_tests! { @each $run:
            s01_unknown_entity, s02_time_that_does_not_match, s03_number_that_does_not_match,
            s04_most_recent, s05_upper_bound, s06_bounds_of_number_and_time, s07_delete_one,
            s08_delete_matching, s09_delete_with_a_time_too_low, s10_same_number_overwrites,
            s11_big_snapshot, s12_payload_comes_back, s14_delete_by_number_from_the_first_time,
            s15_delete_with_an_earlier_time, s16_saves_in_quick_succession,
            sx1_fenced_writes_are_refused,
        }
    };
    (@each $run:path: $($case:ident),+ $(,)?) => {
        $(#[test] fn $case() { $run($crate::snapshot_store::conformance::$case); })+
    };
}

/// Five snapshots, s-1 to s-5, at 11 to 15, and what the store says of them.
struct Five<'a> {
    storage: &'a Storage,
    id: PersistenceId,
    right: WriteRight,
    saved: Vec<Snapshot>,
}

impl<'a> Five<'a> {
    async fn new(storage: &'a Storage) -> Self {
        let mut five = Self {
            storage,
            id: PersistenceId::new("conformance", &Uuid::new_v4().to_string()).unwrap(),
            right: WriteRight {
                session: new_session(storage).await,
                shard: ShardNr(7),
                epoch: Epoch(3),
            },
            saved: Vec::new(),
        };
        for nr in 11..=15 {
            five.save(nr, &format!("s-{}", nr - 10)).await;
            let saved = five.load(exactly(nr)).await.unwrap();
            five.saved.push(saved);
            five.wait_for_a_later_time().await;
        }
        five
    }

    /// Until the store's clock gives a later time than that of the last snapshot.
    async fn wait_for_a_later_time(&self) {
        let last = self.saved.last().map(|saved| saved.created_at);
        let probe = PersistenceId::new("conformance", &Uuid::new_v4().to_string()).unwrap();
        loop {
            self.storage
                .snapshots
                .save(self.right, &probe, SequenceNr::new(1), &text("probe"))
                .await
                .unwrap();
            let loaded = self
                .storage
                .snapshots
                .load(&probe, SnapshotCriteria::ALL)
                .await
                .unwrap();
            if loaded.map(|probe| probe.created_at) > last {
                break;
            }
        }
    }

    async fn save(&self, nr: u64, state: &str) {
        self.storage
            .snapshots
            .save(self.right, &self.id, SequenceNr::new(nr), &text(state))
            .await
            .unwrap();
    }

    async fn load(&self, criteria: SnapshotCriteria) -> Option<Snapshot> {
        self.storage
            .snapshots
            .load(&self.id, criteria)
            .await
            .unwrap()
    }

    async fn delete(&self, criteria: SnapshotCriteria) {
        self.storage
            .snapshots
            .delete(self.right, &self.id, criteria)
            .await
            .unwrap();
    }

    /// Number and time of the snapshot s-N.
    fn at(&self, number: usize) -> (u64, SystemTime) {
        let saved = &self.saved[number - 1];
        (saved.sequence_nr.get(), saved.created_at)
    }

    async fn expect(&self, criteria: SnapshotCriteria, state: Option<&str>) {
        let loaded = self.load(criteria).await;
        assert_eq!(
            loaded.map(|snapshot| snapshot.payload),
            state.map(text),
            "{criteria:?}"
        );
    }
}

fn text(state: &str) -> Payload {
    Payload::json(state.as_bytes().to_vec())
}

fn up_to(nr: u64) -> SnapshotCriteria {
    SnapshotCriteria::up_to(SequenceNr::new(nr))
}

fn exactly(nr: u64) -> SnapshotCriteria {
    SnapshotCriteria {
        min_sequence_nr: SequenceNr::new(nr),
        ..up_to(nr)
    }
}

fn up_to_both((nr, time): (u64, SystemTime)) -> SnapshotCriteria {
    SnapshotCriteria {
        max_created_at: Some(time),
        ..up_to(nr)
    }
}

/// S1: an entity without snapshots.
pub async fn s01_unknown_entity(storage: &Storage) {
    let unknown = PersistenceId::new("conformance", &Uuid::new_v4().to_string()).unwrap();
    let loaded = storage
        .snapshots
        .load(&unknown, SnapshotCriteria::ALL)
        .await
        .unwrap();
    assert_eq!(loaded, None);
}

/// S2: no snapshot is old enough.
pub async fn s02_time_that_does_not_match(storage: &Storage) {
    let five = Five::new(storage).await;
    let before = five.at(1).1 - Duration::from_millis(1);
    five.expect(up_to_both((u64::MAX, before)), None).await;
}

/// S3: no snapshot has a number low enough.
pub async fn s03_number_that_does_not_match(storage: &Storage) {
    Five::new(storage).await.expect(up_to(7), None).await;
}

/// S4: the one with the highest number.
pub async fn s04_most_recent(storage: &Storage) {
    let five = Five::new(storage).await;
    five.expect(SnapshotCriteria::ALL, Some("s-5")).await;
    assert_eq!(
        five.load(SnapshotCriteria::ALL)
            .await
            .unwrap()
            .sequence_nr
            .get(),
        15
    );
}

/// S5: an upper bound.
pub async fn s05_upper_bound(storage: &Storage) {
    Five::new(storage)
        .await
        .expect(up_to(13), Some("s-3"))
        .await;
}

/// S6: upper bounds of number and time.
pub async fn s06_bounds_of_number_and_time(storage: &Storage) {
    let five = Five::new(storage).await;
    let (nr, time) = five.at(3);
    five.expect(up_to_both((nr, time)), Some("s-3")).await;
    five.expect(up_to_both((u64::MAX, time)), Some("s-3")).await;
    let later = SnapshotCriteria {
        min_created_at: Some(five.at(4).1),
        ..SnapshotCriteria::ALL
    };
    five.expect(later, Some("s-5")).await;
    five.expect(
        SnapshotCriteria {
            max_sequence_nr: SequenceNr::new(13),
            ..later
        },
        None,
    )
    .await;
}

/// S7: one is deleted by its number.
pub async fn s07_delete_one(storage: &Storage) {
    let five = Five::new(storage).await;
    five.delete(exactly(13)).await;
    five.expect(up_to(13), Some("s-2")).await;
    five.expect(SnapshotCriteria::ALL, Some("s-5")).await;
}

/// S8: all that match are deleted.
pub async fn s08_delete_matching(storage: &Storage) {
    let five = Five::new(storage).await;
    five.delete(up_to_both(five.at(3))).await;
    five.expect(up_to_both(five.at(3)), None).await;
    five.expect(up_to_both(five.at(4)), Some("s-4")).await;
}

/// S9: one that is too young by a little stays.
pub async fn s09_delete_with_a_time_too_low(storage: &Storage) {
    let five = Five::new(storage).await;
    let (nr, time) = five.at(4);
    five.delete(up_to_both((nr, time - Duration::from_micros(1))))
        .await;
    five.expect(up_to_both((nr, time)), Some("s-4")).await;
    five.expect(up_to(13), None).await;
}

/// S10: a snapshot with the same number replaces the earlier one.
pub async fn s10_same_number_overwrites(storage: &Storage) {
    let five = Five::new(storage).await;
    five.save(15, "s-5-modified").await;
    five.expect(SnapshotCriteria::ALL, Some("s-5-modified"))
        .await;
    assert_eq!(
        five.load(SnapshotCriteria::ALL)
            .await
            .unwrap()
            .sequence_nr
            .get(),
        15
    );
}

/// S11: a big snapshot, far beyond a database page.
pub async fn s11_big_snapshot(storage: &Storage) {
    let five = Five::new(storage).await;
    let big = "0123456789".repeat(100_000);
    five.save(16, &big).await;
    five.expect(SnapshotCriteria::ALL, Some(&big)).await;
}

/// S12: bytes, codec and manifest come back as they were.
pub async fn s12_payload_comes_back(storage: &Storage) {
    let five = Five::new(storage).await;
    let odd = Payload {
        codec: CodecId(-7),
        manifest: "a 'manifest' with \"quotes\" and ☂".into(),
        bytes: (0..=255).collect::<Vec<u8>>().into(),
    };
    let save = storage
        .snapshots
        .save(five.right, &five.id, SequenceNr::new(16), &odd);
    save.await.unwrap();
    assert_eq!(five.load(SnapshotCriteria::ALL).await.unwrap().payload, odd);
}

/// S14: one is deleted by its number with the earliest possible lower time.
pub async fn s14_delete_by_number_from_the_first_time(storage: &Storage) {
    let five = Five::new(storage).await;
    let criteria = SnapshotCriteria {
        min_created_at: Some(SystemTime::UNIX_EPOCH),
        ..exactly(13)
    };
    five.delete(criteria).await;
    five.expect(up_to(13), Some("s-2")).await;
}

/// S15: a time earlier than that of the snapshot deletes nothing.
pub async fn s15_delete_with_an_earlier_time(storage: &Storage) {
    let five = Five::new(storage).await;
    let criteria = SnapshotCriteria {
        max_created_at: Some(five.at(3).1 - Duration::from_micros(1)),
        ..exactly(13)
    };
    five.delete(criteria).await;
    five.expect(up_to(13), Some("s-3")).await;
}

/// S16: of many saves in quick succession the last wins.
pub async fn s16_saves_in_quick_succession(storage: &Storage) {
    let five = Five::new(storage).await;
    for round in 0..20 {
        for save in 0..4 {
            five.save(20, &format!("{round}-{save}")).await;
        }
        five.expect(SnapshotCriteria::ALL, Some(&format!("{round}-3")))
            .await;
    }
}

/// A fenced session neither saves nor deletes (I-2).
pub async fn sx1_fenced_writes_are_refused(storage: &Storage) {
    let five = Five::new(storage).await;
    let fence = storage
        .registry
        .fence(five.right.session, Some((ShardNr(7), Epoch(3))));
    fence.await.unwrap();
    let save = storage
        .snapshots
        .save(five.right, &five.id, SequenceNr::new(16), &text("late"))
        .await;
    assert!(matches!(save, Err(JournalError::Fenced { .. })), "{save:?}");
    let delete = storage
        .snapshots
        .delete(five.right, &five.id, SnapshotCriteria::ALL)
        .await;
    assert!(
        matches!(delete, Err(JournalError::Fenced { .. })),
        "{delete:?}"
    );
    five.expect(SnapshotCriteria::ALL, Some("s-5")).await;
}
