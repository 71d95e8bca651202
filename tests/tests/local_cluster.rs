//! A cluster of threads, as users test their own entities with: an entity type of
//! this file, a journal in memory, and everything that can happen to a node.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial::{Effect, EventSourced, Json, Node};
use perennial_tests::client::{Client, command};
use perennial_tests::cluster_load::ClusterLoad;
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;
use serde::{Deserialize, Serialize};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

/// Remembers the words it was told.
struct Notebook;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NotebookCommand {
    Note(String),
    Read,
}

impl EventSourced for Notebook {
    const ENTITY_TYPE: &'static str = "notebook";
    type State = Vec<String>;
    type Command = NotebookCommand;
    type Event = String;
    type Reply = Vec<String>;
    type Codec = Json;

    fn handle(&self, state: &Vec<String>, command: NotebookCommand) -> Effect<Self> {
        match command {
            NotebookCommand::Note(word) => Effect::persist(word).then_reply(Vec::clone),
            NotebookCommand::Read => Effect::reply(state.clone()),
        }
    }

    fn apply(&self, state: &mut Vec<String>, word: String) {
        state.push(word);
    }
}

async fn note(client: &Client, word: &str) {
    let mut note = command("notebook", "n", &json!({"note": word}));
    note.command_id = word.to_owned();
    let noted = eventually("the word to be noted", SOON, async || {
        client.send(note.clone()).await.ok()
    });
    noted.await.unwrap();
}

/// I-5, I-8: whatever happens to the node an entity is on.
#[tokio::test(flavor = "multi_thread")]
async fn an_entity_outlives_its_nodes() {
    let builder = || Node::builder().entity(Notebook);
    let mut cluster = LocalCluster::of_threads(3, builder).start().await.unwrap();
    let home = async |cluster: &LocalCluster, asked| {
        let described = eventually("the entity's home", SOON, async || {
            let client = cluster.client(asked).await.ok()?;
            let described = client.describe("notebook", "n").await.ok()?;
            (!described.node_id.is_empty()).then_some(described.node_id)
        });
        let home = described.await.unwrap();
        for node in 0..cluster.len() {
            if cluster.node_id(node, asked).await.unwrap() == home {
                return node;
            }
        }
        panic!("node {home} is not of this cluster");
    };
    let mut words = Vec::new();
    let mut say = async |cluster: &LocalCluster, asked: usize, word: &str| {
        let client = cluster.client(asked).await.unwrap();
        note(&client, word).await;
        words.push(word.to_owned());
        let (state, sequence_nr) = client.state("notebook", "n").await.unwrap();
        assert_eq!(state, json!(words));
        assert_eq!(sequence_nr, words.len() as u64);
    };

    say(&cluster, 0, "started").await;
    let victim = home(&cluster, 0).await;
    let other = (victim + 1) % 3;
    cluster.kill(victim);
    say(&cluster, other, "killed").await;
    cluster.restart(victim).await.unwrap();
    cluster.settled().await.unwrap();
    say(&cluster, victim, "restarted").await;

    let victim = home(&cluster, 0).await;
    let other = (victim + 1) % 3;
    cluster.pause(victim).unwrap();
    say(&cluster, other, "paused").await;
    cluster.resume(victim).unwrap();
    cluster.settled().await.unwrap();
    say(&cluster, victim, "resumed").await;

    let victim = home(&cluster, 0).await;
    let other = (victim + 1) % 3;
    cluster.isolate(victim);
    say(&cluster, other, "isolated").await;
    cluster.heal();
    cluster.settled().await.unwrap();
    say(&cluster, victim, "healed").await;

    let victim = home(&cluster, 0).await;
    let other = (victim + 1) % 3;
    cluster.terminate(victim).await.unwrap();
    say(&cluster, other, "terminated").await;
}

/// I-8: a cluster of one goes the same way as any, and grows.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_grows() {
    let builder = || Node::builder().entity(perennial::samples::Counter);
    let mut cluster = LocalCluster::of_threads(1, builder).start().await.unwrap();
    let load = ClusterLoad::start(&cluster.addresses(), "g", 4, 20);
    load.progress(50).await.unwrap();
    cluster.add().await.unwrap();
    cluster.add().await.unwrap();
    cluster.settled().await.unwrap();
    load.progress(50).await.unwrap();
    let book = load.stop_and_check(&cluster.address(2)).await.unwrap();
    assert_eq!(book.failures, [], "I-9: nobody noticed");
}
