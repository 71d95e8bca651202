//! I-5: nothing acknowledged is lost, and I-8: nothing unanswered happens twice,
//! when a node is killed under load.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_tests::client::{Client, Failure, command};
use perennial_tests::database::{TestDatabase, server_address, url_through};
use perennial_tests::eventually::eventually;
use perennial_tests::http;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use perennial_tests::proxy::{Flow, Proxy};
use perennial_tests::seed::Random;
use serde_json::json;
use tokio::sync::watch;

const COUNTERS: u64 = 50;
const KILLS: usize = 3;
const OUTSTANDING: usize = 64;
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn acknowledged_commands_survive_kills_on_sqlite() {
    acknowledged_commands_survive_kills(NodeOptions::default()).await;
}

#[tokio::test]
async fn acknowledged_commands_survive_kills_on_postgres() {
    let database = TestDatabase::new().await;
    acknowledged_commands_survive_kills(NodeOptions::default().journal(database.url_text())).await;
}

/// Commands sent to a counter and acknowledged by it; each adds 1.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    sent: i64,
    acknowledged: i64,
}

async fn acknowledged_commands_survive_kills(options: NodeOptions) {
    let mut random = Random::from_environment();
    let mut node = NodeProcess::start(options).await.unwrap();
    let mut tallies: BTreeMap<u64, Tally> = BTreeMap::new();
    for _ in 0..KILLS {
        let client = Client::connect(&node.address()).await.unwrap();
        let kill_after = random.within(200..2_000);
        let (acknowledgements, mut progress) = watch::channel(0_u64);
        let mut chosen: Vec<u64> = Vec::new();
        let mut answered: Vec<u64> = Vec::new();
        // Without end: the kill ends it.
        let commands = std::iter::from_fn(|| {
            let counter = random.below(COUNTERS);
            chosen.push(counter);
            Some(command(
                "counter",
                &format!("c{counter}"),
                &json!({"add": 1}),
            ))
        });
        let sending = client.pipeline(OUTSTANDING, commands, |place, response| {
            assert_eq!(Failure::in_response(&response), None);
            answered.push(place);
            acknowledgements.send_modify(|count| *count += 1);
        });
        let killing = async {
            progress
                .wait_for(|count| *count >= kill_after)
                .await
                .unwrap();
            node.kill9();
        };
        let (sent, ()) = tokio::join!(sending, killing);
        assert!(sent.is_err(), "the stream outlived the node");

        for counter in &chosen {
            tallies.entry(*counter).or_default().sent += 1;
        }
        for place in &answered {
            let counter = chosen[usize::try_from(*place).unwrap()];
            tallies.entry(counter).or_default().acknowledged += 1;
        }
        node.restart().await.unwrap();
        assert_counters_fit(&node, &mut tallies).await;
    }
}

/// Each counter has at least what was acknowledged and at most what was sent.
/// What it has is what the next round starts from.
async fn assert_counters_fit(node: &NodeProcess, tallies: &mut BTreeMap<u64, Tally>) {
    let client = Client::connect(&node.address()).await.unwrap();
    for (counter, tally) in tallies {
        let (state, sequence_nr) = client
            .state("counter", &format!("c{counter}"))
            .await
            .unwrap();
        let value = state["value"].as_i64().unwrap();
        let fits = (tally.acknowledged..=tally.sent).contains(&value);
        assert!(
            fits,
            "I-5: counter c{counter} has {value}, expected {tally:?}"
        );
        assert_eq!(
            sequence_nr,
            value.unsigned_abs(),
            "one event for each command"
        );
        *tally = Tally {
            sent: value,
            acknowledged: value,
        };
    }
}

/// I-9 in the small: SIGTERM lets accepted commands finish.
#[tokio::test]
async fn termination_answers_what_was_accepted() {
    let mut node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let adding = tokio::spawn(async move {
        let mut acknowledged = 0_u64;
        let add = || command("counter", "draining", &json!({"add": 1}));
        while client.send(add()).await.is_ok() {
            acknowledged += 1;
        }
        acknowledged
    });
    let watcher = Client::connect(&node.address()).await.unwrap();
    let some = eventually("some commands", Duration::from_secs(10), async || {
        let (_, sequence_nr) = watcher.state("counter", "draining").await.unwrap();
        (sequence_nr > 50).then_some(())
    });
    some.await.unwrap();
    drop(watcher);
    let status = node.terminate().await.unwrap();
    assert!(status.success(), "{status}; {}", node.output());
    let acknowledged = adding.await.unwrap();

    node.restart().await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let (state, _) = client.state("counter", "draining").await.unwrap();
    assert_eq!(state, json!({"value": acknowledged}), "sent one at a time");
}

/// Who asks twice does not want to wait. What was not answered may have been stored
/// or not, as after a kill.
#[tokio::test]
async fn a_second_sigterm_ends_a_node_at_once() {
    let database = TestDatabase::new().await;
    let server = server_address(&database).await.unwrap();
    let proxy = Proxy::start(server).await.unwrap();
    let options = NodeOptions::default()
        .journal(url_through(&database, proxy.address()))
        .setting("persistence.append_timeout", "10min")
        .setting("node.drain_timeout", "10min");
    let mut node = NodeProcess::start(options).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let add = || command("counter", "asked-twice", &json!({"add": 1}));
    client.send(add()).await.unwrap();
    // A command that the node has accepted and cannot finish.
    proxy.set(Flow::Stalled);
    let sending = client.clone();
    let unfinished = tokio::spawn(async move { sending.send(add()).await });
    let accepted = eventually("the command to wait for the journal", SOON, async || {
        let described = client.describe("counter", "asked-twice").await.ok()?;
        (!described.waiting_for.is_empty()).then_some(())
    });
    accepted.await.unwrap();

    node.signal("TERM").unwrap();
    let stopping = eventually("the node to be stopping", SOON, async || {
        let ready = http::get(node.http_address(), "/readyz");
        (!matches!(ready, Ok((200, _)))).then_some(())
    });
    stopping.await.unwrap();
    assert!(!unfinished.is_finished(), "it waits for the command");
    node.signal("TERM").unwrap();
    // In seconds, not in minutes.
    let status = node.ended().await.unwrap();
    assert_eq!(status.code(), Some(1), "{status}; {}", node.output());
    assert!(unfinished.await.unwrap().is_err());
}
