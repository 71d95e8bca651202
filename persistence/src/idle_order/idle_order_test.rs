//! The passivation traces as they apply to one limit per node, and random runs
//! against a naive list.

use proptest::prelude::*;

use super::*;

const NOBODY: [u32; 0] = [];

fn in_order(mut order: IdleOrder) -> Vec<u32> {
    std::iter::from_fn(|| order.pop_oldest()).collect()
}

fn expired(order: &mut IdleOrder, now: Tick, idle_timeout: Tick) -> Vec<u32> {
    std::iter::from_fn(|| order.pop_expired(now, idle_timeout)).collect()
}

#[test]
fn a_slot_costs_at_most_16_bytes() {
    assert!(size_of::<Link>() <= 16);
}

/// Ticks of 1/10 s and a time-out of 1 s: entity 1 gets one message, entity 2
/// one every half second, four times.
#[test]
fn idle_trace_stops_the_silent_one_first() {
    let mut order = IdleOrder::new();
    order.touch(1, 0);
    for message in 0..4 {
        order.touch(2, 5 * message);
        assert_eq!(
            expired(&mut order, 5 * message, 10),
            if message == 3 { vec![1] } else { vec![] }
        );
    }
    assert_eq!(expired(&mut order, 25, 10), NOBODY);
    assert_eq!(order.oldest(), Some((2, 15)));
    assert_eq!(expired(&mut order, 26, 10), [2]);
    // Both come back with the next message, and stop again.
    order.touch(2, 30);
    order.touch(1, 31);
    assert_eq!(expired(&mut order, 40, 10), NOBODY);
    assert_eq!(expired(&mut order, 42, 10), [2, 1]);
    assert!(order.is_empty());
}

#[test]
fn idle_time_is_never_cut_short_by_the_ticks() {
    let mut order = IdleOrder::new();
    order.touch(7, 100);
    assert_eq!(order.pop_expired(100, 0), None);
    assert_eq!(order.pop_expired(110, 10), None);
    assert_eq!(order.pop_expired(111, 10), Some(7));
    // A tick from before the touch, from another reading of the clock.
    order.touch(7, 200);
    assert_eq!(order.pop_expired(199, 0), None);
}

/// Touches an entity of a node that keeps `limit` alive, and says which it stops.
fn access(order: &mut IdleOrder, limit: usize, id: u32) -> Vec<u32> {
    order.touch(id, 0);
    over_limit(order, limit)
}

fn over_limit(order: &mut IdleOrder, limit: usize) -> Vec<u32> {
    let surplus = order.len().saturating_sub(limit);
    (0..surplus).filter_map(|_| order.pop_oldest()).collect()
}

/// The region traces with the limit counted over the node instead of divided
/// among its shards, which `sharding` numbers and this order does not know.
#[test]
fn lru_trace_with_a_limit_of_ten() {
    let mut order = IdleOrder::new();
    for id in 1..=20 {
        let stopped = if id > 10 { vec![id - 10] } else { vec![] };
        assert_eq!(access(&mut order, 10, id), stopped, "access {id}");
    }
    assert_eq!(access(&mut order, 10, 21), [11]);
    // 12 to 21 live: the first ones stop them all, then each other.
    let mut stopped = Vec::new();
    for id in 1..=20 {
        let victims = access(&mut order, 10, id);
        assert!(
            !victims.contains(&id),
            "{id} is the victim of its own arrival"
        );
        stopped.extend(victims);
    }
    let expected: Vec<u32> = (12..=21).chain(1..=10).collect();
    assert_eq!(stopped, expected);
    // Stopped by hand: room for two more without a victim.
    assert!(order.remove(19));
    assert!(order.remove(11));
    assert_eq!(access(&mut order, 10, 31), NOBODY);
    assert_eq!(access(&mut order, 10, 32), NOBODY);
    assert_eq!(access(&mut order, 10, 33), [12]);
    assert_eq!(in_order(order), [13, 14, 15, 16, 17, 18, 20, 31, 32, 33]);
}

#[test]
fn lru_trace_with_a_changed_limit() {
    let mut order = IdleOrder::new();
    for id in 11..=20 {
        assert_eq!(access(&mut order, 10, id), NOBODY);
    }
    assert_eq!(over_limit(&mut order, 6), [11, 12, 13, 14]);
    for id in 1..=10 {
        let stopped = if id <= 6 { id + 14 } else { id - 6 };
        assert_eq!(access(&mut order, 6, id), [stopped], "access {id}");
    }
    for id in 11..=22 {
        let stopped = if id > 16 { vec![id - 12] } else { vec![] };
        assert_eq!(access(&mut order, 12, id), stopped, "access {id}");
    }
}

#[test]
fn using_an_entity_again_saves_it() {
    let mut order = IdleOrder::new();
    for id in 1..=3 {
        order.touch(id, id);
    }
    order.touch(1, 4);
    order.touch(1, 5);
    assert_eq!(order.oldest(), Some((2, 2)));
    assert_eq!(order.len(), 3);
    assert_eq!(expired(&mut order, 5, 0), [2, 3]);
    assert_eq!(order.oldest(), Some((1, 5)));
}

#[test]
fn an_empty_order_has_nothing_to_give() {
    let mut order = IdleOrder::default();
    assert_eq!(order.oldest(), None);
    assert_eq!(order.pop_oldest(), None);
    assert_eq!(order.pop_expired(Tick::MAX, 0), None);
    assert!(!order.remove(0));
    assert!(!order.contains(u32::MAX));
    assert!(order.is_empty());
    order.touch(0, 0);
    assert!(!order.is_empty());
}

#[test]
#[should_panic(expected = "is not a slot of a slab")]
fn the_marks_of_the_list_are_not_slots() {
    IdleOrder::new().touch(ABSENT, 0);
}

#[derive(Debug, Clone)]
enum Action {
    Touch(u32),
    Remove(u32),
    PopOldest,
    PopExpired(Tick),
    Wait(Tick),
}

fn action() -> impl Strategy<Value = Action> {
    let slot = 0_u32..16;
    prop_oneof![
        4 => slot.clone().prop_map(Action::Touch),
        2 => slot.prop_map(Action::Remove),
        1 => Just(Action::PopOldest),
        2 => (0_u32..20).prop_map(Action::PopExpired),
        2 => (0_u32..10).prop_map(Action::Wait),
    ]
}

proptest! {
    #[test]
    fn agrees_with_a_naive_list(actions in prop::collection::vec(action(), 0..300)) {
        let mut order = IdleOrder::new();
        let mut model: Vec<(u32, Tick)> = Vec::new();
        let mut now = 0;
        for action in actions {
            match action {
                Action::Touch(slot) => {
                    order.touch(slot, now);
                    model.retain(|entry| entry.0 != slot);
                    model.push((slot, now));
                }
                Action::Remove(slot) => {
                    let was = model.len();
                    model.retain(|entry| entry.0 != slot);
                    prop_assert_eq!(order.remove(slot), model.len() < was);
                }
                Action::PopOldest => {
                    let expected = (!model.is_empty()).then(|| model.remove(0).0);
                    prop_assert_eq!(order.pop_oldest(), expected);
                }
                Action::PopExpired(timeout) => {
                    let due = model.first().is_some_and(|entry| now - entry.1 > timeout);
                    let expected = due.then(|| model.remove(0).0);
                    prop_assert_eq!(order.pop_expired(now, timeout), expected);
                }
                Action::Wait(ticks) => now += ticks,
            }
            prop_assert_eq!(order.len(), model.len());
            prop_assert_eq!(order.oldest(), model.first().copied());
            for slot in 0..16 {
                prop_assert_eq!(order.contains(slot), model.iter().any(|entry| entry.0 == slot));
            }
        }
        let expected: Vec<u32> = model.iter().map(|entry| entry.0).collect();
        prop_assert_eq!(in_order(order), expected);
    }
}
