//! What a region counts and measures.

use std::time::Duration;

/// The metrics of a region, registered once.
pub(super) struct Figures {
    /// Commands waiting for a home of their shard.
    pub(super) waiting: metrics::Gauge,
    /// Commands that had to wait.
    pub(super) buffered: metrics::Counter,
    /// Commands sent to another node.
    pub(super) forwarded: metrics::Counter,
    /// Commands that an owner gave back.
    pub(super) returned: metrics::Counter,
    /// Commands sent again after a connection was lost.
    pub(super) resent: metrics::Counter,
    /// Commands whose owner was lost before it answered.
    pub(super) owner_lost: metrics::Counter,
    homeless: metrics::Histogram,
    handoff: metrics::Histogram,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            waiting: metrics::gauge!("perennial_region_waiting"),
            buffered: metrics::counter!("perennial_region_buffered_total"),
            forwarded: metrics::counter!("perennial_region_forwarded_total"),
            returned: metrics::counter!("perennial_region_returned_total"),
            resent: metrics::counter!("perennial_region_resent_total"),
            owner_lost: metrics::counter!("perennial_region_owner_lost_total"),
            homeless: metrics::histogram!("perennial_shard_homeless_seconds"),
            handoff: metrics::histogram!("perennial_handoff_duration_seconds"),
        }
    }

    /// A shard had no home, as this node saw it, for so long.
    pub(super) fn was_homeless(&self, duration: Duration) {
        self.homeless.record(duration.as_secs_f64());
    }

    /// This node has handed a shard off, from the moment it learned that it should.
    pub(super) fn handed_off(&self, duration: Duration) {
        self.handoff.record(duration.as_secs_f64());
    }
}
