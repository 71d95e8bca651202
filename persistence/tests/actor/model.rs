//! Random programs of persist, persist-async, defer, stash and panic: what is
//! observed, and what is stored, equals what a naive model says that keeps everything
//! in one queue and knows no counters.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_persistence::actor::{Context, PersistentActor, Recovered};
use perennial_persistence::codec::Json;
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::journal::EventRange;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::memory::MemoryStorage;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::fixture::{answered, hush, send_json, subject};
use crate::subject::Log;

/// One step of a handler or callback.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Op {
    /// Atomic write of so many events; the steps of the callback run for each.
    Persist {
        events: usize,
        waits: bool,
        callback: Vec<Self>,
    },
    Defer {
        waits: bool,
        callback: Vec<Self>,
    },
    Stash,
    UnstashAll,
    Panic,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Program {
    name: String,
    ops: Vec<Op>,
}

struct Programmed {
    log: Log,
    /// Each command stashes itself once at most, or none would ever end.
    stashed: Arc<Mutex<HashSet<String>>>,
}

type Cx<'a> = Context<'a, Programmed>;

impl Programmed {
    fn perform(&mut self, name: &str, ops: &[Op], cx: &mut Cx<'_>) {
        for (i, op) in ops.iter().enumerate() {
            let name = format!("{name}.{i}");
            match op {
                Op::Persist {
                    events,
                    waits,
                    callback,
                } => {
                    let ops = callback.clone();
                    let callback = move |actor: &mut Self, event: &String, cx: &mut Cx<'_>| {
                        actor.log.push(event);
                        actor.perform(event, &ops, cx);
                    };
                    let mut events: Vec<_> = (0..*events).map(|i| format!("{name}:{i}")).collect();
                    match (waits, events.len()) {
                        (true, 1) => cx.persist(events.remove(0), callback),
                        (false, 1) => cx.persist_async(events.remove(0), callback),
                        (true, _) => cx.persist_all(events, callback),
                        (false, _) => cx.persist_all_async(events, callback),
                    }
                }
                Op::Defer { waits, callback } => {
                    let ops = callback.clone();
                    let callback = move |actor: &mut Self, event: &String, cx: &mut Cx<'_>| {
                        actor.log.push(event);
                        actor.perform(event, &ops, cx);
                    };
                    match waits {
                        true => cx.defer(self, name, callback),
                        false => cx.defer_async(self, name, callback),
                    }
                }
                Op::Stash => {
                    let command = name.split('.').next().unwrap().to_owned();
                    if self.stashed.lock().unwrap().insert(command) && cx.stash().is_err() {
                        self.log.push("no command to stash");
                    }
                }
                Op::UnstashAll => cx.unstash_all(),
                Op::Panic => panic!("told to panic"),
            }
        }
    }
}

impl PersistentActor for Programmed {
    type Command = Program;
    type Event = String;
    type Snapshot = ();
    type Reply = ();
    type Codec = Json;

    fn receive_command(&mut self, program: Program, cx: &mut Cx<'_>) {
        self.log.push(&program.name);
        self.perform(&program.name, &program.ops, cx);
    }

    fn receive_recover(&mut self, recovered: Recovered<Self>, _: &mut Cx<'_>) {
        if let Recovered::Completed = recovered {
            self.log.push("recovered");
        }
    }
}

/// Where a piece of work in the model's queue stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stand {
    Unsent,
    Out,
    Due,
}

#[derive(Debug, Clone)]
struct Item {
    events: Vec<String>,
    waits: bool,
    stand: Stand,
    callback: Vec<Op>,
}

/// The naive model.
#[derive(Default)]
struct Model {
    commands: VecDeque<Program>,
    aside: VecDeque<Program>,
    queue: VecDeque<Item>,
    /// A callback is running, so nothing runs inline.
    in_callback: bool,
    stashed: HashSet<String>,
    log: Vec<String>,
    stored: Vec<String>,
}

struct Panicked;

/// What a turn asked of the stash, in order.
#[derive(Debug, PartialEq)]
enum Asked {
    Stash,
    UnstashAll,
}

impl Model {
    fn run(mut self) -> (Vec<String>, Vec<String>) {
        self.log.push("recovered".to_owned());
        loop {
            let ran = self.run_commands().and_then(|()| self.acknowledge());
            match ran {
                Ok(true) => {}
                Ok(false) => return (self.log, self.stored),
                Err(Panicked) => self.restart(),
            }
        }
    }

    fn run_commands(&mut self) -> Result<(), Panicked> {
        while !self.queue.iter().any(|item| item.waits)
            && let Some(program) = self.commands.pop_front()
        {
            self.log.push(program.name.clone());
            let mut asked = Vec::new();
            self.perform(&program.name, &program.ops, true, &mut asked)?;
            self.carry_out(asked, Some(program));
            self.flush();
        }
        Ok(())
    }

    /// The journal acknowledges what is out; returns whether anything was.
    fn acknowledge(&mut self) -> Result<bool, Panicked> {
        let mut any = false;
        for item in self
            .queue
            .iter_mut()
            .filter(|item| item.stand == Stand::Out)
        {
            item.stand = Stand::Due;
            self.stored.extend(item.events.iter().cloned());
            any = true;
        }
        while self
            .queue
            .front()
            .is_some_and(|item| item.stand == Stand::Due)
        {
            let item = self.queue.pop_front().unwrap();
            self.in_callback = true;
            let mut asked = Vec::new();
            for event in &item.events {
                self.log.push(event.clone());
                self.perform(event, &item.callback, false, &mut asked)?;
            }
            self.in_callback = false;
            self.carry_out(asked, None);
        }
        self.flush();
        Ok(any)
    }

    fn flush(&mut self) {
        if !self.queue.iter().any(|item| item.stand == Stand::Out) {
            for item in self
                .queue
                .iter_mut()
                .filter(|item| item.stand == Stand::Unsent)
            {
                item.stand = Stand::Out;
            }
        }
    }

    fn carry_out(&mut self, asked: Vec<Asked>, command: Option<Program>) {
        for asked in asked {
            match asked {
                Asked::Stash => self.aside.extend(command.clone()),
                Asked::UnstashAll => self.unstash_all(),
            }
        }
    }

    fn unstash_all(&mut self) {
        while let Some(program) = self.aside.pop_back() {
            self.commands.push_front(program);
        }
    }

    fn perform(
        &mut self,
        name: &str,
        ops: &[Op],
        may_stash: bool,
        asked: &mut Vec<Asked>,
    ) -> Result<(), Panicked> {
        for (i, op) in ops.iter().enumerate() {
            let name = format!("{name}.{i}");
            match op {
                Op::Persist { events: 0, .. } => {}
                Op::Persist {
                    events,
                    waits,
                    callback,
                } => self.queue.push_back(Item {
                    events: (0..*events).map(|i| format!("{name}:{i}")).collect(),
                    waits: *waits,
                    stand: Stand::Unsent,
                    callback: callback.clone(),
                }),
                Op::Defer { callback, .. } if self.queue.is_empty() && !self.in_callback => {
                    self.log.push(name.clone());
                    self.perform(&name, callback, false, asked)?;
                }
                Op::Defer { waits, callback } => self.queue.push_back(Item {
                    events: vec![name],
                    waits: *waits,
                    stand: Stand::Due,
                    callback: callback.clone(),
                }),
                Op::Stash => {
                    let command = name.split('.').next().unwrap().to_owned();
                    if self.stashed.insert(command) {
                        if may_stash {
                            asked.push(Asked::Stash);
                        } else {
                            self.log.push("no command to stash".to_owned());
                        }
                    }
                }
                Op::UnstashAll => asked.push(Asked::UnstashAll),
                Op::Panic => return Err(Panicked),
            }
        }
        Ok(())
    }

    /// What is out is stored, or all if nothing is. Commands that wait are kept and
    /// start the next incarnation; without any there is none.
    fn restart(&mut self) {
        let out = |item: &Item| item.stand == Stand::Out;
        let none_out = !self.queue.iter().any(out);
        for item in self.queue.drain(..) {
            if item.stand == Stand::Out || (none_out && item.stand == Stand::Unsent) {
                self.stored.extend(item.events);
            }
        }
        self.in_callback = false;
        self.unstash_all();
        if !self.commands.is_empty() {
            self.log.push("recovered".to_owned());
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let none = Just(Vec::new()).boxed();
    let deeper = prop::collection::vec(op(none), 0..3).boxed();
    let deeper = prop::collection::vec(op(deeper), 0..3).boxed();
    prop::collection::vec(op(deeper), 0..4)
}

fn op(callback: BoxedStrategy<Vec<Op>>) -> impl Strategy<Value = Op> {
    let persist = (0..4_usize, any::<bool>(), callback.clone());
    let persist = persist.prop_map(|(events, waits, callback)| Op::Persist {
        events,
        waits,
        callback,
    });
    let defer = (any::<bool>(), callback);
    prop_oneof![
        8 => persist,
        4 => defer.prop_map(|(waits, callback)| Op::Defer { waits, callback }),
        1 => Just(Op::Stash),
        1 => Just(Op::UnstashAll),
        1 => Just(Op::Panic),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// On failure proptest prints the smallest program that differs.
    #[test]
    fn the_observable_order_is_that_of_one_queue(programs in prop::collection::vec(ops(), 1..12)) {
        hush();
        let programs: Vec<_> = programs
            .into_iter()
            .enumerate()
            .map(|(i, ops)| Program { name: format!("c{i}"), ops })
            .collect();
        let model = Model {
            commands: programs.clone().into(),
            ..Model::default()
        };
        let (log, stored) = model.run();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let observed = runtime.block_on(observe(&programs, log.len()));
        prop_assert_eq!(observed, (log, stored));
    }
}

/// Runs the programs until so many lines are observed, then stops the engine, which
/// finishes what is under way.
async fn observe(programs: &[Program], lines: usize) -> (Vec<String>, Vec<String>) {
    let memory = MemoryStorage::new(1);
    let storage = memory.storage();
    let node = storage.registry.mint_node().await.unwrap();
    let session = storage
        .registry
        .begin_incarnation(node)
        .await
        .unwrap()
        .session;
    let (log, stashed) = (Log::default(), Arc::default());
    let mut types = EntityTypes::new();
    let log_of_actor = log.clone();
    let make = move |_: &str| Programmed {
        log: log_of_actor.clone(),
        stashed: Arc::clone(&stashed),
    };
    types.register_actor("texts", make).unwrap();
    let engine = EntityEngine::start(types, storage.clone(), session, EngineSettings::default());
    // They all wait when the recovery ends, so that no schedule makes a difference.
    let answers: Vec<_> = programs
        .iter()
        .map(|program| send_json(&engine, program))
        .collect();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while log.lines().len() < lines && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    engine.stop().await;
    for answer in answers {
        // Whatever it is (I-8).
        let _ = answered(answer).await;
    }
    let range = EventRange {
        persistence_id: subject(),
        from: SequenceNr::ZERO.next(),
        to: SequenceNr::MAX,
        max_events: 1_000_000,
        max_bytes: usize::MAX,
    };
    let stored = storage.journal.read_events(&range).await.unwrap();
    let stored = stored
        .into_iter()
        .map(|event| serde_json::from_slice(&event.payload.bytes).unwrap());
    (log.take(), stored.collect())
}
