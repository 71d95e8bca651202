//! The HTTP port asks for the same rights as the port for clients.

use std::io::{Read, Write};
use std::net::TcpStream;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::world::{SOON, World, world};

/// Status of a page of the HTTP port, asked with a token.
fn page(world: &World, path: &str, authorization: Option<&str>) -> u16 {
    let mut stream = TcpStream::connect(world.node.http_address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let authorization = authorization.map(|value| format!("Authorization: {value}\r\n"));
    let head = authorization.unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{head}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 401 {
        assert!(
            answer.to_lowercase().contains("www-authenticate: basic"),
            "{answer}"
        );
    }
    status
}

#[tokio::test]
async fn the_status_page_asks_for_the_same_rights() {
    let world = world().await;
    let entity = "/entity?type=counter&id=a";
    let (watcher, shop) = (
        world.token("ada", &["watchers"]),
        world.token("shop-1", &[]),
    );
    let reader = world.token("reader", &[]);
    for (path, expected) in [
        ("/livez", [200, 200, 200, 200]),
        ("/metrics", [200, 200, 200, 200]),
        ("/", [401, 200, 403, 403]),
        ("/live", [401, 200, 403, 403]),
        ("/entity", [401, 200, 200, 200]),
        ("/entity?type=counter", [401, 403, 200, 200]),
        (entity, [401, 403, 200, 403]),
        ("/entity?type=account&id=a", [401, 403, 403, 403]),
    ] {
        let tokens = [None, Some(&watcher), Some(&shop), Some(&reader)];
        let seen = tokens.map(|token| {
            let bearer = token.map(|token| format!("Bearer {token}"));
            page(&world, path, bearer.as_deref())
        });
        assert_eq!(
            seen, expected,
            "{path}: nobody, a watcher, the shop, a reader"
        );
    }
    // As a browser sends what a person has typed.
    let password = BASE64_STANDARD.encode(format!("ada:{watcher}"));
    assert_eq!(page(&world, "/", Some(&format!("Basic {password}"))), 200);
    assert_eq!(page(&world, "/", Some("Basic YWRhOng=")), 401);
}
