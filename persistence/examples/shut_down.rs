//! Stopping by a message of the actor's own: it waits in line like every command, so
//! what was sent before is handled, and what was issued is stored and has its
//! callback. What comes after it starts the next incarnation: nothing is lost.
//!
//! `cargo run -p perennial-persistence --example shut_down`

use perennial_persistence::actor::{Context, PersistentActor, Recovered};
use perennial_persistence::codec::Json;
use serde::{Deserialize, Serialize};

#[path = "shared/engine.rs"]
mod engine;
use engine::{Done, Example};

#[derive(Serialize, Deserialize)]
enum Command {
    Print(String),
    ShutDown,
}

struct ShutDownActor;

impl PersistentActor for ShutDownActor {
    type Command = Command;
    type Event = String;
    type Snapshot = ();
    type Reply = ();
    type Codec = Json;

    fn receive_command(&mut self, command: Command, cx: &mut Context<'_, Self>) {
        match command {
            Command::Print(text) => {
                cx.persist(text, |_: &mut Self, text, _| println!("handled {text}"));
            }
            Command::ShutDown => cx.stop(),
        }
    }

    fn receive_recover(&mut self, recovered: Recovered<Self>, _: &mut Context<'_, Self>) {
        match recovered {
            Recovered::Event(text) => println!("replayed {text}"),
            Recovered::Completed => println!("-- start --"),
            Recovered::SnapshotOffer(_) => {}
        }
    }

    fn post_stop(&mut self) {
        println!("-- stop --");
    }
}

#[tokio::main]
async fn main() -> Done {
    let example = Example::start(|_| ShutDownActor).await?;
    let print = |text: &str| example.tell(&Command::Print(text.to_owned()));
    let sent = [
        print("a")?,
        print("b")?,
        example.tell(&Command::ShutDown)?,
        print("c")?,
    ];
    for command in sent {
        command.reply().await?;
    }
    Ok(())
}
