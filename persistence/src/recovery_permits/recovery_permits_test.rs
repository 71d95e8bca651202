//! The permitter's cases (numbered as in the conformance text, with max = 3) as
//! far as they concern the pure part, and random runs against a naive queue.
//! Cases 2, 6 and 7 need entities that recover; here stands what they ask of
//! the permits, the rest is tested with the engine.

use proptest::prelude::*;

use super::*;

fn three_held() -> RecoveryPermits<u32> {
    let mut permits = RecoveryPermits::new(3);
    for key in 1..=3 {
        assert_eq!(permits.request(key), Admission::Granted);
    }
    permits
}

fn queued(position: usize) -> Admission {
    Admission::Queued { position }
}

#[test]
fn case_1_grants_up_to_the_limit_then_in_order() {
    let mut permits = three_held();
    assert_eq!(permits.request(4), queued(1));
    assert_eq!(permits.request(5), queued(2));
    assert_eq!(permits.give_back(2), Some(4));
    assert_eq!(permits.give_back(1), Some(5));
    assert_eq!((permits.running(), permits.waiting()), (3, 0));
    for key in 3..=5 {
        assert_eq!(permits.give_back(key), None);
    }
    assert_eq!((permits.running(), permits.waiting()), (0, 0));
    assert_eq!(permits.waiting_max_seen(), 2);
}

#[test]
fn case_2_grants_when_not_all_are_used() {
    let mut permits = RecoveryPermits::new(3);
    assert_eq!(permits.request(1), Admission::Granted);
    assert_eq!(permits.request(2), Admission::Granted);
    assert_eq!(permits.running(), 2);
    assert_eq!(permits.waiting_max_seen(), 0);
}

#[test]
fn case_3_delays_when_all_are_used() {
    let mut permits = three_held();
    assert_eq!(permits.request(9), queued(1));
    assert_eq!(permits.give_back(3), Some(9));
    // The entity recovers and stops; the later returns of 1 and 2 succeed.
    assert_eq!(permits.give_back(9), None);
    assert_eq!(permits.give_back(1), None);
    assert_eq!(permits.give_back(2), None);
    assert_eq!(permits.running(), 0);
}

#[test]
fn case_4_a_waiter_that_dies_frees_nothing_and_is_skipped() {
    let mut permits = three_held();
    assert_eq!(permits.request(4), queued(1));
    assert_eq!(permits.request(5), queued(2));
    assert_eq!(permits.withdraw(4), None);
    assert_eq!((permits.running(), permits.waiting()), (3, 1));
    assert_eq!(permits.request(6), queued(2));
    assert_eq!(permits.give_back(1), Some(5));
    assert_eq!(permits.give_back(2), Some(6));
}

#[test]
fn case_5_a_holder_that_dies_gives_its_permit_to_the_next() {
    let mut permits = three_held();
    assert_eq!(permits.request(4), queued(1));
    assert_eq!(permits.withdraw(1), Some(4));
    assert_eq!(permits.running(), 3);
}

#[test]
fn case_6_a_permit_comes_back_after_each_failed_recovery() {
    let mut permits = RecoveryPermits::new(3);
    assert_eq!(permits.request(1), Admission::Granted);
    assert_eq!(permits.request(2), Admission::Granted);
    for _ in 0..2 {
        assert_eq!(permits.request(3), Admission::Granted);
        assert_eq!(permits.give_back(3), None);
    }
    assert_eq!(permits.request(4), Admission::Granted);
}

#[test]
fn case_7_many_recoveries_all_get_their_turn_in_order() {
    let mut permits = RecoveryPermits::new(3);
    let mut running: VecDeque<u32> = VecDeque::new();
    for key in 0..100 {
        if permits.request(key) == Admission::Granted {
            running.push_back(key);
        }
    }
    assert_eq!(permits.waiting_max_seen(), 97);
    let mut finished = Vec::new();
    while let Some(key) = running.pop_front() {
        finished.push(key);
        running.extend(permits.give_back(key));
        assert!(running.len() <= 3, "I-11: {running:?} run at once");
    }
    assert_eq!(finished, (0..100).collect::<Vec<_>>());
}

#[test]
fn asking_again_changes_nothing() {
    let mut permits = three_held();
    assert_eq!(permits.request(1), Admission::Granted);
    assert_eq!(permits.running(), 3);
    assert_eq!(permits.request(4), queued(1));
    assert_eq!(permits.request(5), queued(2));
    assert_eq!(permits.request(6), queued(3));
    assert_eq!(permits.withdraw(5), None);
    assert_eq!(permits.request(6), queued(2));
    assert_eq!(permits.waiting(), 2);
}

#[test]
fn giving_back_what_is_not_held_frees_nothing() {
    let mut permits = three_held();
    assert_eq!(permits.request(4), queued(1));
    assert_eq!(permits.request(5), queued(2));
    assert_eq!(permits.give_back(77), None);
    assert_eq!(permits.give_back(5), None);
    assert_eq!(permits.withdraw(77), None);
    assert_eq!((permits.running(), permits.waiting()), (3, 2));
    assert_eq!(permits.give_back(1), Some(4));
    assert_eq!(permits.give_back(1), None);
    assert_eq!(permits.running(), 3);
}

#[test]
fn a_key_used_again_queues_anew_at_the_end() {
    let mut permits = three_held();
    for key in 4..=6 {
        let _ = permits.request(key);
    }
    assert_eq!(permits.withdraw(4), None);
    assert_eq!(permits.request(4), queued(3));
    assert_eq!(permits.give_back(1), Some(5));
    assert_eq!(permits.give_back(2), Some(6));
    assert_eq!(permits.give_back(3), Some(4));
}

#[test]
fn withdrawn_waiters_leave_nothing_behind() {
    let mut permits = three_held();
    let _ = permits.request(4);
    for round in 0..10_000 {
        assert_eq!(permits.request(100 + round), queued(2));
        assert_eq!(permits.withdraw(100 + round), None);
        assert!(permits.queue.len() <= 3, "I-10: {}", permits.queue.len());
    }
    assert_eq!(permits.waiting_max_seen(), 2);
}

#[test]
fn a_limit_of_zero_counts_as_one() {
    let mut permits = RecoveryPermits::new(0);
    assert_eq!(permits.request(1), Admission::Granted);
    assert_eq!(permits.request(2), queued(1));
}

#[derive(Debug, Clone)]
enum Action {
    Request(u8),
    GiveBack(u8),
    Withdraw(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let key = 0_u8..12;
    prop_oneof![
        3 => key.clone().prop_map(Action::Request),
        2 => key.clone().prop_map(Action::GiveBack),
        1 => key.prop_map(Action::Withdraw),
    ]
}

/// Two plain lists: who runs, and who waits in order.
#[derive(Default)]
struct Model {
    running: Vec<u8>,
    waiting: Vec<u8>,
}

impl Model {
    fn request(&mut self, max: usize, key: u8) -> Admission {
        if self.running.contains(&key) {
            return Admission::Granted;
        }
        if let Some(at) = self.waiting.iter().position(|&other| other == key) {
            return queued(at + 1);
        }
        if self.running.len() < max {
            self.running.push(key);
            return Admission::Granted;
        }
        self.waiting.push(key);
        queued(self.waiting.len())
    }

    fn give_back(&mut self, key: u8) -> Option<u8> {
        let at = self.running.iter().position(|&other| other == key)?;
        self.running.swap_remove(at);
        if self.waiting.is_empty() {
            return None;
        }
        let next = self.waiting.remove(0);
        self.running.push(next);
        Some(next)
    }

    fn withdraw(&mut self, key: u8) -> Option<u8> {
        self.waiting.retain(|&other| other != key);
        self.give_back(key)
    }
}

proptest! {
    #[test]
    fn agrees_with_a_naive_queue(max in 1_usize..5, actions in prop::collection::vec(action(), 0..200)) {
        let mut permits = RecoveryPermits::new(max);
        let mut model = Model::default();
        for action in actions {
            match action {
                Action::Request(key) => prop_assert_eq!(permits.request(key), model.request(max, key)),
                Action::GiveBack(key) => prop_assert_eq!(permits.give_back(key), model.give_back(key)),
                Action::Withdraw(key) => prop_assert_eq!(permits.withdraw(key), model.withdraw(key)),
            }
            prop_assert!(permits.running() <= max, "I-11");
            prop_assert_eq!(permits.running(), model.running.len());
            prop_assert_eq!(permits.waiting(), model.waiting.len());
            // No permit idles while somebody waits.
            prop_assert!(permits.waiting() == 0 || permits.running() == max);
            prop_assert!(permits.queue.len() <= 2 * permits.waiting(), "I-10");
            prop_assert_eq!(permits.standing.len(), permits.running() + permits.waiting());
        }
        // Everyone dies: no permit has leaked.
        for key in 0..12 {
            let _ = permits.withdraw(key);
        }
        for key in 0..12 {
            let _ = permits.withdraw(key);
        }
        prop_assert_eq!((permits.running(), permits.waiting()), (0, 0));
    }
}
