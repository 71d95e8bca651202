//! J19, and what else concerns appends: predecessors, fences, neighbours.

use super::fixture::{Stream, assert_stored, new_session, write};
use crate::journal::{Append, AppendError, Appended, JournalError};
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// "No bound."
const OPEN: u64 = i64::MAX as u64;

fn assert_conflict(appended: &Appended, expected_highest: u64) {
    match appended {
        Appended {
            stored_writes: 0,
            failure: Some(AppendError::Conflict { highest, .. }),
        } => assert_eq!(highest.get(), expected_highest),
        other => panic!("should be a conflict: {other:?}"),
    }
}

fn assert_fenced(appended: &Appended) {
    let fenced = matches!(appended.failure, Some(AppendError::Fenced { .. }));
    assert!(
        fenced && appended.stored_writes == 0,
        "should be fenced: {appended:?}"
    );
}

/// J19: a write the journal refuses drops the later writes of its append and
/// leaves earlier writes and other appends alone. A NUL in a text is what some
/// databases refuse; one that takes it must give it back.
pub async fn j19_refused_write_leaves_its_neighbours(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    let neighbours: Vec<Stream<'_>> = (0..6)
        .map(|_| Stream::of(storage, stream.right.session))
        .collect();
    let mut poisoned = write(&["a-7"]);
    poisoned.events[0].payload.manifest = "with a \0 inside".into();
    let poison = stream.to_append(6, vec![write(&["a-6"]), poisoned.clone(), write(&["a-8"])]);
    let neighbour = |stream: &Stream<'_>| stream.to_append(1, vec![write(&["a-1", "a-2"])]);
    let mut batch: Vec<Append> = neighbours.iter().map(neighbour).collect();
    batch.insert(3, poison);
    let outcomes = storage
        .journal
        .append(stream.right.session, 0, &batch)
        .await;
    match &outcomes[3] {
        Appended {
            stored_writes: 1,
            failure: Some(AppendError::Rejected { .. }),
        } => {
            stream
                .expect((1, OPEN, usize::MAX), &[1, 2, 3, 4, 5, 6], 6)
                .await;
        }
        Appended {
            stored_writes: 3,
            failure: None,
        } => {
            let read = stream.read(7, 7, 1).await;
            assert_eq!(read[0].payload, poisoned.events[0].payload);
        }
        other => panic!("should be rejected or stored: {other:?}"),
    }
    for (neighbour, outcome) in neighbours
        .iter()
        .zip(outcomes.iter().take(3).chain(&outcomes[4..]))
    {
        assert_stored(outcome);
        neighbour.expect((1, OPEN, usize::MAX), &[1, 2], 2).await;
    }
}

/// A number that is taken is a conflict that names both authors; nothing of the
/// append is stored.
pub async fn x01_taken_number_is_a_conflict(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    let rival = stream.next_incarnation();
    let appended = rival
        .append(5, vec![write(&["b-5"]), write(&["b-6"])])
        .await;
    assert_conflict(&appended, 5);
    let Some(AppendError::Conflict {
        writer,
        first_sequence_nr,
        other,
        ..
    }) = appended.failure
    else {
        unreachable!("just asserted");
    };
    assert_eq!((writer, first_sequence_nr.get()), (rival.writer, 5));
    assert_eq!(other.unwrap().writer, stream.writer);
    stream
        .expect((1, OPEN, usize::MAX), &[1, 2, 3, 4, 5], 5)
        .await;
}

/// An append below the highest number is a conflict, also where events are deleted.
pub async fn x02_stale_append_is_a_conflict(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    assert_conflict(
        &stream
            .next_incarnation()
            .append(2, vec![write(&["b-2"])])
            .await,
        5,
    );
    stream.delete(3).await;
    for first in [1, 2, 3, 4] {
        assert_conflict(
            &stream
                .next_incarnation()
                .append(first, vec![write(&["b"])])
                .await,
            5,
        );
    }
    stream.expect((1, OPEN, usize::MAX), &[4, 5], 5).await;
}

/// An append that would leave a gap is a conflict without another author.
pub async fn x03_gap_is_a_conflict(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    let appended = stream.append(7, vec![write(&["a-7"])]).await;
    assert_conflict(&appended, 5);
    assert!(matches!(
        appended.failure,
        Some(AppendError::Conflict { other: None, .. })
    ));
    let new = Stream::of(storage, stream.right.session);
    assert_conflict(&new.append(2, vec![write(&["a-2"])]).await, 0);
    new.expect((0, OPEN, usize::MAX), &[], 0).await;
}

/// An atomic write that overlaps the end of the stream leaves nothing (I-7).
pub async fn x04_overlapping_atomic_write_leaves_nothing(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    let rival = stream.next_incarnation();
    assert_conflict(
        &rival.append(5, vec![write(&["b-5", "b-6", "b-7"])]).await,
        5,
    );
    stream
        .expect((1, OPEN, usize::MAX), &[1, 2, 3, 4, 5], 5)
        .await;
}

/// An append and a deletion of everything at the same time: the append is stored,
/// its number is not lost, and the next one follows it.
pub async fn x05_append_racing_a_cleanup(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    for nr in 6..26 {
        let text = format!("a-{nr}");
        let append = stream.append(nr, vec![write(&[&text])]);
        let (appended, ()) = futures::future::join(append, stream.delete(OPEN)).await;
        assert_stored(&appended);
        let bounds = storage.journal.bounds(&stream.id).await.unwrap();
        assert_eq!(bounds.highest.get(), nr);
        let left = stream.read(1, OPEN, 10).await;
        assert!(
            bounds.deleted_to.get() + left.len() as u64 == nr,
            "{bounds:?}, {} left",
            left.len()
        );
    }
}

/// A shard fenced up to an epoch refuses appends and deletions of that epoch and
/// below, and no others.
pub async fn x06_fenced_epoch_is_refused(storage: &Storage) {
    let mut stream = Stream::of_five(storage).await;
    let (session, shard) = (stream.right.session, stream.right.shard);
    let fence = async |epoch| {
        storage
            .registry
            .fence(session, Some((shard, Epoch(epoch))))
            .await
            .unwrap();
    };
    fence(2).await;
    assert_stored(&stream.append(6, vec![write(&["a-6"])]).await);
    fence(3).await;
    fence(1).await;
    assert_fenced(&stream.append(7, vec![write(&["a-7"])]).await);
    let deleted = storage
        .journal
        .delete_events(stream.right, &stream.id, SequenceNr::new(1))
        .await;
    assert!(
        matches!(deleted, Err(JournalError::Fenced { .. })),
        "{deleted:?}"
    );
    stream
        .expect((1, OPEN, usize::MAX), &[1, 2, 3, 4, 5, 6], 6)
        .await;

    stream.right.epoch = Epoch(4);
    assert_stored(&stream.append(7, vec![write(&["a-7"])]).await);
    let mut elsewhere = Stream::of(storage, session);
    elsewhere.right.shard = ShardNr(8);
    assert_stored(&elsewhere.append(1, vec![write(&["a-1"])]).await);
}

/// A fenced session writes nothing any more; another session goes on.
pub async fn x07_fenced_session_is_refused(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    storage
        .registry
        .fence(stream.right.session, None)
        .await
        .unwrap();
    assert_fenced(&stream.append(6, vec![write(&["b-6"])]).await);
    let deleted = storage
        .journal
        .delete_events(stream.right, &stream.id, SequenceNr::MAX)
        .await;
    assert!(
        matches!(deleted, Err(JournalError::Fenced { .. })),
        "{deleted:?}"
    );
    let mut successor = stream.next_incarnation();
    successor.right.session = new_session(storage).await;
    successor.right.epoch = Epoch(4);
    assert_stored(&successor.append(6, vec![write(&["a-6"])]).await);
    assert_eq!(
        stream.texts().await,
        ["a-1", "a-2", "a-3", "a-4", "a-5", "a-6"]
    );
}

/// What a session is told it may write is what it may write: shard by shard, until it
/// is fenced as a whole.
pub async fn x23_who_may_write(storage: &Storage) {
    let session = new_session(storage).await;
    let asked = [
        (ShardNr(1), Epoch(3)),
        (ShardNr(1), Epoch(4)),
        (ShardNr(2), Epoch(3)),
        (ShardNr(1), Epoch::LAST),
    ];
    let may_write = async || storage.journal.may_write(session, &asked).await.unwrap();
    assert_eq!(may_write().await, [true; 4]);
    let fenced = Some((ShardNr(1), Epoch(3)));
    storage.registry.fence(session, fenced).await.unwrap();
    assert_eq!(may_write().await, [false, true, true, true]);
    storage.registry.fence(session, None).await.unwrap();
    assert_eq!(may_write().await, [false; 4]);
    assert_eq!(
        storage.journal.may_write(session, &[]).await.unwrap(),
        [true; 0]
    );
    let nobody = SessionUuid(uuid::Uuid::new_v4());
    let answers = storage.journal.may_write(nobody, &asked).await.unwrap();
    assert_eq!(answers, [false; 4], "a session that is not known");
}

/// A session the registry never opened writes nothing.
pub async fn x08_unknown_session_is_refused(storage: &Storage) {
    let stream = Stream::of(storage, SessionUuid(uuid::Uuid::new_v4()));
    assert_fenced(&stream.append(1, vec![write(&["a-1"])]).await);
    storage
        .registry
        .fence(stream.right.session, None)
        .await
        .unwrap();
    stream.expect((1, OPEN, usize::MAX), &[], 0).await;
}

/// In one batch, conflicts, gaps and fenced shards fail alone.
pub async fn x09_neighbours_of_failing_appends_are_stored(storage: &Storage) {
    let taken = Stream::of_five(storage).await;
    let session = taken.right.session;
    let mut fenced = Stream::of(storage, session);
    fenced.right.shard = ShardNr(9);
    storage
        .registry
        .fence(session, Some((ShardNr(9), Epoch(3))))
        .await
        .unwrap();
    let gap = Stream::of(storage, session);
    let good: Vec<Stream<'_>> = (0..4).map(|_| Stream::of(storage, session)).collect();
    let one = || vec![write(&["a-1"])];
    let batch = [
        good[0].to_append(1, one()),
        taken.next_incarnation().to_append(3, one()),
        good[1].to_append(1, one()),
        fenced.to_append(1, one()),
        good[2].to_append(1, one()),
        gap.to_append(4, one()),
        good[3].to_append(1, one()),
    ];
    let outcomes = storage.journal.append(session, 0, &batch).await;
    assert_eq!(outcomes.len(), batch.len());
    assert_conflict(&outcomes[1], 5);
    assert_fenced(&outcomes[3]);
    assert_conflict(&outcomes[5], 0);
    for (stream, outcome) in good.iter().zip([0, 2, 4, 6]) {
        assert_stored(&outcomes[outcome]);
        stream.expect((1, OPEN, usize::MAX), &[1], 1).await;
    }
    fenced.expect((1, OPEN, usize::MAX), &[], 0).await;
}

/// After everything was deleted the stream goes on where it was, and only there.
pub async fn x14_append_after_cleanup(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    stream.delete(OPEN).await;
    assert_conflict(&stream.append(1, vec![write(&["a-1"])]).await, 5);
    assert_conflict(&stream.append(5, vec![write(&["a-5"])]).await, 5);
    assert_conflict(&stream.append(7, vec![write(&["a-7"])]).await, 5);
    assert_stored(&stream.append(6, vec![write(&["a-6"])]).await);
    stream.expect((1, OPEN, usize::MAX), &[6], 6).await;
    stream.delete(OPEN).await;
    stream.expect((1, OPEN, usize::MAX), &[], 6).await;
}

/// Hundreds of appends of several writes each, in one batch.
pub async fn x21_large_batch(storage: &Storage) {
    let session = new_session(storage).await;
    let streams: Vec<Stream<'_>> = (0..300).map(|_| Stream::of(storage, session)).collect();
    let writes = || vec![write(&["a-1"]), write(&["a-2", "a-3"])];
    let batch: Vec<Append> = streams
        .iter()
        .map(|stream| stream.to_append(1, writes()))
        .collect();
    let outcomes = storage.journal.append(session, 0, &batch).await;
    assert_eq!(outcomes.len(), streams.len());
    for (stream, outcome) in streams.iter().zip(&outcomes) {
        assert_stored(outcome);
        stream.expect((1, OPEN, usize::MAX), &[1, 2, 3], 3).await;
    }
}
