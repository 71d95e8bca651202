//! How a client that comes to the wrong port, or shows no certificate that is trusted,
//! is told so before its connection ends.
//!
//! Words get lost in two ways, and neither may be left to luck:
//!
//! * The connection is reset because of what the client still sends (`lingering.rs`).
//! * A client of HTTP/2 that is sent away before its first call has nobody to pass the
//!   words on to. So it is sent away in answer to that call.
//!
//! Who is to be turned away is decided in
//! `accepting.rs`; how the command line notices it, in `tls/refusal.rs`.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::lingering::Lingering;

/// What a client gets to make its first call.
const PATIENCE: Duration = Duration::from_secs(1);
/// The first call stands within so many bytes, or is taken to have come.
const FIRST_CALL_MAX: usize = 16 * 1024;

/// A fatal alert of TLS: handshake_failure.
const TLS_ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 40];

const HTTP1_REFUSAL: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
      this port requires TLS: connect with https\n";

/// What a client of HTTP/2 says first.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Empty settings.
const HTTP2_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// Length, type, flags and stream of a frame.
const HTTP2_FRAME_HEAD: usize = 9;
/// The type of the frame that begins a call.
const HTTP2_HEADERS: u8 = 1;

/// For who speaks without TLS where it is required, and has begun with this byte, which
/// is not read yet.
pub(super) async fn tell_to_use_tls(mut stream: TcpStream, first: u8) {
    // Who is gone needs no words.
    if first == HTTP2_PREFACE[0] {
        let _ = stream.write_all(HTTP2_SETTINGS).await;
        let _ = timeout(PATIENCE, first_call(&mut stream)).await;
        let words = go_away("this port requires TLS: connect with https");
        let _ = stream.write_all(&words).await;
    } else {
        let _ = stream.write_all(HTTP1_REFUSAL).await;
    }
    hang_up(stream).await;
}

/// For who uses TLS where nobody may.
pub(super) async fn tell_not_to_use_tls(mut stream: TcpStream) {
    let _ = stream.write_all(TLS_ALERT).await;
    hang_up(stream).await;
}

/// For who has been told: ends the connection so that it is heard.
pub(super) async fn hang_up(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let mut lingering = Lingering::new();
    poll_fn(|context| lingering.poll(context, &mut stream)).await;
}

/// Reads until a client of HTTP/2 has begun a call, or has gone.
async fn first_call(stream: &mut TcpStream) {
    let mut received = Vec::new();
    while !has_call(&received) && received.len() < FIRST_CALL_MAX {
        match stream.read_buf(&mut received).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Whether a call has begun in what a client of HTTP/2 has sent so far.
fn has_call(received: &[u8]) -> bool {
    let mut frames = received.get(HTTP2_PREFACE.len()..).unwrap_or_default();
    while let Some((&[high, middle, low, kind, ..], _)) =
        frames.split_first_chunk::<HTTP2_FRAME_HEAD>()
    {
        if kind == HTTP2_HEADERS {
            return true;
        }
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        frames = frames.get(HTTP2_FRAME_HEAD + length..).unwrap_or_default();
    }
    false
}

/// The end of a connection because of INADEQUATE_SECURITY, with words for people.
fn go_away(words: &str) -> Vec<u8> {
    const INADEQUATE_SECURITY: u32 = 0xc;
    // The words are ours, and short.
    let len = (8 + words.len()) as u8;
    let mut frame = vec![0, 0, len, 7, 0, 0, 0, 0, 0];
    frame.extend([0; 4]);
    frame.extend(INADEQUATE_SECURITY.to_be_bytes());
    frame.extend(words.as_bytes());
    frame
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::connections::lingering::tests::pair;

    fn settings_and_window() -> Vec<u8> {
        let window = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 1, 0, 0];
        [HTTP2_PREFACE, HTTP2_SETTINGS, &window].concat()
    }

    const CALL: &[u8] = &[0, 0, 1, HTTP2_HEADERS, 4, 0, 0, 0, 1, 0x82];

    #[test]
    fn a_call_is_found_behind_what_comes_before_it() {
        let mut received = settings_and_window();
        assert!(!has_call(&received));
        received.extend(CALL);
        assert!(has_call(&received));
        for len in 0..received.len() - CALL.len() + HTTP2_FRAME_HEAD {
            assert!(!has_call(&received[..len]), "{len} bytes");
        }
        // A frame that says it is longer than what has come.
        let cut_off = [HTTP2_PREFACE, &[0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0, 1]].concat();
        assert!(!has_call(&cut_off));
    }

    /// What the client sends after its call does not reset the connection.
    #[tokio::test]
    async fn a_client_is_told_in_answer_to_its_first_call() {
        let (mut client, server) = pair().await;
        let telling = tell_to_use_tls(server, b'P');
        let asking = async {
            client.write_all(&settings_and_window()).await.unwrap();
            let mut said = [0; HTTP2_SETTINGS.len()];
            client.read_exact(&mut said).await.unwrap();
            assert_eq!(said, HTTP2_SETTINGS);
            let early = timeout(Duration::from_millis(50), client.peek(&mut [0])).await;
            assert!(early.is_err(), "there is no call yet");
            client.write_all(CALL).await.unwrap();
            client.write_all(&[0; 100_000]).await.unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            drop(client);
            String::from_utf8_lossy(&heard).into_owned()
        };
        let ((), heard) = tokio::join!(telling, asking);
        assert!(heard.contains("this port requires TLS"), "{heard:?}");
    }

    #[tokio::test]
    async fn who_says_nothing_more_and_stays_is_not_waited_for() {
        let (mut client, server) = pair().await;
        client.write_all(HTTP2_PREFACE).await.unwrap();
        tell_to_use_tls(server, b'P').await;
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert!(!heard.is_empty());
    }
}
