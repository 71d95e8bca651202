//! Keeps a region in step with the cluster: applies each new state to the slots, has
//! links to the nodes that own shards, hands shards off that are to go, fences the
//! former owners of those that came, and looks after what waits.
//!
//! One task for a region; links and departures run beside it and end with it. What
//! one state means for one shard is decided by [`direction_of`], a plain function.
//! Next: `departures.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use perennial_persistence::planted::{self, Bug};
use perennial_persistence::registry::{NodeNr, Registry};
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::task::JoinSet;

use crate::cluster_state::{ClusterState, Home, MemberStatus, Shard};
use crate::control_plane::ControlPlane;
use crate::fencing;
use crate::peer::PeerTransport;

use super::departures::{Departure, Departures};
use super::inner::{Inner, now, peer};
use super::link::Link;
use super::parting::{LinkFate, fate_of};
use super::route::{Direction, Owner};
use super::slot::{Host, Slot};

/// Ticks after which slots are looked at in which nothing waits.
const IDLE_TICKS: u32 = 8;

/// Keeps a region in step with the cluster.
pub(super) struct Keeper<C> {
    inner: Arc<Inner>,
    transport: Arc<dyn PeerTransport>,
    control: Arc<C>,
    registry: Arc<dyn Registry>,
    /// By node; to its present session.
    links: BTreeMap<NodeNr, Arc<Link>>,
    link_tasks: JoinSet<()>,
    /// Shards that are being handed off, as of which epoch.
    handing_off: BTreeSet<(ShardNr, Epoch)>,
    departures: JoinSet<Vec<(ShardNr, Epoch)>>,
    /// Sessions of dead nodes that this node is fencing.
    fencing: BTreeSet<SessionUuid>,
    fences: JoinSet<SessionUuid>,
    /// What the slots go by.
    applied: Option<Arc<ClusterState>>,
    /// The lease has been out for so long that the entities were stopped.
    suspended: bool,
    ticks: u32,
}

/// Where a shard's commands go, by one state of the cluster.
pub(super) fn direction_of(
    shard: &Shard,
    state: &ClusterState,
    here: NodeNr,
    host: Option<SessionUuid>,
) -> Direction {
    let Home::Owned { node, session } = shard.home else {
        return Direction::Nowhere;
    };
    if !shard.unfenced.is_empty() && !planted::is(Bug::RecoverCondemned) {
        // An earlier owner may still be writing (I-2).
        return Direction::Nowhere;
    }
    let epoch = shard.epoch;
    if node == here {
        return match host {
            Some(host) if host == session => Direction::Here(epoch),
            _ => Direction::Nowhere,
        };
    }
    match state.members.get(&node) {
        Some(member) if member.session == session && member.status != MemberStatus::Down => {
            Direction::There(Owner {
                node,
                session,
                epoch,
            })
        }
        _ => Direction::Nowhere,
    }
}

impl<C: ControlPlane> Keeper<C> {
    pub(super) fn new(
        inner: Arc<Inner>,
        transport: Arc<dyn PeerTransport>,
        control: Arc<C>,
        registry: Arc<dyn Registry>,
    ) -> Self {
        Self {
            inner,
            transport,
            control,
            registry,
            links: BTreeMap::new(),
            link_tasks: JoinSet::new(),
            handing_off: BTreeSet::new(),
            departures: JoinSet::new(),
            fencing: BTreeSet::new(),
            fences: JoinSet::new(),
            applied: None,
            suspended: false,
            ticks: 0,
        }
    }

    /// Runs until the control plane ends, or the future is dropped.
    pub(super) async fn run(mut self) {
        let mut state = self.control.state();
        let mut tick = tokio::time::interval(self.inner.settings.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let inner = Arc::clone(&self.inner);
        loop {
            let newest = Arc::clone(&state.borrow_and_update());
            self.apply(&newest);
            // All are safe to cancel.
            let mut is_stirred = false;
            while !is_stirred {
                tokio::select! {
                    changed = state.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    () = inner.stirred.notified() => is_stirred = true,
                    _ = tick.tick() => is_stirred = self.tick(),
                    Some(_) = self.link_tasks.join_next() => {}
                    Some(ended) = self.fences.join_next() => {
                        match ended {
                            Ok(session) => {
                                self.fencing.remove(&session);
                            }
                            // A panic: whoever it was for, it is done again.
                            Err(_) => self.fencing.clear(),
                        }
                        is_stirred = true;
                    }
                    Some(ended) = self.departures.join_next() => {
                        for handed_off in ended.unwrap_or_default() {
                            self.handing_off.remove(&handed_off);
                        }
                        is_stirred = true;
                    }
                }
            }
            if is_stirred {
                // What changed is not in the state: look at every shard anew.
                self.applied = None;
            }
        }
    }

    /// Makes the slots go by a state.
    fn apply(&mut self, state: &Arc<ClusterState>) {
        let inner = Arc::clone(&self.inner);
        inner.begin_applying(state.index);
        self.end_links(state);
        let host = inner.host();
        let session = host.as_ref().map(|host| host.session);
        let (mut departures, mut returned) = (Vec::new(), Vec::new());
        for (number, shard) in state.shards.iter().enumerate() {
            let shard_nr = ShardNr(number as u32);
            let is_as_before = self.applied.as_ref().is_some_and(|before| {
                before.shards.get(number) == Some(shard)
                    && has_same_owner_member(before, state, shard)
            });
            if is_as_before {
                continue;
            }
            let direction = direction_of(shard, state, inner.node, session);
            self.apply_to_slot(shard_nr, shard, direction, host.as_ref(), state);
            if let Direction::Here(epoch) = direction
                && let Some((session, under)) = self.to_fence(shard_nr, session, epoch)
                && self.handing_off.insert((shard_nr, under))
            {
                returned.push((shard_nr, session, under));
            }
            if let Home::HandingOff { from, session, .. } = shard.home
                && from == inner.node
                && host.as_ref().is_some_and(|host| host.session == session)
                && self.handing_off.insert((shard_nr, shard.epoch))
            {
                departures.push(Departure::handoff(shard_nr, shard.epoch, session));
            }
        }
        inner.applied(state);
        self.retire_links(state);
        self.applied = Some(Arc::clone(state));
        self.depart(departures);
        if !returned.is_empty() {
            let task = self.departing();
            self.departures.spawn(task.fence_returned(returned));
        }
        for session in fencing::waited_for(state, inner.node) {
            if self.fencing.insert(session) {
                let (control, registry) = (Arc::clone(&self.control), Arc::clone(&self.registry));
                self.fences
                    .spawn(fencing::fence_condemned(session, control, registry));
            }
        }
    }

    fn apply_to_slot(
        &mut self,
        shard_nr: ShardNr,
        shard: &Shard,
        direction: Direction,
        host: Option<&Arc<Host>>,
        state: &ClusterState,
    ) {
        let inner = Arc::clone(&self.inner);
        let owned_here = match shard.home {
            Home::Owned { node, .. } if node == inner.node => Some(shard.epoch),
            _ => None,
        };
        let link = match direction {
            Direction::There(owner) => self.link_to(owner, state),
            _ => None,
        };
        let is_suspended = self.suspended && matches!(direction, Direction::Here(_));
        inner.change(shard_nr, |slot| {
            let direction = match direction {
                Direction::Here(epoch)
                    if is_suspended
                        || slot.refused == Some(epoch)
                        || host.is_some_and(|host| slot.has_to_fence(host.session, epoch)) =>
                {
                    Direction::Nowhere
                }
                direction => direction,
            };
            note_homelessness(&inner, slot, direction);
            slot.owned_here = owned_here;
            slot.suspended = is_suspended;
            inner.redirect(slot, direction);
            match direction {
                Direction::Here(_) => slot.host = host.cloned(),
                Direction::There(_) => slot.link = link,
                Direction::Nowhere => {}
            }
            if planted::is(Bug::ForgetBuffered) && matches!(direction, Direction::There(_)) {
                drop(slot.route.take_waiting(|_| true));
            }
            if owned_here.is_none() {
                // Their senders find the owner by themselves.
                for foreign in slot.route.take_waiting(super::parcel::Parcel::is_foreign) {
                    inner.figures.returned.increment(1);
                    foreign.return_to_sender(state.index);
                }
            }
            if is_suspended {
                for refused in slot.route.take_waiting(|_| true) {
                    refused.refuse(slot.unavailable());
                }
            }
        });
    }

    /// Ends links to sessions that are over: nobody will answer there.
    fn end_links(&mut self, state: &ClusterState) {
        self.links.retain(|node, link| {
            let has_ended = fate_of(state, *node, link.session) == LinkFate::Ends;
            if has_ended {
                link.end();
            }
            !has_ended
        });
    }

    /// Lets links end to sessions that have left. No slot sends there any more.
    fn retire_links(&mut self, state: &ClusterState) {
        self.links.retain(|node, link| {
            if fate_of(state, *node, link.session) == LinkFate::Retires {
                link.retire();
            }
            !link.has_ended()
        });
    }

    fn link_to(&mut self, owner: Owner, state: &ClusterState) -> Option<Arc<Link>> {
        if let Some(link) = self.links.get(&owner.node) {
            return Some(Arc::clone(link));
        }
        let header = self.inner.header(state, owner.node);
        let link = Arc::new(Link::new(peer(state, owner.node)?, owner.session));
        self.links.insert(owner.node, Arc::clone(&link));
        let (inner, transport) = (Arc::clone(&self.inner), Arc::clone(&self.transport));
        let of_task = Arc::clone(&link);
        self.link_tasks.spawn(async move {
            of_task.run(&*transport, header, &*inner).await;
        });
        Some(link)
    }

    /// Starts what takes entities out of memory.
    fn depart(&mut self, mut departures: Vec<Departure>) {
        for leaving in self.inner.take_leaving() {
            // One session's entities stop with the handoff, another's by themselves.
            let is_same = |d: &&mut Departure| d.shard == leaving.shard && d.host.is_none();
            match departures.iter_mut().find(is_same) {
                Some(departure) => departure.host = Some(leaving.host),
                None => departures.push(Departure::stop(leaving)),
            }
        }
        for departure in &mut departures {
            // Its entities may be stopping for another reason: wait for them, too.
            if departure.host.is_none() && self.inner.lock(departure.shard).route.is_stopping() {
                departure.host = self.inner.host();
            }
        }
        if departures.is_empty() {
            return;
        }
        let task = self.departing();
        self.departures.spawn(task.run(departures));
    }

    fn departing(&self) -> Departures<C> {
        Departures {
            inner: Arc::clone(&self.inner),
            control: Arc::clone(&self.control),
            registry: Arc::clone(&self.registry),
        }
    }

    /// What this node has to fence of its own before a shard may begin under an epoch.
    fn to_fence(
        &self,
        shard: ShardNr,
        session: Option<SessionUuid>,
        epoch: Epoch,
    ) -> Option<(SessionUuid, Epoch)> {
        let slot = self.inner.lock(shard);
        let has_to = slot.has_to_fence(session?, epoch);
        slot.unfenced.filter(|_| has_to)
    }

    /// Looks after what waits. Returns whether the slots have to be looked at anew.
    fn tick(&mut self) -> bool {
        let inner = &self.inner;
        let now = now();
        self.ticks = self.ticks.wrapping_add(1);
        if inner.waiting() > 0 || self.ticks.is_multiple_of(IDLE_TICKS) {
            for shard in inner.shards() {
                look_after(inner, shard, now);
            }
            inner.figures.waiting.set(inner.waiting() as f64);
        }
        let host = inner.host();
        let out_for = host.as_ref().and_then(|host| host.out_for(now));
        let suspended = out_for.is_some_and(|out_for| out_for >= inner.settings.lease_grace);
        let has_changed = suspended != self.suspended;
        if has_changed {
            if suspended {
                tracing::warn!("this node's lease has run out: its entities stop until it is back");
            } else {
                tracing::info!("this node's lease is back");
            }
        }
        self.suspended = suspended;
        has_changed
    }
}

/// Answers what has waited for too long, sends on what could not go before.
fn look_after(inner: &Inner, shard: ShardNr, now: Instant) {
    let settings = &inner.settings;
    inner.change(shard, |slot| {
        slot.expire(now, settings.homeless_max);
        slot.expire_out(now);
        let Some(owner) = slot.route.out_to() else {
            slot.outlived_since = None;
            return;
        };
        if slot.route.direction() == Direction::There(owner) {
            slot.outlived_since = None;
            return;
        }
        // An owner that is alive answers or returns them; one that hangs does not.
        let since = *slot.outlived_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= settings.handoff_timeout {
            inner.give_up_on(slot, owner.session);
        }
    });
}

fn note_homelessness(inner: &Inner, slot: &mut Slot, direction: Direction) {
    if direction != Direction::Nowhere {
        if let Some(since) = slot.homeless_since.take() {
            inner
                .figures
                .was_homeless(now().saturating_duration_since(since));
        }
    } else if slot.route.direction() != Direction::Nowhere {
        slot.homeless_since = Some(now());
    }
}

/// Whether the member that owns the shard is as it was, as far as routing goes.
fn has_same_owner_member(before: &ClusterState, state: &ClusterState, shard: &Shard) -> bool {
    let Home::Owned { node, .. } = shard.home else {
        return true;
    };
    let of = |state: &ClusterState| {
        let member = state.members.get(&node)?;
        Some((member.session, member.status == MemberStatus::Down))
    };
    of(before) == of(state)
}
