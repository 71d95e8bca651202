//! The entity engine of Perennial and its storage.
//!
//! An *entity* is a small event-sourced actor with an id: an account, a cart, a device.
//! This crate keeps the ones in use in memory, recovers the others from a journal on
//! demand, and stores what they decide. It knows nothing of clusters, nodes or gRPC:
//! shards are opaque numbers here.
//!
//! What follows is a manual: the concepts in the order in which one needs them, each with
//! an example that runs. At its end stands where to read the code, and
//! [`conformance`] lists by which test each case of the semantics is shown.
//!
//! # An entity
//!
//! State, commands, events, replies, and two plain functions. `handle` decides what a
//! command leads to and changes nothing; `apply` changes the state as an event says, when it
//! happens and again at every recovery. Both may look at nothing but their arguments. The
//! test kit, `testing::event_sourced_kit` behind the cargo feature `testing`, runs an entity
//! without a runtime and checks that.
//!
//! ```
//! use perennial_persistence::codec::Json;
//! use perennial_persistence::effect::Effect;
//! use perennial_persistence::event_sourced::EventSourced;
//! use perennial_persistence::testing::event_sourced_kit::EventSourcedKit;
//!
//! struct Counter;
//!
//! impl EventSourced for Counter {
//!     const ENTITY_TYPE: &'static str = "counter";
//!     type State = i64;
//!     type Command = i64;
//!     type Event = i64;
//!     type Reply = i64;
//!     type Codec = Json;
//!
//!     fn handle(&self, value: &i64, add: i64) -> Effect<Self> {
//!         match value.checked_add(add) {
//!             _ if add == 0 => Effect::reply(*value),
//!             Some(_) => Effect::persist(add).then_reply(|value| *value),
//!             None => Effect::reject("OVERFLOW", "the sum has no place in 64 bits"),
//!         }
//!     }
//!
//!     fn apply(&self, value: &mut i64, add: i64) {
//!         *value += add;
//!     }
//! }
//!
//! let mut kit = EventSourcedKit::new(Counter);
//! assert_eq!(kit.run(5).events, [5]);
//! assert_eq!(kit.run(i64::MAX).rejection(), Some("OVERFLOW"));
//! assert_eq!(kit.run(0).into_reply(), 5);
//! ```
//!
//! # Running it
//!
//! An [`EntityEngine`](engine::EntityEngine) runs entities over a [`Storage`](storage::Storage): in
//! memory, on SQLite or on Postgres. It is given [`Envelope`](command::Envelope)s and answers
//! each exactly once (I-8). The reply comes after the commit (I-4); what was computed
//! from it waits with it. Who starts an engine first begins a session, which fences
//! every earlier one of the same node (I-2). Programs that use a whole node have a typed handle
//! for all this; here it stands once in full.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/manual.rs")); }
//! # use manual::Counter;
//! use perennial_persistence::command::{Envelope, ReplyTo, Request};
//! use perennial_persistence::engine::{EngineSettings, EntityEngine};
//! use perennial_persistence::entity_types::EntityTypes;
//! use perennial_persistence::payload::Payload;
//! use perennial_persistence::persistence_id::PersistenceId;
//! use perennial_persistence::storage::{Storage, StorageOptions, StorageUrl, migrate};
//! use perennial_persistence::trace::Trace;
//! use perennial_persistence::writer::{Epoch, ShardNr};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let url = StorageUrl::Memory; // or StorageUrl::parse("sqlite:journal.db")
//! migrate(&url).await?;
//! let storage = Storage::open(&url, &StorageOptions::default()).await?;
//! let node = storage.registry.mint_node().await?;
//! let session = storage.registry.begin_incarnation(node).await?.session;
//! let mut types = EntityTypes::new();
//! types.register(Counter)?;
//! let engine = EntityEngine::start(types, storage, session, EngineSettings::default());
//!
//! let (reply_to, answer) = ReplyTo::ask();
//! engine.deliver(Envelope {
//!     trace: Trace::NONE,
//!     arrival: 0,
//!     persistence_id: PersistenceId::new("counter", "apples")?,
//!     shard: ShardNr(0),
//!     epoch: Epoch(1),
//!     request: Request::Command {
//!         payload: Payload::json("5"),
//!         command_id: None,
//!         expected_sequence_nr: None,
//!         metadata: None,
//!     },
//!     deadline: None,
//!     reply_to,
//! });
//! let reply = answer.await??;
//! assert_eq!((&reply.payload.bytes[..], reply.sequence_nr.get()), (&b"5"[..], 1));
//! engine.stop().await;
//! # Ok(()) }
//! ```
//!
//! # Leaving memory and coming back
//!
//! An idle entity leaves memory; its next command recovers it: the latest snapshot, then
//! the events after it, through the [replay filter](replay_filter). Replay equals live (I-6).
//! At most so many entities recover at once (I-11), and what waits together is read together.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/manual.rs")); }
//! # use manual::Node;
//! # use perennial_persistence::persistence_id::PersistenceId;
//! # use perennial_persistence::writer::ShardNr;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start().await;
//! node.add("apples", 5, "").await?;
//! node.engine.passivate(ShardNr(0), &PersistenceId::new("counter", "apples")?).await;
//! assert_eq!(node.engine.live_entities(), 0);
//! assert_eq!(node.add("apples", 1, "").await?.payload.bytes, "6");
//! # Ok(()) }
//! ```
//!
//! # Retries
//!
//! An error says whether the command was certainly not applied or may have been
//! ([`Applied`](command_error::Applied)). With a command id a retry is safe in any case: what
//! stored events is not done again, and the retry gets the first answer (I-8), for as long
//! as the events exist.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/manual.rs")); }
//! # use manual::Node;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start().await;
//! let first = node.add("apples", 5, "order-17").await?;
//! let retry = node.add("apples", 5, "order-17").await?;
//! assert_eq!(retry.payload, first.payload);
//! assert!(retry.duplicate && !first.duplicate);
//! # Ok(()) }
//! ```
//!
//! # What else follows a command
//!
//! An [`Effect`](effect::Effect) stores one event or several, all or none (I-7), and chains
//! what comes after the commit: a reply, a snapshot, a side effect, leaving memory. A command
//! can be put aside until another brings it back, or go on outside, such as in a call of
//! another service, and come back as a command with the result.
//!
//! ```
//! # use perennial_persistence::{codec::Json, effect::Effect, event_sourced::EventSourced};
//! # use perennial_persistence::testing::event_sourced_kit::{EventSourcedKit, Outcome};
//! # use serde::{Deserialize, Serialize};
//! struct Door;
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum Command { Pass, AskForKey, Unlock { key: String } }
//!
//! async fn fetch_key() -> String { "a key".into() } // from another service
//!
//! impl EventSourced for Door {
//!     const ENTITY_TYPE: &'static str = "door";
//!     /// Whether it is open.
//!     type State = bool;
//!     type Command = Command;
//!     type Event = ();
//!     type Reply = String;
//!     type Codec = Json;
//!
//!     fn handle(&self, is_open: &bool, command: Command) -> Effect<Self> {
//!         match command {
//!             Command::Pass if *is_open => Effect::reply("welcome".into()),
//!             Command::Pass => Effect::stash(),
//!             Command::AskForKey => {
//!                 Effect::run_outside(async { Command::Unlock { key: fetch_key().await } })
//!             }
//!             Command::Unlock { .. } => Effect::persist(()).then_unstash_all(),
//!         }
//!     }
//!
//!     fn apply(&self, is_open: &mut bool, (): ()) {
//!         *is_open = true;
//!     }
//! }
//!
//! let mut kit = EventSourcedKit::new(Door);
//! assert_eq!(kit.run(Command::Pass).outcome, Outcome::Stashed);
//! let mut unlock = kit.run(Command::AskForKey).into_continuations();
//! assert!(kit.run(unlock.remove(0)).then_unstash_all);
//! assert_eq!(kit.run(Command::Pass).into_reply(), "welcome");
//! ```
//!
//! # Snapshots, and deleting what they replace
//!
//! A snapshot is a shortcut for recoveries: taken with every so many events
//! (`persistence.snapshot.*`, or [`EventSourced::retention`](event_sourced::EventSourced::retention)),
//! when the state says so, or when an effect does. Older ones are deleted; events
//! only if that is asked for.
//!
//! ```
//! use perennial_persistence::retention::RetentionSettings;
//! use perennial_persistence::sequence_nr::SequenceNr;
//!
//! let retention = RetentionSettings { every: 100, keep: 2, delete_events: true };
//! // When the snapshot at 1000 is saved, 800 and what is older is not needed any more.
//! assert_eq!(retention.delete_upper_bound(SequenceNr::new(1000)), SequenceNr::new(800));
//! ```
//!
//! # When events change
//!
//! Events are kept for years, and the code that reads them changes. [`event_adapter`] converts
//! them by their manifests on the way in and out, with an example; `examples/event_upcast.rs`
//! is a whole entity that changed its events.
//!
//! # Other kinds of entities
//!
//! * With callbacks that run when an event is stored, commands that go on meanwhile, a stash,
//!   changing behaviour, and snapshots and deletions by hand: [`actor`]. The everyday level above
//!   is one engine with it.
//! * Without a history, its latest state only: [`durable_state`].
//! * With messages to others that must arrive: [`delivery`].
//!
//! # Hearing of events
//!
//! Who follows one entity's events makes a [`view`] of them, which reads the journal and misses
//! nothing. Who wants to hear of all events of an engine as they are stored subscribes, and
//! may miss some if it is slow:
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/manual.rs")); }
//! # use manual::Node;
//! use perennial_persistence::publication::Published;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start().await;
//! let mut events = node.engine.subscribe();
//! node.add("apples", 5, "").await?;
//! let Some(Published::Event(event)) = events.next().await else { panic!("an event") };
//! assert_eq!((event.persistence_id.as_str(), event.sequence_nr.get()), ("counter|apples", 1));
//! # Ok(()) }
//! ```
//!
//! # When something fails
//!
//! * **The entity's code panics**: the command is told so, the entity is away for a
//!   [back-off](backoff), then recovers. Others go on.
//! * **An append has no known outcome**: the command is told `applied: unknown`, the entity
//!   recovers and so finds out.
//! * **The journal is out of reach**: after some failures a [circuit breaker](circuit_breaker) keeps
//!   calls from it. Entities in memory stay and answer what needs no journal; what would have
//!   to be stored is refused, and was not applied.
//! * **Another author wrote the stream** (I-3): its writes stand, ours fail as a whole.
//! * **Too much waits** (I-10): `persistence.stash_capacity` bounds what waits for one entity,
//!   `persistence.stash_total` what waits on the node, `persistence.stash_overflow` says what becomes
//!   of the rest ([`StashOverflow`](engine::StashOverflow)).
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/manual.rs")); }
//! # use manual::Node;
//! use perennial_persistence::command_error::{Applied, CommandError};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start().await;
//! node.add("apples", 5, "").await?;
//! node.memory.faults().set_outage(true);
//! let refused = node.add("apples", 1, "").await.unwrap_err();
//! assert!(matches!(refused, CommandError::JournalUnavailable { .. }));
//! assert_eq!(refused.applied(), Applied::No);
//! assert_eq!(node.add("apples", 0, "").await?.payload.bytes, "5");
//! # Ok(()) }
//! ```
//!
//! # Deleting
//!
//! [`EntityEngine::delete`](engine::EntityEngine::delete) removes what is stored of an entity for
//! good, in order with its commands. What stays is a tombstone with its highest number, so
//! that no late write can bring anything back; its next life goes on after it.
//!
//! ```
//! # mod manual { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/manual.rs")); }
//! # use manual::Node;
//! # use perennial_persistence::persistence_id::PersistenceId;
//! # use perennial_persistence::writer::{Epoch, ShardNr};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start().await;
//! node.add("apples", 5, "").await?;
//! let id = PersistenceId::new("counter", "apples")?;
//! node.engine.delete(ShardNr(0), Epoch(1), &id).await?;
//! assert_eq!(node.add("apples", 1, "").await?.payload.bytes, "1");
//! # Ok(()) }
//! ```
//!
//! # Another storage
//!
//! [`journal`], [`snapshot_store`], [`durable_state_store`], [`registry`] and [`global_order`] are traits;
//! [`Storage::composed`](storage::Storage::composed) makes a storage of them. Behind the cargo feature
//! `testing` each has a kit of cases that the engine relies on: run them first.
//!
//! # Where to read
//!
//! * The way of a command: [`command`] (what is sent), [`engine`] (who takes it),
//!   `runtime/worker.rs` and `runtime/cell.rs` (who handles it),
//!   `runtime/group_commit.rs` and [`journal`] (who stores it). Where shards move:
//!   [`handing_back`], [`lease`].
//! * Decisions without I/O: [`persisting`], [`replay_filter`], [`retention`],
//!   [`recovery_permits`], [`idle_order`], [`backoff`], [`circuit_breaker`],
//!   [`command_id_cache`].
//! * Whether a journal is whole: [`verification`].
//! * Storage: [`journal`], [`snapshot_store`], [`durable_state_store`],
//!   [`recovery_reader`], [`registry`], [`global_order`], [`entity_deletion`],
//!   together a [`storage`].

pub mod actor;
pub mod backoff;
mod behavior;
pub mod circuit_breaker;
pub mod codec;
pub mod command;
pub mod command_error;
pub mod command_id_cache;
#[doc = include_str!("../CONFORMANCE.md")]
pub mod conformance {}
pub mod delivery;
pub mod durable_state;
pub mod durable_state_store;
pub mod effect;
pub mod engine;
pub mod entity_deletion;
pub mod entity_types;
pub mod event_adapter;
pub mod event_sourced;
pub mod global_order;
pub mod handing_back;
pub mod idle_order;
pub mod journal;
pub mod lease;
pub mod payload;
pub mod persistence_id;
pub mod persisting;
pub mod planted;
pub mod publication;
pub mod recovery_permits;
pub mod recovery_reader;
pub mod registry;
pub(crate) mod replay;
pub mod replay_filter;
pub mod retention;
mod runtime;
pub mod sequence_nr;
pub mod snapshot_store;
pub mod storage;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;
pub mod verification;
pub mod view;
pub mod writer;
