//! The cases of at-least-once delivery (5.6 of the cases, the row of that name), on the
//! plain values. Left out: a wildcard as destination is refused; there are none.

use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_secs(5);

/// A sender that can be restarted: its state is folded from events, and what it sends is
/// noted.
struct Sender {
    now: Instant,
    settings: RedeliverySettings,
    deliveries: Deliveries<&'static str, u32>,
    redelivery: Redelivery<DeliveryId>,
    sent: Vec<u32>,
    warned: Vec<u64>,
}

impl Sender {
    fn new(settings: RedeliverySettings) -> Self {
        Self {
            now: Instant::now(),
            settings,
            deliveries: Deliveries::default(),
            redelivery: Redelivery::new(settings),
            sent: Vec::new(),
            warned: Vec::new(),
        }
    }

    fn deliver(&mut self, message: u32) -> DeliveryId {
        let id = self.deliveries.deliver("receiver", message);
        self.sent.push(message);
        self.redelivery.sent(id, self.now);
        id
    }

    fn confirm(&mut self, id: DeliveryId) {
        assert!(self.deliveries.confirm(id));
        assert!(self.redelivery.settled(&id));
    }

    fn tick(&mut self, later: Duration) {
        self.now += later;
        let due = self.redelivery.due(self.now);
        for id in due.send {
            let delivery = self.deliveries.unconfirmed().find(|d| d.id == id);
            self.sent.push(delivery.unwrap().message);
        }
        self.warned.extend(due.warn.iter().map(|id| id.get()));
    }

    /// From a snapshot of its state.
    fn restart(&mut self) {
        let json = serde_json::to_string(&self.deliveries).unwrap();
        let restored: Deliveries<String, u32> = serde_json::from_str(&json).unwrap();
        assert_eq!(restored.len(), self.deliveries.len());
        self.redelivery = Redelivery::new(self.settings);
        for delivery in self.deliveries.unconfirmed() {
            self.redelivery.resume(delivery.id, self.now);
        }
    }

    fn take_sent(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.sent)
    }
}

#[test]
fn all_are_delivered_in_order() {
    let mut sender = Sender::new(RedeliverySettings::default());
    for message in 1..=10 {
        let id = sender.deliver(message);
        assert_eq!(id.get(), u64::from(message));
        sender.confirm(id);
    }
    assert_eq!(sender.take_sent(), (1..=10).collect::<Vec<_>>());
    sender.tick(INTERVAL);
    assert!(sender.sent.is_empty() && sender.deliveries.is_empty());
}

/// Every third is lost on its way: 1, 2, 4 arrive, then 3.
#[test]
fn what_is_lost_is_sent_again() {
    let mut sender = Sender::new(RedeliverySettings::default());
    let ids: Vec<_> = (1..=4).map(|message| sender.deliver(message)).collect();
    for arrived in [0, 1, 3] {
        sender.confirm(ids[arrived]);
    }
    sender.take_sent();
    sender.tick(INTERVAL - Duration::from_millis(1));
    assert!(sender.sent.is_empty());
    sender.tick(Duration::from_millis(1));
    assert_eq!(sender.take_sent(), [3]);
    sender.confirm(ids[2]);
    sender.tick(INTERVAL);
    assert!(sender.sent.is_empty());
}

#[test]
fn after_a_restart_the_unconfirmed_go_before_the_fresh() {
    let mut sender = Sender::new(RedeliverySettings::default());
    let first = sender.deliver(1);
    sender.deliver(2);
    sender.deliver(3);
    sender.confirm(first);
    sender.take_sent();
    sender.restart();
    sender.tick(Duration::ZERO);
    assert_eq!(sender.deliver(4).get(), 4, "no number is used twice");
    assert_eq!(sender.take_sent(), [2, 3, 4]);
}

/// A snapshot has the unconfirmed and the last number, also when all are confirmed.
#[test]
fn a_snapshot_has_it_all() {
    let mut deliveries = Deliveries::default();
    for restored in [false, true] {
        if restored {
            let json = serde_json::to_string(&deliveries).unwrap();
            deliveries = serde_json::from_str(&json).unwrap();
        }
        let id = deliveries.deliver("a".to_owned(), 1);
        assert!(deliveries.is_unconfirmed(id));
        assert!(deliveries.confirm(id));
        assert!(!deliveries.confirm(id), "confirmed twice");
    }
    assert_eq!((deliveries.last_id().get(), deliveries.len()), (2, 0));
}

#[test]
fn a_warning_after_five_attempts_is_given_once() {
    let mut sender = Sender::new(RedeliverySettings::default());
    sender.deliver(1);
    sender.deliver(2);
    for attempts in 2..=5 {
        sender.tick(INTERVAL);
        assert!(sender.warned.is_empty(), "{attempts} attempts");
    }
    sender.tick(INTERVAL);
    assert_eq!(sender.warned, [1, 2]);
    sender.tick(INTERVAL * 3);
    assert_eq!(sender.warned, [1, 2]);
}

#[test]
fn bursts_are_limited() {
    let mut sender = Sender::new(RedeliverySettings {
        burst_limit: 2,
        ..RedeliverySettings::default()
    });
    for message in 1..=5 {
        sender.deliver(message);
    }
    assert_eq!(
        sender.take_sent().len(),
        5,
        "what is fresh is not held back"
    );
    sender.tick(INTERVAL);
    assert_eq!(sender.take_sent(), [1, 2]);
    sender.tick(Duration::ZERO);
    assert!(sender.sent.is_empty(), "not before the next tick");
    let next_at = sender.redelivery.next_at();
    assert_eq!(next_at, Some(sender.now + INTERVAL / 2));
    sender.tick(INTERVAL / 2);
    assert_eq!(sender.take_sent(), [3, 4]);
    sender.tick(INTERVAL / 2);
    assert_eq!(sender.take_sent(), [5, 1]);
}

#[test]
fn the_unconfirmed_are_limited() {
    let mut deliveries = Deliveries::default();
    deliveries.deliver("a", 1);
    assert_eq!(deliveries.check_room(1, 2), Ok(()));
    let refused = TooManyUnconfirmed {
        unconfirmed: 1,
        more: 2,
        max_unconfirmed: 2,
    };
    assert_eq!(deliveries.check_room(2, 2), Err(refused));
}

proptest! {
    /// Whatever is lost and whenever the sender restarts: as long as time goes on, each
    /// message is sent until it is confirmed, and never afterwards.
    #[test]
    fn nothing_is_forgotten(
        burst_limit in 1_usize..4,
        steps in prop::collection::vec((0_u8..4, 0_usize..8), 1..60),
    ) {
        let mut sender = Sender::new(RedeliverySettings { burst_limit, ..RedeliverySettings::default() });
        for (message, (step, which)) in (1..).zip(steps) {
            sender.take_sent();
            match step {
                0 => drop(sender.deliver(message)),
                1 => sender.tick(INTERVAL / 3),
                2 => sender.restart(),
                _ => {
                    let id = sender.deliveries.unconfirmed().nth(which).map(|d| d.id);
                    if let Some(id) = id {
                        sender.confirm(id);
                    }
                }
            }
            prop_assert_eq!(sender.redelivery.len(), sender.deliveries.len());
        }
        // Let go on as long as it takes: each is sent again within a bounded time.
        let mut missing: BTreeSet<u32> = sender.deliveries.unconfirmed().map(|d| d.message).collect();
        sender.take_sent();
        for _ in 0..200 {
            sender.tick(INTERVAL / 2);
            for sent in sender.take_sent() {
                prop_assert!(sender.deliveries.unconfirmed().any(|d| d.message == sent));
                missing.remove(&sent);
            }
        }
        prop_assert!(missing.is_empty(), "never sent again: {:?}", missing);
    }
}
