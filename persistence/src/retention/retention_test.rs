//! The retention vectors and traces of the conformance text, and what holds for
//! chains that overlap or fail.

use proptest::prelude::*;

use super::*;

fn nr(nr: u64) -> SequenceNr {
    SequenceNr::new(nr)
}

fn settings(every: u32, keep: u32) -> RetentionSettings {
    RetentionSettings {
        every,
        keep,
        delete_events: false,
    }
}

fn with_events(every: u32, keep: u32) -> RetentionSettings {
    RetentionSettings {
        delete_events: true,
        ..settings(every, keep)
    }
}

#[test]
fn case_5_7_upper_bounds_of_deletions() {
    let bounds = [
        (1, 0),
        (3, 0),
        (4, 0),
        (6, 0),
        (7, 1),
        (9, 3),
        (10, 4),
        (12, 6),
        (13, 7),
        (15, 9),
        (18, 12),
        (20, 14),
    ];
    for (last, bound) in bounds {
        assert_eq!(
            settings(3, 2).delete_upper_bound(nr(last)),
            nr(bound),
            "{last}"
        );
    }
}

/// Counts up one event at a time; everything is saved and deleted at once.
struct Counter {
    retention: Retention,
    asked_at: &'static [u64],
    value: u64,
}

impl Counter {
    fn new(settings: RetentionSettings, asked_at: &'static [u64]) -> Self {
        Self {
            retention: Retention::new(settings),
            asked_at,
            value: 0,
        }
    }

    /// Increments up to a value; what happens, in the notation of the traces.
    fn up_to(&mut self, value: u64) -> String {
        let mut trace = Vec::new();
        while self.value < value {
            self.value += 1;
            let (at, asked) = (nr(self.value), self.asked_at.contains(&self.value));
            let Some(snapshot) = self.retention.after_write(at, at, asked) else {
                continue;
            };
            trace.push(format!("s{}", snapshot.sequence_nr));
            let mut deletion = self.retention.snapshot_saved(snapshot.sequence_nr);
            while let Some(step) = deletion {
                trace.push(match step {
                    Deletion::Events(to) => format!("e{to}"),
                    Deletion::Snapshots(to) => format!("d{to}"),
                });
                deletion = self.retention.deleted();
            }
        }
        trace.join(" ")
    }
}

#[test]
fn case_5_7_trace_every_3_keep_2() {
    let mut counter = Counter::new(settings(3, 2), &[]);
    assert_eq!(counter.up_to(10), "s3 s6 s9 d3");
    assert_eq!(counter.up_to(13), "s12 d6");
    assert_eq!(counter.up_to(16), "s15 d9");
    assert_eq!(counter.up_to(20), "s18 d12");
}

#[test]
fn case_5_7_trace_every_3_keep_2_with_events() {
    let mut counter = Counter::new(with_events(3, 2), &[]);
    assert_eq!(counter.up_to(10), "s3 s6 s9 e3 d2");
    assert_eq!(counter.up_to(13), "s12 e6 d5");
    assert_eq!(counter.up_to(16), "s15 e9 d8");
    assert_eq!(counter.up_to(20), "s18 e12 d11");
}

#[test]
fn case_5_7_trace_asked_at_3_and_13_every_5_keep_1() {
    let mut counter = Counter::new(settings(5, 1), &[3, 13]);
    assert_eq!(counter.up_to(3), "s3");
    assert_eq!(counter.up_to(10), "s5 s10 d5");
    assert_eq!(counter.up_to(13), "s13");
    assert_eq!(counter.up_to(16), "s15 d10");
}

#[test]
fn case_5_7_trace_asked_at_3_and_13_every_2_keep_3_with_events() {
    let mut counter = Counter::new(with_events(2, 3), &[3, 13]);
    assert_eq!(counter.up_to(3), "s2 s3");
    assert_eq!(counter.up_to(4), "s4");
    assert_eq!(counter.up_to(6), "s6");
    assert_eq!(counter.up_to(8), "s8 e2 d1");
    assert_eq!(counter.up_to(10), "s10 e4 d3");
    assert_eq!(counter.up_to(12), "s12 e6 d5");
    assert_eq!(counter.up_to(13), "s13");
    assert_eq!(counter.up_to(14), "s14 e8 d7");
    assert_eq!(counter.up_to(16), "s16 e10 d9");
}

#[test]
fn case_5_7_asking_alone_deletes_nothing() {
    let mut counter = Counter::new(settings(0, 1), &[3, 6, 7]);
    assert_eq!(counter.up_to(1_000), "s3 s6 s7");
}

#[test]
fn a_snapshot_asked_for_where_one_is_due_starts_deletions() {
    let mut counter = Counter::new(settings(5, 1), &[10]);
    assert_eq!(counter.up_to(10), "s5 s10 d5");
}

#[test]
fn case_5_7_every_single_event_works() {
    let mut counter = Counter::new(settings(1, 1), &[]);
    assert_eq!(counter.up_to(4), "s1 s2 d1 s3 d2 s4 d3");
    let mut counter = Counter::new(with_events(1, 1), &[]);
    // The snapshots up to the bound less one; at 1 there is none.
    assert_eq!(counter.up_to(4), "s1 s2 e1 s3 e2 d1 s4 e3 d2");
}

#[test]
fn case_5_7_a_write_over_the_boundary_is_snapshot_at_its_last_event() {
    let taken = |first, last| {
        let mut retention = Retention::new(settings(3, 2));
        let snapshot = retention.after_write(nr(first), nr(last), false);
        snapshot.map(|snapshot| snapshot.sequence_nr.get())
    };
    assert_eq!(taken(2, 4), Some(4));
    assert_eq!(taken(1, 3), Some(3));
    assert_eq!(taken(3, 4), Some(4));
    assert_eq!(taken(1, 8), Some(8));
    assert_eq!(taken(1, 2), None);
    assert_eq!(taken(4, 5), None);
    let mut retention = Retention::new(settings(3, 2));
    let snapshot = retention.after_write(nr(8), nr(10), false);
    assert_eq!(
        snapshot,
        Some(TakeSnapshot {
            sequence_nr: nr(10)
        })
    );
    let deletion = retention.snapshot_saved(nr(10));
    assert_eq!(deletion, Some(Deletion::Snapshots(nr(4))));
}

#[test]
fn case_5_7_recovery_of_as_many_events_as_are_due_ends_with_a_snapshot() {
    let taken = |every, replayed, last| {
        let mut retention = Retention::new(settings(every, 2));
        let snapshot = retention.after_recovery(replayed, nr(last));
        snapshot.map(|snapshot| snapshot.sequence_nr.get())
    };
    assert_eq!(taken(3, 2, 2), None);
    assert_eq!(taken(3, 3, 3), Some(3));
    assert_eq!(taken(3, 4, 4), Some(4));
    assert_eq!(taken(3, 2, 11), None);
    assert_eq!(taken(3, 3, 11), Some(11));
    assert_eq!(taken(0, 1_000, 1_000), None);
    assert_eq!(taken(3, 0, 0), None);
    let mut retention = Retention::new(settings(3, 2));
    assert!(retention.after_recovery(11, nr(11)).is_some());
    assert_eq!(
        retention.snapshot_saved(nr(11)),
        Some(Deletion::Snapshots(nr(5)))
    );
}

#[test]
fn one_snapshot_is_saved_at_a_time() {
    let mut retention = Retention::new(settings(3, 1));
    assert!(retention.after_write(nr(3), nr(3), false).is_some());
    assert_eq!(retention.after_write(nr(4), nr(4), true), None);
    assert_eq!(retention.after_write(nr(6), nr(6), true), None);
    // The report of another snapshot changes nothing.
    assert_eq!(retention.snapshot_saved(nr(2)), None);
    assert_eq!(retention.after_write(nr(7), nr(7), true), None);
    assert_eq!(retention.snapshot_saved(nr(3)), None);
    assert!(retention.after_write(nr(9), nr(9), false).is_some());
    assert_eq!(
        retention.snapshot_saved(nr(9)),
        Some(Deletion::Snapshots(nr(6)))
    );
    assert_eq!(retention.snapshot_saved(nr(9)), None);
}

#[test]
fn case_5_7_a_second_chain_is_skipped_while_one_runs() {
    let mut retention = Retention::new(with_events(3, 1));
    assert!(retention.after_write(nr(6), nr(6), false).is_some());
    assert_eq!(
        retention.snapshot_saved(nr(6)),
        Some(Deletion::Events(nr(3)))
    );
    assert_eq!(retention.after_write(nr(9), nr(9), false), None);
    assert_eq!(retention.deleted(), Some(Deletion::Snapshots(nr(2))));
    assert_eq!(retention.after_write(nr(12), nr(12), false), None);
    // One that is asked for is taken meanwhile, and deletes nothing, even where
    // one is due by the count.
    assert!(retention.after_write(nr(15), nr(15), true).is_some());
    assert_eq!(retention.snapshot_saved(nr(15)), None);
    assert_eq!(retention.deleted(), None);
    // The next chain covers what was skipped.
    assert!(retention.after_write(nr(18), nr(18), false).is_some());
    assert_eq!(
        retention.snapshot_saved(nr(18)),
        Some(Deletion::Events(nr(15)))
    );
}

#[test]
fn a_failed_snapshot_deletes_nothing() {
    let mut retention = Retention::new(settings(3, 1));
    assert!(retention.after_write(nr(6), nr(6), false).is_some());
    retention.snapshot_failed();
    assert_eq!(retention.snapshot_saved(nr(6)), None);
    assert!(retention.after_write(nr(9), nr(9), false).is_some());
    assert_eq!(
        retention.snapshot_saved(nr(9)),
        Some(Deletion::Snapshots(nr(6)))
    );
}

#[test]
fn a_failed_deletion_of_events_keeps_the_snapshots() {
    let mut retention = Retention::new(with_events(3, 1));
    assert!(retention.after_write(nr(6), nr(6), false).is_some());
    assert_eq!(
        retention.snapshot_saved(nr(6)),
        Some(Deletion::Events(nr(3)))
    );
    retention.delete_failed();
    assert_eq!(retention.deleted(), None);
    assert!(retention.after_write(nr(9), nr(9), false).is_some());
    assert_eq!(
        retention.snapshot_saved(nr(9)),
        Some(Deletion::Events(nr(6)))
    );
}

#[test]
fn settings_that_keep_nothing_are_refused() {
    let default = RetentionSettings::default();
    assert_eq!(
        (default.every, default.keep, default.delete_events),
        (100, 2, false)
    );
    assert_eq!(default.validate(), Ok(default));
    assert_eq!(settings(0, 1).validate(), Ok(settings(0, 1)));
    assert_eq!(settings(3, 0).validate(), Err(InvalidRetentionSettings));
    assert!(
        InvalidRetentionSettings
            .to_string()
            .contains("persistence.snapshot.keep")
    );
}

/// One step of a life with a slow store.
#[derive(Debug, Clone)]
enum Step {
    Write { events: u64, asked: bool },
    StoreAnswers { well: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1_u64..6, prop::bool::weighted(0.2)).prop_map(|(events, asked)| Step::Write { events, asked }),
        2 => prop::bool::weighted(0.8).prop_map(|well| Step::StoreAnswers { well }),
    ]
}

proptest! {
    /// Whatever is slow or fails: the newest snapshot and the events left are
    /// the whole entity, and what is meant to stay does.
    #[test]
    fn the_newest_snapshots_and_the_events_after_them_stay(
        every in 1_u32..5,
        keep in 1_u32..4,
        delete_events: bool,
        steps in prop::collection::vec(step(), 0..100),
    ) {
        let mut retention = Retention::new(RetentionSettings { every, keep, delete_events });
        let (mut last, mut deleted_to) = (SequenceNr::ZERO, SequenceNr::ZERO);
        let mut snapshots: Vec<SequenceNr> = Vec::new();
        let (mut saving, mut deleting) = (None, None);
        for step in steps {
            match step {
                Step::Write { events, asked } => {
                    let first = last.next();
                    last = last.plus(events);
                    if let Some(snapshot) = retention.after_write(first, last, asked) {
                        prop_assert_eq!(saving, None, "two snapshots at once");
                        saving = Some(snapshot.sequence_nr);
                    }
                }
                Step::StoreAnswers { well } => {
                    let next = match (saving.take(), deleting.take(), well) {
                        (Some(saved), other, true) => {
                            snapshots.push(saved);
                            let next = retention.snapshot_saved(saved);
                            prop_assert!(next.is_none() || other.is_none(), "two chains at once");
                            next.or(other)
                        }
                        (Some(_), other, false) => {
                            retention.snapshot_failed();
                            other
                        }
                        (None, Some(Deletion::Events(to)), true) => {
                            deleted_to = deleted_to.max(to);
                            retention.deleted()
                        }
                        (None, Some(Deletion::Snapshots(to)), true) => {
                            snapshots.retain(|&snapshot| snapshot > to);
                            let kept = u64::from(every * keep);
                            prop_assert!(to.plus(kept) <= *snapshots.last().unwrap());
                            prop_assert!(!delete_events || to < deleted_to, "events first");
                            retention.deleted()
                        }
                        (None, Some(_), false) => {
                            retention.delete_failed();
                            None
                        }
                        (None, None, _) => None,
                    };
                    deleting = next;
                }
            }
            let newest = snapshots.last().copied().unwrap_or(SequenceNr::ZERO);
            prop_assert!(newest >= deleted_to, "events after {newest} are deleted up to {deleted_to}");
        }
    }
}
