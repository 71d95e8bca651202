//! Where clients' requests enter a node: what gRPC does in a real one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_persistence::command::{Answer, ReplyTo, Request};
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_sharding::region::Region;
use tokio::time::{Instant, timeout_at};

use crate::network::Host;
use crate::verdict::Verdict;

/// A client's request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Unique in a run.
    pub(crate) attempt: u64,
    pub(crate) persistence_id: PersistenceId,
    pub(crate) request: Request,
    /// After this the client waits no more, and says so.
    pub(crate) deadline: Option<Duration>,
    /// It comes so much later than the one before.
    pub(crate) pause: Duration,
}

/// Requests that nodes have taken and not answered; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unanswered(Arc<Mutex<BTreeMap<u64, (Host, u64)>>>);

impl Unanswered {
    fn taken(&self, attempt: u64, host: Host, now: u64) {
        self.lock().insert(attempt, (host, now));
    }

    fn answered(&self, attempt: u64) {
        self.lock().remove(&attempt);
    }

    /// The host's process is gone, and with it the promise to answer.
    pub(crate) fn crashed(&self, host: Host) {
        self.lock().retain(|_, (at, _)| *at != host);
    }

    pub(crate) fn at(&self, host: Host) -> usize {
        self.lock().values().filter(|(at, _)| *at == host).count()
    }

    /// The oldest: which, where, and since when.
    pub(crate) fn oldest(&self) -> Option<(u64, Host, u64)> {
        let unanswered = self.lock();
        let oldest = unanswered.iter().min_by_key(|(_, (_, since))| *since);
        oldest.map(|(attempt, (host, since))| (*attempt, *host, *since))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (Host, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where clients' requests enter a node.
pub(crate) struct Gateway {
    pub(crate) host: Host,
    pub(crate) region: Region,
    pub(crate) unanswered: Unanswered,
    pub(crate) verdict: Verdict,
}

impl Gateway {
    /// Requests have come; the node does not end before they are answered.
    pub(crate) fn expect(&self, asked: &[Asked], now: u64) {
        for asked in asked {
            self.unanswered.taken(asked.attempt, self.host, now);
        }
    }

    /// Hands a request to the region, at once. The future returned gives the answer.
    pub(crate) fn take(&self, asked: Asked, now: u64) -> impl Future<Output = Answer> + use<> {
        let attempt = asked.attempt;
        let deadline = asked.deadline.map(|time| Instant::now() + time);
        let (reply_to, answer, handling) = ReplyTo::ask_for_a_time();
        let (id, at) = (asked.persistence_id, deadline.map(Instant::into_std));
        self.region.deliver(id, asked.request, at, reply_to);
        let (unanswered, verdict) = (self.unanswered.clone(), self.verdict.clone());
        async move {
            // A process that crashes does not get here.
            let lost = |answer: Result<Answer, _>| match answer {
                Ok(answer) => answer,
                Err(_) => {
                    let what = format!("request {attempt} was dropped without an answer");
                    verdict.violated("I-8", now, what);
                    Err(CommandError::OwnerLost)
                }
            };
            let answer = match deadline {
                None => lost(answer.await),
                Some(at) => match timeout_at(at, answer).await {
                    Ok(answer) => lost(answer),
                    Err(_) => Err(CommandError::DeadlineExceeded {
                        applied: match handling.give_up() {
                            true => Applied::No,
                            false => Applied::Unknown,
                        },
                    }),
                },
            };
            unanswered.answered(attempt);
            answer
        }
    }
}
