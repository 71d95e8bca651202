//! The numbered vectors of the replay filter, one line each, and the texts of
//! its issues.
//!
//! An event is written `13A a`: number, writer, payload; writer `-` is the
//! undefined one. U-E1 and U-E2 are the two orders in which a journal can give
//! back what an entity and its zombie wrote beside each other. In U-F3 the
//! original passes "batch ready" marks through its filter; here a batch is the
//! caller's own page, and stopping to read after a failure is the caller's, so
//! the two marks are left out of the vector and stand in a test of their own.

use uuid::Uuid;

use super::ReplayFilterMode::{Fail, Off, RepairByDiscardOld as Repair, Warn};
use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    sequence_nr: SequenceNr,
    writer: char,
    payload: String,
}

impl Replayed for Event {
    fn sequence_nr(&self) -> SequenceNr {
        self.sequence_nr
    }

    fn writer(&self) -> WriterUuid {
        writer(self.writer)
    }
}

fn writer(name: char) -> WriterUuid {
    match name {
        '-' => UNDEFINED_WRITER,
        name => WriterUuid(Uuid::from_u128(name as u128)),
    }
}

/// Reads `13A a, 14B b`.
fn events(text: &str) -> Vec<Event> {
    let event = |text: &str| {
        let (head, payload) = text.trim().split_once(' ').unwrap();
        let (number, writer) = head.split_at(head.len() - 1);
        Event {
            sequence_nr: SequenceNr::new(number.parse().unwrap()),
            writer: writer.parse().unwrap(),
            payload: payload.into(),
        }
    };
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(event)
        .collect()
}

fn stream() -> PersistenceId {
    PersistenceId::new("counter", "a").unwrap()
}

fn filter(
    mode: ReplayFilterMode,
    window_size: usize,
    max_old_writers: usize,
) -> ReplayFilter<Event> {
    let settings = ReplayFilterSettings {
        mode,
        window_size,
        max_old_writers,
    };
    ReplayFilter::new(stream(), settings)
}

struct Outcome {
    emitted: Vec<Event>,
    issues: Vec<Issue>,
    result: Result<(), ReplayFilterFailure>,
}

/// Pushes everything, also after a failure, as a caller that is late to notice.
fn run(mut filter: ReplayFilter<Event>, input: &str) -> Outcome {
    let (mut emitted, mut issues) = (Vec::new(), Vec::new());
    for event in events(input) {
        let _ = filter.push(event, &mut emitted, &mut issues);
    }
    let result = filter.finish(&mut emitted);
    Outcome {
        emitted,
        issues,
        result,
    }
}

#[track_caller]
fn passes(mode: ReplayFilterMode, window_size: usize, input: &str, expected: &str, issues: usize) {
    let outcome = run(filter(mode, window_size, 10), input);
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(outcome.emitted, events(expected));
    assert_eq!(outcome.issues.len(), issues, "{:#?}", outcome.issues);
}

#[track_caller]
fn fails(input: &str, sequence_nr: u64, of_writer: char) {
    let outcome = run(filter(Fail, 100, 10), input);
    let failure = outcome.result.unwrap_err();
    assert_eq!(outcome.emitted, []);
    assert_eq!(outcome.issues, std::slice::from_ref(&failure.issue));
    assert_eq!(failure.issue.sequence_nr, SequenceNr::new(sequence_nr));
    assert_eq!(failure.issue.writer, writer(of_writer));
}

macro_rules! vectors {
    ($($name:ident: $mode:ident $window:literal, $input:literal => $expected:literal, $issues:literal;)*) => {$(
        #[test]
        fn $name() {
            passes($mode, $window, $input, $expected, $issues);
        }
    )*};
}

vectors! {
    u_r1_passes_all: Repair 2, "13A a, 14A b, 15A c" => "13A a, 14A b, 15A c", 0;
    u_r2_passes_all_when_a_writer_appears: Repair 2, "13- a, 14- b, 15A c" => "13- a, 14- b, 15A c", 0;
    u_r3_passes_all_when_the_writer_changes: Repair 100, "13A a, 14A b, 15B c" => "13A a, 14A b, 15B c", 0;
    u_r4_discards_the_same_number_of_an_old_writer: Repair 100,
        "13A a, 14A b, 15A c, 15B c" => "13A a, 14A b, 15B c", 1;
    u_r5_discards_an_old_writer_after_the_change: Repair 100,
        "13A a, 14A b, 15B c, 15A c, 16A d" => "13A a, 14A b, 15B c", 2;
    u_r6_discards_several_old_writers: Repair 100,
        "13A a, 14B b, 15C c, 14A b, 15A c, 15B c, 16C d" => "13A a, 14B b, 15C c, 16C d", 3;
    u_r6n_keeps_the_same_number_of_the_same_writer: Repair 100,
        "13A a, 14B b, 15C c, 14A b, 15A c, 15B c, 15C c" => "13A a, 14B b, 15C c, 15C c", 3;
    u_w1_reports_the_same_number_of_an_old_writer: Warn 100,
        "13A a, 14A b, 15A c, 15B c" => "13A a, 14A b, 15A c, 15B c", 1;
    u_w2_reports_an_old_writer_after_the_change: Warn 100,
        "13A a, 14A b, 15B c, 15A c, 16A d" => "13A a, 14A b, 15B c, 15A c, 16A d", 2;
    u_w3_reports_several_old_writers: Warn 100,
        "13A a, 14B b, 15C c, 14A b, 15A c, 15B c, 16C d"
        => "13A a, 14B b, 15C c, 14A b, 15A c, 15B c, 16C d", 3;
    u_w3n_keeps_the_same_number_of_the_same_writer: Warn 100,
        "13A a, 14B b, 15C c, 14A b, 15A c, 15B c, 15C c"
        => "13A a, 14B b, 15C c, 14A b, 15A c, 15B c, 15C c", 3;
    u_e1_overlapping_writers_read_by_number: Repair 100,
        "1V a-1, 2V a-2, 3V b-1, 3W c-1, 4V b-2, 4W c-2" => "1V a-1, 2V a-2, 3W c-1, 4W c-2", 2;
    u_e2_overlapping_writers_read_by_arrival: Repair 100,
        "1V a-1, 2V a-2, 3V b-1, 4V b-2, 3W c-1, 4W c-2" => "1V a-1, 2V a-2, 3W c-1, 4W c-2", 2;
    off_passes_anything_at_once: Off 1,
        "13A a, 14A b, 13B c, 12A d, 12B e" => "13A a, 14A b, 13B c, 12A d, 12B e", 0;
    an_empty_stream_is_fine: Repair 100, "" => "", 0;
    an_undefined_writer_may_come_back: Repair 100,
        "1- a, 2A b, 3- c, 4B d, 5- e" => "1- a, 2A b, 3- c, 4B d, 5- e", 0;
    an_undefined_writer_is_never_an_old_one: Repair 100, "1- a, 2A b, 3- c" => "1- a, 2A b, 3- c", 0;
    a_new_writer_discards_undefined_ones_too: Repair 100, "1- a, 2- b, 2A c" => "1- a, 2A c", 1;
    a_writer_that_goes_back_is_discarded: Repair 100, "1A a, 3A b, 2A c, 3A d, 4A e" => "1A a, 3A b, 3A d, 4A e", 1;
    a_writer_that_goes_back_is_reported_and_kept: Warn 100,
        "1A a, 3A b, 2A c, 2A d, 3A e" => "1A a, 3A b, 2A c, 2A d, 3A e", 2;
    repair_removes_what_warn_collides_with_again: Repair 100, "13A a, 13B b, 13C c" => "13C c", 2;
    warn_counts_each_collision: Warn 100, "13A a, 13B b, 13C c" => "13A a, 13B b, 13C c", 3;
    what_has_left_the_window_is_not_taken_back: Repair 2,
        "1A a, 2A b, 3A c, 4A d, 2B e" => "1A a, 2A b, 3A c, 2B e", 1;
}

#[test]
fn u_f1_fails_at_the_same_number_of_an_old_writer() {
    fails("13A a, 14A b, 15A c, 15B c", 15, 'A');
}

#[test]
fn u_f2_fails_at_an_old_writer_after_the_change() {
    fails("13A a, 14A b, 15B c, 15A c, 16A d", 15, 'A');
}

#[test]
fn u_f3_fails_over_the_limits_of_batches() {
    let mut filter = filter(Fail, 100, 10);
    let (mut out, mut issues) = (Vec::new(), Vec::new());
    for event in events("13A a, 14B b") {
        assert_eq!(filter.push(event, &mut out, &mut issues), Ok(()));
    }
    // The end of a page gives nothing out: window and writers are kept.
    assert_eq!((out.len(), filter.held_back()), (0, 2));
    let event = events("14A b").remove(0);
    let failure = filter
        .push(event.clone(), &mut out, &mut issues)
        .unwrap_err();
    assert_eq!(filter.held_back(), 0);
    // Whatever follows fails alike, and is not reported again.
    assert_eq!(
        filter.push(event, &mut out, &mut issues),
        Err(failure.clone())
    );
    assert_eq!(filter.finish(&mut out), Err(failure));
    assert_eq!(out, []);
    assert_eq!(issues.len(), 1);
}

#[test]
fn failing_reports_one_issue_even_where_a_new_writer_overlaps_several() {
    fails("13A a, 14A b, 15A c, 14B d", 14, 'A');
    fails("13A a, 12A b", 12, 'A');
}

#[test]
fn failing_gives_out_what_left_the_window_before() {
    let outcome = run(filter(Fail, 2, 10), "1A a, 2A b, 3A c, 3B d, 4B e");
    assert_eq!(outcome.emitted, events("1A a, 2A b"));
    assert!(outcome.result.is_err());
}

#[test]
fn eviction_comes_before_judgement_and_a_discard_leaves_room() {
    let mut filter = filter(Repair, 2, 10);
    let (mut out, mut issues) = (Vec::new(), Vec::new());
    let mut sizes = Vec::new();
    for event in events("1A a, 2A b, 1A c, 3A d, 4A e") {
        filter.push(event, &mut out, &mut issues).unwrap();
        sizes.push((out.len(), filter.held_back()));
    }
    assert_eq!(sizes, [(0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]);
}

#[test]
fn a_forgotten_old_writer_counts_as_new() {
    let input = "1A a, 2B b, 3C c, 4A d";
    let outcome = run(filter(Repair, 100, 2), input);
    assert_eq!(outcome.emitted, events("1A a, 2B b, 3C c"));
    assert_eq!(outcome.issues.len(), 1);
    let outcome = run(filter(Repair, 100, 1), input);
    assert_eq!(outcome.emitted, events(input));
    assert_eq!(outcome.issues, []);
}

#[test]
fn limits_of_zero_count_as_one() {
    let outcome = run(filter(Repair, 0, 0), "1A a, 2A b, 2B c, 3A d");
    assert_eq!(outcome.emitted, events("1A a, 2A b, 2B c"));
    // 2A had left the window of one when 2B came; A is remembered as old at 3A.
    assert_eq!(outcome.issues.len(), 1);
}

#[test]
fn each_issue_names_numbers_writers_stream_and_causes() {
    let text = |input: &str| {
        let outcome = run(filter(Warn, 100, 10), input);
        let [issue] = outcome.issues.as_slice() else {
            panic!("one issue expected: {:?}", outcome.issues)
        };
        issue.to_string()
    };
    let (a, b) = (writer('A'), writer('B'));
    let went_back = text("13A a, 12A b");
    assert!(
        went_back.contains(&format!("[sequenceNr=12, writerUUID={a}]")),
        "{went_back}"
    );
    assert!(went_back.contains("already stored 13."), "{went_back}");
    let old = text("13A a, 14B b, 15A c");
    assert!(
        old.contains(&format!("[sequenceNr=15, writerUUID={a}]")),
        "{old}"
    );
    assert!(
        old.contains(&format!("newer writer {b} had stored 14.")),
        "{old}"
    );
    let overlapped = text("13A a, 15A b, 14B c");
    assert!(
        overlapped.contains(&format!("[sequenceNr=15, writerUUID={a}]")),
        "{overlapped}"
    );
    assert!(
        overlapped.contains(&format!("newer writer {b} has written from 14 on.")),
        "{overlapped}"
    );
    for text in [went_back, old, overlapped] {
        assert!(text.starts_with("Invalid replayed event ["), "{text}");
        assert!(text.contains("counter|a"), "{text}");
        assert!(text.contains("an old writer went on writing"), "{text}");
        assert!(text.contains("the same persistence id"), "{text}");
    }
    let failure = run(filter(Fail, 100, 10), "13A a, 12A b")
        .result
        .unwrap_err();
    assert!(
        failure
            .to_string()
            .starts_with("Invalid replayed event [sequenceNr=12")
    );
}
