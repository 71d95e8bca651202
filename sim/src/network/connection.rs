//! Connections: frames in order, held back by a cut, lost with either end.

use std::any::Any;
use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Arrival, Host, Network};

/// A connection over which nothing gets through for so many milliseconds is broken,
/// as its keep-alive would find out.
const BROKEN_AFTER: u64 = 1_500;
/// Batches that have arrived and are not taken.
pub(super) const ARRIVED_MAX: usize = 4_096;

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Opener,
    Accepter,
}

impl End {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Opener => Self::Accepter,
            Self::Accepter => Self::Opener,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// A connection that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndedStream {
    pub(crate) opener: Host,
    pub(crate) accepter: Host,
    /// When its opener learned of it.
    pub(crate) at: u64,
}

pub(super) struct Connection {
    hosts: [Host; 2],
    /// Keeps an end's channel open until it learns that the other end has gone.
    open: [Option<Box<dyn Any + Send>>; 2],
    lost: [CancellationToken; 2],
    /// Towards each end.
    ways: [Way; 2],
    /// The ends that have gone.
    gone: [bool; 2],
}

impl Connection {
    /// For one end it is over: what its opener learns, once.
    fn lose(&mut self, end: End, now: u64) -> Option<EndedStream> {
        self.lost[end.index()].cancel();
        let had_gone = std::mem::replace(&mut self.gone[end.index()], true);
        let [opener, accepter] = self.hosts;
        let learns = end == End::Opener && !had_gone;
        learns.then_some(EndedStream {
            opener,
            accepter,
            at: now,
        })
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    held: VecDeque<(&'static str, Arrival)>,
    held_since: Option<u64>,
    /// Nothing arrives before what was sent earlier.
    due: u64,
}

impl Network {
    /// A connection between two hosts, whose ends' channels are kept open.
    pub(super) fn connect(&self, hosts: [Host; 2], open: [Box<dyn Any + Send>; 2]) -> u64 {
        let mut inner = self.lock();
        inner.connected += 1;
        let id = inner.connected;
        let connection = Connection {
            hosts,
            open: open.map(Some),
            lost: [CancellationToken::new(), CancellationToken::new()],
            ways: Default::default(),
            gone: [false; 2],
        };
        inner.connections.insert(id, connection);
        id
    }

    /// Cancelled when an end learns that the connection is lost.
    pub(super) fn lost(&self, id: u64, end: End) -> CancellationToken {
        let inner = self.lock();
        match inner.connections.get(&id) {
            Some(connection) => connection.lost[end.index()].clone(),
            None => {
                let lost = CancellationToken::new();
                lost.cancel();
                lost
            }
        }
    }

    /// Sends frames to an end, behind those that were sent before.
    fn send(&self, id: u64, to: End, what: &'static str, arrival: Arrival) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(connection) = inner.connections.get_mut(&id) else {
            return;
        };
        connection.ways[to.index()].held.push_back((what, arrival));
        drop(guard);
        self.forward(id, to);
    }

    /// Lets what is held back go its way, unless it is cut.
    fn forward(&self, id: u64, to: End) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(connection) = inner.connections.get(&id) else {
            return;
        };
        let link = (
            connection.hosts[to.other().index()],
            connection.hosts[to.index()],
        );
        let now = inner.now;
        if inner.is_cut(link) {
            if let Some(connection) = inner.connections.get_mut(&id) {
                connection.ways[to.index()].held_since.get_or_insert(now);
            }
            return;
        }
        let latency = inner.latency(link);
        let Some(connection) = inner.connections.get_mut(&id) else {
            return;
        };
        let way = &mut connection.ways[to.index()];
        way.held_since = None;
        way.due = way.due.max(now + latency);
        let due = way.due;
        let held = std::mem::take(&mut way.held);
        for (what, arrival) in held {
            inner.put_under_way(due, link, what, arrival, true);
        }
    }

    /// An end has gone; the other learns of it, in order.
    pub(super) fn hang_up(&self, id: u64, end: End) {
        {
            let mut guard = self.lock();
            let inner = &mut *guard;
            let Some(connection) = inner.connections.get_mut(&id) else {
                return;
            };
            if connection.gone[end.index()] {
                return;
            }
            inner.ended.extend(connection.lose(end, inner.now));
        }
        let network = self.clone();
        let arrival = Box::new(move || network.end_of(id, end.other()));
        self.send(id, end.other(), "hang up", arrival);
    }

    /// An end learns that there is no connection any more.
    fn end_of(&self, id: u64, end: End) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let Some(connection) = inner.connections.get_mut(&id) else {
            return;
        };
        inner.ended.extend(connection.lose(end, inner.now));
        let mut open = vec![connection.open[end.index()].take()];
        if connection.gone == [true; 2] {
            open.extend(std::mem::take(&mut connection.open));
            inner.connections.remove(&id);
        }
        drop(guard);
        drop(open);
    }

    pub(super) fn break_connections_of(&self, host: Host) {
        let broken: Vec<(u64, End)> = {
            let inner = self.lock();
            let ends = [End::Opener, End::Accepter];
            let of_host = inner.connections.iter().flat_map(|(id, connection)| {
                let here = ends.into_iter();
                let here = here.filter(|end| connection.hosts[end.index()] == host);
                here.map(|end| (*id, end))
            });
            of_host.collect()
        };
        for (id, end) in broken {
            self.hang_up(id, end);
        }
    }

    /// Lets what cuts have held back go on, and breaks what was held back too long.
    pub(super) fn look_after_connections(&self) {
        let held: Vec<(u64, End, bool)> = {
            let inner = self.lock();
            let ends = [End::Opener, End::Accepter];
            let ways = inner.connections.iter().flat_map(|(id, connection)| {
                let held = ends.into_iter().filter_map(|end| {
                    let since = connection.ways[end.index()].held_since?;
                    Some((*id, end, inner.now - since >= BROKEN_AFTER))
                });
                held.collect::<Vec<_>>()
            });
            ways.collect()
        };
        for (id, end, is_broken) in held {
            if is_broken {
                self.end_of(id, End::Opener);
                self.end_of(id, End::Accepter);
            } else {
                self.forward(id, end);
            }
        }
    }
}

/// Sends what an end gives on to the other end, until either has gone.
pub(super) async fn pump<T: Send + 'static>(
    network: Network,
    id: u64,
    from: End,
    what: &'static str,
    mut given: mpsc::Receiver<T>,
    arrived: mpsc::Sender<T>,
) {
    let lost = network.lost(id, from);
    loop {
        let batch = tokio::select! {
            batch = given.recv() => batch,
            () = lost.cancelled() => None,
        };
        let Some(batch) = batch else { break };
        let arrived = arrived.clone();
        let arrival = Box::new(move || {
            // Full only if its reader is stuck: then it is lost, and so is the rest.
            let _ = arrived.try_send(batch);
        });
        network.send(id, from.other(), what, arrival);
    }
    network.hang_up(id, from);
}
