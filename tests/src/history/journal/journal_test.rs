//! Streams made by hand, each with one thing wrong.

use super::*;

fn event(sequence_nr: u64, writer: &str, command_id: &str) -> StoredEvent {
    StoredEvent {
        sequence_nr,
        writer: writer.to_owned(),
        command_id: (!command_id.is_empty()).then(|| command_id.to_owned()),
        write_len: 1,
    }
}

fn sent(commands: &[(&str, Fate)]) -> BTreeMap<String, Fate> {
    let commands = commands.iter();
    commands
        .map(|(id, fate)| ((*id).to_owned(), *fate))
        .collect()
}

fn at(sequence_nr: u64) -> Fate {
    Fate::Acknowledged { sequence_nr }
}

#[test]
fn a_whole_stream_has_no_fault() {
    let events = [
        event(1, "a", "x"),
        event(2, "a", "y"),
        event(3, "b", ""),
        StoredEvent {
            write_len: 2,
            ..event(4, "b", "z")
        },
        event(5, "b", ""),
    ];
    let commands = sent(&[
        ("x", at(1)),
        ("y", Fate::Unknown),
        ("z", at(5)),
        ("never stored", Fate::Unknown),
        ("refused", Fate::NotApplied),
    ]);
    assert_eq!(check(&events, &commands), []);
    assert_eq!(check(&[], &BTreeMap::new()), []);
}

#[test]
fn i3_a_gap_and_a_number_used_twice_are_found() {
    let gap = [event(1, "a", ""), event(3, "a", "")];
    let (expected, found) = (2, 3);
    assert_eq!(check(&gap, &sent(&[])), [Fault::Gap { expected, found }]);
    let twice = [event(1, "a", ""), event(1, "a", "")];
    let (expected, found) = (2, 1);
    assert_eq!(check(&twice, &sent(&[])), [Fault::Gap { expected, found }]);
    let (expected, found) = (1, 2);
    let late = [event(2, "a", "")];
    assert_eq!(check(&late, &sent(&[])), [Fault::Gap { expected, found }]);
}

#[test]
fn i5_an_acknowledged_command_that_is_not_there_is_found() {
    let lost = check(&[event(1, "a", "x")], &sent(&[("x", at(1)), ("y", at(2))]));
    let expected = Fault::Lost {
        command_id: "y".to_owned(),
        sequence_nr: 2,
    };
    assert_eq!(lost, [expected]);
}

#[test]
fn i8_a_command_stored_twice_is_found_whoever_stored_it() {
    let events = [event(1, "a", "x"), event(2, "b", "x")];
    let expected = [Fault::Repeated {
        command_id: "x".to_owned(),
        first: 1,
        again: 2,
    }];
    assert_eq!(check(&events, &sent(&[("x", at(1))])), expected);
    assert_eq!(check(&events, &sent(&[("x", Fate::Unknown)])), expected);
}

#[test]
fn i8_a_command_that_was_refused_or_stored_elsewhere_is_found() {
    let refused = check(&[event(1, "a", "x")], &sent(&[("x", Fate::NotApplied)]));
    let expected = Fault::AppliedThoughRefused {
        command_id: "x".to_owned(),
        sequence_nr: 1,
    };
    assert_eq!(refused, [expected]);
    let elsewhere = check(&[event(1, "a", "x")], &sent(&[("x", at(2))]));
    let expected = Fault::Elsewhere {
        command_id: "x".to_owned(),
        answered: 2,
        stored: 1,
    };
    assert_eq!(elsewhere, [expected]);
}

#[test]
fn a_command_nobody_sent_is_found() {
    let expected = Fault::NeverSent {
        command_id: "x".to_owned(),
        sequence_nr: 1,
    };
    assert_eq!(check(&[event(1, "a", "x")], &sent(&[])), [expected]);
}

#[test]
fn i2_a_writer_that_was_followed_and_is_back_is_found_once() {
    let events: Vec<StoredEvent> = (1..)
        .zip(["a", "a", "b", "a", "b", "a"])
        .map(|(number, writer)| event(number, writer, ""))
        .collect();
    let back = |writer: &str, left_at, back_at| Fault::WriterBack {
        writer: writer.to_owned(),
        left_at,
        back_at,
    };
    assert_eq!(
        check(&events, &sent(&[])),
        [back("a", 2, 4), back("b", 3, 5)]
    );
}
