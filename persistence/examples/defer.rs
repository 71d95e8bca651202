//! Actions that happen after the callbacks of all events before, without an event of
//! their own: here each command replies with what has happened until then.
//!
//! `cargo run -p perennial-persistence --example defer`

use perennial_persistence::actor::{Context, PersistentActor, Recovered};
use perennial_persistence::codec::Json;

#[path = "shared/engine.rs"]
mod engine;
use engine::{Done, Example};

#[derive(Default)]
struct MyActor {
    happened: Vec<String>,
}

impl PersistentActor for MyActor {
    type Command = String;
    type Event = String;
    type Snapshot = ();
    type Reply = Vec<String>;
    type Codec = Json;

    fn receive_command(&mut self, command: String, cx: &mut Context<'_, Self>) {
        for n in [1, 2] {
            cx.persist_async(
                format!("evt-{command}-{n}"),
                |actor: &mut Self, event, _| {
                    actor.happened.push(event.clone());
                },
            );
        }
        cx.defer_async(self, format!("evt-{command}-3"), |actor, event, cx| {
            actor.happened.push(event.clone());
            cx.reply(&actor.happened);
        });
    }

    fn receive_recover(&mut self, recovered: Recovered<Self>, _: &mut Context<'_, Self>) {
        if let Recovered::Event(event) = recovered {
            self.happened.push(event);
        }
    }
}

#[tokio::main]
async fn main() -> Done {
    let example = Example::start(|_| MyActor::default()).await?;
    let (a, b) = (example.tell(&"a")?, example.tell(&"b")?);
    println!("a: {}", a.reply().await?);
    println!("b: {}", b.reply().await?);
    // What is deferred is not stored.
    example.passivate().await?;
    println!("c: {}", example.ask(&"c").await?);
    Ok(())
}
