//! What the parts of a region share: the slots, and what happens to their commands.
//!
//! Everything here is called by others, under a slot's lock, and never waits. Next:
//! `link_events.rs`, what links say; `keeper.rs`, which learns of the cluster's state;
//! `departures.rs`, which takes entities out of memory.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use perennial_persistence::command::{ReplyTo, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::handing_back::{HandBackReason, HandedBack};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;
use uuid::Uuid;

use crate::cluster_state::ClusterState;
use crate::peer::{Peer, PeerHeader};
use crate::shard_id::shard_of;

use super::figures::Figures;
use super::link::Ticket;
use super::parcel::Parcel;
use super::parting::Arrivers;
use super::route::Direction;
use super::settings::RegionSettings;
use super::slot::{Host, Slot};

/// A shard whose entities have to stop on this node.
pub(super) struct Leaving {
    pub(super) shard: ShardNr,
    pub(super) host: Arc<Host>,
}

/// What the parts of a region share.
pub(super) struct Inner {
    pub(super) node: NodeNr,
    pub(super) settings: RegionSettings,
    pub(super) figures: Figures,
    pub(super) arrivers: Arrivers,
    slots: Box<[Mutex<Slot>]>,
    /// Commands that wait in all slots.
    waiting: AtomicUsize,
    /// Index of the newest state that any slot goes by.
    routed_by: AtomicU64,
    /// Index of the state that all slots go by.
    applied: watch::Sender<u64>,
    /// The state that all slots go by.
    state: Mutex<Option<Arc<ClusterState>>>,
    host: Mutex<Option<Arc<Host>>>,
    /// At most one entry for each change of a slot's direction.
    leaving: Mutex<Vec<Leaving>>,
    /// Something changed that is not in the cluster's state.
    pub(super) stirred: Notify,
}

impl Inner {
    pub(super) fn new(node: NodeNr, number_of_shards: u32, settings: RegionSettings) -> Self {
        assert!(
            (1..=Ticket::SHARDS_MAX).contains(&number_of_shards),
            "{number_of_shards} shards: configuration allows 1 to {}",
            Ticket::SHARDS_MAX
        );
        let slot = |shard| Mutex::new(Slot::new(ShardNr(shard), Direction::Nowhere));
        Self {
            node,
            settings,
            figures: Figures::new(),
            arrivers: Arrivers::default(),
            slots: (0..number_of_shards).map(slot).collect(),
            waiting: AtomicUsize::new(0),
            routed_by: AtomicU64::new(0),
            applied: watch::Sender::new(0),
            state: Mutex::default(),
            host: Mutex::default(),
            leaving: Mutex::default(),
            stirred: Notify::new(),
        }
    }

    pub(super) fn shard_of(&self, persistence_id: &PersistenceId) -> ShardNr {
        shard_of(persistence_id, self.slots.len() as u32)
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = ShardNr> + use<> {
        (0..self.slots.len() as u32).map(ShardNr)
    }

    /// A command of this node.
    pub(super) fn deliver(
        &self,
        persistence_id: PersistenceId,
        request: Request,
        deadline: Option<Instant>,
        reply_to: ReplyTo,
        trace: Trace,
    ) {
        let shard = self.shard_of(&persistence_id);
        let mut slot = self.lock(shard);
        let nr = slot.route.arrived();
        let parcel = Parcel {
            persistence_id,
            request,
            deadline,
            reply_to,
            trace,
            out: Trace::NONE,
            waits_since: None,
            may_have_run: false,
        };
        if let Some((engine, epoch)) = slot.ready_here() {
            engine.deliver(parcel.into_envelope(shard, epoch, nr));
        } else {
            self.submit(&mut slot, nr, parcel);
        }
    }

    /// A command of another node, for a shard that is this node's under this epoch by
    /// a state that this node has seen.
    pub(super) fn arrive(&self, shard: ShardNr, epoch: Epoch, parcel: Parcel) {
        if shard.0 as usize >= self.slots.len() {
            parcel.refuse(CommandError::ShardUnavailable { shard: shard.0 });
            return;
        }
        let mut slot = self.lock(shard);
        if slot.owned_here != Some(epoch) || slot.refused == Some(epoch) {
            self.figures.returned.increment(1);
            parcel.return_to_sender(self.index());
            return;
        }
        let nr = slot.route.arrived();
        if let Some((engine, epoch)) = slot.ready_here() {
            engine.deliver(parcel.into_envelope(shard, epoch, nr));
        } else {
            self.submit(&mut slot, nr, parcel);
        }
    }

    /// Sends a command on, or keeps it until it can be sent.
    fn submit(&self, slot: &mut Slot, nr: u64, parcel: Parcel) {
        if slot.suspended {
            parcel.refuse(slot.unavailable());
            return;
        }
        let is_forwarded = matches!(slot.route.way(), Direction::There(_));
        let Some(mut parcel) = slot.send(nr, parcel, self.index()) else {
            self.figures.forwarded.increment(u64::from(is_forwarded));
            return;
        };
        let buffered = slot.route.waiting_len();
        let total = self.waiting.load(Ordering::Relaxed);
        if buffered >= self.settings.buffer_size || total >= self.settings.buffer_total {
            let shard = slot.shard.0;
            let buffered = buffered.max(1);
            parcel.refuse(CommandError::BufferFull { shard, buffered });
            return;
        }
        self.figures.buffered.increment(1);
        parcel.waits_since = Some(now());
        slot.route.wait(nr, parcel);
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Does something to a slot that may change how many commands wait in it, then
    /// sends on what can go.
    pub(super) fn change<R>(&self, shard: ShardNr, change: impl FnOnce(&mut Slot) -> R) -> R {
        let mut slot = self.lock(shard);
        let before = slot.route.waiting_len();
        let changed = change(&mut slot);
        slot.release(self.index(), now());
        let after = slot.route.waiting_len();
        if after > before {
            self.waiting.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(before - after, Ordering::Relaxed);
        }
        changed
    }

    /// Lets a slot's commands go elsewhere. What stops because of that is left for
    /// the keeper.
    pub(super) fn redirect(&self, slot: &mut Slot, direction: Direction) {
        let host = slot.host.clone();
        let before = slot.route.direction();
        let session = host.as_ref().map(|host| host.session);
        if slot.route.direct(direction, session)
            && let Some(host) = host
        {
            let shard = slot.shard;
            if let Direction::Here(epoch) = before {
                slot.unfenced = Some((host.session, epoch));
            }
            lock(&self.leaving).push(Leaving { shard, host });
        }
        if !matches!(direction, Direction::Here(_)) {
            slot.host = None;
        }
        if !matches!(direction, Direction::There(_)) {
            slot.link = None;
        }
    }

    pub(super) fn take_leaving(&self) -> Vec<Leaving> {
        std::mem::take(&mut *lock(&self.leaving))
    }

    /// The entities of a shard have left the engine of a session.
    pub(super) fn stopped(&self, shard: ShardNr, session: SessionUuid) {
        self.change(shard, |slot| slot.route.stopped(session));
    }

    /// The engine hands requests of one entity back.
    pub(super) fn take_back(&self, handed_back: HandedBack) {
        let HandedBack { reason, envelopes } = handed_back;
        let Some((shard, epoch)) = envelopes.first().map(|e| (e.shard, e.epoch)) else {
            return;
        };
        self.change(shard, |slot| {
            if reason == HandBackReason::Fenced {
                slot.refused = Some(epoch);
                if slot.route.direction() == Direction::Here(epoch) {
                    self.redirect(slot, Direction::Nowhere);
                    self.stirred.notify_one();
                }
            }
            let may_stay = slot.owned_here == Some(epoch) && slot.refused != Some(epoch);
            for envelope in envelopes {
                let nr = envelope.arrival;
                let mut parcel = Parcel::from_envelope(envelope);
                if parcel.is_foreign() && !may_stay {
                    parcel.return_to_sender(self.index());
                } else if slot.suspended {
                    parcel.refuse(slot.unavailable());
                } else {
                    parcel.waits_since = Some(now());
                    slot.route.wait(nr, parcel);
                }
            }
        });
    }

    pub(super) fn host(&self) -> Option<Arc<Host>> {
        lock(&self.host).clone()
    }

    pub(super) fn set_host(&self, host: Option<Arc<Host>>) -> Option<Arc<Host>> {
        let before = std::mem::replace(&mut *lock(&self.host), host);
        self.stirred.notify_one();
        before
    }

    /// Index of the newest state that commands are routed by.
    pub(super) fn index(&self) -> u64 {
        self.routed_by.load(Ordering::Acquire)
    }

    pub(super) fn begin_applying(&self, index: u64) {
        self.routed_by.fetch_max(index, Ordering::AcqRel);
    }

    pub(super) fn applied(&self, state: &Arc<ClusterState>) {
        *lock(&self.state) = Some(Arc::clone(state));
        self.applied.send_replace(state.index);
    }

    /// Where a node is, and what is said to it first.
    pub(super) fn address_of(&self, node: NodeNr) -> Option<(Peer, PeerHeader)> {
        let state = lock(&self.state).clone()?;
        Some((peer(&state, node)?, self.header(&state, node)))
    }

    pub(super) fn header(&self, state: &ClusterState, to: NodeNr) -> PeerHeader {
        let host = self.host();
        PeerHeader {
            cluster_id: state.cluster_id,
            generation: state.generation,
            from: self.node,
            session: host.map_or(SessionUuid(Uuid::nil()), |host| host.session),
            to,
        }
    }

    /// Whether a message is for this node, by all that is known; what is wrong if not.
    pub(super) fn check(&self, header: &PeerHeader) -> Result<(), String> {
        if header.to != self.node {
            return Err(format!("this is node {}", self.node.0));
        }
        let state = lock(&self.state).clone();
        match state {
            Some(state)
                if (state.cluster_id, state.generation)
                    != (header.cluster_id, header.generation) =>
            {
                Err(format!(
                    "this is generation {} of cluster {}",
                    state.generation, state.cluster_id
                ))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn applied_index(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until all slots go by a state of at least this index; `false` if they do
    /// not in time.
    pub(super) async fn catch_up(&self, index: u64, until: tokio::time::Instant) -> bool {
        if self.applied_index() >= index {
            return true;
        }
        let mut applied = self.applied.subscribe();
        let caught_up = applied.wait_for(|&applied| applied >= index);
        timeout_at(until, caught_up).await.is_ok()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn lock(&self, shard: ShardNr) -> MutexGuard<'_, Slot> {
        lock(&self.slots[shard.0 as usize])
    }
}

/// A member and its address.
pub(super) fn peer(state: &ClusterState, node: NodeNr) -> Option<Peer> {
    let address = state.members.get(&node)?.peer_address.clone();
    Some(Peer { node, address })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is done under these locks leaves what they guard whole, or panics only
    // because of a bug that a second panic would hide.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
