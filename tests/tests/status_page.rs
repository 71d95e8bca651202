//! The status page over real HTTP, read with an HTML parser: what it shows, what it
//! does not do with hostile input, and whom it refuses.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use perennial::samples::{Account, Counter};
use perennial_tests::client::command;
use perennial_tests::eventually::eventually;
use perennial_tests::http::{self, Page};
use perennial_tests::local_cluster::LocalCluster;
use scraper::{Html, Selector};
use serde_json::{Value, json};

/// Would run, load, break out of an attribute or end an element, if it could.
const HOSTILE: &str = "<script src=//x>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;</pre>";

const SOON: Duration = Duration::from_secs(60);

async fn cluster(nodes: usize) -> LocalCluster {
    let builder = || perennial::Node::builder().entity(Counter).entity(Account);
    let cluster = LocalCluster::of_threads(nodes, builder).start();
    cluster.await.unwrap()
}

/// What a browser on the same machine gets.
async fn look(address: SocketAddr, path: &str) -> (Page, Html) {
    let path = path.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        http::page(address, &path, &format!("localhost:{}", address.port()))
    });
    let page = asked.await.unwrap().unwrap();
    let html = Html::parse_document(&page.body);
    (page, html)
}

fn texts(html: &Html, selector: &str) -> Vec<String> {
    let selector = Selector::parse(selector).unwrap();
    html.select(&selector)
        .map(|element| element.text().collect::<String>().trim().to_owned())
        .collect()
}

fn attributes(html: &Html, selector: &str, name: &str) -> Vec<String> {
    let selector = Selector::parse(selector).unwrap();
    let elements = html.select(&selector);
    elements
        .filter_map(|element| element.attr(name).map(str::to_owned))
        .collect()
}

fn number(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap()
}

/// Nothing runs, loads or sends anything but the page's own files.
fn assert_harmless(page: &Page, html: &Html) {
    let policy = &page.headers["content-security-policy"];
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(
        !policy.contains("unsafe") && !policy.contains("http"),
        "{policy}"
    );
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert_eq!(page.headers["x-frame-options"], "DENY");
    assert_eq!(page.headers["referrer-policy"], "no-referrer");
    assert_eq!(page.headers["cache-control"], "no-store");
    for script in attributes(html, "script", "src") {
        assert_eq!(script, "/page.js");
    }
    assert_eq!(
        texts(html, "script").concat(),
        "",
        "a script within the page"
    );
    assert_eq!(texts(html, "style").len(), 0, "a style within the page");
    for image in attributes(html, "img", "src") {
        assert_eq!(image, "/icon.svg");
    }
    let every = Selector::parse("*").unwrap();
    for element in html.select(&every) {
        for (name, value) in element.value().attrs() {
            assert!(!name.starts_with("on") && name != "style", "{name}={value}");
            if ["href", "src", "action"].contains(&name) {
                let here =
                    value.starts_with('/') && !value.starts_with("//") || value.starts_with('#');
                assert!(here, "{name}={value}");
            }
        }
    }
}

#[tokio::test]
async fn every_node_shows_the_whole_cluster() {
    let cluster = cluster(3).await;
    let client = cluster.client(0).await.unwrap();
    for id in 0..30 {
        let add = command("counter", &format!("c{id}"), &json!({"add": 1}));
        client.send(add).await.unwrap();
    }
    for node in 0..3 {
        let address = cluster.http_address(node);
        let (page, html) = look(address, "/").await;
        assert_eq!(page.status, 200);
        assert_harmless(&page, &html);
        assert_eq!(texts(&html, ".node h3"), ["Node 1", "Node 2", "Node 3"]);
        assert_eq!(texts(&html, ".badge.leader").len(), 1);
        assert_eq!(texts(&html, ".badge.status-up").len(), 3);
        // Each shard once in the picture, and once in the table beside it.
        let paths = attributes(&html, "svg.shards path", "d").concat();
        assert_eq!(paths.matches('M').count(), 60);
        let rows = texts(&html, "#shards-table td.number");
        assert_eq!(rows.iter().map(|row| number(row)).sum::<u64>(), 60);
        let description = texts(&html, "#shards-description").concat();
        assert!(
            description.starts_with("Of 60 shards, node 1 has"),
            "{description}"
        );
        let joined = texts(&html, ".events li");
        assert!(
            joined.iter().any(|text| text.contains("node 3")),
            "{joined:?}"
        );
        // Asked of each node, on whichever page.
        eventually("entities of all nodes", SOON, async || {
            let (_, html) = look(address, "/live").await;
            let tiles = texts(&html, ".tile");
            tiles
                .iter()
                .find(|tile| *tile == "Entities in memory300 commands wait")
                .cloned()
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_node_that_is_gone_is_shown_as_such() {
    let mut cluster = cluster(2).await;
    // One of two votes, and without it there is no cluster: the other one goes.
    let stays = cluster.leader_of(&[]).await.unwrap();
    let goes = 1 - stays;
    let client = cluster.client(stays).await.unwrap();
    let leader = client.cluster().await.unwrap().leader_node_id;
    cluster.kill(goes);
    cluster.settled_without(&[goes]).await.unwrap();
    let (_, html) = look(cluster.http_address(stays), "/").await;
    assert_eq!(texts(&html, ".badge.status-down"), ["down"]);
    let gone = texts(&html, ".node:has(.status-down) p.quiet");
    assert_eq!(gone, ["It is down."]);
    let places = texts(&html, "#shards-table tbody th");
    let heirs = [format!("node {leader}")];
    assert_eq!(places, heirs, "and its shards are the other's");
}

#[tokio::test]
async fn hostile_ids_and_payloads_are_text() {
    let cluster = cluster(1).await;
    let client = cluster.client(0).await.unwrap();
    let open = command("account", HOSTILE, &json!({"open": {"owner": HOSTILE}}));
    client.send(open).await.unwrap();
    let address = cluster.http_address(0);

    let (page, html) = look(address, "/entity?type=account").await;
    assert_eq!(page.status, 200);
    assert_harmless(&page, &html);
    assert_eq!(texts(&html, "td.id"), [HOSTILE]);
    let link = attributes(&html, "td.id a", "href").remove(0);

    let (page, html) = look(address, &link).await;
    assert_eq!(page.status, 200);
    assert_harmless(&page, &html);
    assert_eq!(texts(&html, "h1 .id"), [HOSTILE]);
    assert_eq!(attributes(&html, "#id", "value"), [HOSTILE]);
    for payload in texts(&html, "pre") {
        let payload: Value = serde_json::from_str(&payload).unwrap();
        assert!(
            payload.to_string().contains("onerror=alert(1)"),
            "{payload}"
        );
    }

    // What is wrong is repeated in the answer.
    let encoded = link.split_once("&id=").unwrap().1;
    for path in [
        format!("/entity?type={encoded}&id=a"),
        format!("/entity?type=account&id={encoded}&at={encoded}"),
        format!("/entity?type=account&id={encoded}%7C"),
        format!("/entity?type={encoded}&after={encoded}"),
    ] {
        let (page, html) = look(address, &path).await;
        assert!(
            page.status == 400 || page.status == 404,
            "{path}: {}",
            page.status
        );
        assert_harmless(&page, &html);
        assert_eq!(texts(&html, "[role=alert]").len(), 1, "{path}");
    }
}

#[tokio::test]
async fn the_inspector_shows_every_state_and_every_event_and_wakes_nobody() {
    let cluster = cluster(2).await;
    let client = cluster.client(0).await.unwrap();
    for _ in 0..120 {
        let add = command("counter", "seven", &json!({"add": 7}));
        client.send(add).await.unwrap();
    }
    let shard_owner = client.describe("counter", "seven").await.unwrap().node_id;
    for node in 0..2 {
        let address = cluster.http_address(node);
        let state = async |query: &str| {
            let (page, html) =
                look(address, &format!("/entity?type=counter&id=seven{query}")).await;
            assert_harmless(&page, &html);
            assert_eq!(page.status, 200, "{query}");
            let state = texts(&html, "[aria-labelledby=state-heading] pre").remove(0);
            (serde_json::from_str::<Value>(&state).unwrap(), html)
        };
        let (now, html) = state("").await;
        assert_eq!(now, json!({"value": 840}));
        let tiles = texts(&html, ".tile");
        assert!(tiles[0].contains("live"), "{tiles:?}");
        assert!(
            tiles[1].starts_with(&format!("Node{shard_owner}")),
            "{tiles:?}"
        );
        for at in [0, 1, 60, 119, 120] {
            let (then, _) = state(&format!("&at={at}")).await;
            assert_eq!(then, json!({"value": 7 * at}), "at {at}");
        }
        // The latest first, page by page, every one of them once.
        let mut seen = Vec::new();
        let mut path = "/entity?type=counter&id=seven".to_owned();
        loop {
            let (_, html) = look(address, &path).await;
            seen.extend(attributes(&html, ".stream > li", "value"));
            let Some(older) = attributes(&html, ".pages a[rel=prev]", "href").pop() else {
                break;
            };
            path = older;
        }
        let seen: Vec<u64> = seen.iter().map(|nr| number(nr)).collect();
        assert_eq!(seen, (1..=120).rev().collect::<Vec<_>>());
        // An entity that was never written: not woken by being looked at, and not by
        // being looked at again.
        for _ in 0..2 {
            let (page, html) = look(address, "/entity?type=counter&id=nobody").await;
            assert_eq!(page.status, 200);
            assert!(texts(&html, ".tile")[0].contains("passive"));
        }
    }
    for (query, status) in [
        ("type=counter&id=seven&at=121", 200),
        ("type=counter&id=seven&at=-1", 400),
        ("type=counter&id=seven&to=999", 200),
        ("type=counter&id=seven&at=99999999999999999999", 400),
        ("type=none", 404),
        ("type=counter&id=none&to=18446744073709551615", 200),
    ] {
        let (page, html) = look(cluster.http_address(0), &format!("/entity?{query}")).await;
        assert_eq!(page.status, status, "{query}");
        assert_harmless(&page, &html);
    }
}

/// A name of somebody's domain that leads to this machine does not open the page to
/// the scripts of that domain. Probes and scrapers come by any name.
#[tokio::test]
async fn the_page_is_shown_under_local_names_only() {
    let cluster = cluster(1).await;
    let address = cluster.http_address(0);
    for path in ["/", "/live", "/entity?type=counter", "/page.js"] {
        let refused = http::page(address, path, "evil.example").unwrap();
        assert_eq!(refused.status, 403, "{path}");
        assert!(!refused.body.contains("counter"), "{path}");
        assert_harmless(&refused, &Html::parse_document(&refused.body));
        let shown = http::page(address, path, "localhost").unwrap();
        assert_eq!(shown.status, 200, "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        let shown = http::page(address, path, "node-1.example").unwrap();
        assert_eq!(shown.status, 200, "{path}");
    }
}
