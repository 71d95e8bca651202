//! A proxy before the database that cuts a connection at an exact byte.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where the next connection that gets there is cut, in both directions at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// After so many more bytes of requests were passed on; with 0, in place of
    /// the next byte.
    Request(usize),
    /// The same for answers.
    Answer(usize),
    /// In place of the answer to an insert that was executed.
    InsertAnswer,
}

#[derive(Default)]
struct Plan {
    cut: Option<Cut>,
    /// Nothing is passed on any more, and connections stay.
    is_stalled: bool,
    /// Bytes passed on since the last cut was arranged.
    requests: usize,
    answers: usize,
}

/// Passes bytes on to a server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    pub(crate) async fn to(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::<Mutex<Plan>>::default();
        let shared = plan.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server_port))
                    .await
                    .unwrap();
                tokio::spawn(pass_on(client, server, shared.clone()));
            }
        });
        Self { port, plan }
    }

    /// Arranges a cut, and counts bytes from now on.
    pub(crate) fn arrange(&self, cut: Option<Cut>) {
        let (requests, answers) = (0, 0);
        *self.plan.lock().unwrap() = Plan {
            cut,
            is_stalled: false,
            requests,
            answers,
        };
    }

    /// Keeps all bytes from now on, as a network does that has lost its way.
    pub(crate) fn stall(&self) {
        self.plan.lock().unwrap().is_stalled = true;
    }

    /// Whether a cut was arranged and nothing got there yet.
    pub(crate) fn is_armed(&self) -> bool {
        self.plan.lock().unwrap().cut.is_some()
    }

    /// Bytes of requests and of answers since the last arrangement.
    pub(crate) fn passed_on(&self) -> (usize, usize) {
        let plan = self.plan.lock().unwrap();
        (plan.requests, plan.answers)
    }
}

impl Plan {
    /// How much of some bytes is passed on, and whether it ends there.
    fn requested(&mut self, len: usize) -> (usize, bool) {
        let pass = match self.cut {
            Some(Cut::Request(at)) if at <= self.requests + len => Some(at - self.requests),
            _ => None,
        };
        self.requests += pass.unwrap_or(len);
        self.struck(pass, len)
    }

    fn answered(&mut self, bytes: &[u8]) -> (usize, bool) {
        let pass = match self.cut {
            Some(Cut::Answer(at)) if at <= self.answers + bytes.len() => Some(at - self.answers),
            // The answer to an execution, not to a preparation, has this word in
            // it: "CommandComplete".
            Some(Cut::InsertAnswer) if bytes.windows(6).any(|w| w == b"INSERT") => Some(0),
            _ => None,
        };
        self.answers += pass.unwrap_or(bytes.len());
        self.struck(pass, bytes.len())
    }

    fn struck(&mut self, pass: Option<usize>, len: usize) -> (usize, bool) {
        if pass.is_some() {
            self.cut = None;
        }
        (pass.unwrap_or(len), pass.is_some())
    }
}

async fn pass_on(client: TcpStream, server: TcpStream, plan: Arc<Mutex<Plan>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(len @ 1..) = from_client.read(&mut bytes).await {
            if plan.lock().unwrap().is_stalled {
                continue;
            }
            let (pass, ends) = plan.lock().unwrap().requested(len);
            if to_server.write_all(&bytes[..pass]).await.is_err() || ends {
                break;
            }
        }
    };
    let answers = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(len @ 1..) = from_server.read(&mut bytes).await {
            let (pass, ends) = plan.lock().unwrap().answered(&bytes[..len]);
            if to_client.write_all(&bytes[..pass]).await.is_err() || ends {
                break;
            }
        }
    };
    // Whichever ends first takes the other along.
    tokio::select! { () = requests => {}, () = answers => {} }
}
