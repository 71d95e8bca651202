//! How shards leave this node: their entities stop, the journal is told to refuse
//! what this node might still write to them, and the cluster is told that they are
//! free.
//!
//! A shard that comes back to this node before that was done is fenced then: until it
//! is, nothing recovers under the new epoch.
//!
//! Every step can be done twice, so a new leader may ask for it again. A shard that
//! is taken away, rather than handed off, only stops. Next: the engine's
//! `stop_shards`, and `coordinator.rs`, which waits for the result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use perennial_persistence::engine::ShardStop;
use perennial_persistence::planted::{self, Bug};
use perennial_persistence::registry::Registry;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::time::timeout;

use crate::cluster_state::{ClusterCommand, ClusterState, DrainedBy, Home};
use crate::control_plane::ControlPlane;
use crate::fencing::try_fence;
use crate::wall_clock::unix_millis;

use super::inner::{Inner, Leaving, now};
use super::slot::{Host, Slot};

/// The pause before a step is tried again; doubles up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// How long after the limit the engine may take to make its entities leave.
const FORCED_WITHIN: Duration = Duration::from_millis(500);

/// A shard that leaves this node.
pub(super) struct Departure {
    pub(super) shard: ShardNr,
    /// Whose entities have to stop; `None` when it had none.
    pub(super) host: Option<Arc<Host>>,
    handoff: Option<Handoff>,
    began: Instant,
}

/// A time as owner that ends.
#[derive(Clone, Copy)]
struct Handoff {
    epoch: Epoch,
    session: SessionUuid,
}

impl Departure {
    /// The shard is to be handed off.
    pub(super) fn handoff(shard: ShardNr, epoch: Epoch, session: SessionUuid) -> Self {
        Self {
            shard,
            host: None,
            handoff: Some(Handoff { epoch, session }),
            began: now(),
        }
    }

    /// The shard is not this node's any more, or not for now.
    pub(super) fn stop(leaving: Leaving) -> Self {
        Self {
            shard: leaving.shard,
            host: Some(leaving.host),
            handoff: None,
            began: now(),
        }
    }
}

/// Performs departures.
pub(super) struct Departures<C> {
    pub(super) inner: Arc<Inner>,
    pub(super) control: Arc<C>,
    pub(super) registry: Arc<dyn Registry>,
}

impl<C: ControlPlane> Departures<C> {
    /// Performs them all, a bounded number at once. Returns what was handed off.
    pub(super) async fn run(self, departures: Vec<Departure>) -> Vec<(ShardNr, Epoch)> {
        let limit = self.inner.settings.handoff_timeout;
        let mut stops = Vec::new();
        for host in hosts(&departures) {
            let is_of_host =
                |d: &&Departure| d.host.as_ref().is_some_and(|h| Arc::ptr_eq(h, &host));
            let of_host = departures.iter().filter(is_of_host);
            let shards: Vec<ShardNr> = of_host.map(|d| d.shard).collect();
            let of_engine = host.engine.stop_shards(&shards, limit).await;
            stops.extend(of_engine.into_iter().map(|stop| (host.session, stop)));
        }
        let handed_off = departures
            .iter()
            .filter_map(|d| d.handoff.map(|handoff| (d.shard, handoff.epoch)))
            .collect();
        let this = &self;
        stream::iter(departures)
            .map(|departure| {
                let session = departure.host.as_ref().map(|host| host.session);
                let is_its = |(by, stop): &(SessionUuid, ShardStop)| {
                    Some(*by) == session && stop.shard == departure.shard
                };
                let place = stops.iter().position(is_its);
                let stop = place.map(|place| stops.swap_remove(place));
                this.finish(departure, stop)
            })
            .buffer_unordered(self.inner.settings.handoffs_at_once.max(1))
            .for_each(|()| async {})
            .await;
        handed_off
    }

    /// Fences this node's own earlier times as owner of shards that have come back to
    /// it, while they are its own. Returns which.
    pub(super) async fn fence_returned(
        self,
        returned: Vec<(ShardNr, SessionUuid, Epoch)>,
    ) -> Vec<(ShardNr, Epoch)> {
        let this = &self;
        stream::iter(returned.clone())
            .map(|(shard, session, epoch)| async move {
                let mut pause = PAUSE_FIRST;
                while this.waits_for_fence(shard, session) {
                    if try_fence(&*this.registry, session, Some((shard, epoch))).await {
                        this.inner.change(shard, |slot| slot.fenced(session, epoch));
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_LAST);
                }
            })
            .buffer_unordered(self.inner.settings.handoffs_at_once.max(1))
            .for_each(|()| async {})
            .await;
        returned
            .iter()
            .map(|&(shard, _, epoch)| (shard, epoch))
            .collect()
    }

    fn waits_for_fence(&self, shard: ShardNr, session: SessionUuid) -> bool {
        let slot = self.inner.lock(shard);
        slot.owned_here
            .is_some_and(|epoch| slot.has_to_fence(session, epoch))
    }

    /// With the session whose entities stop, and the word that they have.
    async fn finish(&self, departure: Departure, stop: Option<(SessionUuid, ShardStop)>) {
        let Departure {
            shard,
            handoff,
            began,
            ..
        } = departure;
        let limit = self.inner.settings.handoff_timeout;
        let late = match stop {
            None => None,
            Some((by, mut stop)) => match timeout(limit + FORCED_WITHIN, stop.all_left()).await {
                Ok(()) => {
                    self.inner.stopped(shard, by);
                    None
                }
                Err(_) => Some((by, stop)),
            },
        };
        let Some(handoff) = handoff else {
            self.finish_late(shard, late).await;
            return;
        };
        if late.is_some() {
            tracing::warn!(%shard, ?limit, "entities of the shard have not stopped in time: it is fenced");
        }
        // An append of unknown outcome must not land later.
        if !planted::is(Bug::DrainedBeforeFence) {
            self.fence(shard, handoff).await;
        }
        let finish_late = self.finish_late(shard, late);
        let report = self.report_drained(shard, handoff);
        futures::future::join(finish_late, report).await;
        let duration = now().saturating_duration_since(began);
        self.inner.figures.handed_off(duration);
        tracing::debug!(%shard, epoch = %handoff.epoch, ?duration, "the shard is handed off");
    }

    /// Waits once more for entities that did not stop in time; then commands go on
    /// without them, and what they hand back yet comes behind those.
    async fn finish_late(&self, shard: ShardNr, late: Option<(SessionUuid, ShardStop)>) {
        if let Some((by, mut stop)) = late {
            let limit = self.inner.settings.handoff_timeout;
            let _ = timeout(limit, stop.all_left()).await;
            self.inner.stopped(shard, by);
        }
    }

    async fn fence(&self, shard: ShardNr, handoff: Handoff) {
        let mut pause = PAUSE_FIRST;
        while self.is_under_way(shard, handoff) {
            let of_shard = Some((shard, handoff.epoch));
            if try_fence(&*self.registry, handoff.session, of_shard).await {
                let fenced = |slot: &mut Slot| slot.fenced(handoff.session, handoff.epoch);
                self.inner.change(shard, fenced);
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    async fn report_drained(&self, shard: ShardNr, handoff: Handoff) {
        let mut pause = PAUSE_FIRST;
        let mut state = self.control.state();
        while self.is_under_way(shard, handoff) {
            let drained = ClusterCommand::Drained {
                shard,
                session: handoff.session,
                epoch: handoff.epoch,
                by: DrainedBy::Owner,
                at: unix_millis(),
            };
            if let Err(error) = self.control.propose(drained).await {
                tracing::debug!(%shard, %error, "not reported as drained yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_LAST);
                continue;
            }
            let is_over = |state: &Arc<ClusterState>| !is_handing_off(state, shard, handoff);
            // An error means that the node stops.
            if let Ok(waited) = timeout(PAUSE_LAST, state.wait_for(is_over)).await
                && waited.is_err()
            {
                return;
            }
        }
    }

    fn is_under_way(&self, shard: ShardNr, handoff: Handoff) -> bool {
        is_handing_off(&self.control.state().borrow(), shard, handoff)
    }
}

fn is_handing_off(state: &ClusterState, shard: ShardNr, handoff: Handoff) -> bool {
    state.shards.get(shard.0 as usize).is_some_and(|shard| {
        shard.epoch == handoff.epoch
            && matches!(shard.home, Home::HandingOff { session, .. } if session == handoff.session)
    })
}

/// Nearly always one.
fn hosts(departures: &[Departure]) -> Vec<Arc<Host>> {
    let mut hosts: Vec<Arc<Host>> = Vec::new();
    for host in departures.iter().filter_map(|d| d.host.as_ref()) {
        if !hosts.iter().any(|known| Arc::ptr_eq(known, host)) {
            hosts.push(Arc::clone(host));
        }
    }
    hosts
}
