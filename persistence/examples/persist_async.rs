//! High throughput: commands do not wait for the events of those before.
//!
//! `cargo run -p perennial-persistence --example persist_async`

use perennial_persistence::actor::{Context, PersistentActor, Recovered};
use perennial_persistence::codec::Json;

#[path = "shared/engine.rs"]
mod engine;
use engine::{Done, Example};

struct MyActor;

impl PersistentActor for MyActor {
    type Command = String;
    type Event = String;
    type Snapshot = ();
    type Reply = ();
    type Codec = Json;

    fn receive_command(&mut self, command: String, cx: &mut Context<'_, Self>) {
        println!("{command}");
        for n in [1, 2] {
            cx.persist_async(format!("evt-{command}-{n}"), |_: &mut Self, event, _| {
                println!("{event}");
            });
        }
    }

    fn receive_recover(&mut self, _: Recovered<Self>, _: &mut Context<'_, Self>) {}
}

/// Prints a, b, then the events in their order.
#[tokio::main]
async fn main() -> Done {
    let example = Example::start(|_| MyActor).await?;
    let (a, b) = (example.tell(&"a")?, example.tell(&"b")?);
    a.reply().await?;
    b.reply().await?;
    Ok(())
}
