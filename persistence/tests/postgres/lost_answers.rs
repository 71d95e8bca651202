//! Connections that are lost in the middle of an append: what became of it is found
//! out on another.

use std::time::{Duration, Instant};

use perennial_persistence::command::CommandId;
use perennial_persistence::journal::{AppendError, CommandRecord, JournalError, WriteRight};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::{StorageOptions, StorageUrl, migrate};
use perennial_persistence::testing::postgres_server::TestDatabase;
use perennial_persistence::writer::{Epoch, ShardNr};
use sqlx::ConnectOptions;

use crate::node::{Node, assert_stored, end_connections};
use crate::proxy::{Cut, Proxy};

async fn node_behind_proxy(options: &StorageOptions) -> (TestDatabase, Proxy, Node) {
    let database = TestDatabase::new().await;
    migrate(&database.url()).await.unwrap();
    let direct = database.connect_options();
    let proxy = Proxy::to(direct.get_port()).await;
    let through_proxy = database.url_text().replace(
        &format!(":{}/", direct.get_port()),
        &format!(":{}/", proxy.port),
    );
    let url = StorageUrl::parse(&through_proxy).unwrap();
    let node = Node::start_with(&url, options).await;
    (database, proxy, node)
}

/// I-5, I-8: wherever in a request or an answer the connection breaks, the append is
/// stored once and known to be.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_cut_at_any_byte_is_decided() {
    let (_database, proxy, node) = node_behind_proxy(&StorageOptions::default()).await;
    let mut nr = 0;
    let mut append = async || {
        nr += 1;
        let text = format!("{nr:04}");
        assert_stored(&node.append(node.to_append("a", nr, &[&text])).await);
    };
    append().await;
    proxy.arrange(None);
    append().await;
    let (request, answer) = proxy.passed_on();
    assert!(request > 100 && answer > 20, "{request}, {answer}");
    let requests = [
        0,
        1,
        4,
        5,
        request / 3,
        request - 6,
        request - 5,
        request - 1,
        request,
    ];
    let answers = [0, 1, 5, answer / 2, answer - 1];
    let cuts = requests.map(Cut::Request).into_iter();
    for cut in cuts.chain(answers.map(Cut::Answer)) {
        proxy.arrange(Some(cut));
        append().await;
        assert!(
            !proxy.is_armed(),
            "{cut:?} of {request}, {answer}: should have struck"
        );
        // Connected and prepared again, so that the next cut counts from the same place.
        append().await;
    }
    let texts = node.texts("a").await;
    let expected: Vec<String> = (1..=nr).map(|nr| format!("{nr:04}")).collect();
    assert_eq!(texts, expected);
}

/// I-2: wherever its connection breaks, a start begins once, under its number, and may
/// write.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_cut_at_any_byte_begins_once() {
    let (_database, proxy, node) = node_behind_proxy(&StorageOptions::default()).await;
    let registry = &node.storage.registry;
    let starting = registry.mint_node().await.unwrap();
    let (mut number, mut struck) = (0, 0);
    for at in (0..2000).step_by(100) {
        for cut in [Cut::Request(at), Cut::Answer(at / 4)] {
            number += 1;
            proxy.arrange(Some(cut));
            let begun = registry.begin_numbered(starting, number).await.unwrap();
            struck += usize::from(!proxy.is_armed());
            proxy.arrange(None);
            assert_eq!(begun.number, number, "{cut:?}");
            let shard = [(ShardNr(1), Epoch(1))];
            let asked = node.storage.journal.may_write(begun.session, &shard);
            assert_eq!(asked.await.unwrap(), [true], "{cut:?}");
        }
    }
    assert!(struck > 15, "{struck}");
}

/// I-5, I-8: the same while a connection is made and the statement prepared.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_cut_while_connecting_is_decided() {
    let (database, proxy, node) = node_behind_proxy(&StorageOptions::default()).await;
    let mut control = database.connect_options().connect().await.unwrap();
    let mut expected = Vec::new();
    for at in (0..4000).step_by(230) {
        for cut in [Cut::Request(at), Cut::Answer(at / 4)] {
            end_connections(&mut control, node.session).await;
            proxy.arrange(Some(cut));
            let text = format!("{cut:?}");
            let nr = expected.len() as u64 + 1;
            assert_stored(&node.append(node.to_append("a", nr, &[&text])).await);
            expected.push(text);
        }
    }
    proxy.arrange(None);
    assert_eq!(node.texts("a").await, expected);
}

/// I-8: the answer to an append is lost after the commit; it is asked again and
/// known as stored, with everything stored once.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_is_lost_is_found_stored() {
    let (_database, proxy, node) = node_behind_proxy(&StorageOptions::default()).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);

    proxy.arrange(Some(Cut::InsertAnswer));
    let mut append = node.to_append("a", 2, &["2", "3", "4"]);
    append.writes[1].command = Some(CommandRecord {
        command_id: CommandId::parse("once").unwrap().unwrap(),
        reply: Payload::json("done"),
    });
    let appended = node.append(append).await;
    assert!(!proxy.is_armed(), "the proxy should have struck");
    assert_stored(&appended);
    assert_eq!(appended.stored_writes, 3);
    assert_eq!(node.texts("a").await, ["1", "2", "3", "4"]);

    // The same, fenced before it can ask again: what is stored counts.
    proxy.arrange(Some(Cut::InsertAnswer));
    let append = node.append(node.to_append("a", 5, &["5"]));
    let fence = async {
        while proxy.is_armed() {
            tokio::task::yield_now().await;
        }
        node.storage
            .registry
            .fence(node.session, None)
            .await
            .unwrap();
    };
    let (appended, ()) = futures::future::join(append, fence).await;
    assert_stored(&appended);
    assert_eq!(node.texts("a").await, ["1", "2", "3", "4", "5"]);
}

/// I-8: however long making a connection may take, an append is answered when its
/// own time is over, and so is a deletion.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_lost_its_way_costs_no_more_than_the_append_timeout() {
    let options = StorageOptions {
        append_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(300),
        ..StorageOptions::default()
    };
    let (_database, proxy, node) = node_behind_proxy(&options).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);
    proxy.stall();
    let began = Instant::now();
    let appended = node.append(node.to_append("a", 2, &["2"])).await;
    let failure = appended.failure.unwrap();
    assert!(matches!(failure, AppendError::Unknown { .. }), "{failure}");
    // The connection is known to be lost now: nothing is sent.
    let appended = node.append(node.to_append("a", 2, &["2"])).await;
    let failure = appended.failure.unwrap();
    let unavailable = matches!(failure, AppendError::Unavailable { .. });
    assert!(unavailable, "{failure}");
    let right = WriteRight {
        session: node.session,
        shard: ShardNr(1),
        epoch: Epoch(1),
    };
    let id = PersistenceId::new("test", "a").unwrap();
    let deleted = node
        .storage
        .journal
        .delete_events(right, &id, SequenceNr::MAX)
        .await;
    let unavailable = matches!(deleted, Err(JournalError::Unavailable { .. }));
    assert!(unavailable, "{deleted:?}");
    // Three seconds, and some for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(30));
}
