//! A list of strings: each command stores two events, "snap" saves a snapshot, "print"
//! shows the list, which survives the entity's leaving memory.
//!
//! `cargo run -p perennial-persistence --example string_list`

use perennial_persistence::actor::{Context, PersistentActor, Recovered, Signal};
use perennial_persistence::codec::Json;
use tokio::sync::mpsc;

#[path = "shared/engine.rs"]
mod engine;
use engine::{Done, Example};

struct StringList {
    events: Vec<String>,
    /// Hears of snapshots, so that the example can wait for one.
    saved: mpsc::Sender<u64>,
}

impl PersistentActor for StringList {
    type Command = String;
    type Event = String;
    type Snapshot = Vec<String>;
    type Reply = Vec<String>;
    type Codec = Json;

    fn receive_command(&mut self, command: String, cx: &mut Context<'_, Self>) {
        match command.as_str() {
            "snap" => cx.save_snapshot(&self.events),
            "print" => {
                println!("{:?}", self.events);
                cx.reply(&self.events);
            }
            data => {
                let size = self.events.len();
                let events = vec![format!("{data}-{size}"), format!("{data}-{}", size + 1)];
                cx.persist_all(events, |list: &mut Self, event, _| {
                    list.events.push(event.clone());
                });
            }
        }
    }

    fn receive_recover(&mut self, recovered: Recovered<Self>, cx: &mut Context<'_, Self>) {
        match recovered {
            Recovered::SnapshotOffer(offer) => {
                println!("starting from the snapshot at {}", offer.sequence_nr);
                self.events = offer.snapshot;
            }
            Recovered::Event(event) => self.events.push(event),
            Recovered::Completed => println!("recovered up to {}", cx.last_sequence_nr()),
        }
    }

    fn receive_signal(&mut self, signal: Signal<Self>, _: &mut Context<'_, Self>) {
        if let Signal::SaveSnapshotSuccess { sequence_nr } = signal {
            println!("saved a snapshot at {sequence_nr}");
            // The example waits for one.
            let _ = self.saved.try_send(sequence_nr.get());
        }
    }
}

#[tokio::main]
async fn main() -> Done {
    let (saved, mut snapshots) = mpsc::channel(1);
    let example = Example::start(move |_| StringList {
        events: Vec::new(),
        saved: saved.clone(),
    })
    .await?;
    for command in ["foo", "baz", "bar", "snap"] {
        example.ask(&command).await?;
    }
    assert_eq!(snapshots.recv().await, Some(6));
    example.ask(&"buzz").await?;
    let before = example.ask(&"print").await?;
    example.passivate().await?;
    let after = example.ask(&"print").await?;
    assert_eq!(before, after);
    Ok(())
}
