use prost::Message;
use uuid::Uuid;

use super::*;

/// The kinds there are, in an order. A kind that is added does not compile until
/// it stands here, and fails below until the list has one of it.
fn kind_nr(error: &CommandError) -> usize {
    match error {
        CommandError::Rejected { .. } => 0,
        CommandError::EntityTypeUnknown { .. } => 1,
        CommandError::PayloadInvalid { .. } => 2,
        CommandError::SequenceNrMismatch { .. } => 3,
        CommandError::SequenceNrBeyondStream { .. } => 4,
        CommandError::HistoryDeleted { .. } => 5,
        CommandError::Unhandled { .. } => 6,
        CommandError::PayloadTooLarge { .. } => 7,
        CommandError::StashFull { .. } => 8,
        CommandError::BufferFull { .. } => 9,
        CommandError::Overloaded { .. } => 10,
        CommandError::PersistRejected { .. } => 11,
        CommandError::JournalUnavailable { .. } => 12,
        CommandError::PersistFailed { .. } => 13,
        CommandError::WriterConflict { .. } => 14,
        CommandError::RecoveryFailed { .. } => 15,
        CommandError::BackingOff { .. } => 16,
        CommandError::ShardUnavailable { .. } => 17,
        CommandError::OwnerLost => 18,
        CommandError::DeadlineExceeded { .. } => 19,
        CommandError::Panicked { .. } => 20,
        CommandError::Dropped(_) => 21,
        CommandError::DeletionUnfinished { .. } => 22,
    }
}
const KINDS: usize = 23;

/// All values differ, so that one in the wrong place is found.
fn one_of_each() -> Vec<CommandError> {
    let text = |text: &str| text.to_owned();
    let nr = SequenceNr::new;
    vec![
        CommandError::Rejected {
            reason: text("NOT_OPEN"),
            message: text("open it first"),
        },
        CommandError::EntityTypeUnknown {
            entity_type: text("tea"),
        },
        CommandError::PayloadInvalid {
            entity_type: text("counter"),
            message: text("line 1"),
        },
        CommandError::SequenceNrMismatch {
            expected: nr(1),
            actual: nr(2),
        },
        CommandError::SequenceNrBeyondStream {
            asked: nr(4),
            highest: nr(3),
        },
        CommandError::HistoryDeleted { deleted_to: nr(5) },
        CommandError::Unhandled {
            entity_type: text("account"),
        },
        CommandError::PayloadTooLarge {
            what: "an event".into(),
            len: 7,
            limit: 6,
        },
        CommandError::StashFull(StashLimit::Entity(8)),
        CommandError::Dropped(StashLimit::Node(20)),
        CommandError::BufferFull {
            shard: 9,
            buffered: 10,
        },
        CommandError::Overloaded { limit: 11 },
        CommandError::PersistRejected { message: text("a") },
        CommandError::JournalUnavailable { message: text("b") },
        CommandError::PersistFailed { message: text("c") },
        CommandError::DeletionUnfinished { message: text("g") },
        CommandError::WriterConflict {
            sequence_nr: SequenceNr::MAX,
            ours: WriterUuid(Uuid::from_u128(1)),
            theirs: WriterUuid(Uuid::nil()),
        },
        CommandError::RecoveryFailed {
            message: text("d"),
            retry_after: Duration::from_millis(12),
        },
        CommandError::BackingOff {
            message: text("e"),
            retry_after: Duration::from_secs(13),
        },
        CommandError::ShardUnavailable { shard: 14 },
        CommandError::OwnerLost,
        CommandError::DeadlineExceeded {
            applied: Applied::No,
        },
        CommandError::DeadlineExceeded {
            applied: Applied::Unknown,
        },
        CommandError::Panicked {
            message: text("f"),
            applied: Applied::No,
        },
        CommandError::Panicked {
            message: text(""),
            applied: Applied::Unknown,
        },
    ]
}

/// Through bytes, as between two nodes.
fn crossed(error: CommandError) -> Result<CommandError, Malformed> {
    let bytes = to_wire(error).encode_to_vec();
    of_wire(wire::CommandError::decode(&*bytes).unwrap())
}

#[test]
fn i8_every_error_crosses_as_what_it_is() {
    let mut seen = [false; KINDS];
    for error in one_of_each() {
        seen[kind_nr(&error)] = true;
        assert_eq!(crossed(error.clone()), Ok(error));
    }
    assert_eq!(seen, [true; KINDS], "a kind is missing in the list");
}

#[test]
fn a_long_text_is_cut_and_stays_text() {
    let message = "é".repeat(TEXT_LEN_MAX);
    let Ok(CommandError::PersistFailed { message: cut }) = crossed(CommandError::PersistFailed {
        message: message.clone(),
    }) else {
        panic!("another error");
    };
    assert_eq!(cut.len(), TEXT_LEN_MAX);
    assert!(message.starts_with(&cut));
}

#[test]
fn what_is_not_known_is_refused() {
    let kinds = [
        None,
        Some(Kind::DeadlineExceeded(0)),
        Some(Kind::DeadlineExceeded(99)),
        Some(Kind::WriterConflict(WriterConflict {
            sequence_nr: 1,
            ours: vec![1; 15].into(),
            theirs: vec![1; 16].into(),
        })),
    ];
    for kind in kinds {
        let error = wire::CommandError { kind };
        assert!(of_wire(error.clone()).is_err(), "{error:?}");
    }
}
