//! What every [`EntityDeletion`](super::EntityDeletion) must do, case by case, like
//! [`journal::conformance`](crate::journal::conformance).

#![allow(clippy::unwrap_used)]

use crate::entity_deletion::Tombstone;
use crate::global_order::Position;
use crate::journal::conformance::{
    Stream, assert_stored, command_id, commanded, new_session, payload, write,
};
use crate::journal::{AppendError, JournalError, StoredCommand, StreamBounds, WriteRight};
use crate::recovery_reader::{BeginningLimits, Wanted};
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::SnapshotCriteria;
use crate::storage::Storage;
use crate::writer::Epoch;

/// Makes a `#[test]` of every case; see
/// [`journal_conformance_tests`](crate::journal_conformance_tests).
#[macro_export]
macro_rules! entity_deletion_conformance_tests {
    ($run:path) => {
        $crate::entity_deletion_conformance_tests! { @each $run:
            d01_everything_goes_but_the_number, d02_numbers_go_on,
            d03_deleting_again_changes_nothing, d04_each_life_has_its_tombstone,
            d05_unknown_entity_leaves_nothing, d06_fenced_deletion_is_refused,
            d07_neighbours_stay, d08_recoveries_begin_anew, d09_command_ids_are_new_again,
            d10_undecided_numbers_count_as_used, d11_global_order_leaves_them_out,
            d12_long_stream, d13_after_deleted_events, d14_snapshot_ahead_of_its_events,
        }
    };
    (@each $run:path: $($case:ident),+ $(,)?) => {
        $(#[test] fn $case() { $run($crate::entity_deletion::conformance::$case); })+
    };
}

fn nr(nr: u64) -> SequenceNr {
    SequenceNr::new(nr)
}

async fn delete(stream: &Stream<'_>) -> Option<Tombstone> {
    try_delete(stream, stream.right, 0).await.unwrap()
}

async fn try_delete(
    stream: &Stream<'_>,
    right: WriteRight,
    may_have_stored_to: u64,
) -> Result<Option<Tombstone>, JournalError> {
    let deletion = &stream.storage.deletion;
    deletion
        .delete_entity(right, &stream.id, nr(may_have_stored_to))
        .await
}

async fn bounds(stream: &Stream<'_>) -> StreamBounds {
    stream.storage.journal.bounds(&stream.id).await.unwrap()
}

/// The bounds of a stream whose entity was deleted at this number.
fn deleted_at(number: u64) -> StreamBounds {
    StreamBounds {
        highest: nr(number),
        deleted_to: nr(number),
        tombstone: nr(number),
    }
}

async fn save_snapshot(stream: &Stream<'_>, number: u64) {
    let (snapshots, state) = (&stream.storage.snapshots, payload("state"));
    let saved = snapshots.save(stream.right, &stream.id, nr(number), &state);
    saved.await.unwrap();
}

async fn has_snapshot(stream: &Stream<'_>) -> bool {
    let snapshots = &stream.storage.snapshots;
    let found = snapshots.load(&stream.id, SnapshotCriteria::ALL).await;
    found.unwrap().is_some()
}

async fn find(stream: &Stream<'_>, id: &str) -> Option<StoredCommand> {
    let ids = [command_id(id)];
    let found = stream.storage.journal.find_commands(&stream.id, &ids).await;
    found.unwrap().remove(0)
}

async fn is_listed(stream: &Stream<'_>) -> bool {
    let listed = stream
        .storage
        .journal
        .list_entities(stream.id.entity_type(), None, usize::MAX)
        .await
        .unwrap();
    listed.iter().any(|line| line.persistence_id == stream.id)
}

/// Five events, of which the fifth comes from the command "pay", and two snapshots.
async fn an_entity(storage: &Storage) -> Stream<'_> {
    let stream = Stream::empty(storage).await;
    let writes = vec![
        write(&["a-1", "a-2"]),
        write(&["a-3", "a-4"]),
        commanded(&["a-5"], "pay", "paid"),
    ];
    assert_stored(&stream.append(1, writes).await);
    save_snapshot(&stream, 2).await;
    save_snapshot(&stream, 5).await;
    stream
}

/// Events, snapshots, command ids and replies are gone; the highest number and a
/// tombstone stay. The entity is not listed any more.
pub async fn d01_everything_goes_but_the_number(storage: &Storage) {
    let stream = an_entity(storage).await;
    assert!(is_listed(&stream).await);
    assert!(find(&stream, "pay").await.is_some());
    assert_eq!(bounds(&stream).await.tombstone, nr(0));
    let tombstone = delete(&stream).await.unwrap();
    assert_eq!(tombstone.sequence_nr, nr(5));
    assert_eq!(bounds(&stream).await, deleted_at(5));
    assert!(stream.texts().await.is_empty());
    assert!(!has_snapshot(&stream).await);
    assert_eq!(find(&stream, "pay").await, None);
    assert!(!is_listed(&stream).await);
}

/// A number is never used twice: the next life goes on after the last one.
pub async fn d02_numbers_go_on(storage: &Storage) {
    let stream = an_entity(storage).await;
    delete(&stream).await;
    for taken in [1, 5, 7] {
        let refused = stream.append(taken, vec![write(&["b"])]).await;
        let conflict = matches!(refused.failure, Some(AppendError::Conflict { .. }));
        assert!(conflict, "{taken}: {refused:?}");
    }
    let next = stream.next_incarnation();
    assert_stored(&next.append(6, vec![write(&["a-6", "a-7"])]).await);
    next.expect((1, u64::MAX, usize::MAX), &[6, 7], 7).await;
    assert!(is_listed(&stream).await);
    let expected = StreamBounds {
        highest: nr(7),
        ..deleted_at(5)
    };
    assert_eq!(bounds(&stream).await, expected);
}

/// Asking again is the same as asking once, and the tombstone's time stays.
pub async fn d03_deleting_again_changes_nothing(storage: &Storage) {
    let stream = an_entity(storage).await;
    let first = delete(&stream).await;
    assert!(first.is_some());
    assert_eq!(delete(&stream).await, first);
    assert_eq!(delete(&stream).await, first);
    assert_eq!(bounds(&stream).await, deleted_at(5));
}

/// What was stored after a deletion is deleted by the next.
pub async fn d04_each_life_has_its_tombstone(storage: &Storage) {
    let stream = an_entity(storage).await;
    let first = delete(&stream).await.unwrap();
    assert_stored(&stream.append(6, vec![write(&["a-6"])]).await);
    save_snapshot(&stream, 6).await;
    let second = delete(&stream).await.unwrap();
    assert_eq!(second.sequence_nr, nr(6));
    assert!(second.deleted_at > first.deleted_at);
    assert_eq!(bounds(&stream).await, deleted_at(6));
    assert!(!has_snapshot(&stream).await && stream.texts().await.is_empty());
}

/// Nothing is kept of an entity that never stored anything.
pub async fn d05_unknown_entity_leaves_nothing(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    assert_eq!(delete(&stream).await, None);
    assert_eq!(bounds(&stream).await, StreamBounds::default());
    assert_stored(&stream.append(1, vec![write(&["a-1"])]).await);
}

/// A fenced writer deletes nothing (I-2).
pub async fn d06_fenced_deletion_is_refused(storage: &Storage) {
    let stream = an_entity(storage).await;
    let WriteRight { session, shard, .. } = stream.right;
    let fence = storage.registry.fence(session, Some((shard, Epoch(2))));
    fence.await.unwrap();
    let old_epoch = WriteRight {
        epoch: Epoch(2),
        ..stream.right
    };
    let stranger = WriteRight {
        session: crate::writer::SessionUuid(uuid::Uuid::new_v4()),
        ..stream.right
    };
    let fenced_session = WriteRight {
        session: new_session(storage).await,
        ..stream.right
    };
    let fence = storage.registry.fence(fenced_session.session, None);
    fence.await.unwrap();
    for right in [old_epoch, stranger, fenced_session] {
        let refused = try_delete(&stream, right, 0).await;
        assert!(
            matches!(refused, Err(JournalError::Fenced { .. })),
            "{refused:?}"
        );
    }
    stream.expect((1, 9, 9), &[1, 2, 3, 4, 5], 5).await;
    assert!(has_snapshot(&stream).await && find(&stream, "pay").await.is_some());
    assert_eq!(bounds(&stream).await.tombstone, nr(0));
    // Its own right still holds.
    assert!(delete(&stream).await.is_some());
}

/// Other entities keep everything, also those with like ids.
pub async fn d07_neighbours_stay(storage: &Storage) {
    let stream = an_entity(storage).await;
    let mut neighbours = Vec::new();
    for suffix in ["%", "_", "a", " "] {
        let mut neighbour = Stream::of(storage, stream.right.session);
        let id = format!("{}{suffix}", stream.id.entity_id());
        neighbour.id =
            crate::persistence_id::PersistenceId::new(stream.id.entity_type(), &id).unwrap();
        let writes = vec![commanded(&["a-1"], "pay", "paid")];
        assert_stored(&neighbour.append(1, writes).await);
        save_snapshot(&neighbour, 1).await;
        neighbours.push(neighbour);
    }
    delete(&stream).await;
    for neighbour in neighbours {
        neighbour.expect((1, 9, 9), &[1], 1).await;
        assert!(has_snapshot(&neighbour).await && find(&neighbour, "pay").await.is_some());
    }
}

/// A recovery finds no snapshot and no events, and the bounds of the next life.
pub async fn d08_recoveries_begin_anew(storage: &Storage) {
    let stream = an_entity(storage).await;
    delete(&stream).await;
    let limits = BeginningLimits {
        events_each: 10,
        bytes: 1 << 20,
    };
    let read = async || {
        let wanted = [Wanted::latest(stream.id.clone())];
        let mut read = storage.recoveries.read_beginnings(&wanted, limits).await;
        read.remove(0).unwrap().unwrap()
    };
    let beginning = read().await;
    assert_eq!(beginning.bounds, deleted_at(5));
    assert!(beginning.snapshot.is_none() && beginning.events.is_empty());
    // A snapshot of the former life that came late, or was left: it does not count.
    save_snapshot(&stream, 4).await;
    assert_stored(&stream.append(6, vec![write(&["a-6"])]).await);
    let mut beginning = read().await;
    beginning.forget_former_life();
    assert!(beginning.snapshot.is_none());
    assert_eq!(beginning.bounds.highest, nr(6));
    let numbers: Vec<u64> = beginning
        .events
        .iter()
        .map(|e| e.sequence_nr.get())
        .collect();
    assert_eq!(numbers, [6]);
    // And the next deletion takes it along.
    delete(&stream).await;
    assert!(!has_snapshot(&stream).await);
}

/// The id of a command from before is a new one.
pub async fn d09_command_ids_are_new_again(storage: &Storage) {
    let stream = an_entity(storage).await;
    stream.delete(5).await;
    assert!(find(&stream, "pay").await.is_some());
    delete(&stream).await;
    assert_eq!(find(&stream, "pay").await, None);
    let again = vec![commanded(&["a-6"], "pay", "paid again")];
    assert_stored(&stream.append(6, again).await);
    let found = find(&stream, "pay").await.unwrap();
    assert_eq!(
        (found.sequence_nr, found.reply),
        (nr(6), payload("paid again"))
    );
}

/// An append of unknown outcome that takes effect after the deletion is stale.
pub async fn d10_undecided_numbers_count_as_used(storage: &Storage) {
    let stream = an_entity(storage).await;
    let tombstone = try_delete(&stream, stream.right, 7).await.unwrap();
    assert_eq!(tombstone.unwrap().sequence_nr, nr(7));
    assert_eq!(bounds(&stream).await, deleted_at(7));
    let late = stream.append(6, vec![write(&["a-6", "a-7"])]).await;
    assert!(
        matches!(late.failure, Some(AppendError::Conflict { .. })),
        "{late:?}"
    );
    assert_stored(&stream.append(8, vec![write(&["a-8"])]).await);
    // What nobody stored may still turn up.
    let unwritten = Stream::empty(storage).await;
    let tombstone = try_delete(&unwritten, unwritten.right, 2).await.unwrap();
    assert_eq!(tombstone.unwrap().sequence_nr, nr(2));
}

/// The order of all events has none of them.
pub async fn d11_global_order_leaves_them_out(storage: &Storage) {
    let stream = an_entity(storage).await;
    delete(&stream).await;
    let mut position = Position::START;
    loop {
        let page = storage.order.events_after(position, 100, usize::MAX).await;
        let page = page.unwrap();
        let Some(last) = page.last() else { return };
        position = last.position;
        assert!(
            page.iter()
                .all(|ordered| ordered.event.persistence_id != stream.id)
        );
    }
}

/// However long the stream.
pub async fn d12_long_stream(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    for chunk in 0..5_u64 {
        let command = |nr: u64| commanded(&["x"], &format!("command-{nr}"), "done");
        let writes = (chunk * 500..chunk * 500 + 500).map(command).collect();
        assert_stored(&stream.append(chunk * 500 + 1, writes).await);
    }
    for number in 0..120 {
        save_snapshot(&stream, 2300 + number).await;
    }
    stream.delete(1200).await;
    delete(&stream).await;
    assert_eq!(bounds(&stream).await, deleted_at(2500));
    assert!(stream.texts().await.is_empty() && !has_snapshot(&stream).await);
    for id in ["command-0", "command-1199", "command-2499"] {
        assert_eq!(find(&stream, id).await, None);
    }
}

/// Of an entity whose events were deleted, snapshots kept or not.
pub async fn d13_after_deleted_events(storage: &Storage) {
    let stream = an_entity(storage).await;
    stream.delete(3).await;
    delete(&stream).await;
    assert_eq!(bounds(&stream).await, deleted_at(5));
    let stream = an_entity(storage).await;
    stream.delete(u64::MAX).await;
    assert!(is_listed(&stream).await, "its snapshot is there");
    delete(&stream).await;
    assert!(!is_listed(&stream).await);
    assert_eq!(bounds(&stream).await, deleted_at(5));
}

/// A snapshot ahead of its events, as a damaged journal has one, goes too, and its
/// number counts.
pub async fn d14_snapshot_ahead_of_its_events(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    save_snapshot(&stream, 4711).await;
    delete(&stream).await;
    assert!(!has_snapshot(&stream).await);
    assert_eq!(bounds(&stream).await, deleted_at(4711));
    assert_stored(&stream.append(4712, vec![write(&["a-4712"])]).await);
}
