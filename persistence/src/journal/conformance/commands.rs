//! Command ids: a command that stored events has its effect once (I-8).

use super::fixture::{Stream, assert_stored, command_id, commanded, payload, write};
use crate::journal::{AppendError, Appended, StoredCommand};
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;

fn assert_duplicate(appended: &Appended, stored_writes: usize, id: &str, expected: &StoredCommand) {
    match appended {
        Appended {
            stored_writes: actual,
            failure:
                Some(AppendError::DuplicateCommand {
                    command_id, stored, ..
                }),
        } => {
            assert_eq!((*actual, command_id.as_str()), (stored_writes, id));
            assert_eq!(stored, expected);
        }
        other => panic!("should be a duplicate: {other:?}"),
    }
}

fn stored(sequence_nr: u64, reply: &str) -> StoredCommand {
    StoredCommand {
        sequence_nr: SequenceNr::new(sequence_nr),
        reply: payload(reply),
    }
}

async fn found(stream: &Stream<'_>, ids: &[&str]) -> Vec<Option<StoredCommand>> {
    let ids: Vec<_> = ids.iter().map(|id| command_id(id)).collect();
    stream
        .storage
        .journal
        .find_commands(&stream.id, &ids)
        .await
        .unwrap()
}

/// A repeated command is not stored again; it gets the number of the last event of
/// its first run, and its reply.
pub async fn x15_repeated_command_gets_its_reply(storage: &Storage) {
    let stream = Stream::of_five(storage).await;
    let first = commanded(&["a-6", "a-7", "a-8"], "pay-1", "paid");
    assert_stored(&stream.append(6, vec![first]).await);
    assert_stored(&stream.append(9, vec![write(&["a-9"])]).await);
    let again = stream
        .next_incarnation()
        .append(10, vec![commanded(&["b"], "pay-1", "other")])
        .await;
    assert_duplicate(&again, 0, "pay-1", &stored(8, "paid"));
    assert_eq!(stream.texts().await.len(), 9);
    let expected = [None, Some(stored(8, "paid")), None];
    assert_eq!(found(&stream, &["pay-0", "pay-1", "PAY-1"]).await, expected);
    let read = stream.read(6, 7, 2).await;
    assert_eq!(read[0].command_id, Some(command_id("pay-1")));
    assert_eq!(read[1].command_id, None);
}

/// A repeated command takes the later writes of its append along; earlier ones are
/// stored, and so are other appends of the batch.
pub async fn x16_repeated_command_drops_later_writes(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    assert_stored(
        &stream
            .append(1, vec![commanded(&["a-1"], "one", "1")])
            .await,
    );
    let neighbour = Stream::of(storage, stream.right.session);
    let batch = [
        stream.to_append(
            2,
            vec![
                commanded(&["a-2"], "two", "2"),
                commanded(&["b"], "one", "again"),
                commanded(&["c"], "three", "3"),
            ],
        ),
        neighbour.to_append(1, vec![commanded(&["a-1"], "one", "neighbour")]),
    ];
    let outcomes = storage
        .journal
        .append(stream.right.session, 0, &batch)
        .await;
    assert_duplicate(&outcomes[0], 1, "one", &stored(1, "1"));
    assert_stored(&outcomes[1]);
    assert_eq!(stream.texts().await, ["a-1", "a-2"]);
    let expected = [Some(stored(2, "2")), None];
    assert_eq!(found(&stream, &["two", "three"]).await, expected);
}

/// The same command twice in one append: the second is the retry.
pub async fn x17_command_repeated_within_an_append(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    let writes = vec![
        commanded(&["a-1", "a-2"], "one", "first"),
        commanded(&["a-3"], "two", "2"),
        commanded(&["b"], "one", "second"),
        write(&["c"]),
    ];
    let appended = stream.append(1, writes).await;
    assert_duplicate(&appended, 2, "one", &stored(2, "first"));
    assert_eq!(stream.texts().await, ["a-1", "a-2", "a-3"]);
}

/// Command ids outlive the deletion of their events, even a deletion that ends
/// inside their atomic write.
pub async fn x18_commands_outlive_their_events(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    let writes = vec![
        commanded(&["a-1"], "one", "1"),
        commanded(&["a-2", "a-3", "a-4"], "two", "2"),
        commanded(&["a-5"], "three", "3"),
    ];
    assert_stored(&stream.append(1, writes).await);
    stream.delete(2).await;
    let expected = [
        Some(stored(1, "1")),
        Some(stored(4, "2")),
        Some(stored(5, "3")),
    ];
    assert_eq!(found(&stream, &["one", "two", "three"]).await, expected);
    stream.delete(u64::MAX).await;
    assert_eq!(found(&stream, &["one", "two", "three"]).await, expected);
    for (id, expected) in ["one", "two", "three"].iter().zip(expected) {
        let again = stream.append(6, vec![commanded(&["b"], id, "again")]).await;
        assert_duplicate(&again, 0, id, &expected.unwrap());
    }
    assert_stored(
        &stream
            .append(6, vec![commanded(&["a-6"], "four", "4")])
            .await,
    );
}

/// A stale append is a conflict even if its command is stored: its author must
/// recover, and not go on from an old state.
pub async fn x22_stale_append_of_a_stored_command(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    assert_stored(
        &stream
            .append(1, vec![commanded(&["a-1"], "one", "1")])
            .await,
    );
    let stale = stream
        .next_incarnation()
        .append(1, vec![commanded(&["b-1"], "one", "b")])
        .await;
    assert!(
        matches!(stale.failure, Some(AppendError::Conflict { .. })),
        "{stale:?}"
    );
    let gap = stream
        .append(3, vec![commanded(&["a-3"], "one", "b")])
        .await;
    assert!(
        matches!(gap.failure, Some(AppendError::Conflict { .. })),
        "{gap:?}"
    );
}

/// A command id belongs to one stream.
pub async fn x19_same_command_id_in_two_streams(storage: &Storage) {
    let stream = Stream::empty(storage).await;
    let other = Stream::of(storage, stream.right.session);
    assert_stored(
        &stream
            .append(1, vec![commanded(&["a-1"], "one", "1")])
            .await,
    );
    assert_eq!(found(&other, &["one"]).await, [None]);
    assert_stored(&other.append(1, vec![commanded(&["a-1"], "one", "2")]).await);
    assert_eq!(found(&other, &["one"]).await, [Some(stored(1, "2"))]);
}
