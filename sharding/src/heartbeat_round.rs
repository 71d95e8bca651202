//! Which heartbeats the leader may acknowledge.
//!
//! A leader that was replaced may not know it yet; acknowledging heartbeats it would
//! keep leases alive that its successor believes to have run out. So a heartbeat is
//! acknowledged only after a quorum has confirmed the leader in a round that *began
//! after the heartbeat arrived*. One round is under way at a time and serves all
//! that arrived before it. Pure: rounds are made by `leader.rs`. Next: `lease.rs`,
//! what an acknowledgement is worth.

/// Heartbeats wait for a round; more than two of each node never do, and there are
/// far fewer nodes than this.
const WAITING_MAX: usize = 1024;

/// Heartbeats on their way to being acknowledged; `W` is who waits for it.
#[derive(Debug)]
pub struct HeartbeatRounds<W> {
    /// Arrived after the round under way began.
    waiting: Vec<W>,
    /// Covered by the round under way.
    under_way: Option<Vec<W>>,
}

impl<W> Default for HeartbeatRounds<W> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            under_way: None,
        }
    }
}

impl<W> HeartbeatRounds<W> {
    /// A heartbeat arrived.
    ///
    /// # Errors
    /// Gives it back when too many wait already.
    pub fn arrived(&mut self, heartbeat: W) -> Result<(), W> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(heartbeat);
        }
        self.waiting.push(heartbeat);
        Ok(())
    }

    /// Begins a round if none is under way and somebody waits for one. When it
    /// returns true, ask the quorum now and then call [`Self::end`].
    #[must_use]
    pub fn begin(&mut self) -> bool {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return false;
        }
        self.under_way = Some(std::mem::take(&mut self.waiting));
        true
    }

    /// The round has ended. Returns the heartbeats it covered: to be acknowledged if
    /// the quorum confirmed the leader, else to be refused.
    #[must_use]
    pub fn end(&mut self) -> Vec<W> {
        self.under_way.take().unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_round_covers_what_arrived_before_it_began() {
        let mut rounds = HeartbeatRounds::default();
        assert!(!rounds.begin(), "nobody waits");
        rounds.arrived("a1").unwrap();
        rounds.arrived("b1").unwrap();
        assert!(rounds.begin());
        rounds.arrived("a2").unwrap();
        assert!(!rounds.begin(), "one at a time");
        assert_eq!(rounds.end(), ["a1", "b1"]);
        assert!(rounds.begin());
        assert_eq!(rounds.end(), ["a2"]);
        assert!(!rounds.begin());
    }

    #[test]
    fn the_number_that_wait_is_bounded() {
        let mut rounds = HeartbeatRounds::default();
        for n in 0..WAITING_MAX {
            rounds.arrived(n).unwrap();
        }
        assert_eq!(rounds.arrived(9_999), Err(9_999));
        assert!(rounds.begin());
        rounds.arrived(9_999).unwrap();
    }
}
