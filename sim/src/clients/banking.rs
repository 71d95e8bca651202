//! Clients that move money between purses, and the one who counts it in the end.

use std::time::Duration;

use perennial::EventSourced;
use perennial_persistence::command::{CommandId, Request};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use rand::Rng;
use tokio::time::sleep;

use super::asking::Heard;
use super::behaviour::{ATTEMPTS_MAX, Client, Way};
use crate::history::Outcome;
use crate::invariants::transfers::Told;
use crate::purse::{Contents, FILLED_WITH, Purse, PurseCommand, Transfer};

/// Between two looks whether all has arrived.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// For an answer to such a look, in milliseconds.
const LOOK_PATIENCE: u64 = 2_000;

fn purse_name(purse: usize) -> String {
    format!("p{purse}")
}

impl Client {
    /// Gives money from one purse to another; tries until it is known to have left.
    pub(super) async fn give(&mut self) {
        let purses = self.shared.purses;
        let from = self.chance.random_range(0..purses);
        let to = (from + self.chance.random_range(1..purses)) % purses;
        let amount = self.chance.random_range(1..=30);
        let op = self.shared.transfers.begin();
        let mut told = Told::Refused;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                let pause = self.chance.random_range(10..200);
                sleep(Duration::from_millis(pause)).await;
            }
            let request = request_to_give(op, purse_name(to), amount);
            let heard = self.ask_purse(from, request, Way::ToWrite).await;
            match self.reply_in(&format!("transfer {op}"), heard) {
                Ok(_) => {
                    told = Told::Given;
                    break;
                }
                Err(Outcome::Unknown { .. }) => told = Told::Nothing,
                Err(Outcome::Rejected) if told == Told::Refused => break,
                // An earlier attempt may have its effect yet.
                Err(_) => {}
            }
        }
        self.shared.transfers.told(op, told);
    }

    /// Waits until all money has arrived, and counts it.
    pub(super) async fn count_money(mut self) {
        self.patience = Some(LOOK_PATIENCE);
        for purse in 0..self.shared.purses {
            while !self.look_into(purse).await.under_way.is_empty() {
                sleep(LOOK_AGAIN).await;
            }
        }
        let mut sum = 0;
        for purse in 0..self.shared.purses {
            sum += self.look_into(purse).await.balance;
        }
        let filled_with = FILLED_WITH * self.shared.purses as i64;
        let now = self.shared.network.now();
        if sum != filled_with {
            let what = format!("there is {sum} in all purses, not {filled_with}");
            self.shared.verdict.violated("I-8", now, what);
        }
        self.shared.transfers.check(now, &self.shared.verdict);
    }

    /// Looks until it is told what there is.
    async fn look_into(&mut self, purse: usize) -> Contents {
        loop {
            let heard = self.ask_purse(purse, Request::State, Way::ToRead).await;
            let reply = self.reply_in("a look into a purse", heard);
            let contents = reply.map(|reply| serde_json::from_slice(&reply.payload.bytes));
            if let Ok(Ok(contents)) = contents {
                return contents;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn ask_purse(&mut self, purse: usize, request: Request, way: Way) -> Heard {
        let id = PersistenceId::new(Purse::ENTITY_TYPE, &purse_name(purse));
        // The name is well formed.
        let id = id.unwrap_or_else(|error| unreachable!("{error}"));
        let machine = self.machine(way);
        let heard = self.ask(machine, &id, vec![request], 0).await.pop();
        heard.unwrap_or(Heard::Nothing)
    }
}

fn request_to_give(op: u64, to: String, amount: i64) -> Request {
    let transfer = Transfer { op, amount };
    let payload = serde_json::to_vec(&PurseCommand::Give { to, transfer });
    // Names and numbers have a JSON form.
    let payload = payload.unwrap_or_else(|error| unreachable!("{error}"));
    Request::Command {
        payload: Payload::json(payload),
        command_id: CommandId::parse(&format!("give-{op}")).ok().flatten(),
        expected_sequence_nr: None,
        metadata: None,
    }
}
