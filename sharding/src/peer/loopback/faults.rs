//! What goes wrong between the nodes of a process.
//!
//! A direction between two nodes is *cut* (what is sent is lost), *slow* (it arrives
//! later) or *lossy* (some of it is lost); a *paused* node neither gets nor sends
//! anything until it is resumed, and then everything, like a process that was
//! stopped. Streams are never lossy: what is lost on a connection breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_persistence::registry::NodeNr;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What goes wrong in a network; clones are the same.
#[derive(Clone)]
pub struct Faults {
    arranged: Arc<Mutex<Arranged>>,
    /// Tells those who wait that something was arranged.
    changed: watch::Sender<u64>,
}

struct Arranged {
    cut: BTreeSet<(NodeNr, NodeNr)>,
    slow: BTreeMap<(NodeNr, NodeNr), Duration>,
    lossy: BTreeMap<(NodeNr, NodeNr), f64>,
    paused: BTreeSet<NodeNr>,
    /// Open streams, by their ends, the lower first.
    connections: Vec<((NodeNr, NodeNr), CancellationToken)>,
    chance: StdRng,
}

/// What becomes of a message in one direction.
enum Fate {
    Arrives {
        after: Duration,
    },
    Lost,
    /// Until something else is arranged.
    Held,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            arranged: Arc::new(Mutex::new(Arranged {
                cut: BTreeSet::new(),
                slow: BTreeMap::new(),
                lossy: BTreeMap::new(),
                paused: BTreeSet::new(),
                connections: Vec::new(),
                chance: StdRng::seed_from_u64(seed),
            })),
            changed: watch::channel(0).0,
        }
    }

    /// What `from` sends to `to` is lost; the other direction works.
    pub fn cut_one_way(&self, from: NodeNr, to: NodeNr) {
        self.arrange(|arranged| {
            arranged.cut.insert((from, to));
        });
    }

    /// Nothing passes between two nodes.
    pub fn cut(&self, one: NodeNr, other: NodeNr) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Nothing passes between a node and any of these.
    pub fn isolate(&self, node: NodeNr, from: impl IntoIterator<Item = NodeNr>) {
        for other in from {
            if other != node {
                self.cut(node, other);
            }
        }
    }

    /// Both directions between two nodes work again.
    pub fn heal(&self, one: NodeNr, other: NodeNr) {
        self.arrange(|arranged| {
            arranged.cut.remove(&(one, other));
            arranged.cut.remove(&(other, one));
        });
    }

    /// Nothing goes wrong any more, and nobody is paused.
    pub fn heal_all(&self) {
        self.arrange(|arranged| {
            arranged.cut.clear();
            arranged.slow.clear();
            arranged.lossy.clear();
            arranged.paused.clear();
        });
    }

    /// What `from` sends to `to` arrives so much later, in order.
    pub fn delay(&self, from: NodeNr, to: NodeNr, by: Duration) {
        self.arrange(|arranged| {
            arranged.slow.insert((from, to), by);
        });
    }

    /// Of the calls and answers that `from` sends to `to`, this share is lost; 0 to
    /// 1.
    pub fn lose(&self, from: NodeNr, to: NodeNr, share: f64) {
        self.arrange(|arranged| {
            arranged.lossy.insert((from, to), share.clamp(0.0, 1.0));
        });
    }

    /// Holds everything back that a node sends or is sent. Its own tasks go on.
    pub fn pause(&self, node: NodeNr) {
        self.arrange(|arranged| {
            arranged.paused.insert(node);
        });
    }

    /// Lets what was held back go its way.
    pub fn resume(&self, node: NodeNr) {
        self.arrange(|arranged| {
            arranged.paused.remove(&node);
        });
    }

    /// Breaks every stream between two nodes; new ones can be opened.
    pub fn break_streams(&self, one: NodeNr, other: NodeNr) {
        self.arrange(|arranged| {
            arranged.connections.retain(|(ends, lost)| {
                let hit = *ends == sorted(one, other);
                if hit {
                    lost.cancel();
                }
                !hit
            });
        });
    }

    /// Returns when a message has arrived; never, when it is lost.
    pub(super) async fn pass(&self, from: NodeNr, to: NodeNr) {
        match self.wait_while_held(from, to).await {
            Fate::Arrives { after } if after.is_zero() => {}
            Fate::Arrives { after } => tokio::time::sleep(after).await,
            Fate::Lost | Fate::Held => std::future::pending().await,
        }
    }

    /// Returns when a part of a stream has arrived: what is cut off arrives when
    /// the cut is healed.
    pub(super) async fn pass_in_stream(&self, from: NodeNr, to: NodeNr) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let (held, after) = {
                let arranged = self.arranged();
                let link = (from, to);
                let held = arranged.cut.contains(&link) || arranged.holds(from, to);
                (held, arranged.slow.get(&link).copied())
            };
            if !held {
                if let Some(after) = after {
                    tokio::time::sleep(after).await;
                }
                return;
            }
            // The sender is ours too, so it is never closed.
            let _ = changed.changed().await;
        }
    }

    /// A token that ends with a stream between two nodes.
    pub(super) fn connection(
        &self,
        from: NodeNr,
        to: NodeNr,
        closed: &CancellationToken,
    ) -> CancellationToken {
        let lost = closed.child_token();
        let mut arranged = self.arranged();
        arranged
            .connections
            .retain(|(_, lost)| !lost.is_cancelled());
        arranged.connections.push((sorted(from, to), lost.clone()));
        lost
    }

    async fn wait_while_held(&self, from: NodeNr, to: NodeNr) -> Fate {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let fate = self.arranged().fate(from, to);
            match fate {
                Fate::Held => {
                    // The sender is ours too, so it is never closed.
                    let _ = changed.changed().await;
                }
                decided => return decided,
            }
        }
    }

    fn arrange(&self, change: impl FnOnce(&mut Arranged)) {
        change(&mut self.arranged());
        self.changed.send_modify(|version| *version += 1);
    }

    fn arranged(&self) -> MutexGuard<'_, Arranged> {
        // Nothing in here panics between two changes that belong together.
        self.arranged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arranged {
    fn fate(&mut self, from: NodeNr, to: NodeNr) -> Fate {
        if self.holds(from, to) {
            return Fate::Held;
        }
        let link = (from, to);
        let share = self.lossy.get(&link).copied();
        if self.cut.contains(&link) || share.is_some_and(|share| self.chance.random_bool(share)) {
            return Fate::Lost;
        }
        Fate::Arrives {
            after: self.slow.get(&link).copied().unwrap_or_default(),
        }
    }

    fn holds(&self, from: NodeNr, to: NodeNr) -> bool {
        self.paused.contains(&from) || self.paused.contains(&to)
    }
}

fn sorted(one: NodeNr, other: NodeNr) -> (NodeNr, NodeNr) {
    (one.min(other), one.max(other))
}
