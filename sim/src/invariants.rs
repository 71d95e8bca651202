//! What must hold, checked while a run goes on and when it has ended.
//!
//! One file for each promise or two that are seen at the same place. They look at
//! what nodes agree on, at what reaches the journal, and at what clients are told;
//! none of them looks into an entity or a region.

pub(crate) mod agreement;
mod bounded_recoveries;
pub(crate) mod burst_order;
mod fenced_writers;
pub(crate) mod histories;
mod one_home;
mod one_stream;
pub(crate) mod transfers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_persistence::journal::{Append, Appended};
use perennial_persistence::recovery_reader::Wanted;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use perennial_sharding::cluster_state::ClusterState;
use perennial_sharding::shard_id::shard_of;
use tokio::sync::watch;

use self::bounded_recoveries::BoundedRecoveries;
use self::fenced_writers::{Begun, FencedWriters};
use self::one_home::OneHome;
use self::one_stream::OneStream;
pub(crate) use self::one_stream::{Committed, Stream};
use self::transfers::Transfers;
use crate::history::Order;
use crate::network::{Host, Network};
use crate::trace::Trace;
use crate::verdict::Verdict;

/// What reaches the journal; clones are the same.
#[derive(Clone)]
pub(crate) struct Journaled(Arc<Mutex<InJournal>>);

struct InJournal {
    verdict: Verdict,
    trace: Trace,
    network: Option<Network>,
    fenced_writers: FencedWriters,
    one_stream: OneStream,
}

impl Journaled {
    pub(crate) fn new(verdict: Verdict, trace: Trace, order: Order, transfers: Transfers) -> Self {
        Self(Arc::new(Mutex::new(InJournal {
            verdict,
            trace,
            network: None,
            fenced_writers: FencedWriters::default(),
            one_stream: OneStream::new(order, transfers),
        })))
    }

    /// Tells the time.
    pub(crate) fn set_network(&self, network: Network) {
        self.lock().network = Some(network);
    }

    /// An append was handled.
    pub(crate) fn appended(&self, session: SessionUuid, append: &Append, appended: &Appended) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let now = inner.network.as_ref().map_or(0, Network::now);
        inner.trace.note(now, || {
            format!(
                "append {} {} epoch {} session {session}: {} stored, {:?}",
                append.persistence_id,
                append.first_sequence_nr,
                append.epoch,
                appended.stored_writes,
                appended.failure,
            )
        });
        if appended.stored_writes == 0 {
            return;
        }
        let verdict = &inner.verdict;
        inner.fenced_writers.stored(session, append, now, verdict);
        inner
            .one_stream
            .stored(session, append, appended.stored_writes, now, verdict);
    }

    /// Entities' pasts are being read.
    pub(crate) fn recovering(&self, begun: &[Begun]) {
        self.lock().fenced_writers.recovering(begun);
    }

    pub(crate) fn streams(&self) -> BTreeMap<String, Stream> {
        self.lock().one_stream.streams.clone()
    }

    fn lock(&self) -> MutexGuard<'_, InJournal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What nodes agree on, and which recoveries they begin; clones are the same.
#[derive(Clone)]
pub(crate) struct Recoveries(Arc<Mutex<Seen>>);

struct Seen {
    verdict: Verdict,
    one_home: OneHome,
    bounded: BoundedRecoveries,
    views: BTreeMap<Host, View>,
    number_of_shards: u32,
    /// Where owners lived.
    hosts: BTreeMap<SessionUuid, Host>,
}

/// What a node knows of its shards.
struct View {
    life: u64,
    node: NodeNr,
    states: watch::Receiver<Arc<ClusterState>>,
    /// That which was looked at.
    state: Option<Arc<ClusterState>>,
    owned: BTreeMap<ShardNr, Owned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owned {
    epoch: Epoch,
    session: SessionUuid,
    may_recover: bool,
    /// Milliseconds since the beginning.
    since: u64,
}

/// What a node does may be a little behind what it knows: so many milliseconds.
const BEHIND_MAX: u64 = 10;

impl Recoveries {
    pub(crate) fn new(verdict: Verdict, number_of_shards: u32, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Seen {
            verdict,
            one_home: OneHome::default(),
            bounded: BoundedRecoveries::new(limit),
            views: BTreeMap::new(),
            number_of_shards,
            hosts: BTreeMap::new(),
        })))
    }

    /// Looks at what a node knows of the cluster.
    pub(crate) fn look(
        &self,
        (host, life): (Host, u64),
        node: NodeNr,
        states: &watch::Receiver<Arc<ClusterState>>,
        now: u64,
    ) {
        let mut seen = self.lock();
        if seen.views.get(&host).is_none_or(|view| view.life != life) {
            let view = View {
                life,
                node,
                states: states.clone(),
                state: None,
                owned: BTreeMap::new(),
            };
            seen.views.insert(host, view);
        }
        seen.look_again(host, now);
    }

    /// Where the sessions lived that owned something.
    pub(crate) fn hosts(&self) -> BTreeMap<SessionUuid, Host> {
        self.lock().hosts.clone()
    }

    /// A node begins to read entities' pasts.
    pub(crate) fn begin(&self, host: Host, wanted: &[Wanted], now: u64) -> UnderWay {
        let mut guard = self.lock();
        let seen = &mut *guard;
        seen.look_again(host, now);
        seen.bounded.begin(host, wanted.len(), now, &seen.verdict);
        let mut begun = Vec::new();
        if let Some(view) = seen.views.get(&host) {
            for wanted in wanted {
                let shard = shard_of(&wanted.persistence_id, seen.number_of_shards);
                let Some(owned) = view.owned.get(&shard) else {
                    continue;
                };
                let is_settled = now - owned.since >= BEHIND_MAX;
                if owned.may_recover && is_settled {
                    begun.push(Begun {
                        shard,
                        epoch: owned.epoch,
                        session: owned.session,
                    });
                } else if is_settled {
                    let what = format!(
                        "node {} recovers {} while an earlier owner of shard {shard} is not fenced",
                        view.node.0, wanted.persistence_id
                    );
                    seen.verdict.violated("I-2", now, what);
                }
            }
        }
        UnderWay {
            recoveries: self.clone(),
            host,
            entities: wanted.len(),
            begun,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Looks at what a node knows by now.
    fn look_again(&mut self, host: Host, now: u64) {
        let Some(view) = self.views.get_mut(&host) else {
            return;
        };
        let state = Arc::clone(&view.states.borrow());
        let before = view.state.replace(Arc::clone(&state));
        if before.as_ref().is_some_and(|b| Arc::ptr_eq(b, &state)) {
            return;
        }
        let verdict = &self.verdict;
        self.one_home
            .look(host, before.as_deref(), &state, now, verdict);
        let owned_before = std::mem::take(&mut view.owned);
        for (shard, _) in state.shards() {
            let owner = state.owner_of(shard);
            let Some(owner) = owner.filter(|owner| owner.node == view.node) else {
                continue;
            };
            let mut owned = Owned {
                epoch: owner.epoch,
                session: owner.session,
                may_recover: owner.may_recover,
                since: now,
            };
            if let Some(before) = owned_before.get(&shard) {
                let since = before.since;
                if *before == (Owned { since, ..owned }) {
                    owned.since = since;
                }
            }
            self.hosts.insert(owned.session, host);
            view.owned.insert(shard, owned);
        }
    }
}

/// Entities' pasts that are being read; dropped when they have been.
pub(crate) struct UnderWay {
    recoveries: Recoveries,
    host: Host,
    entities: usize,
    begun: Vec<Begun>,
}

impl UnderWay {
    pub(crate) fn begun(&self) -> Vec<Begun> {
        self.begun.clone()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.recoveries.lock().bounded.end(self.host, self.entities);
    }
}
