//! A node of a cluster, of either kind, and the proxies before it and before its
//! database.

use anyhow::{Result, ensure};

use crate::node_process::NodeProcess;
use crate::node_thread::NodeThread;
use crate::proxy::Proxy;

/// A node, and the proxies before it and before its database.
pub(super) struct Host {
    pub(super) node: HostedNode,
    pub(super) peers: Option<Proxy>,
    pub(super) database: Option<Proxy>,
}

pub(super) enum HostedNode {
    Thread(NodeThread),
    Process(NodeProcess),
}

impl Host {
    pub(super) fn spawn(&mut self) -> Result<()> {
        match &mut self.node {
            HostedNode::Thread(thread) => thread.spawn()?,
            HostedNode::Process(process) => process.spawn()?,
        }
        self.follow();
        Ok(())
    }

    pub(super) async fn ready(&mut self) -> Result<()> {
        match &mut self.node {
            HostedNode::Thread(thread) => thread.ready().await?,
            HostedNode::Process(process) => {
                // On other ports, if somebody else took them. It gets ready only if the
                // others reach it.
                let peers = self.peers.as_ref();
                let follow = |process: &NodeProcess| {
                    if let Some(peers) = peers {
                        peers.set_upstream(process.peer_address());
                    }
                };
                process.ready_somewhere(follow).await?;
            }
        }
        self.follow();
        Ok(())
    }

    /// The proxy leads to where the node is now.
    fn follow(&self) {
        let Some(peers) = &self.peers else {
            return;
        };
        peers.set_upstream(match &self.node {
            HostedNode::Thread(thread) => thread.peer_address(),
            HostedNode::Process(process) => process.peer_address(),
        });
    }

    /// The proxy before the node.
    ///
    /// # Panics
    /// When there is none.
    pub(super) fn peers(&self) -> &Proxy {
        match &self.peers {
            Some(proxy) => proxy,
            None => panic!("a cluster without proxies has no links to break"),
        }
    }
}

impl HostedNode {
    pub(super) fn address(&self) -> String {
        match self {
            Self::Thread(thread) => thread.address(),
            Self::Process(process) => process.address(),
        }
    }

    pub(super) fn kill(&mut self) {
        match self {
            Self::Thread(thread) => thread.kill(),
            Self::Process(process) => process.kill9(),
        }
    }

    pub(super) async fn terminate(&mut self) -> Result<()> {
        match self {
            Self::Thread(thread) => thread.terminate().await,
            Self::Process(process) => {
                let status = process.terminate().await?;
                ensure!(status.success(), "{status}; {}", process.output());
                Ok(())
            }
        }
    }

    pub(super) fn pause(&mut self) -> Result<()> {
        match self {
            Self::Thread(thread) => thread.pause(),
            Self::Process(process) => process.pause(),
        }
    }

    pub(super) fn resume(&mut self) -> Result<()> {
        match self {
            Self::Thread(thread) => {
                thread.resume();
                Ok(())
            }
            Self::Process(process) => process.resume(),
        }
    }
}
