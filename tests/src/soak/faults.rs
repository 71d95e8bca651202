//! Performing one fault: breaking something, keeping it broken, mending it. Which one
//! comes when is decided in `schedule.rs`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::outage::{Outage, Probes};
use super::schedule::{FaultKind, Planned};
use super::world::World;
use crate::eventually::eventually;
use crate::proxy::Flow;

/// A slow link between nodes.
const PEER_DELAY: Duration = Duration::from_millis(20);
/// A slow link to Postgres.
const JOURNAL_DELAY: Duration = Duration::from_millis(15);
/// How often a link flaps.
const FLAP_EVERY: Duration = Duration::from_millis(300);
/// How long a member may take to be gone.
const REMOVED_WITHIN: Duration = Duration::from_secs(90);

impl World {
    /// Breaks something, keeps it broken as long as planned, and mends it. How long a
    /// kill was felt, if it was one.
    ///
    /// # Errors
    /// When a node does not come back, or does not stop as it should.
    pub async fn perform(&mut self, planned: &Planned, probes: &Probes) -> Result<Option<Outage>> {
        let members = self.members();
        let leads = [FaultKind::KillLeader, FaultKind::PauseLeader].contains(&planned.kind);
        let node = if leads {
            self.leader().await?
        } else {
            members[(planned.node % members.len() as u64) as usize]
        };
        let others: Vec<usize> = members
            .iter()
            .copied()
            .filter(|other| *other != node)
            .collect();
        let other = others[(planned.other % others.len().max(1) as u64) as usize];
        let lasts = planned.lasts;
        self.evidence.event(&format!(
            "{}, node {node}, other {other}, {lasts:?}",
            planned.kind
        ));
        match planned.kind {
            FaultKind::Kill | FaultKind::KillLeader => {
                return self.kill_and_restart(node, probes).await.map(Some);
            }
            FaultKind::Pause | FaultKind::PauseLeader => {
                self.cluster.pause(node)?;
                tokio::time::sleep(lasts).await;
                self.cluster.resume(node)?;
            }
            FaultKind::Partition => {
                self.cluster.isolate(node);
                tokio::time::sleep(lasts).await;
                self.cluster.heal();
            }
            FaultKind::PartitionOneWay => {
                for other in others {
                    self.cluster.block(node, other);
                }
                tokio::time::sleep(lasts).await;
                self.cluster.heal();
            }
            FaultKind::Flapping => {
                let end = Instant::now() + lasts;
                while Instant::now() < end {
                    self.cluster.partition(node, other);
                    tokio::time::sleep(FLAP_EVERY).await;
                    self.cluster.heal();
                    tokio::time::sleep(FLAP_EVERY).await;
                }
            }
            FaultKind::PeersSlow => {
                for from in &members {
                    for to in members.iter().filter(|to| *to != from) {
                        self.cluster.set_flow(*from, *to, Flow::Slow(PEER_DELAY));
                    }
                }
                tokio::time::sleep(lasts).await;
                self.cluster.heal();
            }
            FaultKind::PostgresRestart => {
                let server = std::sync::Arc::clone(&self.server);
                tokio::task::spawn_blocking(move || server.restart_immediately()).await?;
            }
            FaultKind::JournalCut => self.journal(&[node], Flow::Cut, lasts).await?,
            FaultKind::JournalStalled => self.journal(&[node], Flow::Stalled, lasts).await?,
            FaultKind::JournalSlow => {
                self.journal(&members, Flow::Slow(JOURNAL_DELAY), lasts)
                    .await?;
            }
            FaultKind::RollingRestart => {
                for node in members {
                    self.cluster.terminate(node).await?;
                    self.restart(node).await?;
                    self.all_up().await?;
                }
            }
            FaultKind::JoinAndRemove => {
                let added = self.add().await?;
                tokio::time::sleep(lasts).await;
                self.remove(added).await?;
            }
            FaultKind::FullDisk => self.fill_disk(node, lasts).await?,
        }
        Ok(None)
    }

    /// Kills a node and starts it again; how long that was felt.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn kill_and_restart(&mut self, node: usize, probes: &Probes) -> Result<Outage> {
        let leader = self.leader().await? == node;
        let asked = self.members().into_iter().find(|other| *other != node);
        let asked = asked.context("nobody would be left")?;
        let node_id = self.cluster.node_id(node, asked).await?;
        let view = self.view(asked).await?;
        let affected = probes.of_node(&view, &node_id)?;
        let killed_at = Instant::now();
        self.cluster.kill(node);
        let (first, last) = if affected.is_empty() {
            (Duration::ZERO, Duration::ZERO)
        } else {
            let others = self.addresses_without(node);
            probes.ask(&affected, &others, killed_at).await?
        };
        let outage = Outage {
            leader,
            affected: affected.len(),
            first,
            last,
        };
        self.evidence.event(&format!(
            "node {node} ({}) killed: {} probes, first after {first:.1?}, last after {last:.1?}",
            if leader { "leader" } else { "no leader" },
            outage.affected,
        ));
        self.restart(node).await?;
        Ok(outage)
    }

    /// One more node; its number.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn add(&mut self) -> Result<usize> {
        let added = self.cluster.add().await?;
        self.announce();
        self.evidence.event(&format!("node {added} added"));
        self.all_up().await?;
        Ok(added)
    }

    /// Takes a node out of the cluster for good, and stops it.
    ///
    /// # Errors
    /// When it stays a member, or does not stop.
    pub async fn remove(&mut self, node: usize) -> Result<()> {
        let asked = self.members().into_iter().find(|other| *other != node);
        let asked = asked.context("nobody would be left")?;
        let node_id = self.cluster.node_id(node, asked).await?;
        let client = self.cluster.client(asked).await?;
        client.drain(&node_id, true).await?;
        eventually("the node to be removed", REMOVED_WITHIN, async || {
            let members = self.view(asked).await.ok()?.members;
            let is_there = members.iter().any(|member| member.node_id == node_id);
            (!is_there).then_some(())
        })
        .await?;
        self.removed.push(node);
        self.announce();
        self.cluster.terminate(node).await?;
        self.evidence.event(&format!("node {node} removed"));
        Ok(())
    }

    async fn journal(&self, nodes: &[usize], flow: Flow, lasts: Duration) -> Result<()> {
        for node in nodes {
            self.journal_link(*node)?.set(flow);
        }
        tokio::time::sleep(lasts).await;
        for node in nodes {
            self.journal_link(*node)?.set(Flow::Open);
        }
        Ok(())
    }

    fn journal_link(&self, node: usize) -> Result<&crate::proxy::Link> {
        let link = self.cluster.database_link(node);
        link.context("the journal is no server")
    }

    /// A node whose raft store is out of space may end; it is started again when there
    /// is room.
    async fn fill_disk(&mut self, node: usize, lasts: Duration) -> Result<()> {
        let Some(disk) = self.disks.get(node % self.disks.len().max(1)) else {
            self.evidence
                .event("full disk left out: it cannot be mounted here");
            return Ok(());
        };
        disk.fill()?;
        tokio::time::sleep(lasts).await;
        disk.clear()?;
        if let Some(process) = self.cluster.process_mut(node)
            && let Some(status) = process.has_ended()
        {
            self.evidence
                .event(&format!("node {node} ended on the full disk: {status}"));
            self.restart(node).await?;
        }
        Ok(())
    }
}
