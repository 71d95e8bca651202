//! What clients do to counters.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::attempt::{Answer, Persistence};
use super::{SoakClient, with_id};
use crate::client::{self, command};
use crate::history::journal::Fate;
use crate::history::model::counter::CounterCall;

/// How long an impatient client waits.
const IMPATIENT_AFTER: Duration = Duration::from_millis(700);

impl SoakClient {
    pub(super) async fn add_until_told(&mut self) -> Result<()> {
        let counter = self.any_counter();
        let amount = self.any_amount();
        self.add(&counter, amount).await
    }

    /// Adds to a counter with a command id, until it is told.
    ///
    /// # Errors
    /// As [`SoakClient::run`].
    pub async fn add(&mut self, counter: &str, amount: i64) -> Result<()> {
        let request = with_id(command("counter", counter, &json!({"add": amount})));
        let at = self.record.now();
        let call = self.call(CounterCall::Add(amount), at);
        let operation = {
            let mut book = self.record.book();
            book.counts.operations += 1;
            book.counts.commands += 1;
            book.counters.invoke(counter, call)
        };
        let Persistence {
            answer,
            may_be_there,
            ..
        } = self.nodes.until_answered(&request, &self.record).await?;
        let fate = match answer {
            Answer::Reply(response) => {
                let value = value_of(&client::json(&response)?)?;
                let now = self.record.now();
                self.record.took(at);
                let mut book = self.record.book();
                book.counts.acknowledged += 1;
                book.counters.complete(operation, value, now);
                Fate::Acknowledged {
                    sequence_nr: response.sequence_nr,
                }
            }
            Answer::Rejected(_) | Answer::NotApplied(_) if !may_be_there => {
                let mut book = self.record.book();
                book.counts.not_applied += 1;
                book.counters.withdraw(operation);
                Fate::NotApplied
            }
            Answer::Rejected(_) | Answer::NotApplied(_) | Answer::Unknown(_) => {
                self.record.book().counts.unknown += 1;
                Fate::Unknown
            }
        };
        self.note_fate(&request, fate);
        Ok(())
    }

    pub(super) async fn add_once(&mut self) -> Result<()> {
        let counter = self.any_counter();
        let amount = self.any_amount();
        let mut request = command("counter", &counter, &json!({"add": amount}));
        if self.random.below(2) == 0 {
            request = with_id(request);
        }
        let at = self.record.now();
        let call = self.call(CounterCall::Add(amount), at);
        let operation = self.record.book().counters.invoke(&counter, call);
        let answer = self.nodes.once(request.clone(), IMPATIENT_AFTER).await?;
        let now = self.record.now();
        let mut reply = None;
        if let Answer::Reply(response) = &answer {
            reply = Some(value_of(&client::json(response)?)?);
            self.record.took(at);
        }
        let fate = {
            let mut book = self.record.book();
            book.counts.operations += 1;
            book.counts.commands += 1;
            match (&answer, reply) {
                (Answer::Reply(response), Some(value)) => {
                    book.counts.acknowledged += 1;
                    book.counters.complete(operation, value, now);
                    Fate::Acknowledged {
                        sequence_nr: response.sequence_nr,
                    }
                }
                (Answer::Rejected(_) | Answer::NotApplied(_), _) => {
                    book.counts.not_applied += 1;
                    book.counters.withdraw(operation);
                    Fate::NotApplied
                }
                (Answer::Unknown(_) | Answer::Reply(_), _) => {
                    book.counts.unknown += 1;
                    Fate::Unknown
                }
            }
        };
        self.note_fate(&request, fate);
        Ok(())
    }

    pub(super) async fn get(&mut self, counter: &str) -> Result<()> {
        let request = command("counter", counter, &json!("get"));
        let persistence = self.nodes.until_answered(&request, &self.record).await?;
        let now = self.record.now();
        let mut book = self.record.book();
        book.counts.operations += 1;
        let Answer::Reply(response) = &persistence.answer else {
            return Ok(());
        };
        // A read that was not answered had no effect: only the last attempt counts.
        let call = self.call(CounterCall::Get, persistence.last_began);
        let value = value_of(&client::json(response)?)?;
        let operation = book.counters.invoke(counter, call);
        book.counters.complete(operation, value, now);
        book.counts.reads += 1;
        Ok(())
    }
}

fn value_of(reply: &Value) -> Result<i64> {
    reply["value"].as_i64().context("no value in the reply")
}
