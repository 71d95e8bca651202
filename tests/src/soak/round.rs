//! A part of a soak that is checked by itself: its clients have entities of their own,
//! and when they have stopped, what they wrote down is compared with what is stored.
//! So a soak of any length needs the memory of one part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::clients::{Entities, Kind, SoakClient};
use super::dump::{self, DumpedEvent};
use super::evidence::Evidence;
use super::record::{Book, Record};
use super::verdict::{self, Findings};
use crate::database::TestDatabase;
use crate::seed::Random;

/// What the clients of a round are.
#[derive(Debug, Clone)]
pub struct Load {
    /// How many there are.
    pub clients: usize,
    /// Operations of all of them in a second, if the nodes keep up.
    pub rate: f64,
    /// Without those that give up soon, whose failures are their own.
    pub patient_only: bool,
    /// Counters of a round.
    pub counters: u64,
    /// Accounts of a round.
    pub accounts: u64,
}

/// Clients under way.
pub struct Round {
    /// What they write down.
    pub record: Arc<Record>,
    entities: Entities,
    addresses: watch::Receiver<Vec<String>>,
    stopping: watch::Sender<bool>,
    clients: JoinSet<Result<()>>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            clients: 24,
            rate: 400.0,
            patient_only: false,
            counters: 40,
            accounts: 12,
        }
    }
}

impl Round {
    /// Lets clients begin.
    #[must_use]
    pub fn start(
        number: u64,
        load: &Load,
        addresses: watch::Receiver<Vec<String>>,
        began: Instant,
        random: &mut Random,
    ) -> Self {
        let record = Arc::new(Record::new(began));
        let entities = Entities {
            prefix: format!("r{number}-"),
            counters: load.counters,
            accounts: load.accounts,
        };
        let stopping = watch::Sender::new(false);
        let mut clients = JoinSet::new();
        let kinds = (0..).map(Kind::of);
        let kinds = kinds.filter(|kind| !(load.patient_only && *kind == Kind::Impatient));
        let pace = Duration::from_secs_f64(load.clients as f64 / load.rate);
        for (client, kind) in kinds.take(load.clients).enumerate() {
            let client = SoakClient::new(
                client,
                kind,
                addresses.clone(),
                entities.clone(),
                Arc::clone(&record),
                random.next_u64(),
            );
            clients.spawn(client.run(pace, stopping.subscribe()));
        }
        let mut opener = SoakClient::new(
            load.clients,
            Kind::Clerk,
            addresses.clone(),
            entities.clone(),
            Arc::clone(&record),
            random.next_u64(),
        );
        clients.spawn(async move { opener.open_accounts().await });
        Self {
            record,
            entities,
            addresses,
            stopping,
            clients,
        }
    }

    /// Asks the clients to finish what they have under way.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits until the clients have finished, reads every entity once more, and checks everything.
    ///
    /// # Errors
    /// When the database does not answer, or something is answered that is no answer.
    pub async fn finish(
        mut self,
        database: &TestDatabase,
        evidence: &Evidence,
    ) -> Result<(Book, Findings)> {
        self.stop();
        while let Some(client) = self.clients.join_next().await {
            client??;
        }
        let mut reader = SoakClient::new(
            0,
            Kind::Reader,
            self.addresses.clone(),
            self.entities.clone(),
            Arc::clone(&self.record),
            0,
        );
        reader.read_all().await?;
        checked(
            self.record.close(),
            &self.entities.prefix,
            database,
            evidence,
        )
        .await
    }
}

/// Compares a book with what is stored about entities with this prefix, and keeps
/// both if they do not agree.
///
/// # Errors
/// As [`Round::finish`].
pub async fn checked(
    book: Book,
    prefix: &str,
    database: &TestDatabase,
    evidence: &Evidence,
) -> Result<(Book, Findings)> {
    let streams = dump::streams(database, prefix).await?;
    // The search may take a while.
    let (book, findings, streams) = tokio::task::spawn_blocking(move || {
        let findings = verdict::check(&book, &streams);
        findings.map(|findings| (book, findings, streams))
    })
    .await??;
    if !findings.violations.is_empty() || !findings.undecided.is_empty() {
        keep(evidence, prefix, &book, &streams)?;
    }
    Ok((book, findings))
}

fn keep(
    evidence: &Evidence,
    prefix: &str,
    book: &Book,
    streams: &std::collections::BTreeMap<String, Vec<DumpedEvent>>,
) -> Result<()> {
    let counters = book.counters.by_entity();
    let counters = counters.iter();
    evidence.lines(
        &format!("{prefix}history-counters.jsonl"),
        counters.flat_map(|(id, operations)| operations.iter().map(move |line| (id, line))),
    )?;
    let accounts = book.accounts.by_entity();
    let accounts = accounts.iter();
    evidence.lines(
        &format!("{prefix}history-accounts.jsonl"),
        accounts.flat_map(|(id, operations)| operations.iter().map(move |line| (id, line))),
    )?;
    evidence.lines(&format!("{prefix}fates.jsonl"), book.commands.iter())?;
    let streams = streams.iter();
    evidence.lines(
        &format!("{prefix}journal.jsonl"),
        streams.flat_map(|(id, events)| events.iter().map(move |line| (id, line))),
    )
}
