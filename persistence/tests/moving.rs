//! An engine whose shards come and go: what it finishes, what it hands back, and when
//! it answers without having written.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "moving/refused_reads.rs"]
mod refused_reads;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_persistence::actor::{Context, PersistentActor, Recovered};
use perennial_persistence::codec::Json;
use perennial_persistence::command::{Answer, CommandId, Envelope, ReplyTo, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::{EngineSettings, EntityEngine, EntityState};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::handing_back::{EngineHooks, HandBackReason, HandedBack, ReadGuard};
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::lease::ReadLease;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::snapshot_store::SnapshotCriteria;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

const SHARD: ShardNr = ShardNr(1);
const OTHER: ShardNr = ShardNr(2);
const LIMIT: Duration = Duration::from_secs(20);

/// Texts in the order in which they were added.
struct Notes {
    service: Arc<Semaphore>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Command {
    Add(String),
    /// An actor takes other commands meanwhile.
    AddAsync(String),
    /// Takes up what is put aside.
    AddForOthers(String),
    /// Asks a service, then adds.
    AddByService(String),
    /// Put aside while there is nothing.
    AddToOthers(String),
    List,
    /// Takes a snapshot of what it shows.
    ListAndKeep,
    Refuse,
}

impl EventSourced for Notes {
    const ENTITY_TYPE: &'static str = "notes";
    type State = Vec<String>;
    type Command = Command;
    type Event = String;
    type Reply = Vec<String>;
    type Codec = Json;

    fn handle(&self, state: &Vec<String>, command: Command) -> Effect<Self> {
        match command {
            Command::Add(text) | Command::AddAsync(text) => {
                Effect::persist(text).then_reply(Clone::clone)
            }
            Command::AddForOthers(text) => Effect::persist(text).then_unstash_all(),
            Command::AddToOthers(_) if state.is_empty() => Effect::stash(),
            Command::AddToOthers(text) => Effect::persist(text),
            Command::AddByService(text) => {
                let service = Arc::clone(&self.service);
                Effect::run_outside(async move {
                    service.acquire().await.unwrap().forget();
                    Command::Add(text)
                })
            }
            Command::List => Effect::reply(state.clone()),
            Command::ListAndKeep => Effect::reply(state.clone()).then_snapshot(),
            Command::Refuse => Effect::reject("REFUSED", "it is always refused"),
        }
    }

    fn apply(&self, state: &mut Vec<String>, text: String) {
        state.push(text);
    }
}

/// The same as an actor: stores a text, or shows how many there are.
struct Texts(usize);

impl PersistentActor for Texts {
    type Command = Command;
    type Event = String;
    type Snapshot = usize;
    type Reply = usize;
    type Codec = Json;

    fn receive_command(&mut self, command: Command, cx: &mut Context<'_, Self>) {
        match command {
            Command::Add(text) => cx.persist(text, |this: &mut Self, _, cx| {
                this.0 += 1;
                cx.reply(&this.0);
            }),
            Command::AddAsync(text) => cx.persist_async(text, |this: &mut Self, _, cx| {
                this.0 += 1;
                cx.reply(&this.0);
            }),
            Command::ListAndKeep => {
                cx.save_snapshot(&self.0);
                cx.reply(&self.0);
            }
            _ => cx.reply(&self.0),
        }
    }

    fn receive_recover(&mut self, recovered: Recovered<Self>, _: &mut Context<'_, Self>) {
        match recovered {
            Recovered::SnapshotOffer(offer) => self.0 = offer.snapshot,
            Recovered::Event(..) => self.0 += 1,
            Recovered::Completed => {}
        }
    }

    fn state(&self) -> Option<usize> {
        Some(self.0)
    }
}

struct Node {
    memory: MemoryStorage,
    engine: EntityEngine,
    session: SessionUuid,
    lease: ReadLease,
    service: Arc<Semaphore>,
    handed_back: Arc<Mutex<Vec<HandedBack>>>,
    arrivals: AtomicU64,
}

enum Guard {
    Lease,
    Journal,
}

impl Node {
    async fn new() -> Self {
        Self::guarded(Guard::Lease).await
    }

    async fn guarded(guard: Guard) -> Self {
        Self::with(&MemoryStorage::new(2), guard, EngineSettings::default()).await
    }

    async fn with(memory: &MemoryStorage, guard: Guard, settings: EngineSettings) -> Self {
        let storage = memory.storage();
        let node = storage.registry.mint_node().await.unwrap();
        let session = storage
            .registry
            .begin_incarnation(node)
            .await
            .unwrap()
            .session;
        let service = Arc::new(Semaphore::new(0));
        let mut types = EntityTypes::new();
        let of_entity = Arc::clone(&service);
        types.register(Notes { service: of_entity }).unwrap();
        types.register_actor("texts", |_| Texts(0)).unwrap();
        let now = std::time::Instant::now();
        let lease = ReadLease::new(now);
        lease.extend(now + Duration::from_secs(3600));
        let handed_back = Arc::new(Mutex::new(Vec::new()));
        let take = Arc::clone(&handed_back);
        let hooks = EngineHooks {
            take_back: Arc::new(move |back| take.lock().unwrap().push(back)),
            read_guard: match guard {
                Guard::Lease => ReadGuard::Lease(lease.clone()),
                Guard::Journal => ReadGuard::Journal,
            },
        };
        let engine = EntityEngine::start_in_cluster(types, storage, session, settings, hooks);
        Self {
            memory: memory.clone(),
            engine,
            session,
            lease,
            service,
            handed_back,
            arrivals: AtomicU64::new(0),
        }
    }

    fn tell_at(
        &self,
        id: &PersistenceId,
        shard: ShardNr,
        epoch: u64,
        command: &Command,
    ) -> oneshot::Receiver<Answer> {
        self.send(id, (shard, Epoch(epoch)), command, None)
    }

    fn send(
        &self,
        id: &PersistenceId,
        (shard, epoch): (ShardNr, Epoch),
        command: &Command,
        command_id: Option<CommandId>,
    ) -> oneshot::Receiver<Answer> {
        let (reply_to, answer) = ReplyTo::ask();
        self.engine.deliver(Envelope {
            trace: Trace::NONE,
            persistence_id: id.clone(),
            shard,
            epoch,
            arrival: self.arrivals.fetch_add(1, Ordering::Relaxed) + 1,
            request: Request::Command {
                payload: Payload::json(serde_json::to_vec(command).unwrap()),
                command_id,
                expected_sequence_nr: None,
                metadata: None,
            },
            deadline: None,
            reply_to,
        });
        answer
    }

    fn tell(&self, id: &PersistenceId, command: &Command) -> oneshot::Receiver<Answer> {
        self.tell_at(id, SHARD, 1, command)
    }

    fn tell_once(
        &self,
        id: &PersistenceId,
        command: &Command,
        command_id: &str,
    ) -> oneshot::Receiver<Answer> {
        let command_id = CommandId::parse(command_id).unwrap();
        self.send(id, (SHARD, Epoch(1)), command, command_id)
    }

    async fn ask(&self, id: &PersistenceId, command: &Command) -> Answer {
        answered(self.tell(id, command)).await
    }

    async fn stop_shard(&self, limit: Duration) {
        for mut stop in self.engine.stop_shards(&[SHARD], limit).await {
            assert_eq!(stop.shard, SHARD);
            let left = tokio::time::timeout(LIMIT, stop.all_left()).await;
            left.expect("the entities did not leave");
        }
    }

    async fn fence(&self, shard: Option<(ShardNr, Epoch)>) {
        let storage = self.memory.storage();
        storage.registry.fence(self.session, shard).await.unwrap();
    }

    /// The numbers of what was handed back.
    fn take_back(&self) -> Vec<(HandBackReason, u64)> {
        let handed_back = std::mem::take(&mut *self.handed_back.lock().unwrap());
        let mut numbers = Vec::new();
        for HandedBack { reason, envelopes } in handed_back {
            numbers.extend(envelopes.iter().map(|envelope| (reason, envelope.arrival)));
        }
        numbers.sort_by_key(|(_, arrival)| *arrival);
        numbers
    }

    async fn live(&self, id: &PersistenceId) -> bool {
        self.engine.describe(SHARD, id).await.state != EntityState::Passive
    }

    /// Returns when the entity waits for this.
    async fn waiting_for(&self, id: &PersistenceId, what: &str) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while self.engine.describe(SHARD, id).await.waiting_for != what {
            assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns when the entity has a snapshot at this number.
    async fn kept(&self, id: &PersistenceId, at: u64) {
        let snapshots = self.memory.storage().snapshots;
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let newest = snapshots.load(id, SnapshotCriteria::ALL).await.unwrap();
            let newest = newest.map_or(0, |snapshot| snapshot.sequence_nr.get());
            if newest == at {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited for a snapshot at {at}, the newest is at {newest}"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Returns when an append is under way.
    async fn appending(&self, appends_before: u64) {
        wait_until("an append", || {
            self.memory.faults().count(Operation::Append) > appends_before
        })
        .await;
    }

    fn delay_next_write(&self, delay: Duration) -> u64 {
        let faults = self.memory.faults();
        faults.at(Operation::Write, 1, Fault::Delay(delay));
        faults.count(Operation::Append)
    }
}

async fn answered(answer: oneshot::Receiver<Answer>) -> Answer {
    tokio::time::timeout(LIMIT, answer)
        .await
        .expect("I-8: no answer")
        .expect("I-8: dropped without an answer")
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn notes(id: &str) -> PersistenceId {
    PersistenceId::new("notes", id).unwrap()
}

fn actor() -> PersistenceId {
    PersistenceId::new("texts", "one").unwrap()
}

fn add(text: &str) -> Command {
    Command::Add(text.to_owned())
}

fn texts(answer: Answer) -> Vec<String> {
    serde_json::from_slice(&answer.unwrap().payload.bytes).unwrap()
}

fn number(answer: Answer) -> usize {
    serde_json::from_slice(&answer.unwrap().payload.bytes).unwrap()
}

fn is_unavailable(answer: &Answer) -> bool {
    matches!(answer, Err(CommandError::ShardUnavailable { .. }))
}

const STOPPED: HandBackReason = HandBackReason::Stopped;
const FENCED: HandBackReason = HandBackReason::Fenced;
/// What an entity waits for that has put commands aside.
const ASIDE: &str = "a command that makes it take up those it has put aside";
/// What it waits for that asks whether a command is a retry.
const LOOK_UP: &str = "the journal's index of command ids";

#[tokio::test]
async fn what_is_out_is_finished_and_what_waits_is_handed_back() {
    let node = Node::new().await;
    let busy = notes("busy");
    texts(node.ask(&busy, &add("a")).await);
    texts(node.ask(&notes("idle"), &add("a")).await);
    texts(answered(node.tell_at(&notes("neighbour"), OTHER, 1, &add("a"))).await);
    let before = node.delay_next_write(Duration::from_millis(200));
    let storing = node.tell(&busy, &add("b"));
    node.appending(before).await;
    let waiting = [
        node.tell(&busy, &add("c")),
        node.tell(&busy, &Command::List),
    ];
    let never_seen = node.tell(&notes("new"), &add("a"));
    node.stop_shard(LIMIT).await;
    assert_eq!(texts(answered(storing).await), ["a", "b"]);
    let [c, list, new] = [5, 6, 7];
    assert_eq!(
        node.take_back(),
        [(STOPPED, c), (STOPPED, list), (STOPPED, new)]
    );
    assert_eq!(node.engine.live_entities(), 1, "the neighbour stays");
    drop((waiting, never_seen));
    // The shard comes back.
    let listed = answered(node.tell_at(&busy, SHARD, 2, &Command::List)).await;
    assert_eq!(texts(listed), ["a", "b"]);
}

/// I-9: who is told that a shard's entities have left lets later commands go on.
#[tokio::test]
async fn i9_a_shard_is_waited_for_although_its_engine_stops() {
    let node = Node::new().await;
    let id = notes("busy");
    let before = node.delay_next_write(Duration::from_millis(200));
    let mut storing = node.tell(&id, &add("a"));
    node.appending(before).await;
    let engine = node.engine.clone();
    let stopping = tokio::spawn(async move { engine.stop().await });
    wait_until("the engine to take nothing in", || {
        let refused = node.tell(&notes("late"), &Command::List).try_recv();
        refused.is_ok_and(|answer| is_unavailable(&answer))
    })
    .await;
    node.stop_shard(LIMIT).await;
    let stored = storing.try_recv().expect("told too early");
    assert_eq!(texts(stored), ["a"]);
    stopping.await.unwrap();
}

#[tokio::test]
async fn what_is_put_aside_is_handed_back() {
    let node = Node::new().await;
    let id = notes("a");
    let aside = node.tell(&id, &Command::AddToOthers("b".into()));
    node.waiting_for(&id, ASIDE).await;
    node.stop_shard(LIMIT).await;
    assert_eq!(node.take_back(), [(STOPPED, 1)]);
    assert!(!node.live(&id).await);
    drop(aside);
}

#[tokio::test]
async fn work_outside_is_waited_for_but_not_for_ever() {
    let node = Node::new().await;
    let id = notes("a");
    let by_service = Command::AddByService("b".into());
    let charged = node.tell(&id, &by_service);
    node.waiting_for(&id, "work that it runs outside").await;
    let mut stops = node.engine.stop_shards(&[SHARD], LIMIT).await;
    let early = tokio::time::timeout(Duration::from_millis(300), stops[0].all_left()).await;
    assert!(early.is_err(), "it waits for the service");
    node.service.add_permits(1);
    assert_eq!(texts(answered(charged).await), ["b"]);
    stops[0].all_left().await;
    assert_eq!(node.take_back(), []);
    let charged = node.tell_at(&id, SHARD, 2, &by_service);
    while !node.live(&id).await {
        tokio::task::yield_now().await;
    }
    node.stop_shard(Duration::from_millis(200)).await;
    assert_eq!(node.take_back(), [(STOPPED, 2)]);
    drop(charged);
}

#[tokio::test]
async fn an_actor_finishes_its_callbacks() {
    let node = Node::new().await;
    assert_eq!(number(node.ask(&actor(), &add("a")).await), 1);
    let before = node.delay_next_write(Duration::from_millis(200));
    let storing = node.tell(&actor(), &add("b"));
    node.appending(before).await;
    let waiting = node.tell(&actor(), &add("c"));
    node.stop_shard(LIMIT).await;
    assert_eq!(number(answered(storing).await), 2);
    assert_eq!(node.take_back(), [(STOPPED, 3)]);
    drop(waiting);
}

/// I-8, I-9: also when it asks meanwhile whether the next command is a retry, whichever
/// is answered first.
#[tokio::test(start_paused = true)]
async fn i9_an_actor_finishes_its_callbacks_while_it_looks_a_command_up() {
    for (write, look_up) in [(300, 100), (100, 300)] {
        let node = Node::new().await;
        number(node.ask(&actor(), &add("a")).await);
        number(node.ask(&actor(), &Command::ListAndKeep).await);
        node.kept(&actor(), 1).await;
        // Recovered from its snapshot it does not know all command ids.
        node.engine.passivate(SHARD, &actor()).await;
        assert_eq!(number(node.ask(&actor(), &Command::List).await), 1);
        let before = node.delay_next_write(Duration::from_millis(write));
        let storing = node.tell(&actor(), &Command::AddAsync("b".into()));
        node.appending(before).await;
        let delay = Fault::Delay(Duration::from_millis(look_up));
        node.memory.faults().at(Operation::FindCommands, 1, delay);
        let waiting = node.tell_once(&actor(), &add("c"), "once");
        node.waiting_for(&actor(), LOOK_UP).await;
        node.stop_shard(LIMIT).await;
        assert_eq!(number(answered(storing).await), 2);
        assert_eq!(node.take_back(), [(STOPPED, 5)]);
        drop(waiting);
    }
}

#[tokio::test]
async fn a_fenced_shard_gives_back_what_it_wanted_to_store() {
    let node = Node::new().await;
    let id = notes("a");
    texts(node.ask(&id, &add("a")).await);
    let neighbour = notes("neighbour");
    node.fence(Some((SHARD, Epoch(1)))).await;
    let refused = [node.tell(&id, &add("b")), node.tell(&id, &add("c"))];
    wait_until("both", || {
        let handed_back = node.handed_back.lock().unwrap();
        handed_back.iter().map(|b| b.envelopes.len()).sum::<usize>() == 2
    })
    .await;
    assert_eq!(node.take_back(), [(FENCED, 2), (FENCED, 3)]);
    texts(answered(node.tell_at(&neighbour, OTHER, 1, &add("a"))).await);
    let fenced = tokio::time::timeout(Duration::from_millis(300), node.engine.fenced()).await;
    assert!(fenced.is_err(), "the session is not fenced");
    // Under a later epoch it may write again.
    let again = answered(node.tell_at(&id, SHARD, 2, &add("d"))).await;
    assert_eq!(texts(again), ["a", "d"]);
    node.fence(None).await;
    let over = node.tell_at(&neighbour, OTHER, 1, &add("b"));
    tokio::time::timeout(LIMIT, node.engine.fenced())
        .await
        .unwrap();
    drop((refused, over));
}

#[tokio::test]
async fn an_entity_under_a_later_epoch_starts_over() {
    let node = Node::new().await;
    let id = notes("a");
    texts(node.ask(&id, &add("a")).await);
    // Meanwhile the shard was another node's.
    let successor = Node::with(&node.memory, Guard::Lease, EngineSettings::default()).await;
    node.fence(Some((SHARD, Epoch(1)))).await;
    let stored = answered(successor.tell_at(&id, SHARD, 2, &add("b"))).await;
    assert_eq!(texts(stored), ["a", "b"]);
    successor.fence(Some((SHARD, Epoch(2)))).await;
    let listed = answered(node.tell_at(&id, SHARD, 3, &Command::List)).await;
    assert_eq!(texts(listed), ["a", "b"]);
    let stored = answered(node.tell_at(&id, SHARD, 3, &add("c"))).await;
    assert_eq!(texts(stored), ["a", "b", "c"]);
}

#[tokio::test]
async fn without_a_lease_nothing_is_answered_from_memory() {
    let node = Node::new().await;
    let id = notes("a");
    texts(node.ask(&id, &add("a")).await);
    number(node.ask(&actor(), &add("a")).await);
    node.lease.end();
    for command in [Command::List, Command::Refuse] {
        let answer = node.ask(&id, &command).await;
        assert!(is_unavailable(&answer), "I-12: {answer:?}");
    }
    let answer = node.ask(&actor(), &Command::List).await;
    assert!(is_unavailable(&answer), "I-12: {answer:?}");
    // What is stored proves that nobody else owns the shard, also to what was read
    // on top of it.
    let (stored, listed) = (node.tell(&id, &add("b")), node.tell(&id, &Command::List));
    assert_eq!(texts(answered(stored).await), ["a", "b"]);
    let listed = answered(listed).await;
    assert!(listed.is_ok() || is_unavailable(&listed), "{listed:?}");
    assert_eq!(number(node.ask(&actor(), &add("b")).await), 2);
    node.lease
        .extend(std::time::Instant::now() + Duration::from_secs(60));
    assert_eq!(texts(node.ask(&id, &Command::List).await), ["a", "b"]);
}

#[tokio::test]
async fn the_journal_confirms_reads_many_at_once() {
    let node = Node::guarded(Guard::Journal).await;
    let id = notes("a");
    texts(node.ask(&id, &add("a")).await);
    number(node.ask(&actor(), &add("a")).await);
    let faults = node.memory.faults();
    let before = faults.count(Operation::MayWrite);
    let reads: Vec<_> = (0..100)
        .map(|n| match n % 3 {
            0 => node.tell(&id, &Command::List),
            1 => node.tell(&actor(), &Command::List),
            _ => node.tell(&id, &add("more")),
        })
        .collect();
    for read in reads {
        answered(read).await.unwrap();
    }
    let asked = faults.count(Operation::MayWrite) - before;
    assert!(
        (1..30).contains(&asked),
        "the journal was asked {asked} times"
    );
    let refused = node.ask(&id, &Command::Refuse).await;
    assert!(matches!(refused, Err(CommandError::Rejected { .. })));
}

#[tokio::test]
async fn a_read_that_the_journal_does_not_confirm_is_not_given() {
    let node = Node::guarded(Guard::Journal).await;
    let id = notes("a");
    texts(node.ask(&id, &add("a")).await);
    number(node.ask(&actor(), &add("a")).await);
    faulty_confirmation(&node, &id).await;
    node.fence(Some((SHARD, Epoch(1)))).await;
    let read = node.tell(&id, &Command::List);
    wait_until("it back", || !node.handed_back.lock().unwrap().is_empty()).await;
    let [(reason, _)] = node.take_back()[..] else {
        panic!("one comes back");
    };
    assert_eq!(reason, FENCED);
    let by_actor = node.ask(&actor(), &Command::List).await;
    assert!(is_unavailable(&by_actor), "I-12: {by_actor:?}");
    drop(read);
}

/// A journal that cannot be asked confirms nothing, and harms nothing.
async fn faulty_confirmation(node: &Node, id: &PersistenceId) {
    let faults = node.memory.faults();
    faults.at(Operation::MayWrite, 1, Fault::Fail);
    let read = node.ask(id, &Command::List).await;
    assert!(
        matches!(read, Err(CommandError::JournalUnavailable { .. })),
        "{read:?}"
    );
    assert_eq!(texts(node.ask(id, &Command::List).await), ["a"]);
}

#[tokio::test]
async fn a_full_queue_gives_back_what_is_offered() {
    let settings = EngineSettings {
        workers: 1,
        queue_capacity: 1,
        ..EngineSettings::default()
    };
    let node = Node::with(&MemoryStorage::new(1), Guard::Lease, settings).await;
    // The test's thread is the only one: no worker runs before it waits.
    let envelope = |n| Envelope {
        trace: Trace::NONE,
        persistence_id: notes("a"),
        shard: SHARD,
        epoch: Epoch(1),
        arrival: n,
        request: Request::State,
        deadline: None,
        reply_to: ReplyTo::Nobody,
    };
    node.engine.offer(envelope(1)).unwrap();
    let refused = node.engine.offer(envelope(2)).unwrap_err();
    assert_eq!(refused.arrival, 2);
}
