//! The least of HTTP: one GET, to ask a node whether it is ready and to look at its
//! pages.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

const TIMEOUT: Duration = Duration::from_secs(2);
/// A page can wait for nodes that do not answer, on a busy machine.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Debug)]
pub struct Page {
    /// As a number.
    pub status: u16,
    /// By their names in small letters.
    pub headers: HashMap<String, String>,
    /// As text.
    pub body: String,
}

/// Status and body of `GET path`.
///
/// # Errors
/// When nobody listens, or what answers does not speak HTTP.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let page = ask(address, path, &address.to_string(), TIMEOUT)?;
    Ok((page.status, page.body))
}

/// `GET path` of a node that is taken for `host`.
///
/// # Errors
/// When nobody listens, or what answers does not speak HTTP.
pub fn page(address: SocketAddr, path: &str, host: &str) -> Result<Page> {
    ask(address, path, host, PAGE_TIMEOUT)
}

fn ask(address: SocketAddr, path: &str, host: &str, timeout: Duration) -> Result<Page> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the head")?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let headers = lines.filter_map(|line| line.split_once(": "));
    Ok(Page {
        status: first.split(' ').nth(1).context("no status")?.parse()?,
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    })
}
