//! I-11: no node recovers more entities at once than it is allowed to.

use std::collections::BTreeMap;

use crate::network::Host;
use crate::verdict::Verdict;

pub(super) struct BoundedRecoveries {
    limit: usize,
    under_way: BTreeMap<Host, usize>,
}

impl BoundedRecoveries {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            under_way: BTreeMap::new(),
        }
    }

    pub(super) fn begin(&mut self, host: Host, entities: usize, now: u64, verdict: &Verdict) {
        let under_way = self.under_way.entry(host).or_default();
        *under_way += entities;
        if *under_way > self.limit {
            let limit = self.limit;
            let what = format!("{host:?} recovers {under_way} entities at once, not {limit}");
            verdict.violated("I-11", now, what);
        }
    }

    pub(super) fn end(&mut self, host: Host, entities: usize) {
        if let Some(under_way) = self.under_way.get_mut(&host) {
            *under_way = under_way.saturating_sub(entities);
        }
    }
}
