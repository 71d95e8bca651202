//! A request on its way to a node and back, as a client sees it.
//!
//! Next: `gateway.rs`, where it enters the node.

use std::time::Duration;

use perennial::EventSourced;
use perennial_persistence::command::{Answer, CommandId, Reply, Request};
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use rand::Rng;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::behaviour::Client;
use super::entity_name;
use crate::gateway::Asked;
use crate::history::{Outcome, Wish};
use crate::network::Host;
use crate::tally::{Add, Sum, Tally};

/// What a client heard of an attempt.
pub(super) enum Heard {
    Answer(Answer),
    /// The node refused the connection.
    Refused,
    Nothing,
}

impl Client {
    /// What an operation on a tally has come to.
    pub(super) fn outcome_of(&self, op: u64, heard: Heard) -> Outcome {
        let reply = match self.reply_in(&format!("operation {op}"), heard) {
            Ok(reply) => reply,
            Err(outcome) => return outcome,
        };
        match serde_json::from_slice::<Sum>(&reply.payload.bytes) {
            Ok(sum) => Outcome::Done {
                sequence_nr: reply.sequence_nr.get(),
                sum,
            },
            Err(error) => Outcome::Unknown {
                why: error.to_string(),
            },
        }
    }

    /// The reply, or what else something has come to.
    pub(super) fn reply_in(&self, what: &str, heard: Heard) -> Result<Reply, Outcome> {
        let outcome = match heard {
            Heard::Answer(Ok(reply)) => return Ok(reply),
            Heard::Answer(Err(CommandError::Rejected { .. })) => Outcome::Rejected,
            Heard::Answer(Err(error)) => match error.applied() {
                Applied::No => Outcome::NotApplied {
                    why: error.to_string(),
                },
                Applied::Unknown => Outcome::Unknown {
                    why: error.to_string(),
                },
            },
            Heard::Refused => Outcome::NotApplied {
                why: "connection refused".to_owned(),
            },
            Heard::Nothing => Outcome::Unknown {
                why: "no answer".to_owned(),
            },
        };
        if self.shared.is_calm
            && let Outcome::NotApplied { why } | Outcome::Unknown { why } = &outcome
            && why != "connection refused"
        {
            let now = self.shared.network.now();
            let what = format!("{what} failed although nothing did: {why}");
            self.shared.verdict.violated("I-9", now, what);
        }
        Err(outcome)
    }

    /// Sends requests to a node, each so many milliseconds after the one before, and
    /// hears what comes back in time.
    pub(super) async fn ask(
        &mut self,
        machine: Host,
        id: &PersistenceId,
        requests: Vec<Request>,
        gap: u64,
    ) -> Vec<Heard> {
        let patience = match self.patience {
            _ if self.shared.is_calm => 20_000,
            Some(patience) => patience,
            None => self.chance.random_range(300..3_000),
        };
        let has_deadline =
            !self.shared.is_calm && (self.patience.is_some() || self.chance.random_ratio(1, 2));
        let patience = Duration::from_millis(patience);
        let mut asked = Vec::new();
        let mut answers = Vec::new();
        let mut places = Vec::new();
        for (place, request) in requests.into_iter().enumerate() {
            let pause = if place == 0 { 0 } else { gap };
            asked.push(Asked {
                attempt: self.chance.random(),
                persistence_id: id.clone(),
                request,
                deadline: has_deadline.then_some(patience),
                pause: Duration::from_millis(pause),
            });
            let (place, answer) = oneshot::channel();
            places.push(place);
            answers.push(answer);
        }
        let network = self.shared.network.clone();
        let (here, trace_name) = (Host::Clients, "request");
        self.shared
            .network
            .post(here, machine, trace_name, move || {
                let listener = network.listener(machine);
                let gateway = listener.as_ref().and_then(|known| known.gateway.clone());
                let (Some(listener), Some(gateway)) = (listener, gateway) else {
                    network.post(machine, here, "refuse", move || {
                        for place in places {
                            let _ = place.send(Heard::Refused);
                        }
                    });
                    return;
                };
                let now = network.now();
                gateway.expect(&asked, now);
                let runtime = listener.runtime.clone();
                listener.runtime.spawn(async move {
                    for (asked, place) in asked.into_iter().zip(places) {
                        if !asked.pause.is_zero() {
                            sleep(asked.pause).await;
                        }
                        let answer = gateway.take(asked, now);
                        let network = network.clone();
                        runtime.spawn(async move {
                            let answer = answer.await;
                            network.post(machine, here, "answer", move || {
                                let _ = place.send(Heard::Answer(answer));
                            });
                        });
                    }
                });
            });
        // Longer than the node takes to say that it took too long.
        let give_up = Instant::now() + patience + Duration::from_millis(100);
        let mut heard = Vec::new();
        for answer in answers {
            let heard_one = async {
                match answer.await {
                    Ok(heard) => heard,
                    // Lost on the way.
                    Err(_) => std::future::pending().await,
                }
            };
            let heard_one = timeout_at(give_up, heard_one).await;
            heard.push(heard_one.unwrap_or(Heard::Nothing));
        }
        heard
    }
}

/// The tally of this number.
pub(super) fn tally(entity: usize) -> PersistenceId {
    let id = PersistenceId::new(Tally::ENTITY_TYPE, &entity_name(entity));
    // The name is well formed.
    id.unwrap_or_else(|error| unreachable!("{error}"))
}

pub(super) fn request_of(op: u64, wish: Wish) -> Request {
    let Wish::Add { amount, has_id } = wish else {
        return Request::State;
    };
    let payload = serde_json::to_vec(&Add { op, amount });
    // Two numbers have a JSON form.
    let payload = payload.unwrap_or_else(|error| unreachable!("{error}"));
    let command_id = CommandId::parse(&format!("op-{op}"));
    Request::Command {
        payload: Payload::json(payload),
        command_id: command_id.ok().flatten().filter(|_| has_id),
        expected_sequence_nr: None,
        metadata: None,
    }
}
