//! A short soak: real processes and a real Postgres, broken by a seed, all promises
//! checked. `perennial-soak` does the same for as long as one likes.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_tests::binaries::repository;
use perennial_tests::seed::Random;
use perennial_tests::soak::round::Load;
use perennial_tests::soak::schedule::FaultKind;
use perennial_tests::soak::stories::Story;
use perennial_tests::soak::{self, Options};

/// How long things break; starting and checking come on top.
const LASTS: Duration = Duration::from_secs(40);

/// I-1, I-2, I-3, I-5, I-8, I-12.
#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_faults_breaks_no_promise() {
    let seed = Random::from_environment().next_u64();
    let options = Options {
        story: Story::Mixed,
        lasts: LASTS,
        seed,
        // Those that are soon over.
        faults: vec![
            FaultKind::Kill,
            FaultKind::KillLeader,
            FaultKind::Pause,
            FaultKind::Partition,
            FaultKind::PartitionOneWay,
            FaultKind::PostgresRestart,
            FaultKind::JournalCut,
            FaultKind::FullDisk,
        ],
        nodes: 3,
        settings: vec![("sharding.number_of_shards".to_owned(), "60".to_owned())],
        load: Load {
            rate: 150.0,
            ..Load::default()
        },
        probes: 30,
        folder: repository().join(format!("target/soak/{seed}")),
        quiet: true,
    };
    let summary = soak::run(&options).await.unwrap();
    println!("{summary}");
    let kept = options.folder.display();
    assert_eq!(summary.violations, [], "everything about it is in {kept}");
    assert_eq!(summary.undecided, [""; 0], "in {kept}");
    assert!(summary.counts.acknowledged > 0 && summary.counts.reads > 0);
    assert!(!summary.faults.is_empty(), "nothing was broken");
    std::fs::remove_dir_all(&options.folder).unwrap();
}
