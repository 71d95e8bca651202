//! Begins a new generation of a cluster: what its nodes agreed on is given up, and
//! every event is kept.
//!
//! For when most voters have lost their disks. Nodes of the generation before are
//! fenced when the new one is formed, so even one that was forgotten does no harm.

use std::time::Duration;

use perennial_persistence::registry::Registry;
use perennial_persistence::storage::Storage;
use perennial_sharding::forming::presence::SIGN_INTERVAL;

use super::NodeError;
use super::journal_url::journal_url;
use crate::config::Settings;

/// A node that lives gives a sign within this.
const LOOK_FOR: Duration = Duration::from_secs(2 * SIGN_INTERVAL.as_secs());

/// Begins a new generation of the cluster of the configured journal; its number.
///
/// # Errors
/// [`NodeError::NodesAlive`] when a node runs: nothing is changed then. Otherwise
/// what the journal said.
pub async fn reform_cluster(settings: &Settings) -> Result<u32, NodeError> {
    let url = journal_url(settings, None)?;
    let storage = Storage::open(&url, &settings.storage).await?;
    let registry = &*storage.registry;
    let before = registry.formation().await?;
    if let Some(node) = somebody_alive(registry).await? {
        return Err(NodeError::NodesAlive { node });
    }
    Ok(registry.reform(before.generation).await?.generation)
}

/// A node that gave a sign of life while it was looked for.
async fn somebody_alive(registry: &dyn Registry) -> Result<Option<u64>, NodeError> {
    let before = registry.nodes().await?;
    if before.is_empty() {
        return Ok(None);
    }
    tokio::time::sleep(LOOK_FOR).await;
    let now = registry.nodes().await?;
    let alive = now.iter().find(|row| {
        let seen = |earlier: &&_| {
            let earlier: &perennial_persistence::registry::NodeRow = earlier;
            earlier.node == row.node && earlier.seen == row.seen
        };
        before.iter().find(seen).is_none()
    });
    Ok(alive.map(|row| row.node.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use perennial_persistence::registry::NodeAddresses;

    use super::*;
    use crate::config::Source;
    use perennial_persistence::storage::{StorageUrl, migrate};

    #[tokio::test]
    async fn a_cluster_is_reformed_only_when_nobody_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let url = StorageUrl::sqlite(&folder.path().join("journal.sqlite"));
        migrate(&url).await.unwrap();
        let mut settings = Settings::default();
        settings
            .set(
                "persistence.journal.url",
                &url.to_string(),
                Source::Flag("test"),
            )
            .unwrap();
        let storage = Storage::open(&url, &settings.storage).await.unwrap();
        let registry = &storage.registry;
        registry.cluster(16).await.unwrap();
        let node = registry.mint_node().await.unwrap();
        let formation = registry.formation().await.unwrap();
        let claimed = registry.claim_forming(node, formation).await.unwrap();
        registry.begin_incarnation(node).await.unwrap();
        assert!(registry.set_formed(node, claimed.generation).await.unwrap());
        let addresses = NodeAddresses {
            address: "a:1".into(),
            peer_address: "a:2".into(),
        };
        registry.announce(node, &addresses).await.unwrap();

        let living = async {
            loop {
                registry.give_sign(node, &addresses).await.unwrap();
                tokio::time::sleep(SIGN_INTERVAL / 4).await;
            }
        };
        let refused = tokio::select! {
            refused = reform_cluster(&settings) => refused,
            () = living => unreachable!("it lives for ever"),
        };
        let error = refused.unwrap_err();
        assert!(matches!(error, NodeError::NodesAlive { .. }), "{error}");

        let generation = reform_cluster(&settings).await.unwrap();
        assert_eq!(generation, claimed.generation + 1);
        assert!(!registry.formation().await.unwrap().formed);
    }
}
