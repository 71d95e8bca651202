//! The route of one shard, against random histories of a cluster of two owners and a
//! naive model of them: nothing is lost, nothing is answered twice, and what one
//! sender sends is handled in its order.

use std::collections::{BTreeSet, VecDeque};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid};
use proptest::prelude::*;
use uuid::Uuid;

use super::{Direction, Owner, Route};

fn session(number: u64) -> SessionUuid {
    SessionUuid(Uuid::from_u128(u128::from(number)))
}

fn owner(node: u64, epoch: u64) -> Owner {
    Owner {
        node: NodeNr(node),
        session: session(node),
        epoch: Epoch(epoch),
    }
}

fn there(node: u64, epoch: u64) -> Direction {
    Direction::There(owner(node, epoch))
}

fn send(route: &mut Route<u32>, command: u32) -> u64 {
    let Direction::There(to) = route.way() else {
        panic!("{command} has to wait");
    };
    let nr = route.arrived();
    route.sent(to, nr, command);
    nr
}

fn wait(route: &mut Route<u32>, command: u32) {
    let nr = route.arrived();
    route.wait(nr, command);
}

fn waiting(route: &mut Route<u32>) -> Vec<u32> {
    std::iter::from_fn(|| route.take_first().map(|(_, command)| command)).collect()
}

#[test]
fn what_is_returned_goes_first_and_in_its_order() {
    let mut route = Route::new(there(1, 1));
    let [a, b, c] = [10, 11, 12].map(|command| send(&mut route, command));
    assert!(route.returned(session(1), c).is_some());
    assert_eq!(route.way(), Direction::Nowhere, "that owner is closed");
    wait(&mut route, 13);
    assert_eq!(route.answered(session(1), a), Some(10));
    assert!(!route.direct(there(2, 2), None));
    assert_eq!(route.open(), Direction::Nowhere, "11 is still out");
    assert!(route.returned(session(1), b).is_some());
    assert_eq!(route.open(), there(2, 2));
    assert_eq!(waiting(&mut route), [11, 12, 13]);
}

#[test]
fn an_answer_is_taken_once() {
    let mut route = Route::new(there(1, 1));
    let nr = send(&mut route, 1);
    assert_eq!(route.answered(session(1), nr), Some(1));
    assert_eq!(route.answered(session(1), nr), None);
    assert!(route.returned(session(1), nr).is_none());
}

/// I-8: an owner that was given up does not say what the next one did.
#[test]
fn i8_what_a_session_says_that_was_given_up_does_not_count() {
    let mut route = Route::new(there(1, 1));
    let nr = send(&mut route, 1);
    assert!(!route.direct(there(2, 2), None));
    assert!(route.lost(session(1), |_, _| true).is_empty());
    assert_eq!(route.take_first(), Some((nr, 1)));
    route.sent(owner(2, 2), nr, 1);

    assert!(route.returned(session(1), nr).is_none());
    assert_eq!(route.answered(session(1), nr), None);
    assert_eq!(route.open(), there(2, 2));
    assert_eq!(route.answered(session(2), nr), Some(1));
}

#[test]
fn nothing_goes_on_before_the_entities_here_have_stopped() {
    let mut route = Route::<u32>::new(Direction::Here(Epoch(1)));
    let [a, b] = [route.arrived(), route.arrived()];
    assert!(route.direct(there(2, 2), Some(session(1))));
    assert_eq!(route.open(), Direction::Nowhere);
    wait(&mut route, 12);
    // Handed back by the entities, one of them without a number.
    route.wait(b, 11);
    route.wait(0, 13);
    route.wait(a, 10);
    route.stopped(session(1));
    assert_eq!(route.open(), there(2, 2));
    assert_eq!(waiting(&mut route), [10, 11, 12, 13]);
}

/// I-9: a session that had nothing to stop does not speak for the one before.
#[test]
fn i9_nothing_goes_on_before_the_entities_of_every_session_have_stopped() {
    let mut route = Route::new(Direction::Here(Epoch(1)));
    let early = route.arrived();
    assert!(route.direct(Direction::Nowhere, Some(session(1))));
    assert!(!route.direct(Direction::Here(Epoch(2)), None));
    assert_eq!(route.open(), Direction::Nowhere);
    assert!(route.direct(there(2, 3), Some(session(2))));
    wait(&mut route, 11);
    route.stopped(session(2));
    assert_eq!(route.open(), Direction::Nowhere, "10 is still out");
    route.wait(early, 10);
    route.stopped(session(1));
    assert_eq!(route.open(), there(2, 3));
    assert_eq!(waiting(&mut route), [10, 11]);
}

#[test]
fn the_loss_of_another_session_changes_nothing() {
    let mut route = Route::new(there(1, 1));
    send(&mut route, 1);
    let lost = route.lost(owner(2, 1).session, |_, _| false);
    assert!(lost.is_empty());
    let lost = route.lost(owner(1, 1).session, |_, _| false);
    assert_eq!(lost, [1]);
}

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    Submit {
        has_id: bool,
    },
    /// The shard moves; the old owner is alive and closes when it learns of it.
    Move,
    /// The sender learns of the newest home.
    Learn,
    /// An owner takes its next message from the stream.
    Receive,
    /// The sender takes its next message from the stream.
    Hear,
    /// The stream breaks; so many of the messages under way still arrive.
    Break {
        arrive: usize,
    },
    /// The entities of the sender's node, if the shard was there, have stopped.
    Stopped,
    /// The shard moves to the sender's own node.
    MoveHere,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => any::<bool>().prop_map(|has_id| Event::Submit { has_id }),
        1 => Just(Event::Move),
        2 => Just(Event::Learn),
        5 => Just(Event::Receive),
        5 => Just(Event::Hear),
        1 => (0_usize..4).prop_map(|arrive| Event::Break { arrive }),
        1 => Just(Event::Stopped),
        1 => Just(Event::MoveHere),
    ];
    prop::collection::vec(event, 1..200)
}

#[derive(Debug, Clone, Copy)]
struct Command {
    id: u32,
    has_id: bool,
}

enum Back {
    Answer(Owner, u64),
    Returned(Owner, u64),
}

/// The sender's own node.
const HERE: u64 = 7;

/// The cluster as the sender of one shard meets it.
struct World {
    route: Route<Command>,
    home: Direction,
    epoch: u64,
    /// Under way to the owner.
    forth: VecDeque<(u64, Owner, Command)>,
    /// Under way from the owner.
    back: VecDeque<Back>,
    submitted: u32,
    /// First handlings, by whomever.
    handled: Vec<u32>,
    answered: BTreeSet<u32>,
    lost: BTreeSet<u32>,
}

impl World {
    fn new() -> Self {
        Self {
            route: Route::new(Direction::Nowhere),
            home: there(1, 1),
            epoch: 1,
            forth: VecDeque::new(),
            back: VecDeque::new(),
            submitted: 0,
            handled: Vec::new(),
            answered: BTreeSet::new(),
            lost: BTreeSet::new(),
        }
    }

    fn handle(&mut self, command: Command) {
        // A repeated command id has no second effect.
        if !(command.has_id && self.handled.contains(&command.id)) {
            assert!(
                !self.handled.contains(&command.id),
                "{command:?} is handled twice"
            );
            self.handled.push(command.id);
        }
    }

    fn answer(&mut self, command: Command) {
        assert!(
            self.answered.insert(command.id),
            "{command:?} is answered twice"
        );
        assert!(
            !self.lost.contains(&command.id),
            "{command:?} was lost before"
        );
    }

    fn release(&mut self) {
        loop {
            match self.route.open() {
                Direction::Nowhere => return,
                Direction::Here(_) => {
                    let Some((_, command)) = self.route.take_first() else {
                        return;
                    };
                    self.handle(command);
                    self.answer(command);
                }
                Direction::There(to) => {
                    let Some((nr, command)) = self.route.take_first() else {
                        return;
                    };
                    self.forth.push_back((nr, to, command));
                    self.route.sent(to, nr, command);
                }
            }
        }
    }

    fn receive(&mut self) {
        let Some((nr, to, command)) = self.forth.pop_front() else {
            return;
        };
        // An owner that has not learned of its time yet waits for it: here all know.
        if self.home == Direction::There(to) {
            self.handle(command);
            self.back.push_back(Back::Answer(to, nr));
        } else {
            self.back.push_back(Back::Returned(to, nr));
        }
    }

    fn hear(&mut self) {
        match self.back.pop_front() {
            None => {}
            Some(Back::Answer(by, nr)) => {
                if let Some(command) = self.route.answered(by.session, nr) {
                    self.answer(command);
                }
            }
            Some(Back::Returned(by, nr)) => {
                self.route.returned(by.session, nr);
            }
        }
        self.release();
    }

    fn step(&mut self, event: &Event) {
        match *event {
            Event::Submit { has_id } => {
                let id = self.submitted;
                self.submitted += 1;
                let nr = self.route.arrived();
                self.route.wait(nr, Command { id, has_id });
                self.release();
            }
            Event::Move => {
                self.epoch += 1;
                self.home = there(self.epoch % 2 + 1, self.epoch);
            }
            Event::MoveHere => {
                self.epoch += 1;
                self.home = Direction::Here(Epoch(self.epoch));
            }
            Event::Learn => {
                let _ = self.route.direct(self.home, Some(session(HERE)));
                self.release();
            }
            Event::Stopped => {
                self.route.stopped(session(HERE));
                self.release();
            }
            Event::Receive => self.receive(),
            Event::Hear => self.hear(),
            Event::Break { arrive } => {
                let Some(to) = self.route.out_to() else {
                    return;
                };
                for _ in 0..arrive {
                    self.receive();
                }
                let unwritten: BTreeSet<u64> = self.forth.drain(..).map(|(nr, ..)| nr).collect();
                self.back.clear();
                let lost = self.route.lost(to.session, |nr, command| {
                    command.has_id || unwritten.contains(&nr)
                });
                self.lost.extend(lost.iter().map(|command| command.id));
                self.release();
            }
        }
    }

    /// Everything settles down: all is learned, received and heard.
    fn settle(&mut self) {
        for _ in 0..self.submitted * 4 + 16 {
            for event in [Event::Learn, Event::Stopped, Event::Receive, Event::Hear] {
                self.step(&event);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_command_has_one_end_and_its_place(events in events()) {
        let mut world = World::new();
        for event in &events {
            world.step(event);
        }
        world.settle();
        let submitted: BTreeSet<u32> = (0..world.submitted).collect();
        let ended: BTreeSet<u32> = world.answered.union(&world.lost).copied().collect();
        prop_assert_eq!(&ended, &submitted, "each is answered or lost");
        for id in &world.answered {
            prop_assert!(world.handled.contains(id), "{} is answered without being handled", id);
        }
        let in_order: Vec<u32> = world.handled.iter().copied().filter(|id| !world.lost.contains(id)).collect();
        prop_assert!(in_order.is_sorted(), "handled out of order: {:?}", world.handled);
    }
}
