//! What a response on the stream means for its line.

use tonic::Code;
use tonic_types::RpcStatusExt;

use super::window::Said;
use crate::cli::failure::Failure;
use crate::proto::v1::SendResponse;

/// Reads a response.
pub(super) fn said(response: &SendResponse) -> Said {
    let Some(status) = &response.status else {
        return Said::Done {
            duplicate: response.duplicate,
        };
    };
    let details = status.get_error_details();
    let after = details.retry_info().and_then(|info| info.retry_delay);
    let code = Code::from(status.code);
    let failure = Failure::of_message(status);
    let why = failure.summary();
    if failure.is_rejection() {
        return Said::Rejected(why);
    }
    match code {
        // A writer conflict says "retry" too: the entity has restarted by then.
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => {
            Said::TryAgain { why, after }
        }
        _ => Said::Failed(why),
    }
}

/// Whether a stream that ended so is worth opening again.
pub(super) fn reconnecting_helps(code: Code) -> bool {
    // These say what is wrong with what we do; all others, that a connection or
    // a node has gone.
    !matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use perennial_persistence::command_error::{Applied, CommandError};

    use super::*;
    use crate::grpc::status::{message_of, status_of};

    fn said_of(error: CommandError) -> Said {
        said(&SendResponse {
            status: Some(message_of(&status_of(error))),
            ..SendResponse::default()
        })
    }

    #[test]
    fn each_answer_has_its_meaning() {
        let duplicate = SendResponse {
            duplicate: true,
            ..SendResponse::default()
        };
        assert_eq!(said(&duplicate), Said::Done { duplicate: true });
        let rejected = said_of(CommandError::Rejected {
            reason: "NOT_OPEN".into(),
            message: "open it first".into(),
        });
        assert!(matches!(rejected, Said::Rejected(why) if why == "NOT_OPEN: open it first"));
        let retry_after = Duration::from_secs(3);
        let backing_off = said_of(CommandError::BackingOff {
            message: String::new(),
            retry_after,
        });
        assert!(
            matches!(backing_off, Said::TryAgain { after: Some(after), .. } if after == retry_after)
        );
        for error in [
            CommandError::Overloaded { limit: 1 },
            CommandError::ShardUnavailable { shard: 1 },
            // Undecided: sent again with the same command id, it is decided.
            CommandError::PersistFailed {
                message: String::new(),
            },
            CommandError::OwnerLost,
        ] {
            assert!(matches!(said_of(error), Said::TryAgain { .. }));
        }
        for error in [
            CommandError::EntityTypeUnknown {
                entity_type: "x".into(),
            },
            CommandError::Panicked {
                message: String::new(),
                applied: Applied::No,
            },
        ] {
            assert!(matches!(said_of(error), Said::Failed(_)));
        }
    }

    #[test]
    fn a_stream_is_opened_again_unless_the_node_refuses_us() {
        assert!(reconnecting_helps(Code::Unavailable));
        assert!(reconnecting_helps(Code::Unknown));
        assert!(!reconnecting_helps(Code::Unimplemented));
    }
}
