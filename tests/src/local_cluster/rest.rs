//! When a cluster is at rest: everybody is there and every shard is where it stays.

use std::time::Duration;

use anyhow::{Context, Result};
use perennial::proto::v1::GetClusterResponse;

use super::LocalCluster;
use crate::eventually::eventually;

/// How long a cluster may take to come to rest; generous, for busy machines.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

impl LocalCluster {
    /// Waits until all nodes are up, and every shard has a home and stays there, in
    /// the eyes of each of them.
    ///
    /// # Errors
    /// When that does not happen in time; with what the nodes say.
    pub async fn settled(&self) -> Result<()> {
        self.settled_without(&[]).await
    }

    /// As [`LocalCluster::settled`], for the nodes that are left.
    ///
    /// # Errors
    /// As [`LocalCluster::settled`].
    pub async fn settled_without(&self, gone: &[usize]) -> Result<()> {
        let there: Vec<usize> = (0..self.len())
            .filter(|node| !gone.contains(node))
            .collect();
        let mut seen = String::new();
        let settled = eventually("the cluster to settle", SETTLED_WITHIN, async || {
            for node in &there {
                let cluster = match self.client(*node).await {
                    Ok(client) => client.cluster().await,
                    Err(error) => Err(error),
                };
                seen = match cluster {
                    Ok(cluster) => match unrest(&cluster, there.len()) {
                        Some(unrest) => format!("node {node} says: {unrest}"),
                        None => continue,
                    },
                    Err(error) => format!("node {node} does not answer: {error:#}"),
                };
                return None;
            }
            Some(())
        });
        let settled = settled.await;
        settled.with_context(|| format!("{seen}\n{}", self.outputs()))
    }

    /// Which node leads, in the eyes of one that is not among the gone.
    ///
    /// # Errors
    /// When nobody is found to lead for long.
    pub async fn leader_of(&self, gone: &[usize]) -> Result<usize> {
        let asked = (0..self.len()).find(|node| !gone.contains(node));
        let asked = asked.context("all nodes are gone")?;
        let known = eventually("a leader", SETTLED_WITHIN, async || {
            let leader = self.leader(asked).await.ok()??;
            (!gone.contains(&leader)).then_some(leader)
        });
        known.await
    }
}

/// What keeps a cluster of so many nodes from being at rest.
fn unrest(cluster: &GetClusterResponse, nodes: usize) -> Option<String> {
    let up = cluster
        .members
        .iter()
        .filter(|member| member.status == "up");
    let up = up.count();
    if up != nodes {
        return Some(format!("{up} of {nodes} nodes are up"));
    }
    if cluster.leader_node_id.is_empty() {
        return Some("there is no leader".to_owned());
    }
    let restless = cluster.shards.iter().filter(|shard| shard.state != "owned");
    let restless = restless.count();
    if restless > 0 {
        return Some(format!("{restless} shards have no home, or move"));
    }
    let owned = cluster
        .members
        .iter()
        .filter(|member| member.status == "up");
    let owned: Vec<u32> = owned.map(|member| member.shards_owned).collect();
    let (least, most) = (owned.iter().min()?, owned.iter().max()?);
    (most - least > 1).then(|| format!("shards are not balanced: {owned:?}"))
}
