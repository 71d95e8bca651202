//! Persisting in callbacks: first all outer callbacks, then all inner ones, and only
//! then the next command.
//!
//! `cargo run -p perennial-persistence --example nested_persist`

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
            let inner = format!("{command}-inner-{n}");
            cx.persist(
                format!("{command}-outer-{n}"),
                move |_: &mut Self, outer, cx| {
                    println!("{outer}");
                    cx.persist(inner, |_, inner, _| println!("{inner}"));
                },
            );
        }
    }

    fn receive_recover(&mut self, _: Recovered<Self>, _: &mut Context<'_, Self>) {}
}

#[tokio::main]
async fn main() -> Done {
    let example = Example::start(|_| MyActor).await?;
    let (a, b) = (example.tell(&"a")?, example.tell(&"b")?);
    a.reply().await?;
    b.reply().await?;
    Ok(())
}
