//! `load TYPE FILE`: sends a file of commands, each exactly once however often
//! the file is loaded.
//!
//! Here is the connection and nothing else: lines are read in `load/source.rs`
//! and `load/lines.rs`, what is sent when is decided in `load/window.rs`, what an
//! answer means in `load/answer.rs`, and what is told in `load/report.rs`.

mod answer;
mod lines;
mod report;
mod source;
mod window;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use self::report::Report;
use self::source::{Item, Kind};
use self::window::{Pending, Window};
use super::Output;
use super::client::{ClientArgs, entities};
use super::connection::Connection;
use super::failure::{Failure, chain};
use crate::proto::v1::entity_service_client::EntityServiceClient;
use crate::proto::v1::{SendRequest, SendResponse};

/// Pauses between attempts to connect: the first, and the longest.
const RECONNECT_AFTER_MIN: Duration = Duration::from_millis(100);
const RECONNECT_AFTER_MAX: Duration = Duration::from_secs(2);

/// Flags of `load`.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// The entity type.
    entity_type: String,
    /// NDJSON lines {"id": …, "command": …, "command_id": …}; or CSV, with
    /// --id-column and --command.
    file: PathBuf,
    /// CSV: the column that holds the entity's id.
    #[arg(long, value_name = "COLUMN", requires = "command")]
    id_column: Option<String>,
    /// CSV: the command whose fields are the other columns.
    #[arg(long, value_name = "NAME", requires = "id_column")]
    command: Option<String>,
    /// Lines on their way at once.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "NUMBER")]
    outstanding: u32,
    /// Keep the lines that did not get in, as JSON lines that can be loaded.
    #[arg(long, value_name = "FILE")]
    reject_file: Option<PathBuf>,
    /// How long a line is sent again, and a connection opened again, before it
    /// counts as failed.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration, value_name = "TIME")]
    retry_for: Duration,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: LoadArgs, output: Output) -> Result<ExitCode, Failure> {
    let path = args.file.clone();
    let shown = path.display();
    let surveyed = tokio::task::spawn_blocking({
        let path = path.clone();
        move || source::survey(&path)
    })
    .await
    .map_err(Failure::local)?
    .map_err(|error| Failure::local(format!("cannot read {shown}: {error}")))?;
    let kind = match (args.id_column, args.command) {
        (Some(id_column), Some(command)) => Kind::Csv { id_column, command },
        _ => Kind::Json,
    };
    if let Some(reject_file) = &args.reject_file {
        // It would be emptied before it is read.
        let same = reject_file.canonicalize().ok() == path.canonicalize().ok();
        if same && reject_file.exists() {
            return Err(Failure::usage(
                "the reject file is the file to load: name another",
            ));
        }
    }
    let header_lines = u64::from(matches!(kind, Kind::Csv { .. }));
    let lines_expected = surveyed.lines.saturating_sub(header_lines);
    let room = args.outstanding as usize;
    let mut loading = Loading {
        entity_type: args.entity_type,
        window: Window::new(room, args.retry_for),
        report: Report::new(lines_expected, args.reject_file.as_deref())?,
        source: source::read(surveyed, kind),
        at_end: false,
        broken: None,
        broken_since: None,
    };
    let stopped = loading.run(&args.client, room, args.retry_for).await?;
    let stopped = stopped.or(loading.broken);
    loading.report.finish(stopped.as_deref(), output)
}

/// A load under way.
struct Loading {
    entity_type: String,
    window: Window,
    report: Report,
    source: mpsc::Receiver<Item>,
    /// The file is read.
    at_end: bool,
    /// Why the file cannot be read further.
    broken: Option<String>,
    /// Since when there is no connection on which anything is answered.
    broken_since: Option<Instant>,
}

/// How a stream ended.
enum Ended {
    /// Everything is sent and answered.
    Finished,
    /// It broke.
    Broken(Status),
}

impl Loading {
    /// Connects, and again while that makes sense; why it stopped before the end
    /// of the file, if it did.
    async fn run(
        &mut self,
        client: &ClientArgs,
        room: usize,
        patience: Duration,
    ) -> Result<Option<String>, Failure> {
        let route = client.route()?;
        // A first connection that fails is a mistake more often than an outage.
        let mut connection = Some(client.connect().await?);
        let mut pause = RECONNECT_AFTER_MIN;
        loop {
            let ended = match connection.take() {
                Some(connected) => self.stream(entities(connected), room).await?,
                None => match route.connect().await {
                    Ok(connected) => {
                        connection = Some(connected);
                        continue;
                    }
                    Err(error) => Ended::Broken(Status::unavailable(chain(&error))),
                },
            };
            let status = match ended {
                Ended::Finished => return Ok(None),
                Ended::Broken(status) => status,
            };
            self.window.connection_lost();
            let why = status.message().to_owned();
            if self.broken_since.is_none() {
                pause = RECONNECT_AFTER_MIN;
                self.report
                    .say(&format!("connection lost, trying again: {why}"));
            }
            let broken_since = *self.broken_since.get_or_insert_with(Instant::now);
            let out_of_patience = broken_since.elapsed() >= patience;
            if out_of_patience || !answer::reconnecting_helps(status.code()) {
                for settled in self.window.abandon(&why) {
                    self.report.settled(&settled)?;
                }
                return Ok(Some(why));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RECONNECT_AFTER_MAX);
        }
    }

    /// Sends over one stream until all is done or it breaks.
    async fn stream(
        &mut self,
        mut client: EntityServiceClient<Connection>,
        room: usize,
    ) -> Result<Ended, Failure> {
        // As many places as lines in the window: sending never waits.
        let (requests, receiver) = mpsc::channel(room);
        let mut responses = match client.send_stream(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Ended::Broken(status)),
        };
        loop {
            while let Some(pending) = self.window.next_to_send() {
                let request = self.request_of(&pending);
                if requests.try_send(request).is_err() {
                    let gone = Status::unavailable("the node closed the stream");
                    return Ok(Ended::Broken(
                        last_status(&mut responses).await.unwrap_or(gone),
                    ));
                }
            }
            if self.at_end && self.window.is_empty() {
                return Ok(Ended::Finished);
            }
            let due = self.window.next_due();
            tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => self.answered(&response)?,
                    Ok(None) => {
                        let closed = Status::unavailable("the node closed the stream");
                        return Ok(Ended::Broken(closed));
                    }
                    Err(status) => return Ok(Ended::Broken(status)),
                },
                item = self.source.recv(), if !self.at_end && self.window.has_room() => {
                    self.read(item)?;
                }
                () = sleep_until(due) => self.window.wake(Instant::now()),
            }
        }
    }

    fn answered(&mut self, response: &SendResponse) -> Result<(), Failure> {
        self.broken_since = None;
        let said = answer::said(response);
        let nr = response.correlation_id;
        match self.window.answered(nr, said, Instant::now()) {
            Some(settled) => self.report.settled(&settled),
            None => Ok(()),
        }
    }

    fn read(&mut self, item: Option<Item>) -> Result<(), Failure> {
        match item {
            Some(Item::Line { line, json }) => self.window.add(Pending { line, json }),
            Some(Item::Bad { nr, text, why }) => self.report.unreadable(nr, &text, &why)?,
            Some(Item::Broken { why }) => {
                self.report.say(&why);
                self.broken = Some(why);
            }
            None => self.at_end = true,
        }
        Ok(())
    }

    fn request_of(&self, pending: &Pending) -> SendRequest {
        let line = &pending.line;
        SendRequest {
            entity_type: self.entity_type.clone(),
            entity_id: line.entity_id.clone(),
            payload: line.payload.clone(),
            command_id: line.command_id.clone(),
            correlation_id: line.nr,
            ..SendRequest::default()
        }
    }
}

/// The status a broken stream ends with, if it has one.
async fn last_status(responses: &mut Streaming<SendResponse>) -> Option<Status> {
    let wait = Duration::from_secs(1);
    let message = tokio::time::timeout(wait, responses.message()).await;
    message.ok()?.err()
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
