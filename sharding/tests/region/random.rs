//! Random histories: shards move, nodes die and come back, streams break, nodes fall
//! behind, leases run out; what was promised of each command is kept.
//!
//! `PERENNIAL_TEST_SEED=n` runs one seed, `PERENNIAL_TEST_SEEDS=n` that many.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_persistence::command::{Answer, ReplyTo};
use perennial_persistence::command_error::Applied;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_sharding::cluster_state::Home;
use perennial_sharding::region::RegionSettings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::fixture::{Command, SHARDS, World, entity_in, request, texts};

const NODES: usize = 3;
const SEEDS: u64 = 6;

struct Sent {
    text: String,
    sender: usize,
    id: PersistenceId,
    answer: oneshot::Receiver<Answer>,
}

struct History {
    world: World,
    random: StdRng,
    sent: Vec<Sent>,
}

impl History {
    fn send(&mut self) {
        let sender = self.random.random_range(0..NODES);
        let shard = self.random.random_range(0..SHARDS);
        let has_id: bool = self.random.random();
        for _ in 0..self.random.random_range(1..4) {
            let text = format!("{}", self.sent.len());
            let id = entity_in(shard, 0);
            let put = request(&Command::Put(text.clone()), has_id.then_some(text.as_str()));
            let deadline = self.random.random_bool(0.05).then(|| {
                let left = self.random.random_range(0..50);
                tokio::time::Instant::now().into_std() + Duration::from_millis(left)
            });
            let (reply_to, answer) = ReplyTo::ask();
            let region = &self.world.nodes[sender].region;
            region.deliver(id.clone(), put, deadline, reply_to);
            self.sent.push(Sent {
                text,
                sender,
                id,
                answer,
            });
        }
    }

    /// Something happens to the cluster.
    async fn disturb(&mut self) {
        let node = self.random.random_range(0..NODES);
        let other = (node + self.random.random_range(1..NODES)) % NODES;
        let (nr, other_nr) = (self.world.nodes[node].nr, self.world.nodes[other].nr);
        let now = tokio::time::Instant::now().into_std();
        match self.random.random_range(0..14) {
            0..=5 => {
                let from = self.random.random_range(0..SHARDS);
                let to = (from + self.random.random_range(1..4)).min(SHARDS);
                self.world.begin_handoff(from..to, node);
            }
            6 | 7 => self.world.network.faults().break_streams(nr, other_nr),
            8 => self.world.network.faults().cut_one_way(nr, other_nr),
            9 => self.world.network.faults().heal_all(),
            10 => self.world.cluster.set_follows(nr, false),
            11 => self.world.cluster.set_follows(nr, true),
            12 => self.world.nodes[node].lease.end(),
            _ => {
                if self.random.random_bool(0.5) {
                    self.world.down(node);
                }
                self.world.cluster.set_follows(nr, true);
                self.world.rejoin(node).await;
            }
        }
        if self.random.random_bool(0.5) {
            let lease = &self.world.nodes[node].lease;
            lease.extend(now + Duration::from_secs(3600));
        }
        self.assign_all();
    }

    /// What a coordinator would do.
    fn assign_all(&mut self) {
        let state = self.world.cluster.state();
        for (shard, owner) in (0..).zip(&state.shards) {
            if owner.home == Home::Unassigned {
                let to = self.random.random_range(0..NODES);
                self.world.assign([shard], to);
            }
        }
    }

    async fn run(seed: u64) {
        println!("seed {seed}");
        let by_journal = seed.is_multiple_of(3);
        let world = World::with(NODES, RegionSettings::default(), by_journal).await;
        world.assign(0..SHARDS, 0);
        let mut history = Self {
            world,
            random: StdRng::seed_from_u64(seed),
            sent: Vec::new(),
        };
        for _ in 0..150 {
            for _ in 0..history.random.random_range(0..6) {
                history.send();
            }
            if history.random.random_bool(0.5) {
                history.disturb().await;
            }
            let pause = history.random.random_range(0..20);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        history.settle().await;
        history.check().await;
    }

    async fn settle(&mut self) {
        self.world.network.faults().heal_all();
        let now = tokio::time::Instant::now().into_std();
        for node in &self.world.nodes {
            self.world.cluster.set_follows(node.nr, true);
            node.lease.extend(now + Duration::from_secs(3600));
        }
        for _ in 0..100 {
            self.assign_all();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn check(self) {
        let mut stored = BTreeMap::new();
        for shard in 0..SHARDS {
            let id = entity_in(shard, 0);
            let texts = self.world.stored(&id).await;
            stored.insert(id, texts);
        }
        // By sender and entity: what was answered well, in the order of sending.
        let mut in_order: BTreeMap<(usize, PersistenceId), Vec<String>> = BTreeMap::new();
        let total = self.sent.len();
        let mut done = 0;
        for sent in self.sent {
            let text = sent.text.clone();
            let answer = timeout(Duration::from_secs(100), sent.answer).await;
            let answer = answer.unwrap_or_else(|_| panic!("I-8: {text} has no answer"));
            let answer = answer.unwrap_or_else(|_| panic!("I-8: {text} was dropped"));
            let count = stored[&sent.id].iter().filter(|s| **s == text).count();
            assert!(count <= 1, "I-8: {text} is stored {count} times");
            match answer {
                Ok(_) => {
                    assert_eq!(count, 1, "I-5: {text} was acknowledged");
                    let key = (sent.sender, sent.id);
                    in_order.entry(key).or_default().push(sent.text);
                    done += 1;
                }
                Err(error) => {
                    if error.applied() == Applied::No {
                        assert_eq!(count, 0, "I-8: {text} was not applied: {error}");
                    }
                }
            }
        }
        assert!(done * 2 > total, "only {done} of {total} succeeded");
        for ((sender, id), expected) in in_order {
            let of_sender = stored[&id].iter().filter(|text| expected.contains(text));
            let of_sender: Vec<String> = of_sender.cloned().collect();
            assert_eq!(
                of_sender, expected,
                "order of node {sender}'s commands to {id}"
            );
        }
        for id in stored.keys() {
            let node = &self.world.nodes[0];
            let listed = timeout(Duration::from_secs(60), node.ask(id, &Command::List)).await;
            let listed = listed.unwrap();
            assert!(listed.is_ok(), "{id}: {listed:?}");
            assert_eq!(texts(listed), stored[id], "I-6: {id}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn promises_are_kept_whatever_happens() {
    let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    let seeds = match number("PERENNIAL_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PERENNIAL_TEST_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        History::run(seed).await;
    }
}
