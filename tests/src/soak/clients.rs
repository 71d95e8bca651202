//! Independent clients of several kinds, each with a connection of its own to every
//! node, and a book in which all write down what they did and were told. What they do
//! is in `clients/counters.rs` and `clients/accounts.rs`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use perennial::proto::v1::SendRequest;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use uuid::Uuid;

use super::attempt::Nodes;
use super::record::Record;
use crate::history::Call;
use crate::history::journal::Fate;
use crate::history::model::account::AccountCall;
use crate::seed::Random;

mod accounts;
mod counters;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Adds to counters, with command ids, and repeats until it is told.
    Adder,
    /// Adds to counters, sometimes with a command id, and gives up soon.
    Impatient,
    /// Reads counters and accounts.
    Reader,
    /// Moves money from one account to another: delivers both halves at least once.
    Mover,
    /// Asks of accounts what they may refuse.
    Clerk,
}

/// Kinds in the order clients get them.
const KINDS: [Kind; 12] = [
    Kind::Adder,
    Kind::Reader,
    Kind::Mover,
    Kind::Adder,
    Kind::Impatient,
    Kind::Adder,
    Kind::Clerk,
    Kind::Reader,
    Kind::Adder,
    Kind::Mover,
    Kind::Adder,
    Kind::Impatient,
];

impl Kind {
    /// Of the client with this number.
    #[must_use]
    pub fn of(client: usize) -> Self {
        KINDS[client % KINDS.len()]
    }
}

/// The entities that clients use for a while.
#[derive(Debug, Clone)]
pub struct Entities {
    /// Their ids begin with this.
    pub prefix: String,
    /// How many counters there are.
    pub counters: u64,
    /// How many accounts there are, at least two.
    pub accounts: u64,
}

impl Entities {
    /// The id of a counter.
    #[must_use]
    pub fn counter(&self, number: u64) -> String {
        format!("{}c{number}", self.prefix)
    }

    /// The id of an account.
    #[must_use]
    pub fn account(&self, number: u64) -> String {
        format!("{}a{number}", self.prefix)
    }
}

/// A client.
pub struct SoakClient {
    number: u64,
    kind: Kind,
    nodes: Nodes,
    entities: Entities,
    record: Arc<Record>,
    random: Random,
}

impl SoakClient {
    /// A client of the kind that its number has.
    #[must_use]
    pub fn new(
        number: usize,
        kind: Kind,
        addresses: watch::Receiver<Vec<String>>,
        entities: Entities,
        record: Arc<Record>,
        seed: u64,
    ) -> Self {
        Self {
            number: number as u64,
            kind,
            nodes: Nodes::new(addresses, number),
            entities,
            record,
            random: Random::new(seed),
        }
    }

    /// Sends a command, or what it does at a time, every so often until it is asked to
    /// stop; then finishes what it has under way.
    ///
    /// # Errors
    /// When something is answered that is no answer.
    pub async fn run(mut self, pace: Duration, stopping: watch::Receiver<bool>) -> Result<()> {
        let mut ticks: Interval = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stopping.borrow() {
            ticks.tick().await;
            match self.kind {
                Kind::Adder => self.add_until_told().await?,
                Kind::Impatient => self.add_once().await?,
                Kind::Reader => self.read_any().await?,
                Kind::Mover => self.move_money().await?,
                Kind::Clerk => self.ask_an_account().await?,
            }
        }
        Ok(())
    }

    /// Reads every entity once: what is there in the end.
    ///
    /// # Errors
    /// As [`SoakClient::run`].
    pub async fn read_all(&mut self) -> Result<()> {
        for number in 0..self.entities.counters {
            self.get(&self.entities.counter(number)).await?;
        }
        for number in 0..self.entities.accounts {
            let account = self.entities.account(number);
            self.account_command(&account, AccountCall::Balance).await?;
        }
        Ok(())
    }

    async fn read_any(&mut self) -> Result<()> {
        if self.random.below(4) == 0 {
            let account = self.any_account();
            return self.account_command(&account, AccountCall::Balance).await;
        }
        let counter = self.any_counter();
        self.get(&counter).await
    }

    fn note_fate(&self, request: &SendRequest, fate: Fate) {
        if request.command_id.is_empty() {
            return;
        }
        let entity = format!("{}|{}", request.entity_type, request.entity_id);
        let mut book = self.record.book();
        let commands = book.commands.entry(entity).or_default();
        commands.insert(request.command_id.clone(), fate);
    }

    fn call<C>(&self, call: C, at: u64) -> Call<C> {
        Call {
            client: self.number,
            call,
            at,
        }
    }

    fn any_counter(&mut self) -> String {
        let number = self.random.below(self.entities.counters);
        self.entities.counter(number)
    }

    fn any_account(&mut self) -> String {
        let number = self.random.below(self.entities.accounts);
        self.entities.account(number)
    }

    fn any_amount(&mut self) -> i64 {
        // Below ten.
        self.random.within(1..10) as i64
    }
}

fn with_id(mut request: SendRequest) -> SendRequest {
    request.command_id = Uuid::new_v4().to_string();
    request
}
