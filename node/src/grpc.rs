//! The gRPC services, package `perennial.v1`, and how they are put on a port.
//!
//! A command enters in `entity_service.rs` or `command_stream.rs`, is parsed by
//! `request.rs`, and leaves this crate through `intake.rs`. Before all of it, `gate.rs`
//! finds out who calls; which right a call needs stands in `rights.rs`. Errors become
//! statuses in `status.rs` and nowhere else.

pub(crate) mod audit;
pub(crate) mod client;
pub(crate) mod cluster_service;
pub(crate) mod command_stream;
pub(crate) mod deadline;
pub(crate) mod entity_service;
pub(crate) mod event_service;
pub(crate) mod gate;
pub(crate) mod paced;
pub(crate) mod request;
mod rights;
pub mod server;
pub mod status;

use std::future::Future;

use status::ServiceError;

/// Runs what must not be dropped half-way, as a database call, in a task of its
/// own: a client that hangs up drops only the waiting.
pub(crate) async fn run_to_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, ServiceError> {
    match tokio::spawn(work).await {
        Ok(result) => Ok(result),
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Tasks are cancelled only by the end of the runtime.
            Err(_) => Err(ServiceError::Stopping),
        },
    }
}
