//! Which of a worker's entities have been idle for too long, where entity types may
//! differ in how long that is.
//!
//! Types with the same time-out share an order, so there are as many orders as
//! time-outs, not types. It knows neither clocks nor cells. Next: `idle_order.rs`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::idle_order::{IdleOrder, Tick};

use super::ticks;

/// After which time entities count as idle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdleTimeouts {
    /// Of types that are not named.
    pub(crate) default: Duration,
    pub(crate) by_type: BTreeMap<String, Duration>,
}

/// A worker's idle entities, by slot.
pub(super) struct Idleness {
    /// The first is for types that are not named.
    classes: Vec<Class>,
    by_type: HashMap<String, usize>,
}

struct Class {
    timeout: Tick,
    order: IdleOrder,
}

impl Idleness {
    pub(super) fn new(timeouts: &IdleTimeouts) -> Self {
        let class = |timeout| Class {
            timeout: ticks(timeout),
            order: IdleOrder::new(),
        };
        let mut classes = vec![class(timeouts.default)];
        let mut by_type = HashMap::new();
        for (entity_type, timeout) in &timeouts.by_type {
            let same = |class: &Class| class.timeout == ticks(*timeout);
            let place = classes.iter().position(same).unwrap_or_else(|| {
                classes.push(class(*timeout));
                classes.len() - 1
            });
            by_type.insert(entity_type.clone(), place);
        }
        Self { classes, by_type }
    }

    /// Other time-outs from now on; how long entities have been idle stays.
    pub(super) fn change<'a>(&mut self, timeouts: &IdleTimeouts, type_of: impl Fn(u32) -> &'a str) {
        let mut changed = Self::new(timeouts);
        while let Some((slot, touched)) = self.oldest() {
            self.remove(slot);
            changed.touch(slot, type_of(slot), touched);
        }
        *self = changed;
    }

    /// An entity has nothing to do from now on.
    pub(super) fn touch(&mut self, slot: u32, entity_type: &str, now: Tick) {
        let class = match self.by_type.is_empty() {
            true => 0,
            false => self.by_type.get(entity_type).copied().unwrap_or(0),
        };
        self.classes[class].order.touch(slot, now);
    }

    /// It has something to do, or is gone.
    pub(super) fn remove(&mut self, slot: u32) {
        for class in &mut self.classes {
            class.order.remove(slot);
        }
    }

    /// Which has been idle for the longest, and since when.
    pub(super) fn oldest(&self) -> Option<(u32, Tick)> {
        let oldest = self.classes.iter().filter_map(|class| class.order.oldest());
        oldest.min_by_key(|(_, touched)| *touched)
    }

    pub(super) fn pop_oldest(&mut self) -> Option<u32> {
        let (slot, _) = self.oldest()?;
        self.remove(slot);
        Some(slot)
    }

    /// One that has been idle for longer than its type may be.
    pub(super) fn pop_expired(&mut self, now: Tick) -> Option<u32> {
        let classes = self.classes.iter_mut();
        let mut expired = classes.map(|class| class.order.pop_expired(now, class.timeout));
        expired.find_map(|slot| slot)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn timeouts(default: u64, by_type: &[(&str, u64)]) -> IdleTimeouts {
        let of = |(name, ms): &(&str, u64)| ((*name).to_owned(), Duration::from_millis(*ms));
        IdleTimeouts {
            default: Duration::from_millis(default),
            by_type: by_type.iter().map(of).collect(),
        }
    }

    fn expired(idleness: &mut Idleness, now: Tick) -> Vec<u32> {
        std::iter::from_fn(|| idleness.pop_expired(now)).collect()
    }

    #[test]
    fn each_type_has_its_own_timeout() {
        let mut idleness = Idleness::new(&timeouts(1000, &[("short", 200), ("brief", 200)]));
        assert_eq!(idleness.classes.len(), 2);
        idleness.touch(1, "usual", 0);
        idleness.touch(2, "short", 1);
        idleness.touch(3, "brief", 2);
        assert_eq!(expired(&mut idleness, 3), [0; 0]);
        assert_eq!(expired(&mut idleness, 4), [2]);
        assert_eq!(idleness.oldest(), Some((1, 0)));
        assert_eq!(expired(&mut idleness, 11), [1, 3]);
    }

    #[test]
    fn a_change_keeps_how_long_they_have_been_idle() {
        let mut idleness = Idleness::new(&timeouts(1000, &[("short", 200)]));
        let names = ["usual", "short", "usual"];
        for (slot, name) in names.into_iter().enumerate() {
            idleness.touch(slot as u32, name, slot as Tick);
        }
        idleness.change(&timeouts(300, &[]), |slot| names[slot as usize]);
        assert_eq!(expired(&mut idleness, 4), [0]);
        assert_eq!(expired(&mut idleness, 6), [1, 2]);
    }
}
