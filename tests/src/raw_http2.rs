//! HTTP/2 by hand, for a client that does not keep to the rules: frames as bytes,
//! and no opinion of what may follow what.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer takes nearly so long.
const SOON: Duration = Duration::from_secs(60);

/// What every connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    /// A part of a body.
    pub const DATA: u8 = 0;
    /// Opens a stream.
    pub const HEADERS: u8 = 1;
    /// Ends a stream.
    pub const RST_STREAM: u8 = 3;
    /// What a side wants of the other.
    pub const SETTINGS: u8 = 4;
    /// Are you there?
    pub const PING: u8 = 6;
    /// Ends a connection.
    pub const GOAWAY: u8 = 7;
    /// More headers.
    pub const CONTINUATION: u8 = 9;
}

/// Of HEADERS and CONTINUATION: these are all headers.
pub const END_HEADERS: u8 = 4;
/// The stream is refused, and nothing was done about it.
pub const REFUSED_STREAM: u32 = 7;
/// The other end has enough.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame of the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// 0 for the connection.
    pub stream: u32,
    /// As it came.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of `RST_STREAM` and GOAWAY.
    ///
    /// # Panics
    /// For other frames.
    #[must_use]
    pub fn error_code(&self) -> u32 {
        let code = match self.kind {
            kind::RST_STREAM => &self.payload[..4],
            kind::GOAWAY => &self.payload[4..8],
            kind => panic!("frames of kind {kind} have no error code"),
        };
        code.iter()
            .fold(0, |code, byte| code << 8 | u32::from(*byte))
    }
}

/// A connection on which anything can be said.
pub struct RawConnection {
    stream: TcpStream,
}

impl RawConnection {
    /// Connects and says nothing.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn silent(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        Ok(Self { stream })
    }

    /// Connects and opens HTTP/2 with these settings, each a number and its value.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(address: &str, settings: &[(u16, u32)]) -> Result<Self> {
        let mut connection = Self::silent(address).await?;
        connection.send(PREFACE).await?;
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        connection.frame(kind::SETTINGS, 0, 0, &payload).await?;
        Ok(connection)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is gone, or takes nothing.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(SOON, self.stream.write_all(bytes)).await??;
        Ok(())
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// As [`RawConnection::send`].
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        self.send(&encoded(kind, flags, stream, payload)).await
    }

    /// The next frame; `None` when the other end has hung up.
    ///
    /// # Errors
    /// When nothing comes.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        let reading = async {
            let mut head = [0; 9];
            if self.stream.read_exact(&mut head).await.is_err() {
                return Ok(None);
            }
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; len];
            if self.stream.read_exact(&mut payload).await.is_err() {
                bail!("the connection ends in the middle of a frame");
            }
            let stream = head[5..9]
                .iter()
                .fold(0, |nr, byte| nr << 8 | u32::from(*byte));
            Ok(Some(Frame {
                kind: head[3],
                stream: stream & 0x7fff_ffff,
                payload,
            }))
        };
        timeout(SOON, reading).await.context("nothing comes")?
    }

    /// All frames until the other end hangs up.
    ///
    /// # Errors
    /// When it does not.
    pub async fn until_closed(&mut self) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Reads bytes until the other end hangs up.
    ///
    /// # Errors
    /// When it does not.
    pub async fn bytes_until_closed(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // A reset is an end too.
        let _ = timeout(SOON, self.stream.read_to_end(&mut bytes)).await?;
        Ok(bytes)
    }
}

/// A frame as bytes.
#[must_use]
pub fn encoded(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a call, as few bytes say them.
#[must_use]
pub fn call_headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // POST, http
    block.extend(header(0x44, path)); // :path
    block.extend(header(0x41, "localhost")); // :authority
    block.extend(header(0x5f, "application/grpc")); // content-type
    block.extend([0x40]);
    block.extend(text("te"));
    block.extend(text("trailers"));
    block
}

/// A header nobody knows.
#[must_use]
pub fn other_header(name: &str, value: &str) -> Vec<u8> {
    [&[0x00][..], &text(name), &text(value)].concat()
}

fn header(first: u8, value: &str) -> Vec<u8> {
    [&[first][..], &text(value)].concat()
}

/// A length of HPACK with a prefix of 7 bits, and the bytes.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.len();
    if rest < 127 {
        bytes.push(rest as u8);
    } else {
        bytes.push(127);
        rest -= 127;
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        bytes.push(rest as u8);
    }
    bytes.extend(text.bytes());
    bytes
}
