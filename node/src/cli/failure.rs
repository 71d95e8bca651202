//! How a command of the command line fails: what is printed, and with which code
//! the process exits.
//!
//! Codes: 0 done, 1 failed, 2 called or configured wrongly, 3 rejected by the
//! entity's own rules. The gRPC details read here are written in
//! `grpc/status.rs`.

use std::fmt::Display;
use std::process::ExitCode;

use prost::Message;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Output;
use super::connection::Refused;
use crate::config::SettingsError;
use crate::grpc::status::REASONS;
use crate::node::NodeError;
use crate::proto::unprocessed::was_not_processed;

/// Why the process exits with something else than 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    kind: Kind,
    error: ErrorFields,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    Usage,
    Rejected,
    /// Who read our output has closed it, and needs no message.
    OutputClosed,
}

/// What `--output json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ErrorFields {
    status: String,
    /// `null` for an error that did not come from a node.
    reason: Option<String>,
    message: String,
    applied: String,
}

impl Failure {
    fn new(kind: Kind, status: &str, message: impl Display) -> Self {
        Self {
            kind,
            error: ErrorFields {
                status: status.to_owned(),
                reason: None,
                // One line, whatever the message holds.
                message: message.to_string().replace(['\n', '\r'], " "),
                applied: "no".to_owned(),
            },
        }
    }

    /// Something here failed; nothing was sent.
    pub(super) fn local(message: impl Display) -> Self {
        Self::new(Kind::Failed, "FAILED", message)
    }

    /// The command line or the settings are wrong.
    pub(super) fn usage(message: impl Display) -> Self {
        Self::new(Kind::Usage, "USAGE", message)
    }

    /// No node answered.
    pub(super) fn unreachable(address: &str, error: impl std::error::Error) -> Self {
        let why = chain(&error);
        Self::new(
            Kind::Failed,
            "UNAVAILABLE",
            format!(
                "cannot reach a node at {address}: {why}; start one with `dev`, or say where it is with --address"
            ),
        )
    }

    /// A node refused, or failed.
    pub(super) fn of_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map(|info| info.reason.clone());
        let own_rules = reason.as_deref().is_some_and(|own| !REASONS.contains(&own));
        let kind = if status.code() == Code::FailedPrecondition && own_rules {
            Kind::Rejected
        } else {
            Kind::Failed
        };
        let cause = std::error::Error::source(status);
        // Without details it does not come from a node's services.
        let otherwise = if was_not_processed(status) || refused(cause) {
            "no"
        } else {
            "unknown"
        };
        let applied = info
            .and_then(|info| info.metadata.get("applied").cloned())
            .unwrap_or_else(|| otherwise.to_owned());
        let message = match info {
            Some(_) => status.message().to_owned(),
            // What went wrong stands in the causes, down to the TLS alert.
            None => with_causes(status.message().to_owned(), cause),
        };
        let mut failure = Self::new(kind, code_name(status.code()), message);
        failure.error.reason = reason;
        failure.error.applied = applied;
        failure
    }

    /// As [`Failure::of_status`], from a response of a stream.
    pub(super) fn of_message(message: &tonic_types::Status) -> Self {
        let details = message.encode_to_vec().into();
        Self::of_status(&Status::with_details(
            Code::from(message.code),
            message.message.clone(),
            details,
        ))
    }

    /// Reason and message, without the status.
    pub(super) fn summary(&self) -> String {
        let ErrorFields {
            reason, message, ..
        } = &self.error;
        match reason {
            Some(reason) => format!("{reason}: {message}"),
            None => message.clone(),
        }
    }

    /// As [`Failure::of_status`] for a call that changes nothing.
    pub(super) fn of_read(status: &Status) -> Self {
        let mut failure = Self::of_status(status);
        failure.error.applied = "no".to_owned();
        failure
    }

    /// Something has been asked for before that changes what is there: that this failed
    /// does not say that it did not happen.
    pub(super) fn after_a_change(mut self) -> Self {
        self.error.applied = "unknown".to_owned();
        self
    }

    /// Refused by the entity's own rules.
    pub(super) fn is_rejection(&self) -> bool {
        self.kind == Kind::Rejected
    }

    /// One line for a person.
    pub(super) fn line(&self) -> String {
        let ErrorFields {
            status,
            reason,
            message,
            applied,
        } = &self.error;
        match (self.kind, reason) {
            (Kind::Usage, _) => format!("error: {message}"),
            (_, None) if status == "FAILED" => format!("error: {message}"),
            (_, None) => format!("error: {status}: {message} (applied: {applied})"),
            (_, Some(reason)) => {
                format!("error: {status} {reason}: {message} (applied: {applied})")
            }
        }
    }

    /// Prints it to standard error and gives the exit code.
    pub(super) fn report(&self, output: Output) -> ExitCode {
        #[derive(Serialize)]
        struct Printed<'a> {
            error: &'a ErrorFields,
        }
        if self.kind == Kind::OutputClosed {
            return ExitCode::SUCCESS;
        }
        let json = serde_json::to_string(&Printed { error: &self.error });
        match (output, json) {
            (Output::Json, Ok(json)) => eprintln!("{json}"),
            _ => eprintln!("{}", self.line()),
        }
        self.exit_code()
    }

    fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::OutputClosed => ExitCode::SUCCESS,
            Kind::Failed => ExitCode::from(1),
            Kind::Usage => ExitCode::from(2),
            Kind::Rejected => ExitCode::from(3),
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::usage(chain(&error))
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::JournalRequired
            | NodeError::NotLoopback { .. }
            | NodeError::Tls(_)
            | NodeError::Registration(_) => Self::usage(error),
            error => Self::local(error),
        }
    }
}

impl From<std::io::Error> for Failure {
    /// Of writing to standard output; errors of files are made with their path.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Kind::OutputClosed, "FAILED", "");
        }
        // What could not be printed may be that a command was applied.
        Self::local(format!("cannot write to standard output: {error}")).after_a_change()
    }
}

/// Whether the cause is a connection that the node refused, and with it the call.
fn refused(cause: Option<&(dyn std::error::Error + 'static)>) -> bool {
    std::iter::successors(cause, |cause| cause.source()).any(<dyn std::error::Error>::is::<Refused>)
}

/// An error with its causes, as far as they say something new.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    with_causes(error.to_string(), error.source())
}

fn with_causes(mut text: String, mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// The name of a code as the contract writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use perennial_persistence::command_error::CommandError;
    use perennial_persistence::sequence_nr::SequenceNr;

    use super::*;
    use crate::grpc::status::status_of;

    #[test]
    fn only_the_entitys_own_rules_are_a_rejection() {
        let rejected = status_of(CommandError::Rejected {
            reason: "INSUFFICIENT_FUNDS".into(),
            message: "no\nmoney".into(),
        });
        let failure = Failure::of_status(&rejected);
        assert_eq!(failure.exit_code(), ExitCode::from(3));
        assert_eq!(
            failure.line(),
            "error: FAILED_PRECONDITION INSUFFICIENT_FUNDS: no money (applied: no)"
        );
        // The same status code for another reason.
        let mismatch = status_of(CommandError::SequenceNrMismatch {
            expected: SequenceNr::new(1),
            actual: SequenceNr::new(2),
        });
        assert_eq!(Failure::of_status(&mismatch).exit_code(), ExitCode::from(1));
    }

    #[test]
    fn a_lost_connection_leaves_it_unknown() {
        let failure = Failure::of_status(&Status::unavailable("broken pipe"));
        assert_eq!(failure.error.applied, "unknown");
        assert_eq!(failure.error.reason, None);
        let failure = Failure::of_read(&Status::unavailable("broken pipe"));
        assert_eq!(failure.error.applied, "no");
    }

    #[test]
    fn a_call_that_was_not_processed_changed_nothing() {
        let nobody = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let mut status = Status::unavailable("lost");
        status.set_source(std::sync::Arc::new(nobody));
        assert_eq!(Failure::of_status(&status).error.applied, "no");
    }

    #[test]
    fn a_refused_connection_changed_nothing() {
        let alert = rustls::AlertDescription::CertificateRequired;
        let failure = Failure::of_status(&Refused(alert).into());
        let line = failure.line();
        for part in ["UNAVAILABLE", "CertificateRequired", "--tls-cert"] {
            assert!(line.contains(part), "{line}");
        }
        assert!(line.ends_with("(applied: no)"), "{line}");
    }
}
