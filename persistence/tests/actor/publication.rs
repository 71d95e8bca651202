//! Stored events are published to subscribers in the process.

use std::time::Duration;

use perennial_persistence::engine::EngineSettings;
use perennial_persistence::publication::{Published, Subscription};

use crate::fixture::{Backend, Fixture};
use crate::subject::{Script, update};

on_each_backend!(
    stored_events_are_published_in_their_order,
    a_subscriber_that_lags_behind_is_told,
);

async fn next(events: &mut Subscription) -> Published {
    let next = tokio::time::timeout(Duration::from_secs(20), events.next());
    next.await.unwrap().unwrap()
}

async fn stored_events_are_published_in_their_order(on: Backend) {
    let f = Fixture::empty(on, Script::new(|_, x, cx| cx.persist_async(x, update))).await;
    let mut events = f.engine.subscribe();
    f.run(&["a", "b", "c"]).await;
    for (i, text) in ["a", "b", "c"].into_iter().enumerate() {
        let Published::Event(event) = next(&mut events).await else {
            panic!("nothing was missed");
        };
        assert_eq!(event.sequence_nr.get(), i as u64 + 1);
        assert_eq!(event.persistence_id.as_str(), "texts|subject");
        assert_eq!(event.payload.bytes, format!("{text:?}"));
    }
}

async fn a_subscriber_that_lags_behind_is_told(on: Backend) {
    let settings = EngineSettings {
        publication_capacity: 4,
        ..EngineSettings::default()
    };
    let f = Fixture::with(on, Script::new(|_, x, cx| cx.persist(x, update)), settings).await;
    let mut events = f.engine.subscribe();
    let commands: Vec<String> = (1..=20).map(|i| i.to_string()).collect();
    for command in &commands {
        f.ask(command).await.unwrap();
    }
    assert_eq!(next(&mut events).await, Published::Missed(16));
    let Published::Event(event) = next(&mut events).await else {
        panic!("told once");
    };
    assert_eq!(event.sequence_nr.get(), 17);
}
