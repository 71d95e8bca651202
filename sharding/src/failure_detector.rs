//! Who is alive, as the leader sees it.
//!
//! A session is dead when nothing that counts was heard of it for `down_after`. The
//! count begins anew for every session and with every leader, because what an
//! earlier leader acknowledged is not known. Only heartbeats that count may be
//! acknowledged, so that no lease outlives the leader's patience. A heartbeat does
//! not count from a node
//!
//! * that has not reached the journal for a while in which others have: its shards are
//!   better off elsewhere. If nobody can, all count and nothing moves, and when it is
//!   back, all have time to notice;
//! * that was [`ignored`](FailureDetector::ignore), because it does not follow the
//!   log any more.
//!
//! Such a node runs out of its lease first, and is dead only then. Pure: `now` is an
//! argument. Next: `coordinator.rs`, which acts on it.

#[cfg(test)]
mod failure_detector_test;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::SessionUuid;

use crate::cluster_state::{ClusterState, Member, MemberStatus};
use crate::peer::Heartbeat;

/// How the detector judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetectorSettings {
    /// A session of which nothing was heard for so long is dead.
    pub down_after: Duration,
    /// A node may be out of the journal's reach for so long while others are not:
    /// longer than it takes until all notice that the journal itself has gone, or is
    /// back.
    pub journal_patience: Duration,
    /// A refused connection counts as death at once. Only for
    /// `cluster.reads = journal`: a lease may still be running.
    pub refused_means_dead: bool,
}

impl Default for DetectorSettings {
    fn default() -> Self {
        Self {
            down_after: Duration::from_secs(2),
            journal_patience: Duration::from_secs(5),
            refused_means_dead: false,
        }
    }
}

/// What the detector thinks of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was heard of it yet, but it still has time.
    Awaited,
    /// Heard of.
    Alive,
    /// Not heard of for too long.
    Dead,
}

/// Who is alive, as one leader sees it in one term.
#[derive(Debug)]
pub struct FailureDetector {
    settings: DetectorSettings,
    led_since: Instant,
    nodes: BTreeMap<NodeNr, Watched>,
}

/// What is known of a node's present session.
#[derive(Debug)]
struct Watched {
    session: SessionUuid,
    /// The latest heartbeat that counted, or when the session became known.
    alive_at: Instant,
    /// The latest heartbeat, whether it counted or not.
    heartbeat: Option<Heartbeat>,
    journal_in_since: Option<Instant>,
    journal_out_since: Option<Instant>,
    refused: bool,
    ignored: bool,
}

impl FailureDetector {
    /// Of a leader that has led since `led_since`; knows nobody.
    #[must_use]
    pub fn new(settings: DetectorSettings, led_since: Instant) -> Self {
        Self {
            settings,
            led_since,
            nodes: BTreeMap::new(),
        }
    }

    /// For how long a session may be silent before it is dead.
    #[must_use]
    pub fn down_after(&self) -> Duration {
        self.settings.down_after
    }

    /// Watches the sessions of all members that are not down, and nobody else.
    /// Those not watched before have `down_after` from now on.
    pub fn watch(&mut self, state: &ClusterState, now: Instant) {
        self.nodes
            .retain(|&node, watched| state.is_current(node, watched.session));
        let members = state.members.values();
        for member in members.filter(|member| member.status != MemberStatus::Down) {
            self.nodes.entry(member.node).or_insert_with(|| Watched {
                session: member.session,
                alive_at: now.max(self.led_since),
                heartbeat: None,
                journal_in_since: None,
                journal_out_since: None,
                refused: false,
                ignored: false,
            });
        }
    }

    /// A heartbeat arrived. Returns whether it counts, which it must to be
    /// acknowledged. That of a session that is not watched does not.
    #[must_use]
    pub fn heard(
        &mut self,
        node: NodeNr,
        session: SessionUuid,
        heartbeat: Heartbeat,
        now: Instant,
    ) -> bool {
        let patience = self.settings.journal_patience;
        let for_long = |since: Option<Instant>| since.is_some_and(|since| now >= since + patience);
        let others_reach_journal = self.nodes.iter().any(|(&other, watched)| {
            other != node
                && now < watched.alive_at + self.settings.down_after
                && for_long(watched.journal_in_since)
        });
        let Some(watched) = self.nodes.get_mut(&node) else {
            return false;
        };
        if watched.session != session {
            return false;
        }
        if heartbeat.journal_in_reach {
            watched.journal_out_since = None;
            watched.journal_in_since.get_or_insert(now);
        } else {
            watched.journal_in_since = None;
            watched.journal_out_since.get_or_insert(now);
        }
        let alone_without_journal = for_long(watched.journal_out_since) && others_reach_journal;
        watched.heartbeat = Some(heartbeat);
        let counts = !alone_without_journal && !watched.ignored;
        if counts {
            watched.alive_at = now;
            watched.refused = false;
        }
        counts
    }

    /// The node's address refused a connection: nobody listens there.
    pub fn connection_refused(&mut self, node: NodeNr, session: SessionUuid) {
        if let Some(watched) = self.nodes.get_mut(&node)
            && watched.session == session
        {
            watched.refused = true;
        }
    }

    /// Heartbeats of this session do not count from now on.
    pub fn ignore(&mut self, node: NodeNr, session: SessionUuid) {
        if let Some(watched) = self.nodes.get_mut(&node)
            && watched.session == session
        {
            watched.ignored = true;
        }
    }

    /// What to think of a member's session. One that is not watched is awaited.
    #[must_use]
    pub fn verdict(&self, member: &Member, now: Instant) -> Verdict {
        let Some(watched) = self.watched(member) else {
            return Verdict::Awaited;
        };
        let refused = watched.refused && self.settings.refused_means_dead;
        if refused || now >= watched.alive_at + self.settings.down_after {
            Verdict::Dead
        } else if watched.heartbeat.is_some() {
            Verdict::Alive
        } else {
            Verdict::Awaited
        }
    }

    /// Up to which index a member has applied the log, as of its latest heartbeat.
    #[must_use]
    pub fn index_of(&self, member: &Member) -> Option<u64> {
        let heartbeat = self.watched(member)?.heartbeat.as_ref()?;
        Some(heartbeat.index)
    }

    /// Whether some node said in its latest heartbeat that it cannot reach the
    /// journal.
    #[must_use]
    pub fn journal_in_doubt(&self) -> bool {
        self.nodes
            .values()
            .any(|watched| watched.journal_out_since.is_some())
    }

    /// Sessions of which nothing was heard for this long: time to look whether
    /// somebody still listens there.
    pub fn silent_for(
        &self,
        time: Duration,
        now: Instant,
    ) -> impl Iterator<Item = (NodeNr, SessionUuid)> {
        self.nodes
            .iter()
            .filter(move |(_, watched)| now >= watched.alive_at + time)
            .map(|(&node, watched)| (node, watched.session))
    }

    /// Live entities by node, as of their latest heartbeats.
    pub fn live_entities(&self) -> impl Iterator<Item = (NodeNr, u64)> {
        self.nodes.iter().filter_map(|(&node, watched)| {
            let heartbeat = watched.heartbeat.as_ref()?;
            Some((node, heartbeat.live_entities))
        })
    }

    fn watched(&self, member: &Member) -> Option<&Watched> {
        self.nodes
            .get(&member.node)
            .filter(|watched| watched.session == member.session)
    }
}
