//! The actor under test: a list of texts, and a program for each test.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use perennial_persistence::actor::{
    Context, PersistentActor, Recovered, Recovery, Sender, Signal, SnapshotOffer,
};
use perennial_persistence::codec::Json;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::EntityEngine;

pub(crate) type Cx<'a> = Context<'a, Subject>;
pub(crate) type Receive = fn(&mut Subject, String, &mut Cx<'_>);

/// What a test makes of the actor.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) receive: Receive,
    /// What a test becomes.
    pub(crate) replacement: Receive,
    pub(crate) completed: fn(&mut Subject, &mut Cx<'_>),
    pub(crate) replayed: fn(&mut Subject, &str, &mut Cx<'_>),
    pub(crate) recovery: Recovery,
    /// Write what is recovered, and the hooks, to the log.
    pub(crate) verbose: bool,
    pub(crate) declines_snapshots: bool,
    /// The function that makes it panics.
    pub(crate) unmakeable: bool,
}

impl Script {
    pub(crate) fn new(receive: Receive) -> Self {
        Self {
            receive,
            replacement: receive,
            completed: |_, _| {},
            replayed: |_, _, _| {},
            recovery: Recovery::default(),
            verbose: false,
            declines_snapshots: false,
            unmakeable: false,
        }
    }
}

/// What was observed, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn push(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until the text is there.
    pub(crate) async fn wait_for(&self, text: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !self.lines().iter().any(|line| line == text) {
            let now = tokio::time::Instant::now();
            assert!(now < deadline, "no {text:?} in {:?}", self.lines());
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) struct Subject {
    pub(crate) texts: Vec<String>,
    pub(crate) log: Log,
    pub(crate) counter: usize,
    pub(crate) kept: Vec<Sender<Self>>,
    pub(crate) script: Script,
    pub(crate) engine: Arc<OnceLock<EntityEngine>>,
}

impl Subject {
    /// Numbers a text with the next number of this incarnation.
    pub(crate) fn count(&mut self, text: &str) -> String {
        self.counter += 1;
        format!("{text}-{}", self.counter)
    }
}

/// The usual callback: applies the event.
pub(crate) fn update(subject: &mut Subject, event: &String, _: &mut Cx<'_>) {
    subject.texts.push(event.clone());
}

/// The other usual callback: shows the event.
pub(crate) fn show(subject: &mut Subject, event: &String, _: &mut Cx<'_>) {
    subject.log.push(event);
}

/// Shows the event with a running number.
pub(crate) fn show_counted(subject: &mut Subject, event: &String, _: &mut Cx<'_>) {
    let text = subject.count(event);
    subject.log.push(text);
}

impl PersistentActor for Subject {
    type Command = String;
    type Event = String;
    type Snapshot = Vec<String>;
    type Reply = Vec<String>;
    type Codec = Json;

    fn receive_command(&mut self, command: String, cx: &mut Cx<'_>) {
        match command.as_str() {
            "state?" => cx.reply(&self.texts),
            "boom" => panic!("told to panic"),
            "stop" => cx.stop(),
            _ => (self.script.receive)(self, command, cx),
        }
    }

    fn receive_recover(&mut self, recovered: Recovered<Self>, cx: &mut Cx<'_>) {
        let shown = match recovered {
            Recovered::SnapshotOffer(SnapshotOffer {
                sequence_nr,
                snapshot,
                ..
            }) => {
                if self.script.declines_snapshots {
                    cx.decline_snapshot();
                    format!("declined@{sequence_nr}")
                } else {
                    (self.script.replayed)(self, "offer", cx);
                    self.texts = snapshot;
                    format!("offer@{sequence_nr}")
                }
            }
            Recovered::Event(event) => {
                assert!(cx.is_recovering() && !cx.is_recovery_finished());
                assert!(cx.sender().is_none());
                (self.script.replayed)(self, &event, cx);
                self.texts.push(event.clone());
                event
            }
            Recovered::Completed => {
                assert!(cx.is_recovery_finished());
                (self.script.completed)(self, cx);
                "completed".to_owned()
            }
        };
        if self.script.verbose {
            self.log.push(shown);
        }
    }

    fn receive_signal(&mut self, signal: Signal<Self>, _: &mut Cx<'_>) {
        self.log.push(match signal {
            Signal::SaveSnapshotSuccess { sequence_nr } => format!("saved@{sequence_nr}"),
            Signal::SaveSnapshotFailure { sequence_nr, cause } => {
                format!("not saved@{sequence_nr}: {cause}")
            }
            Signal::LoadSnapshotSuccess(None) => "no snapshot".to_owned(),
            Signal::LoadSnapshotSuccess(Some(offer)) => {
                format!("loaded@{}: {:?}", offer.sequence_nr, offer.snapshot)
            }
            Signal::LoadSnapshotFailure { .. } => "not loaded".to_owned(),
            Signal::DeleteSnapshotSuccess { sequence_nr } => format!("deleted@{sequence_nr}"),
            Signal::DeleteSnapshotFailure { .. } => "snapshot not deleted".to_owned(),
            Signal::DeleteSnapshotsSuccess { criteria } => {
                format!("deleted<={}", criteria.max_sequence_nr)
            }
            Signal::DeleteSnapshotsFailure { .. } => "snapshots not deleted".to_owned(),
            Signal::DeleteEventsSuccess { to } => format!("events deleted<={to}"),
            Signal::DeleteEventsFailure { to, cause } => {
                format!("events not deleted<={to}: {cause}")
            }
        });
    }

    fn recovery(&self) -> Recovery {
        self.script.recovery
    }

    fn state(&self) -> Option<Vec<String>> {
        Some(self.texts.clone())
    }

    fn on_persist_failure(&mut self, _: &CommandError, event: &String, cx: &mut Cx<'_>) {
        self.log.push(format!("Failure: {event}"));
        cx.reply(&vec![format!("Failure: {event}")]);
    }

    fn on_persist_rejected(&mut self, _: &CommandError, event: &String, _: &mut Cx<'_>) {
        self.log.push(format!("Rejected: {event}"));
    }

    fn on_recovery_failure(&mut self, cause: &CommandError) {
        if self.script.verbose {
            let what = match cause {
                CommandError::RecoveryFailed { .. } => "recovery failed",
                _ => "recovery impossible",
            };
            self.log.push(what);
        }
    }

    fn pre_restart(&mut self, panic: &str, command: Option<&String>) {
        if self.script.verbose {
            let command = command.map_or("nothing", String::as_str);
            self.log.push(format!("{panic} while processing {command}"));
        }
    }

    fn post_stop(&mut self) {
        if self.script.verbose {
            self.log.push("post_stop");
        }
    }
}
