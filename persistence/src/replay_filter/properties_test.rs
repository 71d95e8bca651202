//! What holds for the replay filter whatever the stream, on random streams and
//! against a naive filter that keeps everything it ever saw in plain lists.

use proptest::prelude::*;
use uuid::Uuid;

use super::ReplayFilterMode::{Fail, Off, RepairByDiscardOld, Warn};
use super::*;

/// Number, writer (0 undefined), place in the stream.
type Event = (u64, u8, usize);

impl Replayed for Event {
    fn sequence_nr(&self) -> SequenceNr {
        SequenceNr::new(self.0)
    }

    fn writer(&self) -> WriterUuid {
        WriterUuid(Uuid::from_u128(self.1.into()))
    }
}

fn filter(settings: ReplayFilterSettings) -> ReplayFilter<Event> {
    ReplayFilter::new(PersistenceId::new("counter", "a").unwrap(), settings)
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    emitted: Vec<Event>,
    issues: usize,
    failed: bool,
}

fn run(settings: ReplayFilterSettings, stream: &[Event]) -> Outcome {
    let mut filter = filter(settings);
    let (mut emitted, mut issues) = (Vec::new(), Vec::new());
    for &event in stream {
        let _ = filter.push(event, &mut emitted, &mut issues);
    }
    let failed = filter.finish(&mut emitted).is_err();
    Outcome {
        emitted,
        issues: issues.len(),
        failed,
    }
}

/// The filter's steps written down one by one, on lists and loops only.
fn naive(settings: ReplayFilterSettings, stream: &[Event]) -> Outcome {
    let mode = settings.mode;
    let (mut emitted, mut window) = (Vec::new(), Vec::<Event>::new());
    let mut old = Vec::<u8>::new();
    let (mut current, mut last, mut issues) = (0_u8, -1_i64, 0);
    for &event in stream {
        let (number, writer) = (event.0 as i64, event.1);
        if mode == Off {
            emitted.push(event);
            continue;
        }
        if window.len() == settings.window_size {
            emitted.push(window.remove(0));
        }
        let mut wrong = false;
        if writer == current {
            wrong = number < last;
            if !wrong {
                last = number;
            }
        } else if old.contains(&writer) {
            wrong = true;
        } else {
            if current != 0 {
                old.push(current);
                if old.len() > settings.max_old_writers {
                    old.remove(0);
                }
            }
            (current, last) = (writer, number);
            let mut kept = Vec::new();
            for held in window {
                let overlaps = held.0 as i64 >= number;
                if overlaps {
                    issues += 1;
                }
                if overlaps && mode == Fail {
                    return Outcome {
                        emitted,
                        issues,
                        failed: true,
                    };
                }
                if !overlaps || mode == Warn {
                    kept.push(held);
                }
            }
            window = kept;
        }
        if wrong {
            issues += 1;
            match mode {
                Fail => {
                    return Outcome {
                        emitted,
                        issues,
                        failed: true,
                    };
                }
                RepairByDiscardOld => continue,
                Warn | Off => {}
            }
        }
        window.push(event);
    }
    emitted.extend(window);
    Outcome {
        emitted,
        issues,
        failed: false,
    }
}

/// Streams that mostly go on as a healthy one does, with a few writers, some
/// undefined, steps back and repeated numbers.
fn stream() -> impl Strategy<Value = Vec<Event>> {
    let step = (
        prop_oneof![6 => Just(1_i64), 1 => Just(0), 2 => -4_i64..4],
        prop_oneof![
            5 => Just(None),
            2 => (0_u8..6).prop_map(Some),
        ],
    );
    prop::collection::vec(step, 0..60).prop_map(|steps| {
        let (mut number, mut writer) = (3_i64, 1_u8);
        let mut stream = Vec::new();
        for (place, (step, change)) in steps.into_iter().enumerate() {
            number = (number + step).max(1);
            writer = change.unwrap_or(writer);
            stream.push((number as u64, writer, place));
        }
        stream
    })
}

fn limits() -> impl Strategy<Value = (usize, usize)> {
    (
        prop_oneof![1_usize..6, Just(100)],
        prop_oneof![1_usize..4, Just(10)],
    )
}

fn settings(mode: ReplayFilterMode, limits: (usize, usize)) -> ReplayFilterSettings {
    ReplayFilterSettings {
        mode,
        window_size: limits.0,
        max_old_writers: limits.1,
    }
}

fn is_subsequence(part: &[Event], whole: &[Event]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|event| whole.any(|other| other == event))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn agrees_with_the_naive_filter(stream in stream(), limits in limits()) {
        for mode in ReplayFilterMode::ALL {
            let settings = settings(mode, limits);
            prop_assert_eq!(run(settings, &stream), naive(settings, &stream), "{}", mode);
        }
    }

    #[test]
    fn property_1_off_and_warn_change_nothing(stream in stream(), limits in limits()) {
        for mode in [Off, Warn] {
            let outcome = run(settings(mode, limits), &stream);
            prop_assert_eq!(&outcome.emitted, &stream);
            prop_assert!(!outcome.failed);
        }
    }

    #[test]
    fn property_2_repair_only_leaves_out(stream in stream(), limits in limits()) {
        let outcome = run(settings(RepairByDiscardOld, limits), &stream);
        prop_assert!(is_subsequence(&outcome.emitted, &stream));
        // Each event left out is one issue.
        prop_assert_eq!(stream.len() - outcome.emitted.len(), outcome.issues);
    }

    #[test]
    fn property_3_fail_gives_a_prefix_and_fails_once(stream in stream(), limits in limits()) {
        let outcome = run(settings(Fail, limits), &stream);
        prop_assert!(stream.starts_with(&outcome.emitted));
        prop_assert_eq!(outcome.issues, usize::from(outcome.failed));
    }

    #[test]
    fn property_4_all_modes_agree_whether_something_is_wrong(stream in stream(), limits in limits()) {
        let fails = run(settings(Fail, limits), &stream).failed;
        prop_assert_eq!(run(settings(Warn, limits), &stream).issues > 0, fails);
        prop_assert_eq!(run(settings(RepairByDiscardOld, limits), &stream).issues > 0, fails);
    }

    #[test]
    fn property_5_repair_with_room_for_all_never_goes_back(stream in stream()) {
        let outcome = run(settings(RepairByDiscardOld, (stream.len() + 1, 6)), &stream);
        prop_assert!(outcome.emitted.is_sorted_by_key(|event| event.0), "{:?}", outcome.emitted);
    }

    #[test]
    fn property_6_warn_delays_by_the_window_at_most(stream in stream(), limits in limits()) {
        for mode in [Warn, RepairByDiscardOld] {
            let mut filter = filter(settings(mode, limits));
            let (mut out, mut issues) = (Vec::new(), Vec::new());
            for (place, &event) in stream.iter().enumerate() {
                prop_assert!(filter.push(event, &mut out, &mut issues).is_ok());
                prop_assert!(filter.held_back() <= limits.0);
                if mode == Warn {
                    prop_assert_eq!(out.len(), (place + 1).saturating_sub(limits.0));
                }
            }
        }
    }

    #[test]
    fn property_7_two_filters_share_nothing(one in stream(), two in stream(), limits in limits()) {
        let settings = settings(RepairByDiscardOld, limits);
        let (mut filter_one, mut filter_two) = (filter(settings), filter(settings));
        let (mut out_one, mut out_two) = (Vec::new(), Vec::new());
        let mut issues = Vec::new();
        for place in 0..one.len().max(two.len()) {
            if let Some(&event) = one.get(place) {
                filter_one.push(event, &mut out_one, &mut issues).unwrap();
            }
            if let Some(&event) = two.get(place) {
                filter_two.push(event, &mut out_two, &mut issues).unwrap();
            }
        }
        filter_one.finish(&mut out_one).unwrap();
        filter_two.finish(&mut out_two).unwrap();
        prop_assert_eq!(out_one, run(settings, &one).emitted);
        prop_assert_eq!(out_two, run(settings, &two).emitted);
    }

    /// A page of the journal is a `Vec` of its own here.
    #[test]
    fn property_8_pages_do_not_matter(stream in stream(), limits in limits(), page in 1_usize..10) {
        for mode in [RepairByDiscardOld, Warn] {
            let settings = settings(mode, limits);
            let mut filter = filter(settings);
            let mut pages = Vec::new();
            for events in stream.chunks(page) {
                let (mut out, mut issues) = (Vec::new(), Vec::new());
                for &event in events {
                    filter.push(event, &mut out, &mut issues).unwrap();
                }
                pages.push(out);
            }
            let mut rest = Vec::new();
            filter.finish(&mut rest).unwrap();
            pages.push(rest);
            prop_assert_eq!(pages.concat(), run(settings, &stream).emitted);
        }
    }
}
