//! The link to another node: one stream for all commands to its shards.
//!
//! Slots push commands into a bounded queue; a task writes them in batches, as many
//! as the other node has given credit for, and passes answers on. When the stream
//! is lost it tells the region what was never written, and connects again after a
//! pause that grows. A link belongs to one session of the other node and ends with it,
//! or before, when nothing is out and nothing will be. It knows nothing of order or
//! owners. The other end: `arrivals.rs`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use perennial_persistence::command::{Answer, Request};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::peer::{BackFrame, ForwardStream, Forwarded, Peer, PeerHeader, PeerTransport};

/// Commands that may wait to be written to one node.
const QUEUE_MAX: usize = 8_192;
/// Commands in one batch.
const BATCH_FRAMES_MAX: usize = 256;
/// Payload bytes after which a batch is complete.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// The pause before the first attempt to connect again; doubles up to the last.
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_LAST: Duration = Duration::from_millis(500);

/// How long connecting may take: what is lost on the way is not waited for.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A command's number on all links of a node: its shard and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(pub(super) u64);

impl Ticket {
    const SHARD_BITS: u32 = 20;
    /// The most shards a cluster can have.
    pub(super) const SHARDS_MAX: u32 = 1 << Self::SHARD_BITS;

    /// The 44 bits of the number are enough for half a million commands a second,
    /// all to one shard, for a year.
    pub(super) fn new(shard: ShardNr, nr: u64) -> Self {
        Self(nr << Self::SHARD_BITS | u64::from(shard.0))
    }

    pub(super) fn shard(self) -> ShardNr {
        ShardNr((self.0 % u64::from(Self::SHARDS_MAX)) as u32)
    }

    pub(super) fn nr(self) -> u64 {
        self.0 >> Self::SHARD_BITS
    }
}

/// A command on its way to the stream.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) ticket: Ticket,
    pub(super) routed_at: u64,
    pub(super) epoch: Epoch,
    pub(super) persistence_id: PersistenceId,
    pub(super) request: Request,
    pub(super) deadline: Option<Instant>,
    pub(super) trace: Trace,
}

/// What a link tells its region.
pub(super) trait LinkEvents: Send + Sync + 'static {
    /// The session answers a command.
    fn answered(&self, by: SessionUuid, ticket: Ticket, answer: Answer);
    /// The session has not begun a command.
    fn returned(&self, by: SessionUuid, ticket: Ticket);
    /// Commands of these shards can be pushed again.
    fn has_room(&self, shards: BTreeSet<ShardNr>);
    /// The stream is lost, before these were written to it.
    fn lost(&self, link: &Link, unwritten: &BTreeSet<Ticket>);
}

/// The link to one session of another node.
pub(super) struct Link {
    pub(super) peer: Peer,
    pub(super) session: SessionUuid,
    queue: Mutex<Queue>,
    /// There is something to write, or credit to write it with.
    stirred: Notify,
    /// The session has ended, or the link has retired.
    ended: CancellationToken,
}

#[derive(Default)]
struct Queue {
    /// There is a stream.
    open: bool,
    waiting: VecDeque<Outgoing>,
    /// How many more commands the other node takes.
    credit: usize,
    /// Shards that found no room.
    rejected: BTreeSet<ShardNr>,
    /// Commands that were pushed, and neither answered nor returned nor lost.
    out: usize,
    /// Nothing is pushed any more.
    retires: bool,
}

impl Queue {
    /// Whether the link has served its time.
    fn is_done(&self) -> bool {
        self.retires && self.out == 0
    }
}

impl Link {
    pub(super) fn new(peer: Peer, session: SessionUuid) -> Self {
        Self {
            peer,
            session,
            queue: Mutex::default(),
            stirred: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Whether a command can be pushed now. If not, its shard is told when.
    pub(super) fn has_room(&self, shard: ShardNr) -> bool {
        let mut queue = self.lock();
        let has_room = queue.open && queue.waiting.len() < QUEUE_MAX;
        if !has_room {
            queue.rejected.insert(shard);
        }
        has_room
    }

    /// Queues a command; `false` if there is no room.
    pub(super) fn push(&self, outgoing: Outgoing) -> bool {
        let mut queue = self.lock();
        if !queue.open || queue.waiting.len() >= QUEUE_MAX {
            queue.rejected.insert(outgoing.ticket.shard());
            return false;
        }
        queue.waiting.push_back(outgoing);
        queue.out += 1;
        let was_empty = queue.waiting.len() == 1;
        drop(queue);
        if was_empty {
            self.stirred.notify_one();
        }
        true
    }

    /// The other node's session has ended: what is out will not be answered.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Nothing will be pushed any more: the link ends as soon as nothing is out, or its
    /// stream is lost.
    pub(super) fn retire(&self) {
        self.end_if_done(|queue| queue.retires = true);
    }

    /// Whether it has ended, or is about to.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    fn end_if_done(&self, change: impl FnOnce(&mut Queue)) {
        let mut queue = self.lock();
        change(&mut queue);
        if queue.is_done() {
            self.ended.cancel();
        }
    }

    /// Keeps the link until it ends.
    pub(super) async fn run(
        &self,
        transport: &dyn PeerTransport,
        header: PeerHeader,
        events: &dyn LinkEvents,
    ) {
        let mut pause = RECONNECT_FIRST;
        loop {
            let opened = tokio::select! {
                () = self.ended.cancelled() => break,
                opened = timeout(CONNECT_MAX, transport.open(&self.peer, header)) => opened,
            };
            match opened {
                Err(_) => tracing::debug!(node = self.peer.node.0, "no stream of commands in time"),
                Ok(Ok(stream)) => {
                    pause = RECONNECT_FIRST;
                    self.converse(stream, events).await;
                    self.lose(events);
                }
                Ok(Err(error)) => {
                    tracing::debug!(node = self.peer.node.0, %error, "no stream of commands");
                }
            }
            tokio::select! {
                () = self.ended.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RECONNECT_LAST);
        }
        self.lose(events);
    }

    /// Writes and reads until the stream is lost or the link has ended.
    async fn converse(&self, stream: ForwardStream, events: &dyn LinkEvents) {
        let ForwardStream { frames, mut back } = stream;
        let rejected = {
            let mut queue = self.lock();
            queue.open = true;
            queue.credit = 0;
            std::mem::take(&mut queue.rejected)
        };
        events.has_room(rejected);
        let outstanding =
            metrics::gauge!("perennial_link_outstanding", "node" => self.peer.node.0.to_string());
        outstanding.set(0.0);
        let write = async {
            loop {
                // First the place: what is taken is written.
                let Ok(place) = frames.reserve().await else {
                    return;
                };
                let batch = self.next_batch(events).await;
                outstanding.increment(batch.len() as f64);
                place.send(batch);
            }
        };
        let read = async {
            while let Some(batch) = back.recv().await {
                for frame in batch {
                    let is_heard_of = !matches!(frame, BackFrame::Credit(_));
                    self.hear(frame, events);
                    if is_heard_of {
                        outstanding.decrement(1.0);
                        self.end_if_done(|queue| queue.out = queue.out.saturating_sub(1));
                    }
                }
            }
        };
        tokio::select! {
            () = write => {}
            () = read => {}
            () = self.ended.cancelled() => {}
        }
    }

    fn hear(&self, frame: BackFrame, events: &dyn LinkEvents) {
        match frame {
            BackFrame::Answer {
                correlation_id,
                answer,
            } => events.answered(self.session, Ticket(correlation_id), answer),
            // The state by which it is routed anew comes from the log.
            BackFrame::Returned { correlation_id, .. } => {
                events.returned(self.session, Ticket(correlation_id));
            }
            BackFrame::Credit(more) => {
                self.lock().credit += more as usize;
                self.stirred.notify_one();
            }
        }
    }

    /// What may be written, at least one command. Safe to cancel: nothing is taken
    /// before it returns.
    async fn next_batch(&self, events: &dyn LinkEvents) -> Vec<Forwarded> {
        loop {
            let (batch, with_room) = self.take_batch();
            if !with_room.is_empty() {
                events.has_room(with_room);
            }
            if !batch.is_empty() {
                return batch;
            }
            self.stirred.notified().await;
        }
    }

    fn take_batch(&self) -> (Vec<Forwarded>, BTreeSet<ShardNr>) {
        let now = tokio::time::Instant::now().into_std();
        let mut queue = self.lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_FRAMES_MAX && bytes < BATCH_BYTES_MAX && queue.credit > 0 {
            let Some(outgoing) = queue.waiting.pop_front() else {
                break;
            };
            queue.credit -= 1;
            bytes += payload_len(&outgoing.request);
            batch.push(outgoing.into_forwarded(now));
        }
        let has_room = queue.waiting.len() <= QUEUE_MAX / 2;
        let with_room = match has_room {
            true => std::mem::take(&mut queue.rejected),
            false => BTreeSet::new(),
        };
        (batch, with_room)
    }

    /// There is no stream any more.
    fn lose(&self, events: &dyn LinkEvents) {
        let unwritten = {
            let mut queue = self.lock();
            queue.open = false;
            let unwritten = queue.waiting.drain(..);
            unwritten.map(|outgoing| outgoing.ticket).collect()
        };
        events.lost(self, &unwritten);
        self.end_if_done(|queue| queue.out = 0);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Held for assignments that leave the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    fn into_forwarded(self, now: Instant) -> Forwarded {
        Forwarded {
            correlation_id: self.ticket.0,
            routed_at: self.routed_at,
            shard: self.ticket.shard(),
            epoch: self.epoch,
            persistence_id: self.persistence_id,
            request: self.request,
            trace: self.trace,
            time_left: self.deadline.map(|at| at.saturating_duration_since(now)),
        }
    }
}

fn payload_len(request: &Request) -> usize {
    match request {
        Request::Command { payload, .. } => payload.bytes.len(),
        Request::State => 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod link_test;
