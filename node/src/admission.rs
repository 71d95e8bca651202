//! How much a node takes on: commands and reads in work at once, and how large
//! one may be (promise I-10).
//!
//! A request is admitted before it is handed to the region and holds its
//! [`InFlight`] until its answer exists, even when nobody waits for that answer
//! any more. It knows nothing of entities. Next: `intake.rs`, which asks here.

use std::sync::Arc;

use perennial_persistence::command_error::CommandError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One request in work; dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct InFlight {
    _permit: OwnedSemaphorePermit,
}

/// The limits of one node, shared by everything that takes requests.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    in_flight: Arc<Semaphore>,
    in_flight_max: usize,
    payload_len_max: usize,
}

impl Admission {
    pub(crate) fn new(in_flight_max: usize, payload_len_max: usize) -> Self {
        Self {
            in_flight: Arc::new(Semaphore::new(in_flight_max)),
            in_flight_max,
            payload_len_max,
        }
    }

    /// Takes one more request on.
    ///
    /// # Errors
    /// [`CommandError::Overloaded`]; nobody is kept waiting, because a queue
    /// before the queues of the entities would only hide the overload.
    pub(crate) fn admit(&self) -> Result<InFlight, CommandError> {
        match Arc::clone(&self.in_flight).try_acquire_owned() {
            Ok(permit) => Ok(InFlight { _permit: permit }),
            Err(_) => Err(CommandError::Overloaded {
                limit: self.in_flight_max,
            }),
        }
    }

    /// Checks the size of a command, with all it carries along.
    ///
    /// # Errors
    /// [`CommandError::PayloadTooLarge`].
    pub(crate) fn check_len(&self, len: usize) -> Result<(), CommandError> {
        if len > self.payload_len_max {
            return Err(CommandError::PayloadTooLarge {
                what: "the command".into(),
                len,
                limit: self.payload_len_max,
            });
        }
        Ok(())
    }

    /// What gRPC may decode. Well above the limit: on a stream a larger message
    /// ends the stream, and not only its own command.
    pub(crate) fn decode_len_max(&self) -> usize {
        self.payload_len_max
            .saturating_mul(4)
            .saturating_add(64 << 10)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_until_something_is_finished() {
        let admission = Admission::new(2, 10);
        let first = admission.admit().unwrap();
        let _second = admission.clone().admit().unwrap();
        assert_eq!(
            admission.admit().unwrap_err(),
            CommandError::Overloaded { limit: 2 }
        );
        drop(first);
        assert!(admission.admit().is_ok());
    }

    #[test]
    fn the_largest_command_is_inclusive() {
        let admission = Admission::new(1, 10);
        assert!(admission.check_len(10).is_ok());
        assert!(admission.check_len(11).is_err());
    }
}
