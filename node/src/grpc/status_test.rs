//! The error table of the contract, row by row.

use perennial_persistence::command_error::StashLimit;
use perennial_persistence::writer::WriterUuid;
use uuid::Uuid;

use super::*;

const NO: &str = "no";
const UNKNOWN: &str = "unknown";

/// Status, reason, `applied`, and whether the client is told to wait.
type Row = (Code, &'static str, &'static str, bool);

fn row_of(status: &Status) -> (Code, String, String, bool) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.domain, "perennial");
    (
        status.code(),
        info.reason.clone(),
        info.metadata["applied"].clone(),
        details.retry_info().is_some(),
    )
}

fn command_errors() -> Vec<(CommandError, Row)> {
    let message = || "why".to_owned();
    let entity_type = || "counter".to_owned();
    let nr = SequenceNr::new;
    let retry_after = Duration::from_secs(3);
    let writer = WriterUuid(Uuid::nil());
    vec![
        (
            CommandError::Rejected {
                reason: "INSUFFICIENT_FUNDS".into(),
                message: message(),
            },
            (Code::FailedPrecondition, "INSUFFICIENT_FUNDS", NO, false),
        ),
        (
            CommandError::EntityTypeUnknown {
                entity_type: entity_type(),
            },
            (Code::NotFound, "ENTITY_TYPE_UNKNOWN", NO, false),
        ),
        (
            CommandError::PayloadInvalid {
                entity_type: entity_type(),
                message: message(),
            },
            (Code::InvalidArgument, "PAYLOAD_INVALID", NO, false),
        ),
        (
            CommandError::SequenceNrMismatch {
                expected: nr(1),
                actual: nr(2),
            },
            (Code::FailedPrecondition, "SEQUENCE_NR_MISMATCH", NO, false),
        ),
        (
            CommandError::SequenceNrBeyondStream {
                asked: nr(3),
                highest: nr(2),
            },
            (Code::InvalidArgument, "SEQUENCE_NR_INVALID", NO, false),
        ),
        (
            CommandError::HistoryDeleted { deleted_to: nr(2) },
            (Code::OutOfRange, "HISTORY_DELETED", NO, false),
        ),
        (
            CommandError::Unhandled {
                entity_type: entity_type(),
            },
            (Code::Unimplemented, "COMMAND_UNHANDLED", NO, false),
        ),
        (
            CommandError::PayloadTooLarge {
                what: "an event".into(),
                len: 2,
                limit: 1,
            },
            (Code::OutOfRange, "PAYLOAD_TOO_LARGE", NO, false),
        ),
        (
            CommandError::StashFull(StashLimit::Entity(1)),
            (Code::ResourceExhausted, "STASH_FULL", NO, true),
        ),
        (
            CommandError::StashFull(StashLimit::Node(1)),
            (Code::ResourceExhausted, "STASH_FULL", NO, true),
        ),
        (
            CommandError::Dropped(StashLimit::Entity(1)),
            (Code::ResourceExhausted, "OVERLOADED", NO, true),
        ),
        (
            CommandError::BufferFull {
                shard: 1,
                buffered: 2,
            },
            (Code::ResourceExhausted, "BUFFER_FULL", NO, true),
        ),
        (
            CommandError::Overloaded { limit: 1 },
            (Code::ResourceExhausted, "OVERLOADED", NO, true),
        ),
        (
            CommandError::PersistRejected { message: message() },
            (Code::FailedPrecondition, "PERSIST_REJECTED", NO, false),
        ),
        (
            CommandError::JournalUnavailable { message: message() },
            (Code::Unavailable, "JOURNAL_UNAVAILABLE", NO, true),
        ),
        (
            CommandError::PersistFailed { message: message() },
            (Code::Unavailable, "PERSIST_FAILED", UNKNOWN, true),
        ),
        (
            CommandError::DeletionUnfinished { message: message() },
            (Code::Unavailable, "PERSIST_FAILED", UNKNOWN, true),
        ),
        (
            CommandError::WriterConflict {
                sequence_nr: nr(1),
                ours: writer,
                theirs: writer,
            },
            (Code::Aborted, "WRITER_CONFLICT", NO, true),
        ),
        (
            CommandError::RecoveryFailed {
                message: message(),
                retry_after,
            },
            (Code::Unavailable, "RECOVERY_FAILED", NO, true),
        ),
        (
            CommandError::BackingOff {
                message: message(),
                retry_after,
            },
            (Code::Unavailable, "BACKING_OFF", NO, true),
        ),
        (
            CommandError::ShardUnavailable { shard: 1 },
            (Code::Unavailable, "SHARD_UNAVAILABLE", NO, true),
        ),
        (
            CommandError::OwnerLost,
            (Code::Unavailable, "OWNER_LOST", UNKNOWN, false),
        ),
        (
            CommandError::DeadlineExceeded {
                applied: Applied::No,
            },
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", NO, false),
        ),
        (
            CommandError::DeadlineExceeded {
                applied: Applied::Unknown,
            },
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", UNKNOWN, false),
        ),
        (
            CommandError::Panicked {
                message: message(),
                applied: Applied::No,
            },
            (Code::Internal, "ENTITY_PANICKED", NO, false),
        ),
        (
            CommandError::Panicked {
                message: message(),
                applied: Applied::Unknown,
            },
            (Code::Internal, "ENTITY_PANICKED", UNKNOWN, false),
        ),
    ]
}

/// `command_code_and_reason` matches without a wildcard, so a new variant is
/// noticed there; this keeps the list above as long as the enum.
const VARIANTS: usize = 23;

#[test]
fn every_command_error_has_its_row() {
    let rows = command_errors();
    let mut variants: Vec<_> = rows
        .iter()
        .map(|(error, _)| std::mem::discriminant(error))
        .collect();
    variants.dedup();
    assert_eq!(variants.len(), VARIANTS);
    for (error, (code, reason, applied, retry)) in rows {
        let text = error.to_string();
        let rejected = matches!(error, CommandError::Rejected { .. });
        assert!(rejected || REASONS.contains(&reason_of(&error)), "{error}");
        let status = status_of(error);
        assert_eq!(
            row_of(&status),
            (code, reason.to_owned(), applied.to_owned(), retry),
            "{text}"
        );
        assert_eq!(status.message(), text);
    }
}

#[test]
fn every_service_error_has_its_row() {
    let id = |id: &str| -> ServiceError {
        perennial_persistence::persistence_id::PersistenceId::new("counter", id)
            .unwrap_err()
            .into()
    };
    let nr = SequenceNr::new;
    let rows: Vec<(ServiceError, Row)> = vec![
        (
            id(""),
            (Code::InvalidArgument, "ENTITY_ID_INVALID", NO, false),
        ),
        (
            id("a|b"),
            (Code::InvalidArgument, "ENTITY_ID_INVALID", NO, false),
        ),
        (
            InvalidCommandId { len: 129 }.into(),
            (Code::InvalidArgument, "COMMAND_ID_INVALID", NO, false),
        ),
        (
            ServiceError::EventRange {
                from: nr(5),
                to: nr(9),
                highest: nr(2),
            },
            (Code::InvalidArgument, "SEQUENCE_NR_INVALID", NO, false),
        ),
        (
            ServiceError::PageToken,
            (Code::InvalidArgument, "PAGE_TOKEN_INVALID", NO, false),
        ),
        (
            ServiceError::NodeUnknown {
                node_id: "7".into(),
                known: "1".into(),
            },
            (Code::NotFound, "NODE_UNKNOWN", NO, false),
        ),
        (
            ServiceError::SingleNode,
            (Code::FailedPrecondition, "SINGLE_NODE", NO, false),
        ),
        (
            ProposeError::NoLeader {
                message: "why".into(),
            }
            .into(),
            (Code::Unavailable, "NO_LEADER", NO, true),
        ),
        (
            ProposeError::Unknown {
                message: "why".into(),
            }
            .into(),
            (Code::Unavailable, "NO_LEADER", UNKNOWN, true),
        ),
        (
            JournalError::Unavailable {
                message: "why".into(),
                source: None,
            }
            .into(),
            (Code::Unavailable, "JOURNAL_UNAVAILABLE", NO, true),
        ),
        (
            AuthError::Expired.into(),
            (Code::Unauthenticated, "UNAUTHENTICATED", NO, false),
        ),
        (
            Denied {
                name: "ada".into(),
                right: "send",
                entity_type: Some("cart".into()),
            }
            .into(),
            (Code::PermissionDenied, "PERMISSION_DENIED", NO, false),
        ),
        (
            ServiceError::NoRow {
                path: "/x.Y/Z".into(),
            },
            (Code::PermissionDenied, "PERMISSION_DENIED", NO, false),
        ),
        (
            ServiceError::Stopping,
            (Code::Unavailable, "SHARD_UNAVAILABLE", NO, true),
        ),
    ];
    for (error, (code, reason, applied, retry)) in rows {
        assert!(REASONS.contains(&error.reason()), "{error}");
        let text = error.to_string();
        assert_eq!(
            row_of(&error.into()),
            (code, reason.to_owned(), applied.to_owned(), retry),
            "{text}"
        );
    }
}

#[test]
fn values_that_disagree_are_readable_by_programs() {
    let status = status_of(CommandError::SequenceNrMismatch {
        expected: SequenceNr::new(1),
        actual: SequenceNr::new(2),
    });
    let details = status.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(
        (metadata["expected"].as_str(), metadata["actual"].as_str()),
        ("1", "2")
    );
}

/// A stream's responses carry what the trailers of a single call would.
#[test]
fn the_message_form_is_the_same() {
    use tonic_types::RpcStatusExt;
    let status = status_of(CommandError::StashFull(StashLimit::Entity(7)));
    let message = message_of(&status);
    assert_eq!(message.code, i32::from(status.code()));
    assert_eq!(message.message, status.message());
    let details = message.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "STASH_FULL");
    assert!(details.retry_info().is_some());
}

#[test]
fn long_texts_are_cut() {
    let status = status_of(CommandError::Panicked {
        message: "x".repeat(1 << 20),
        applied: Applied::No,
    });
    assert!(status.message().len() <= TEXT_LEN_MAX);
}
