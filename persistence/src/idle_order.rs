//! Which entity has been idle for the longest.
//!
//! A least-recently-used order over slab indices: the links live in a vector
//! beside the slab, 12 bytes for each slot, so that touching an entity costs a
//! few writes and no allocation. It knows neither entities nor clocks: the
//! caller passivates what it hands out. Next: `runtime/worker.rs`, which does.
//!
//! Time is counted in *ticks*, a `u32` of a unit the caller chooses; at a tenth
//! of a second they last for 13 years of uptime. An entity touched during tick
//! `t` is handed out when more than the time-out has passed since `t`: never
//! early, and at most one tick late.

/// A point in time, in ticks since the caller's start. Must not go backwards.
pub type Tick = u32;

/// No slot: the end of the list.
const NONE: u32 = u32::MAX;
/// In `newer` of a slot that is not in the list.
const ABSENT: u32 = u32::MAX - 1;

/// Slots in the order in which they were last touched.
#[derive(Debug)]
pub struct IdleOrder {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
    touched: Tick,
}

const UNLINKED: Link = Link {
    older: NONE,
    newer: ABSENT,
    touched: 0,
};

impl Default for IdleOrder {
    fn default() -> Self {
        Self::new()
    }
}

impl IdleOrder {
    /// An empty order.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            links: Vec::new(),
            oldest: NONE,
            newest: NONE,
            len: 0,
        }
    }

    /// Makes a slot the most recently used; inserts it if it is not in the order.
    ///
    /// Memory is held for the highest slot ever touched, so slots should be
    /// dense, as a slab's are; the two highest `u32` are not slots.
    ///
    /// # Panics
    /// When `slot` is one of the two highest `u32`.
    pub fn touch(&mut self, slot: u32, now: Tick) {
        assert!(slot < ABSENT, "{slot} is not a slot of a slab");
        if self.newest == slot {
            self.links[slot as usize].touched = now;
            return;
        }
        self.remove(slot);
        let index = slot as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, UNLINKED);
        }
        self.links[index] = Link {
            older: self.newest,
            newer: NONE,
            touched: now,
        };
        if self.newest == NONE {
            self.oldest = slot;
        } else {
            self.links[self.newest as usize].newer = slot;
        }
        self.newest = slot;
        self.len += 1;
    }

    /// Takes a slot out of the order; false if it was not in it.
    pub fn remove(&mut self, slot: u32) -> bool {
        if !self.contains(slot) {
            return false;
        }
        let link = std::mem::replace(&mut self.links[slot as usize], UNLINKED);
        if link.older == NONE {
            self.oldest = link.newer;
        } else {
            self.links[link.older as usize].newer = link.newer;
        }
        if link.newer == NONE {
            self.newest = link.older;
        } else {
            self.links[link.newer as usize].older = link.older;
        }
        self.len -= 1;
        true
    }

    /// Takes out the least recently used slot.
    pub fn pop_oldest(&mut self) -> Option<u32> {
        let (slot, _) = self.oldest()?;
        self.remove(slot);
        Some(slot)
    }

    /// Takes out the least recently used slot if it has been idle for more than
    /// `idle_timeout` ticks. To be called until it returns `None`.
    pub fn pop_expired(&mut self, now: Tick, idle_timeout: Tick) -> Option<u32> {
        let (slot, touched) = self.oldest()?;
        if now.saturating_sub(touched) <= idle_timeout {
            return None;
        }
        self.remove(slot);
        Some(slot)
    }

    /// The least recently used slot and when it was last touched.
    #[must_use]
    pub fn oldest(&self) -> Option<(u32, Tick)> {
        let link = self.links.get(self.oldest as usize)?;
        Some((self.oldest, link.touched))
    }

    /// Whether a slot is in the order.
    #[must_use]
    pub fn contains(&self, slot: u32) -> bool {
        self.links
            .get(slot as usize)
            .is_some_and(|link| link.newer != ABSENT)
    }

    /// Number of slots in the order.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod idle_order_test;
