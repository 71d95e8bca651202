//! Death, and what does not count as a sign of life.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::SessionUuid;
use uuid::Uuid;

use super::{DetectorSettings, FailureDetector, Verdict};
use crate::cluster_state::{ClusterCommand, ClusterState, Member, MemberStatus};
use crate::peer::Heartbeat;

const A: NodeNr = NodeNr(1);
const B: NodeNr = NodeNr(2);

struct Leader {
    detector: FailureDetector,
    state: ClusterState,
    start: Instant,
}

fn session(node: NodeNr, incarnation: u64) -> SessionUuid {
    SessionUuid(Uuid::from_u64_pair(node.0, incarnation))
}

impl Leader {
    fn new(settings: DetectorSettings) -> Self {
        let start = Instant::now();
        let mut leader = Self {
            detector: FailureDetector::new(settings, start),
            state: ClusterState::new(Uuid::nil(), 1, 1),
            start,
        };
        leader.join(A, 1, 0);
        leader.join(B, 1, 0);
        leader
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn join(&mut self, node: NodeNr, incarnation: u64, ms: u64) {
        let member = Member {
            node,
            incarnation,
            session: session(node, incarnation),
            address: String::new(),
            peer_address: String::new(),
            version: String::new(),
            weight: 1,
            status: MemberStatus::Joining,
            removing: false,
        };
        let command = ClusterCommand::Join { member, at: 0 };
        self.state.apply(self.state.index + 1, &command);
        self.detector.watch(&self.state, self.at(ms));
    }

    /// A heartbeat of a node's first session.
    fn heard(&mut self, node: NodeNr, journal_in_reach: bool, ms: u64) -> bool {
        let heartbeat = Heartbeat {
            number: ms,
            journal_in_reach,
            live_entities: node.0 * 10,
            index: ms,
        };
        let now = self.at(ms);
        self.detector.heard(node, session(node, 1), heartbeat, now)
    }

    fn verdict(&self, node: NodeNr, ms: u64) -> Verdict {
        let member = self.state.member(node).unwrap();
        self.detector.verdict(member, self.at(ms))
    }
}

#[test]
fn a_session_is_dead_when_nothing_was_heard_for_down_after() {
    let mut leader = Leader::new(DetectorSettings::default());
    assert_eq!(leader.verdict(A, 1999), Verdict::Awaited);
    assert!(leader.heard(A, true, 1000));
    assert_eq!(leader.verdict(A, 2999), Verdict::Alive);
    assert_eq!(leader.verdict(A, 3000), Verdict::Dead);
    assert_eq!(leader.verdict(B, 2000), Verdict::Dead);
    assert_eq!(
        leader
            .detector
            .silent_for(Duration::from_millis(400), leader.at(1399))
            .collect::<Vec<_>>(),
        [(B, session(B, 1))]
    );
}

#[test]
fn every_session_has_its_own_time() {
    let mut leader = Leader::new(DetectorSettings::default());
    leader.join(A, 2, 5000);
    assert_eq!(leader.verdict(A, 6999), Verdict::Awaited);
    assert!(!leader.heard(A, true, 6999), "of the earlier session");
    assert_eq!(leader.verdict(A, 7000), Verdict::Dead);
}

#[test]
fn members_that_became_known_before_it_led_have_down_after_from_then_on() {
    let start = Instant::now();
    let mut leader = Leader::new(DetectorSettings::default());
    let led_since = start + Duration::from_secs(10);
    leader.detector = FailureDetector::new(DetectorSettings::default(), led_since);
    leader.detector.watch(&leader.state, start);
    leader.start = start;
    assert_eq!(leader.verdict(A, 11_999), Verdict::Awaited);
    assert_eq!(leader.verdict(A, 12_000), Verdict::Dead);
}

#[test]
fn who_alone_cannot_reach_the_journal_dies() {
    let mut leader = Leader::new(DetectorSettings::default());
    for ms in (0..=5900).step_by(100) {
        assert!(leader.heard(B, true, ms));
        assert_eq!(leader.heard(A, ms < 100, ms), ms < 5100, "at {ms}");
    }
    assert!(leader.detector.journal_in_doubt());
    assert_eq!(leader.verdict(A, 6999), Verdict::Alive, "its lease may run");
    assert_eq!(leader.verdict(A, 7000), Verdict::Dead);
    assert_eq!(leader.verdict(B, 7000), Verdict::Alive);
    assert!(
        leader.heard(A, true, 6900),
        "it has the journal back in time"
    );
    assert_eq!(leader.verdict(A, 7000), Verdict::Alive);
    assert!(!leader.detector.journal_in_doubt());
}

#[test]
fn if_nobody_can_reach_the_journal_nobody_dies() {
    let mut leader = Leader::new(DetectorSettings::default());
    for ms in (0..20_000).step_by(200) {
        assert!(leader.heard(A, false, ms));
        // B notices later, as it uses the journal less.
        assert!(leader.heard(B, ms < 4000, ms));
    }
}

/// They do not all notice at once.
#[test]
fn when_the_journal_is_back_all_have_time_to_notice() {
    let mut leader = Leader::new(DetectorSettings::default());
    for ms in (0..30_000).step_by(200) {
        assert!(leader.heard(B, ms >= 20_000, ms));
        let in_time = ms < 25_000;
        assert_eq!(leader.heard(A, false, ms), in_time, "at {ms}");
    }
}

/// What a dead node last said about the journal is no reason to move anything.
#[test]
fn only_the_living_say_that_the_journal_is_in_reach() {
    let mut leader = Leader::new(DetectorSettings::default());
    assert!(leader.heard(B, true, 0));
    for ms in (0..20_000).step_by(200) {
        assert!(leader.heard(A, false, ms), "at {ms}");
    }
}

#[test]
fn a_refused_connection_is_death_only_if_told_so() {
    let mut leader = Leader::new(DetectorSettings::default());
    assert!(leader.heard(A, true, 0));
    leader.detector.connection_refused(A, session(A, 1));
    assert_eq!(leader.verdict(A, 1), Verdict::Alive);

    let settings = DetectorSettings {
        refused_means_dead: true,
        ..DetectorSettings::default()
    };
    let mut leader = Leader::new(settings);
    assert!(leader.heard(A, true, 0));
    leader.detector.connection_refused(A, session(A, 2));
    assert_eq!(leader.verdict(A, 1), Verdict::Alive, "of another session");
    leader.detector.connection_refused(A, session(A, 1));
    assert_eq!(leader.verdict(A, 1), Verdict::Dead);
    assert!(leader.heard(A, true, 2));
    assert_eq!(leader.verdict(A, 3), Verdict::Alive, "it was heard since");
}

#[test]
fn an_ignored_session_dies_when_its_lease_has_run_out() {
    let mut leader = Leader::new(DetectorSettings::default());
    assert!(leader.heard(A, true, 1000));
    leader.detector.ignore(A, session(A, 1));
    assert!(!leader.heard(A, true, 1200));
    assert_eq!(leader.verdict(A, 2999), Verdict::Alive);
    assert_eq!(leader.verdict(A, 3000), Verdict::Dead);
    leader.join(A, 2, 3000);
    assert_eq!(leader.verdict(A, 3000), Verdict::Awaited);
}

#[test]
fn the_latest_heartbeats_can_be_asked_for() {
    let mut leader = Leader::new(DetectorSettings::default());
    assert!(leader.heard(B, true, 300));
    let live: Vec<_> = leader.detector.live_entities().collect();
    assert_eq!(live, [(B, 20)]);
    let index = |node| leader.detector.index_of(leader.state.member(node).unwrap());
    assert_eq!(index(A), None);
    assert_eq!(index(B), Some(300));
}
