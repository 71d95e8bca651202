//! A model of takeover, handoff and fencing, checked exhaustively.
//!
//! The real [`ClusterState`] with one shard, surrounded by everything that can go
//! wrong: any command the protocol could ever have proposed is committed at any time,
//! again and in any order; nodes act upon views as old as they like, die, come back
//! and stand still; appends reach the journal whenever they please, also after their
//! sender's death. What remains is what the protocol promises:
//!
//! * I-1: no two sessions serve the shard in one epoch;
//! * I-2: once an owner has begun its first recovery, nothing that an earlier owner
//!   sent is stored;
//! * I-5: the latest owner knows everything that was ever stored, and so all that was
//!   acknowledged.
//!
//! Each protection is also taken away, to see that the model notices.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use perennial_sharding::cluster_state::{
    ClusterCommand, ClusterState, DrainedBy, Home, Member, MemberStatus,
};
use stateright::{Checker, HasDiscoveries, Model, Property};
use uuid::Uuid;

const S: ShardNr = ShardNr(0);

/// What is modelled, and how far.
#[derive(Debug, Clone, Copy)]
struct Ownership {
    nodes: u64,
    /// How often the first node may start; the others start once.
    starts_max: u64,
    /// How many owners the shard may have.
    epochs_max: u64,
    events_max: u64,
    /// A protection that is left out.
    without: Option<Protection>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    /// A condemned session is fenced before that is reported.
    SessionFence,
    /// The old owner fences itself before it reports a shard as drained.
    ShardFence,
    /// The new owner waits until all earlier owners are fenced.
    WaitingForFences,
    /// An owner that gets a shard back, in a later epoch, fences itself for the
    /// earlier ones before it recovers.
    FenceOnReturn,
    /// A node fences its earlier sessions before it joins.
    FenceAtStart,
}

/// One state of the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    committed: ClusterState,
    nodes: BTreeMap<NodeNr, Node>,
    journal: Journal,
    /// Appends that have not reached the journal: its session, epoch and number.
    in_flight: BTreeSet<(SessionUuid, Epoch, u64)>,
    /// What owners, or whoever ended a handoff by force, have reported.
    drained: BTreeSet<(SessionUuid, Epoch)>,
    /// The latest owner that has begun to recover.
    latest: Option<(Epoch, SessionUuid)>,
    /// An earlier owner's append was stored after the latest began to recover.
    overwritten: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    incarnation: u64,
    /// The shard as of some time, if the node owned it then.
    view: Option<View>,
    /// The shard's epoch, and how many events its entities know.
    serving: Option<(Epoch, u64)>,
}

/// What a node sees of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct View {
    epoch: Epoch,
    handing_off: bool,
    may_recover: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Journal {
    events: u64,
    sessions: BTreeSet<SessionUuid>,
    shards: BTreeMap<SessionUuid, Epoch>,
}

impl Journal {
    fn fence_shard(&mut self, session: SessionUuid, epoch: Epoch) {
        let fenced = self.shards.entry(session).or_insert(epoch);
        *fenced = epoch.max(*fenced);
    }

    fn refuses(&self, session: SessionUuid, epoch: Epoch) -> bool {
        let fenced = self.shards.get(&session);
        self.sessions.contains(&session) || fenced.is_some_and(|fenced| epoch <= *fenced)
    }
}

impl World {
    /// Makes states equal that differ in nothing that can have consequences: there
    /// are ten times fewer of them.
    fn forget_what_makes_no_difference(&mut self) {
        let journal = &self.journal;
        self.in_flight
            .retain(|&(session, epoch, _)| !journal.refuses(session, epoch));
        for (&nr, node) in &mut self.nodes {
            let mine = session(nr, node.incarnation);
            if journal.sessions.contains(&mine) {
                node.view = None;
            }
            // Nothing it does can be stored any more.
            node.serving = node
                .serving
                .filter(|&(epoch, _)| !journal.refuses(mine, epoch));
        }
        // Who has ended owns nothing ever again.
        let members = &self.committed.members;
        self.drained.retain(|(session, _)| {
            members
                .values()
                .any(|member| member.session == *session && member.status != MemberStatus::Down)
        });
        let fenced = &self.journal.sessions;
        self.journal
            .shards
            .retain(|session, _| !fenced.contains(session));
        // Who never had the shard might as well be fenced.
        let harmless: Vec<SessionUuid> = self
            .committed
            .condemned
            .keys()
            .copied()
            .filter(|session| {
                !self.committed.shards[0].unfenced.contains(session)
                    && self.in_flight.iter().all(|append| append.0 != *session)
                    && self.nodes.iter().all(|(&nr, node)| {
                        crate::session(nr, node.incarnation) != *session
                            || node.serving.is_none() && node.view.is_none()
                    })
            })
            .collect();
        for session in harmless {
            self.journal.sessions.insert(session);
            apply(
                &mut self.committed,
                &ClusterCommand::Fenced { session, at: 0 },
            );
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Commit(ClusterCommand),
    /// A node applies all that is committed.
    CatchUp(NodeNr),
    Recover(NodeNr),
    /// The owner's entities store an event.
    Write(NodeNr),
    /// An append reaches the journal.
    Arrive((SessionUuid, Epoch, u64)),
    /// The owner hands the shard off.
    Drain(NodeNr),
    /// Somebody ends a handoff by force.
    ForceDrain,
    /// Somebody fences a condemned session.
    Fence(SessionUuid),
    /// A node dies and starts again.
    Restart(NodeNr),
}

fn session(node: NodeNr, incarnation: u64) -> SessionUuid {
    SessionUuid(Uuid::from_u64_pair(node.0, incarnation))
}

fn join(node: NodeNr, incarnation: u64) -> ClusterCommand {
    let member = Member {
        node,
        incarnation,
        session: session(node, incarnation),
        address: String::new(),
        peer_address: String::new(),
        version: String::new(),
        weight: 1,
        status: MemberStatus::Joining,
        removing: false,
    };
    ClusterCommand::Join { member, at: 0 }
}

/// Applies a command; what is for people, and how many came before, is left out,
/// as it would make equal states differ.
fn apply(state: &mut ClusterState, command: &ClusterCommand) -> bool {
    let changed = state.apply(0, command);
    state.recent_events.clear();
    changed
}

impl Ownership {
    fn without(self, protection: Protection) -> Self {
        let without = Some(protection);
        Self { without, ..self }
    }

    fn has(&self, protection: Protection) -> bool {
        self.without != Some(protection)
    }

    fn numbers(&self) -> impl Iterator<Item = NodeNr> {
        (1..=self.nodes).map(NodeNr)
    }

    /// Every command that can have been proposed until now.
    fn commands(&self, world: &World) -> Vec<ClusterCommand> {
        let mut commands = Vec::new();
        let epochs: Vec<Epoch> = (1..=self.epochs_max)
            .map(|n| Epoch((1 << 32) + n))
            .collect();
        for (&node, state) in &world.nodes {
            for incarnation in 1..=state.incarnation {
                let session = session(node, incarnation);
                commands.push(join(node, incarnation));
                commands.push(ClusterCommand::Up {
                    node,
                    session,
                    at: 0,
                });
                commands.push(ClusterCommand::Down {
                    node,
                    session,
                    at: 0,
                });
                commands.push(ClusterCommand::Assign {
                    shards: vec![(S, node, session)],
                    at: 0,
                });
            }
            commands.extend(epochs.iter().map(|&epoch| ClusterCommand::BeginHandoff {
                shards: vec![(S, epoch, node)],
                at: 0,
            }));
        }
        commands.extend(
            world
                .journal
                .sessions
                .iter()
                .map(|&session| ClusterCommand::Fenced { session, at: 0 }),
        );
        if !self.has(Protection::SessionFence) {
            let condemned = world.committed.condemned.keys();
            commands.extend(condemned.map(|&session| ClusterCommand::Fenced { session, at: 0 }));
        }
        commands.extend(
            world
                .drained
                .iter()
                .map(|&(session, epoch)| ClusterCommand::Drained {
                    shard: S,
                    session,
                    epoch,
                    by: DrainedBy::Owner,
                    at: 0,
                }),
        );
        commands
    }
}

/// The shard, if this session owns it.
fn view(state: &ClusterState, session: SessionUuid) -> Option<View> {
    let owner = state.owner_of(S).filter(|owner| owner.session == session)?;
    Some(View {
        epoch: owner.epoch,
        handing_off: owner.handing_off_to.is_some(),
        may_recover: owner.may_recover,
    })
}

impl Model for Ownership {
    type State = World;
    type Action = Step;

    /// All nodes are up, the first has the shard and has written.
    fn init_states(&self) -> Vec<World> {
        let mut committed = ClusterState::new(Uuid::nil(), 1, 1);
        for node in self.numbers() {
            let session = session(node, 1);
            apply(&mut committed, &join(node, 1));
            apply(
                &mut committed,
                &ClusterCommand::Up {
                    node,
                    session,
                    at: 0,
                },
            );
        }
        let owner = NodeNr(1);
        let assign = ClusterCommand::Assign {
            shards: vec![(S, owner, session(owner, 1))],
            at: 0,
        };
        apply(&mut committed, &assign);
        let epoch = committed.owner_of(S).unwrap().epoch;
        let nodes = self
            .numbers()
            .map(|nr| {
                let node = Node {
                    incarnation: 1,
                    view: view(&committed, session(nr, 1)),
                    serving: (nr == owner).then_some((epoch, 0)),
                };
                (nr, node)
            })
            .collect();
        vec![World {
            committed,
            nodes,
            journal: Journal::default(),
            in_flight: BTreeSet::new(),
            drained: BTreeSet::new(),
            latest: Some((epoch, session(owner, 1))),
            overwritten: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        steps.extend(self.commands(world).into_iter().map(Step::Commit));
        for node in self.numbers() {
            steps.extend([
                Step::CatchUp(node),
                Step::Recover(node),
                Step::Write(node),
                Step::Drain(node),
                Step::Restart(node),
            ]);
        }
        steps.extend(world.in_flight.iter().copied().map(Step::Arrive));
        steps.extend(world.committed.condemned.keys().copied().map(Step::Fence));
        steps.push(Step::ForceDrain);
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        if let Step::Commit(command) = step {
            let mut committed = before.committed.clone();
            if !apply(&mut committed, &command) {
                return None;
            }
            let mut world = World {
                committed,
                ..before.clone()
            };
            world.forget_what_makes_no_difference();
            return Some(world);
        }
        let mut world = before.clone();
        match step {
            Step::Commit(_) => {}
            Step::CatchUp(nr) => {
                let node = world.nodes.get_mut(&nr)?;
                node.view = view(&world.committed, session(nr, node.incarnation));
                // What it does not own any more, it stops.
                let owned = node.view.map(|view| view.epoch);
                node.serving = node.serving.filter(|(epoch, _)| owned == Some(*epoch));
            }
            Step::Recover(nr) => {
                let node = world.nodes.get_mut(&nr)?;
                let view = node.view?;
                let ready = view.may_recover || !self.has(Protection::WaitingForFences);
                if node.serving.is_some() || view.handing_off || !ready {
                    return None;
                }
                let mine = session(nr, node.incarnation);
                if self.has(Protection::FenceOnReturn) {
                    world.journal.fence_shard(mine, Epoch(view.epoch.0 - 1));
                }
                node.serving = Some((view.epoch, world.journal.events));
                let this = Some((view.epoch, mine));
                world.latest = world.latest.max(this);
            }
            Step::Write(nr) => {
                let node = &world.nodes[&nr];
                let (epoch, known) = node.serving?;
                if known >= self.events_max {
                    return None;
                }
                let append = (session(nr, node.incarnation), epoch, known + 1);
                world.in_flight.insert(append).then_some(())?;
            }
            Step::Arrive(append) => {
                world.in_flight.remove(&append);
                let (writer, epoch, number) = append;
                let stored =
                    !world.journal.refuses(writer, epoch) && number == world.journal.events + 1;
                if stored {
                    world.journal.events = number;
                    world.overwritten |= world.latest.is_some_and(|latest| epoch < latest.0);
                }
                for (&nr, node) in &mut world.nodes {
                    let sender = session(nr, node.incarnation) == writer;
                    if let Some((serving, known)) = &mut node.serving
                        && sender
                        && *serving == epoch
                    {
                        if stored {
                            *known = number;
                        } else {
                            node.serving = None;
                        }
                    }
                }
            }
            Step::Drain(nr) => {
                let node = world.nodes.get_mut(&nr)?;
                let View { epoch, .. } = node.view.filter(|view| view.handing_off)?;
                node.serving = None;
                let mine = session(nr, node.incarnation);
                if self.has(Protection::ShardFence) {
                    world.journal.fence_shard(mine, epoch);
                }
                world.drained.insert((mine, epoch));
            }
            Step::ForceDrain => {
                let owner = world.committed.owner_of(S)?;
                owner.handing_off_to?;
                world.journal.fence_shard(owner.session, owner.epoch);
                world.drained.insert((owner.session, owner.epoch));
            }
            Step::Fence(condemned) => {
                world.journal.sessions.insert(condemned);
            }
            Step::Restart(nr) => {
                let node = world.nodes.get_mut(&nr)?;
                if nr != NodeNr(1) || node.incarnation >= self.starts_max {
                    return None;
                }
                node.serving = None;
                node.view = None;
                if self.has(Protection::FenceAtStart) {
                    let mine = session(nr, node.incarnation);
                    world.journal.sessions.insert(mine);
                }
                node.incarnation += 1;
            }
        }
        world.forget_what_makes_no_difference();
        (world != *before).then_some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.committed.shards[0].epoch.0 <= (1 << 32) + self.epochs_max
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I-1: one home", |_, world: &World| {
                let serving: Vec<_> = world
                    .nodes
                    .values()
                    .filter_map(|node| node.serving.map(|(epoch, _)| epoch))
                    .collect();
                serving.iter().collect::<BTreeSet<_>>().len() == serving.len()
            }),
            Property::always("I-2: fenced writers", |_, world: &World| !world.overwritten),
            Property::always("I-5: nothing stored is lost", |_, world: &World| {
                world.nodes.iter().all(|(&nr, node)| {
                    let Some((epoch, known)) = node.serving else {
                        return true;
                    };
                    let mine = Some((epoch, session(nr, node.incarnation)));
                    mine != world.latest || known == world.journal.events
                })
            }),
            Property::always(
                "an owner is a member that is not down",
                |_, world: &World| {
                    world
                        .committed
                        .owner_of(S)
                        .is_none_or(|owner| world.committed.is_current(owner.node, owner.session))
                },
            ),
            Property::sometimes("a taken-over shard is written to", |_, world: &World| {
                world.journal.events > 0
                    && !world.journal.sessions.is_empty()
                    && world.latest.map(|latest| latest.1) != Some(session(NodeNr(1), 1))
            }),
            Property::sometimes("a shard returns to its owner", |_, world: &World| {
                matches!(
                    world.committed.shards[0].home,
                    Home::Owned { node: NodeNr(1), session: owner }
                        if owner == session(NodeNr(1), 1) && world.committed.shards[0].epoch.0 > (1 << 32) + 1
                )
            }),
        ]
    }
}

/// Two nodes, of which the first comes back.
const RESTARTS: Ownership = Ownership {
    nodes: 2,
    starts_max: 2,
    epochs_max: 4,
    events_max: 1,
    without: None,
};

/// Three nodes: a second failover, or a handoff, before the first is over.
const FAILOVERS: Ownership = Ownership {
    nodes: 3,
    starts_max: 1,
    epochs_max: 3,
    events_max: 1,
    without: None,
};

fn holds(model: Ownership) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn promises_hold_when_nodes_restart() {
    holds(RESTARTS);
}

#[test]
fn promises_hold_in_failovers_and_handoffs() {
    holds(FAILOVERS);
}

/// A model that finds nothing when a protection is missing would prove nothing.
#[test]
fn every_protection_is_needed() {
    for (model, protection) in [
        (FAILOVERS, Protection::SessionFence),
        (FAILOVERS, Protection::ShardFence),
        (FAILOVERS, Protection::WaitingForFences),
        (FAILOVERS, Protection::FenceOnReturn),
        (RESTARTS, Protection::FenceAtStart),
    ] {
        let broken = model.without(protection).checker();
        let failed = HasDiscoveries::AnyFailures;
        let checker = broken.threads(2).finish_when(failed).spawn_bfs().join();
        let found = checker.discovery("I-2: fenced writers");
        assert!(found.is_some(), "nobody misses {protection:?}");
    }
}
