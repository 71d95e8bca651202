//! Nodes of one process that talk without sockets, and a network between them that
//! fails on demand.
//!
//! For tests, simulation and clusters in one process. Everything that goes wrong is
//! arranged by a [`LoopbackNetwork`]: messages are lost, delayed, held back or
//! refused, in each direction by itself. Time is tokio's, so a paused clock makes
//! runs repeatable, and chance comes from a seed. It looks into no message. Next:
//! `loopback/faults.rs`, what can go wrong; `peer.rs`, what is carried.

mod faults;
mod stream;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::registry::NodeNr;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::faults::Faults;
use self::stream::{STREAM_BATCHES_MAX, carry};
use crate::peer::{
    AcceptedStream, ForwardStream, Peer, PeerError, PeerHeader, PeerRequest, PeerResponse,
    PeerTransport, SharedPeerHandler,
};

/// The network between the nodes of a process; clones are the same network.
#[derive(Clone)]
pub struct LoopbackNetwork {
    listeners: Arc<Mutex<BTreeMap<String, Listener>>>,
    faults: Faults,
}

/// Who listens at an address.
#[derive(Clone)]
struct Listener {
    handler: SharedPeerHandler,
    /// Ends what is under way there.
    closed: CancellationToken,
}

impl LoopbackNetwork {
    /// A network without nodes and without faults. The seed decides which messages
    /// are lost once [`Faults::lose`] is asked for.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            listeners: Arc::default(),
            faults: Faults::new(seed),
        }
    }

    /// What goes wrong in this network.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The end of it that a node calls others with.
    #[must_use]
    pub fn transport(&self) -> LoopbackTransport {
        LoopbackTransport {
            network: self.clone(),
        }
    }

    /// Lets a node be called at an address. Who listened there before does not any
    /// more.
    pub fn listen(&self, address: impl Into<String>, handler: SharedPeerHandler) {
        let listener = Listener {
            handler,
            closed: CancellationToken::new(),
        };
        if let Some(before) = self.listeners().insert(address.into(), listener) {
            before.closed.cancel();
        }
    }

    /// Nobody listens there any more, as after a kill: calls under way are lost,
    /// streams end, and new ones are refused.
    pub fn close(&self, address: &str) {
        if let Some(listener) = self.listeners().remove(address) {
            listener.closed.cancel();
        }
    }

    fn listener(&self, peer: &Peer) -> Result<Listener, PeerError> {
        let listener = self.listeners().get(&peer.address).cloned();
        listener.ok_or_else(|| PeerError::Refused {
            node: peer.node,
            address: peer.address.clone(),
        })
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<String, Listener>> {
        // Nothing in here panics between two changes that belong together.
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's end of a [`LoopbackNetwork`].
#[derive(Clone)]
pub struct LoopbackTransport {
    network: LoopbackNetwork,
}

impl LoopbackTransport {
    async fn carry_call(
        &self,
        peer: &Peer,
        header: PeerHeader,
        request: PeerRequest,
    ) -> Result<PeerResponse, PeerError> {
        let faults = &self.network.faults;
        faults.pass(header.from, peer.node).await;
        let listener = self.network.listener(peer)?;
        // The node handles the request also when the caller has given up.
        let handling = tokio::spawn({
            let handler = listener.handler;
            async move { handler.handle(header, request).await }
        });
        let handled = tokio::select! {
            handled = handling => handled.map_err(|error| error.to_string()),
            () = listener.closed.cancelled() => Err("the connection was lost".to_owned()),
        };
        faults.pass(peer.node, header.from).await;
        match handled {
            Ok(answer) => answer,
            Err(message) => Err(unreachable(peer, message)),
        }
    }
}

#[async_trait]
impl PeerTransport for LoopbackTransport {
    async fn call(
        &self,
        peer: &Peer,
        header: PeerHeader,
        request: PeerRequest,
        deadline: Duration,
    ) -> Result<PeerResponse, PeerError> {
        match timeout(deadline, self.carry_call(peer, header, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(unreachable(peer, format!("no answer within {deadline:?}"))),
        }
    }

    async fn open(&self, peer: &Peer, header: PeerHeader) -> Result<ForwardStream, PeerError> {
        let faults = &self.network.faults;
        faults.pass(header.from, peer.node).await;
        let listener = self.network.listener(peer)?;
        let lost = faults.connection(header.from, peer.node, &listener.closed);

        let (frames, frames_sent) = tokio::sync::mpsc::channel(STREAM_BATCHES_MAX);
        let (frames_brought, frames_received) = tokio::sync::mpsc::channel(STREAM_BATCHES_MAX);
        let (back_sender, back_sent) = tokio::sync::mpsc::channel(STREAM_BATCHES_MAX);
        let (back_brought, back) = tokio::sync::mpsc::channel(STREAM_BATCHES_MAX);
        let there = (header.from, peer.node);
        tokio::spawn(carry(
            faults.clone(),
            there,
            frames_sent,
            frames_brought,
            lost.clone(),
        ));
        let here = (peer.node, header.from);
        tokio::spawn(carry(
            faults.clone(),
            here,
            back_sent,
            back_brought,
            lost.clone(),
        ));

        let accepted = AcceptedStream {
            header,
            frames: frames_received,
            back: back_sender,
        };
        let handler = listener.handler;
        let mut accepting = Box::pin(async move { handler.accept(accepted).await });
        // A handler that refuses does so before it waits for anything.
        if let std::task::Poll::Ready(done) = futures::poll!(&mut accepting) {
            done?;
        } else {
            tokio::spawn(async move {
                tokio::select! {
                    _ = accepting => {}
                    () = lost.cancelled() => {}
                }
            });
        }
        Ok(ForwardStream { frames, back })
    }
}

fn unreachable(peer: &Peer, message: String) -> PeerError {
    PeerError::Unreachable {
        node: peer.node,
        address: peer.address.clone(),
        message,
    }
}

/// The address under which a node of a process is found.
#[must_use]
pub fn loopback_address(node: NodeNr) -> String {
    format!("loopback-{}", node.0)
}

#[cfg(test)]
mod loopback_test;
