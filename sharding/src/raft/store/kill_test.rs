//! A process that writes to its store is killed, again and again.
//!
//! The test runs itself as the process that is killed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use rand::Rng;

use super::store_test::{append, entry, identity};
use super::*;

/// Tells the test that it is the process to be killed, and where its store is.
const STORE_OF_CHILD: &str = "PERENNIAL_TEST_RAFT_STORE";

const KILLS: u32 = 8;

#[test]
fn a_killed_process_keeps_what_it_acknowledged() {
    if let Ok(path) = std::env::var(STORE_OF_CHILD) {
        return write_until_killed(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.redb");
    let mut chance = rand::rng();
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("raft::store::kill_test::a_killed_process_keeps_what_it_acknowledged")
            .env(STORE_OF_CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = chance.random_range(1..40);
        while left > 0 {
            let line = lines.next().expect("ended by itself").unwrap();
            if let Some(index) = line.strip_prefix("acknowledged ") {
                acknowledged = index.parse().unwrap();
                left -= 1;
            }
        }
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            // What it managed to say before it died.
            if let Some(index) = line.strip_prefix("acknowledged ") {
                acknowledged = index.parse().unwrap_or(acknowledged);
            }
        }
        child.wait().unwrap();

        let store = RaftStore::open(&path, identity()).unwrap();
        {
            let image = store.image();
            let last = image
                .entries
                .last_key_value()
                .map_or(0, |(index, _)| *index);
            assert!(last >= acknowledged, "kill {kill}: {last} < {acknowledged}");
            assert_eq!(image.entries.len() as u64, last, "kill {kill}");
            let voted = image.vote.map(|vote| vote.leader_id().term);
            assert!(voted >= Some(acknowledged), "kill {kill}: {voted:?}");
        }
        // The next process needs the file.
        block_on(store.close());
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

fn write_until_killed(path: &Path) {
    block_on(async {
        let store = if path.exists() {
            RaftStore::open(path, identity())
        } else {
            RaftStore::create(path, identity())
        };
        let store = store.unwrap();
        let last = store.all_entries(..).last().map_or(0, |e| e.log_id.index);
        for index in last + 1.. {
            store.save_vote(Vote::new(index, 7)).await.unwrap();
            append(&store, vec![entry(index)]).await.unwrap();
            // Not println, whose text the test harness may keep.
            let mut out = io::stdout().lock();
            writeln!(out, "\nacknowledged {index}").unwrap();
            out.flush().unwrap();
        }
    });
}
