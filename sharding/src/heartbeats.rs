//! A node's signs of life, and the lease it gets for them.
//!
//! One goes to the leader every interval, whether the last has been answered or not: a
//! message that is lost must not cost the lease. An acknowledged one extends the
//! lease from when it was *sent*. It knows nothing of what the lease is for. Next:
//! `leader.rs`, where heartbeats go; `lease.rs`, why the times fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use perennial_persistence::lease::ReadLease;
use perennial_persistence::registry::Registry;
use perennial_persistence::writer::SessionUuid;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::control_plane::ControlPlane;
use crate::leader::Leader;
use crate::lease::LivenessTimes;
use crate::peer::{Heartbeat, PeerRequest, PeerResponse};

/// Unanswered at once; the next interval is skipped when there are so many.
const UNANSWERED_MAX: usize = 16;
/// A leader that has just been elected, or knows of a better one, is asked again so
/// soon: leases run while the cluster is without one.
const RETRY: Duration = Duration::from_millis(50);
/// Between two looks at the journal.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The journal is out of reach when it does not answer for so long.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What a node says of itself in a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// Whether its journal answers.
    pub journal_in_reach: bool,
    /// Entities in its memory.
    pub live_entities: u64,
}

/// Sends heartbeats of a session that has joined, and extends its lease, until the
/// leader says that the session is over. Then the lease is ended; the node stops its
/// entities and joins with a new session. Dropped, the node falls silent and the
/// lease runs out.
pub async fn beat<C: ControlPlane>(
    leader: &Leader<C>,
    control: &C,
    times: LivenessTimes,
    session: SessionUuid,
    lease: &ReadLease,
    signs: impl Fn() -> Signs,
) {
    let mut leadership = control.leadership();
    let mut ticks = interval(times.heartbeat_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unanswered = FuturesUnordered::new();
    let mut number = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // A new leader knows nothing of this node yet.
            Ok(()) = leadership.changed() => ticks.reset(),
            Some((sent, answer)) = unanswered.next() => {
                match answer {
                    Some(PeerResponse::HeartbeatSeen) => lease.extend(sent + times.lease()),
                    Some(PeerResponse::SessionOver) => {
                        lease.end();
                        return;
                    }
                    Some(PeerResponse::NotLeader { .. }) => {
                        ticks.reset_after(RETRY.min(times.heartbeat_interval()));
                    }
                    _ => {}
                }
                continue;
            }
        }
        if unanswered.len() >= UNANSWERED_MAX {
            continue;
        }
        number += 1;
        let Signs {
            journal_in_reach,
            live_entities,
        } = signs();
        let heartbeat = PeerRequest::Heartbeat(Heartbeat {
            number,
            journal_in_reach,
            live_entities,
            index: control.state().borrow().index,
        });
        let sent = Instant::now().into_std();
        unanswered.push(async move {
            // An answer that comes later is worth nothing.
            let answer = leader.ask_leader(Some(session), heartbeat, times.lease());
            (sent, answer.await)
        });
    }
}

/// Whether a node's journal answers; clones share it. It is looked at apart from
/// heartbeats, which must not wait for it.
#[derive(Debug, Clone)]
pub struct JournalReach(Arc<AtomicBool>);

impl Default for JournalReach {
    /// In reach, until found otherwise.
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl JournalReach {
    /// Whether the journal answered when it was last asked.
    #[must_use]
    pub fn is_in_reach(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Looks at the journal's database again and again; never returns.
    pub async fn watch(&self, registry: &dyn Registry) {
        loop {
            let looked = timeout(LOOK_TIMEOUT, registry.formation()).await;
            let in_reach = matches!(looked, Ok(Ok(_)));
            if self.0.swap(in_reach, Ordering::Relaxed) != in_reach {
                if in_reach {
                    tracing::info!("the journal is in reach again");
                } else {
                    tracing::warn!("the journal is out of reach");
                }
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}
