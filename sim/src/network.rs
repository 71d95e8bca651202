//! The network between hosts: nodes, the database and the clients.
//!
//! Whatever travels is a closure that is run at its destination's time of arrival.
//! A direction between two hosts can be cut, slow or lossy; what is sent over a cut
//! is lost, except on a connection, which holds it back for a while, as TCP does, and
//! then breaks. Messages overtake each other, frames of one connection do not.
//! Delays and losses come from the seed. It looks into nothing. Next:
//! `network/transport.rs`, what nodes say to each other over it.

mod connection;
pub(crate) mod transport;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;

use perennial_sharding::peer::SharedPeerHandler;

use self::connection::Connection;
pub(crate) use self::connection::EndedStream;
use crate::gateway::Gateway;
use crate::trace::Trace;

/// Whoever can send and be sent something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Host {
    /// A machine that runs one node after the other.
    Node(u32),
    /// The database that all nodes share.
    Database,
    /// All clients.
    Clients,
}

/// Without faults a message takes so many milliseconds, at least and at most.
const LATENCY: (u64, u64) = (1, 3);
/// One message in so many takes longer, so that later ones overtake it.
const DAWDLES_ONE_IN: u32 = 20;
/// By so much, at most.
const DAWDLES_MAX: u64 = 25;

/// What is done when something arrives.
pub(crate) type Arrival = Box<dyn FnOnce() + Send>;

/// Who answers at a host.
#[derive(Clone)]
pub(crate) struct Listener {
    /// Of the process's runtime.
    pub(crate) runtime: Handle,
    /// For other nodes.
    pub(crate) peers: SharedPeerHandler,
    /// For clients; none while the node stops.
    pub(crate) gateway: Option<Arc<Gateway>>,
}

/// The network; clones are the same.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<Inner>>);

struct Inner {
    /// Milliseconds since the beginning.
    now: u64,
    chance: StdRng,
    posted: u64,
    /// By time of arrival and order of sending.
    under_way: BTreeMap<(u64, u64), UnderWay>,
    listeners: BTreeMap<Host, Listener>,
    links: BTreeMap<(Host, Host), Link>,
    connections: BTreeMap<u64, Connection>,
    connected: u64,
    /// All of the run: they are few.
    ended: Vec<EndedStream>,
    trace: Trace,
}

struct UnderWay {
    link: (Host, Host),
    what: &'static str,
    arrival: Arrival,
    /// A frame of a connection, which has been through the cut already.
    is_frame: bool,
}

/// What goes wrong in one direction between two hosts; faults add up.
#[derive(Debug, Clone, Default)]
struct Link {
    cuts: u32,
    /// Milliseconds added, at least and at most.
    slow: Vec<(u64, u64)>,
    /// Share of messages that are lost.
    lossy: Vec<f64>,
}

impl Network {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            now: 0,
            chance: StdRng::seed_from_u64(seed),
            posted: 0,
            under_way: BTreeMap::new(),
            listeners: BTreeMap::new(),
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            connected: 0,
            ended: Vec::new(),
            trace,
        })))
    }

    /// Milliseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        self.lock().now
    }

    /// Streams that their openers have seen end.
    pub(crate) fn ended_streams(&self) -> Vec<EndedStream> {
        self.lock().ended.clone()
    }

    /// Lets time go on and everything arrive that is due.
    pub(crate) fn advance_to(&self, now: u64) {
        self.lock().now = now;
        self.look_after_connections();
        loop {
            let next = {
                let mut inner = self.lock();
                match inner.under_way.first_key_value() {
                    Some((&(due, _), _)) if due <= now => inner.under_way.pop_first(),
                    _ => None,
                }
            };
            let Some((_, under_way)) = next else { return };
            let arrives = under_way.is_frame || !self.lock().is_cut(under_way.link);
            let trace = self.trace();
            let (from, to) = under_way.link;
            if arrives {
                trace.note(now, || format!("{from:?} -> {to:?}: {}", under_way.what));
                (under_way.arrival)();
            } else {
                trace.note(now, || format!("{from:?} -x {to:?}: {}", under_way.what));
            }
        }
    }

    /// Sends something. It arrives once, or never.
    pub(crate) fn post(
        &self,
        from: Host,
        to: Host,
        what: &'static str,
        arrival: impl FnOnce() + Send + 'static,
    ) {
        let mut inner = self.lock();
        let link = (from, to);
        if inner.is_cut(link) || inner.loses(link) {
            let (trace, now) = (inner.trace.clone(), inner.now);
            drop(inner);
            trace.note(now, || format!("{from:?} -/ {to:?}: {what}"));
            return;
        }
        let due = inner.now + inner.latency(link);
        inner.put_under_way(due, link, what, Box::new(arrival), false);
    }

    pub(crate) fn listen(&self, host: Host, listener: Listener) {
        self.lock().listeners.insert(host, listener);
    }

    /// Nobody listens there any more.
    pub(crate) fn close(&self, host: Host) {
        let closed = self.lock().listeners.remove(&host);
        // Dropped outside of the lock: it owns parts of a node.
        drop(closed);
        self.break_connections_of(host);
    }

    /// The run is over: lets go of everything that holds the network in turn.
    pub(crate) fn end(&self) {
        let mut inner = self.lock();
        let listeners = std::mem::take(&mut inner.listeners);
        let under_way = std::mem::take(&mut inner.under_way);
        let connections = std::mem::take(&mut inner.connections);
        // Dropped outside of the lock: what they own may use the network.
        drop(inner);
        drop((listeners, under_way, connections));
    }

    pub(crate) fn listener(&self, host: Host) -> Option<Listener> {
        self.lock().listeners.get(&host).cloned()
    }

    pub(crate) fn trace(&self) -> Trace {
        self.lock().trace.clone()
    }

    /// What is sent in this direction is lost, until it is joined as often as cut.
    pub(crate) fn cut(&self, from: Host, to: Host) {
        self.lock().link((from, to)).cuts += 1;
    }

    pub(crate) fn join(&self, from: Host, to: Host) {
        let mut inner = self.lock();
        let link = inner.link((from, to));
        link.cuts = link.cuts.saturating_sub(1);
    }

    /// What is sent in this direction takes longer.
    pub(crate) fn slow_down(&self, from: Host, to: Host, by: (u64, u64)) {
        self.lock().link((from, to)).slow.push(by);
    }

    pub(crate) fn speed_up(&self, from: Host, to: Host, by: (u64, u64)) {
        let mut inner = self.lock();
        let slow = &mut inner.link((from, to)).slow;
        if let Some(place) = slow.iter().position(|known| *known == by) {
            slow.remove(place);
        }
    }

    /// A share of what is sent in this direction is lost.
    pub(crate) fn lose(&self, from: Host, to: Host, share: f64) {
        self.lock().link((from, to)).lossy.push(share);
    }

    pub(crate) fn lose_no_more(&self, from: Host, to: Host, share: f64) {
        let mut inner = self.lock();
        let lossy = &mut inner.link((from, to)).lossy;
        if let Some(place) = lossy.iter().position(|known| *known == share) {
            lossy.remove(place);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn link(&mut self, link: (Host, Host)) -> &mut Link {
        self.links.entry(link).or_default()
    }

    fn is_cut(&self, link: (Host, Host)) -> bool {
        self.links.get(&link).is_some_and(|link| link.cuts > 0)
    }

    fn loses(&mut self, link: (Host, Host)) -> bool {
        let Some(known) = self.links.get(&link) else {
            return false;
        };
        let share = known.lossy.iter().copied().fold(0.0, f64::max);
        share > 0.0 && self.chance.random_bool(share)
    }

    fn latency(&mut self, link: (Host, Host)) -> u64 {
        let mut latency = self.chance.random_range(LATENCY.0..=LATENCY.1);
        if self.chance.random_ratio(1, DAWDLES_ONE_IN) {
            latency += self.chance.random_range(0..=DAWDLES_MAX);
        }
        let slow = self.links.get(&link).map(|link| link.slow.clone());
        for (least, most) in slow.unwrap_or_default() {
            latency += self.chance.random_range(least..=most);
        }
        latency
    }

    fn put_under_way(
        &mut self,
        due: u64,
        link: (Host, Host),
        what: &'static str,
        arrival: Arrival,
        is_frame: bool,
    ) {
        self.posted += 1;
        let under_way = UnderWay {
            link,
            what,
            arrival,
            is_frame,
        };
        self.under_way.insert((due, self.posted), under_way);
    }
}
