//! 20,000 real flights through `perennial load`, killed on the way, and every
//! airport's figures compared with those computed straight from the file.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_tests::cli;
use perennial_tests::client::{self, Client};
use perennial_tests::database::TestDatabase;
use perennial_tests::eventually::eventually;
use perennial_tests::flights_oracle::{AirportFigures, expected, flights_csv};
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use perennial_tests::seed::Random;
use serde_json::json;

const FLIGHTS: u64 = 20_000;
/// One load in a debug build on a busy machine.
const LOADED_WITHIN: Duration = Duration::from_secs(100);

#[tokio::test]
async fn flights_are_exact_after_kills_on_sqlite() {
    flights_are_exact_after_kills(NodeOptions::default()).await;
}

#[tokio::test]
async fn flights_are_exact_after_kills_on_postgres() {
    let database = TestDatabase::new().await;
    flights_are_exact_after_kills(NodeOptions::default().journal(database.url_text())).await;
}

/// I-5, I-8: the node is killed early, in the middle and near the end of three
/// loads of the same file; a fourth runs to its end, and a fifth finds nothing
/// left to do.
async fn flights_are_exact_after_kills(options: NodeOptions) {
    let mut random = Random::from_environment();
    let mut node = NodeProcess::start(options).await.unwrap();
    for kill_at in [
        random.within(1..4_000),
        random.within(6_000..14_000),
        // By now ORD and DFW have more command ids than a sensible cache holds.
        random.within(18_500..19_200),
    ] {
        let loading = cli::command(load_flights(&node)).unwrap().spawn().unwrap();
        let client = Client::connect(&node.address()).await.unwrap();
        let stored = eventually("enough flights to be stored", LOADED_WITHIN, async || {
            let stored = client.stored_events("airport").await.unwrap();
            (stored >= kill_at).then_some(stored)
        });
        let stored = stored.await.unwrap();
        node.kill9();
        println!("killed when {stored} flights were stored, wanted {kill_at}");
        let interrupted = cli::outcome(loading).await.unwrap();
        assert_eq!(interrupted.code, Some(1), "{interrupted:?}");
        node.restart().await.unwrap();
    }
    for _ in 0..2 {
        let loaded = cli::run(load_flights(&node)).await.unwrap();
        assert_eq!(loaded.code, Some(0), "{loaded:?}");
        assert_airports_are_exact(&node).await;
    }
}

fn load_flights(node: &NodeProcess) -> Vec<String> {
    let file = flights_csv().display().to_string();
    let address = node.address();
    #[rustfmt::skip]
    let args = [
        "load", "airport", &file, "--id-column", "origin", "--command", "depart",
        "--address", &address, "--retry-for", "1s",
    ];
    args.map(str::to_owned).to_vec()
}

async fn assert_airports_are_exact(node: &NodeProcess) {
    let client = Client::connect(&node.address()).await.unwrap();
    let airports = expected(&flights_csv()).unwrap();
    assert_eq!(airports.len(), 220);
    assert_eq!(airports["ORD"].departures, 1_095);
    for (code, figures) in &airports {
        let command = client::command("airport", code, &json!("report"));
        let response = client.send(command).await.unwrap();
        let report: AirportFigures = serde_json::from_slice(&response.payload).unwrap();
        assert_eq!((&report, code), (figures, code));
        assert_eq!(response.sequence_nr, figures.departures, "{code}");
    }
    assert_eq!(client.stored_events("airport").await.unwrap(), FLIGHTS);

    let address = node.address();
    let asked = ["send", "airport", "ORD", "\"report\"", "--output", "json"];
    let asked = cli::run(asked.into_iter().chain(["--address", &address])).await;
    let answer = asked.unwrap().json().unwrap();
    assert_eq!(answer["reply"]["departures"], 1_095);
    assert_eq!(answer["sequence_nr"], 1_095);
}
