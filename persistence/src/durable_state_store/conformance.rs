//! What every store of durable states must do, case by case (3.5 of the cases); see
//! `journal/conformance.rs` for how the kits are used.
//!
//! Left out: the deprecated deletion without a revision. Where the originals have the
//! revision check as an option, it is a must here.

#![allow(clippy::unwrap_used)]

use uuid::Uuid;

use crate::durable_state_store::{StateWrite, StateWriteError, StoredState};
use crate::journal::WriteRight;
use crate::journal::conformance::new_session;
use crate::payload::{CodecId, Payload};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;
use crate::writer::{Epoch, ShardNr};

/// Makes a `#[test]` of every case; see [`crate::journal_conformance_tests`].
#[macro_export]
macro_rules! durable_state_store_conformance_tests {
    ($run:path) => {
        $crate::durable_state_store_conformance_tests! { @each $run:
            ds1_never_written, ds2_first_revision, ds3_next_revision, ds4_deleted,
            ds5_entities_are_independent, ds6_written_again_after_deletion,
            ds7_deletion_with_a_wrong_revision, ds8_stale_revision, ds9_payloads_come_back,
            dsx1_several_changes_at_once, dsx2_fenced_writes_are_refused,
            dsx3_of_two_writers_one_wins, dsx4_listing, dsx5_big_state,
        }
    };
    (@each $run:path: $($case:ident),+ $(,)?) => {
        $(#[test] fn $case() { $run($crate::durable_state_store::conformance::$case); })+
    };
}

/// An entity of a case's own, with the right to write its state.
struct Entity<'a> {
    storage: &'a Storage,
    id: PersistenceId,
    right: WriteRight,
}

impl<'a> Entity<'a> {
    async fn new(storage: &'a Storage) -> Self {
        let right = WriteRight {
            session: new_session(storage).await,
            shard: ShardNr(7),
            epoch: Epoch(3),
        };
        let id = PersistenceId::new("conformance", &Uuid::new_v4().to_string()).unwrap();
        Self { storage, id, right }
    }

    async fn write(
        &self,
        (replaces, revision): (u64, u64),
        payload: Option<Payload>,
    ) -> Result<(), StateWriteError> {
        let write = StateWrite {
            persistence_id: self.id.clone(),
            replaces: SequenceNr::new(replaces),
            revision: SequenceNr::new(revision),
            payload,
        };
        self.storage.states.write(self.right, &write).await
    }

    /// Writes the next revision.
    async fn set(&self, revision: u64, state: &str) {
        let written = self.write((revision - 1, revision), Some(text(state)));
        written.await.unwrap();
    }

    async fn load(&self) -> Option<StoredState> {
        self.storage.states.load(&self.id).await.unwrap()
    }

    async fn expect(&self, revision: u64, state: Option<&str>) {
        let stored = self.load().await.unwrap();
        assert_eq!(stored.revision.get(), revision);
        assert_eq!(stored.payload, state.map(text));
    }

    fn conflict(&self, replaces: u64, stored: u64) -> Result<(), StateWriteError> {
        Err(StateWriteError::Conflict {
            persistence_id: self.id.clone(),
            replaces: SequenceNr::new(replaces),
            stored: SequenceNr::new(stored),
        })
    }
}

fn text(text: &str) -> Payload {
    Payload::json(text.as_bytes().to_vec())
}

/// 3.5 case 1: a state that was never written.
pub async fn ds1_never_written(storage: &Storage) {
    assert_eq!(Entity::new(storage).await.load().await, None);
}

/// 3.5 case 2: the first revision.
pub async fn ds2_first_revision(storage: &Storage) {
    let entity = Entity::new(storage).await;
    entity.set(1, "a").await;
    entity.expect(1, Some("a")).await;
}

/// 3.5 case 3: the next one replaces it.
pub async fn ds3_next_revision(storage: &Storage) {
    let entity = Entity::new(storage).await;
    entity.set(1, "a").await;
    let first = entity.load().await.unwrap();
    entity.set(2, "b").await;
    entity.expect(2, Some("b")).await;
    assert!(entity.load().await.unwrap().updated_at >= first.updated_at);
}

/// 3.5 case 4: a deleted state is empty and keeps its revision.
pub async fn ds4_deleted(storage: &Storage) {
    let entity = Entity::new(storage).await;
    entity.set(1, "a").await;
    entity.write((1, 2), None).await.unwrap();
    entity.expect(2, None).await;
}

/// 3.5 case 5: one is deleted, the other stays.
pub async fn ds5_entities_are_independent(storage: &Storage) {
    let (one, other) = (Entity::new(storage).await, Entity::new(storage).await);
    one.set(1, "one").await;
    other.set(1, "other").await;
    one.write((1, 2), None).await.unwrap();
    one.expect(2, None).await;
    other.expect(1, Some("other")).await;
}

/// 3.5 case 6: a deleted state is written again, with the revision that follows.
pub async fn ds6_written_again_after_deletion(storage: &Storage) {
    let entity = Entity::new(storage).await;
    entity.set(1, "a").await;
    entity.write((1, 2), None).await.unwrap();
    let as_new = entity.write((0, 1), Some(text("b"))).await;
    assert_eq!(as_new, entity.conflict(0, 2));
    entity.set(3, "b").await;
    entity.expect(3, Some("b")).await;
}

/// 3.5, optional there: a deletion with a wrong revision leaves the state.
pub async fn ds7_deletion_with_a_wrong_revision(storage: &Storage) {
    let entity = Entity::new(storage).await;
    entity.set(1, "a").await;
    let deleted = entity.write((2, 3), None).await;
    assert_eq!(deleted, entity.conflict(2, 1));
    entity.expect(1, Some("a")).await;
}

/// 3.5, optional there: a stale write leaves the state, one from the future too.
pub async fn ds8_stale_revision(storage: &Storage) {
    let entity = Entity::new(storage).await;
    let early = entity.write((1, 2), Some(text("early"))).await;
    assert_eq!(early, entity.conflict(1, 0));
    assert_eq!(entity.load().await, None);
    entity.set(1, "a").await;
    entity.set(2, "b").await;
    for (replaces, payload) in [(0, "a"), (1, "b"), (1, "c"), (3, "d")] {
        let stale = entity.write((replaces, replaces + 1), Some(text(payload)));
        assert_eq!(stale.await, entity.conflict(replaces, 2));
    }
    entity.expect(2, Some("b")).await;
}

/// 3.5, the serializer's round trip: bytes, codec and manifest come back as they were.
pub async fn ds9_payloads_come_back(storage: &Storage) {
    let entity = Entity::new(storage).await;
    let odd = Payload {
        codec: CodecId(-7),
        manifest: "a 'manifest' with \"quotes\" and ☂".into(),
        bytes: (0..=255).collect::<Vec<u8>>().into(),
    };
    entity.write((0, 1), Some(odd.clone())).await.unwrap();
    assert_eq!(entity.load().await.unwrap().payload, Some(odd));
    let empty = Payload::json("");
    entity.write((1, 2), Some(empty.clone())).await.unwrap();
    assert_eq!(entity.load().await.unwrap().payload, Some(empty));
}

/// Changes that were never stored by themselves count.
pub async fn dsx1_several_changes_at_once(storage: &Storage) {
    let entity = Entity::new(storage).await;
    entity.write((0, 5), Some(text("a"))).await.unwrap();
    entity.write((5, 7), Some(text("b"))).await.unwrap();
    entity.expect(7, Some("b")).await;
}

/// A fenced session writes nothing (I-2); nor does one that is not known.
pub async fn dsx2_fenced_writes_are_refused(storage: &Storage) {
    let mut entity = Entity::new(storage).await;
    entity.set(1, "a").await;
    let fence = storage
        .registry
        .fence(entity.right.session, Some((ShardNr(7), Epoch(3))));
    fence.await.unwrap();
    for payload in [Some(text("late")), None] {
        let written = entity.write((1, 2), payload).await;
        assert_eq!(written, Err(StateWriteError::fenced(entity.right)));
    }
    entity.expect(1, Some("a")).await;
    entity.right.epoch = Epoch(4);
    entity.set(2, "b").await;
    entity.right.session = crate::writer::SessionUuid(Uuid::new_v4());
    let written = entity.write((2, 3), None).await;
    assert_eq!(written, Err(StateWriteError::fenced(entity.right)));
}

/// Of writes that replace the same revision one is stored, whatever their number.
pub async fn dsx3_of_two_writers_one_wins(storage: &Storage) {
    let entity = Entity::new(storage).await;
    for replaces in [0, 1] {
        let writers = (0..4).map(|writer| {
            let state = text(&format!("{replaces} {writer}"));
            entity.write((replaces, replaces + 1), Some(state))
        });
        let outcomes = futures::future::join_all(writers).await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(won, 1, "{outcomes:?}");
        assert_eq!(entity.load().await.unwrap().revision.get(), replaces + 1);
    }
}

/// A listing has the states of one type that are not deleted, in pages.
pub async fn dsx4_listing(storage: &Storage) {
    let mut entity = Entity::new(storage).await;
    let entity_type = format!("t-{}", Uuid::new_v4().simple());
    let id = |id: &str| PersistenceId::new(&entity_type, id).unwrap();
    for name in ["b", "a", "ab", "deleted"] {
        entity.id = id(name);
        entity.set(1, "x").await;
    }
    entity.write((1, 2), None).await.unwrap();
    entity.id = PersistenceId::new(&format!("{entity_type}-2"), "c").unwrap();
    entity.set(1, "x").await;
    let list = async |after, limit| {
        let listed = storage.states.list_entities(&entity_type, after, limit);
        let listed = listed.await.unwrap().into_iter();
        let ids: Vec<String> = listed
            .map(|listed| {
                format!(
                    "{}@{}",
                    listed.persistence_id.entity_id(),
                    listed.sequence_nr
                )
            })
            .collect();
        ids
    };
    assert_eq!(list(None, 10).await, ["a@1", "ab@1", "b@1"]);
    assert_eq!(list(None, 2).await, ["a@1", "ab@1"]);
    assert_eq!(list(Some("ab"), 2).await, ["b@1"]);
}

/// A big state, far beyond a database page.
pub async fn dsx5_big_state(storage: &Storage) {
    let entity = Entity::new(storage).await;
    let big = "0123456789".repeat(100_000);
    entity.set(1, &big).await;
    entity.expect(1, Some(&big)).await;
}
