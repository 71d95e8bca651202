//! Sending one command: once, or until somebody answers it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use perennial::proto::v1::{SendRequest, SendResponse};
use tokio::sync::watch;
use tonic::Code;

use super::record::Record;
use crate::client::{Client, Failure};
use crate::history::Moment;

/// A node that does not answer for so long is given up, and the next is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);
/// An operation that nobody answers for so long is lost: longer than any fault lasts,
/// together with what it takes to recover from it.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(90);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// What one attempt came to.
#[derive(Debug)]
pub enum Answer {
    /// The entity replied.
    Reply(SendResponse),
    /// The entity refused by its rules, for this reason.
    Rejected(String),
    /// Something failed, and the command certainly had no effect.
    NotApplied(Failure),
    /// Something failed, and the command may have had an effect.
    Unknown(Failure),
}

/// The end of several attempts.
#[derive(Debug)]
pub struct Persistence {
    /// What the last attempt came to.
    pub answer: Answer,
    /// When the last attempt began.
    pub last_began: Moment,
    /// Whether an earlier attempt may have had an effect.
    pub may_be_there: bool,
}

/// The nodes as one client sees them: a connection of its own to each.
#[derive(Debug)]
pub struct Nodes {
    addresses: watch::Receiver<Vec<String>>,
    connections: BTreeMap<String, Client>,
    next: usize,
}

impl Nodes {
    /// Nodes at these addresses, whatever they are at the time; `first` says which is
    /// asked first.
    #[must_use]
    pub fn new(addresses: watch::Receiver<Vec<String>>, first: usize) -> Self {
        Self {
            addresses,
            connections: BTreeMap::new(),
            next: first,
        }
    }

    /// The next one, in turns.
    ///
    /// # Errors
    /// When its address is none.
    pub fn another(&mut self) -> Result<Client> {
        let addresses = self.addresses.borrow().clone();
        self.next += 1;
        let address = &addresses[self.next % addresses.len().max(1)];
        if let Some(client) = self.connections.get(address) {
            return Ok(client.clone());
        }
        let client = Client::lazy(address)?;
        self.connections.insert(address.clone(), client.clone());
        Ok(client)
    }

    /// Sends a command once to the next node, and waits so long.
    ///
    /// # Errors
    /// When the node has no address.
    pub async fn once(&mut self, request: SendRequest, timeout: Duration) -> Result<Answer> {
        let client = self.another()?;
        Ok(
            match tokio::time::timeout(timeout, client.send(request)).await {
                Ok(Ok(response)) => Answer::Reply(response),
                Ok(Err(failure)) => Answer::of(failure),
                Err(_) => Answer::Unknown(tonic::Status::deadline_exceeded("no answer").into()),
            },
        )
    }

    /// Sends a command to one node after the other until it is answered; after a long
    /// time gives up.
    ///
    /// # Errors
    /// When a node has no address.
    pub async fn until_answered(
        &mut self,
        request: &SendRequest,
        record: &Record,
    ) -> Result<Persistence> {
        let give_up_at = Instant::now() + GIVE_UP_AFTER;
        let mut may_be_there = false;
        loop {
            let last_began = record.now();
            let answer = self.once(request.clone(), ATTEMPT_TIMEOUT).await?;
            match &answer {
                Answer::Reply(_) | Answer::Rejected(_) => {}
                Answer::NotApplied(failure) | Answer::Unknown(failure) => {
                    if !failure.refused {
                        record.failed_attempt(failure);
                    }
                    if Instant::now() < give_up_at {
                        may_be_there |= matches!(answer, Answer::Unknown(_));
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    record.book().counts.given_up += 1;
                }
            }
            return Ok(Persistence {
                answer,
                last_began,
                may_be_there,
            });
        }
    }
}

impl Answer {
    fn of(failure: Failure) -> Self {
        // An entity's own reason, and not one of the service with the same status.
        let is_rejection = failure.code == Code::FailedPrecondition
            && failure.applied == "no"
            && !["SEQUENCE_NR_MISMATCH", "PERSIST_REJECTED"].contains(&failure.reason.as_str());
        if is_rejection {
            Self::Rejected(failure.reason)
        } else if failure.refused || failure.applied == "no" {
            Self::NotApplied(failure)
        } else {
            Self::Unknown(failure)
        }
    }
}
