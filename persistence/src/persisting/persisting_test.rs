//! The order of writes and handlers, case by case, without any entity.

use super::*;
use Commands::{GoOn, Wait};

type Machine = Persisting<&'static str, &'static str>;

fn run_due(machine: &mut Machine) -> Vec<&'static str> {
    let mut ran = Vec::new();
    while let Some(due) = machine.next_due() {
        ran.push(due.handler);
        machine.finished(due.commands);
    }
    ran
}

/// 5.5 case 1: what is issued while a write is out goes out after it.
#[test]
fn one_batch_is_out_at_a_time() {
    let mut machine = Machine::default();
    machine.persist("a-1", ["h1"], GoOn);
    assert_eq!(machine.next_batch(), Some(vec!["a-1"]));
    machine.persist("a-2", ["h2"], GoOn);
    machine.persist("a-3", ["h3"], GoOn);
    assert_eq!(machine.next_batch(), None);
    machine.stored(1);
    assert_eq!(run_due(&mut machine), ["h1"]);
    assert_eq!(machine.next_batch(), Some(vec!["a-2", "a-3"]));
    machine.stored(2);
    assert_eq!(run_due(&mut machine), ["h2", "h3"]);
    assert!(machine.is_idle());
}

/// 5.5 case 3: persist 1 {persist 2} and persist 3 go out as [1, 3], then [2].
#[test]
fn nested_persists_form_the_next_batch() {
    let mut machine = Machine::default();
    machine.persist("1", ["h1"], Wait);
    machine.persist("3", ["h3"], Wait);
    assert_eq!(machine.next_batch(), Some(vec!["1", "3"]));
    machine.stored(2);
    let first = machine.next_due().unwrap();
    machine.persist("2", ["h2"], Wait);
    machine.finished(first.commands);
    assert_eq!(run_due(&mut machine), ["h3"]);
    assert!(
        machine.is_stashing(),
        "the nested persist extends the stashing"
    );
    assert_eq!(machine.next_batch(), Some(vec!["2"]));
    machine.stored(1);
    assert_eq!(run_due(&mut machine), ["h2"]);
    assert!(!machine.is_stashing());
}

/// O18: defers keep their place between persists; the first runs inline.
#[test]
fn o18_defers_keep_their_place() {
    let mut machine = Machine::default();
    assert_eq!(machine.defer("d-1", Wait), Some("d-1"));
    machine.persist("a-2", ["a-2"], Wait);
    assert_eq!(machine.defer("d-3", Wait), None);
    assert_eq!(machine.defer("d-4", GoOn), None);
    assert_eq!(machine.next_batch(), Some(vec!["a-2"]));
    assert_eq!(run_due(&mut machine), [""; 0]);
    machine.stored(1);
    assert_eq!(run_due(&mut machine), ["a-2", "d-3", "d-4"]);
}

/// O1: one atomic write of several events runs one handler for each.
#[test]
fn o1_persist_all_runs_a_handler_per_event() {
    let mut machine = Machine::default();
    machine.persist("b", ["b-1", "b-2"], Wait);
    assert!(machine.is_stashing());
    machine.next_batch();
    machine.stored(1);
    assert_eq!(run_due(&mut machine), ["b-1", "b-2"]);
    assert!(!machine.is_stashing());
}

#[test]
fn a_partly_stored_batch_releases_its_stored_part_only() {
    let mut machine = Machine::default();
    machine.persist("1", ["h1"], GoOn);
    machine.defer("read", GoOn);
    machine.persist("2", ["h2"], GoOn);
    machine.defer("late read", GoOn);
    machine.next_batch();
    machine.stored(1);
    assert_eq!(run_due(&mut machine), ["h1", "read"]);
    assert_eq!(machine.abort(), ["h2", "late read"]);
    assert!(machine.is_idle());
}

#[test]
fn it_is_idle_when_nothing_is_issued_out_or_pending() {
    let mut machine = Machine::default();
    assert!(machine.is_idle());
    machine.persist("nobody waits for it", [], GoOn);
    assert!(!machine.is_idle(), "issued");
    machine.next_batch();
    assert!(!machine.is_idle(), "out");
    machine.stored(1);
    assert!(machine.is_idle());
    machine.queue("pending", GoOn);
    assert!(!machine.is_idle(), "pending");
}

/// As a refusal does, which takes the place of its write.
#[test]
fn what_is_queued_runs_in_its_turn_and_never_inline() {
    let mut machine = Machine::default();
    machine.queue("first", Wait);
    assert!(machine.is_stashing() && !machine.runs_inline());
    assert_eq!(machine.defer("second", GoOn), None);
    assert_eq!(run_due(&mut machine), ["first", "second"]);
    machine.persist("write", ["stored"], GoOn);
    machine.queue("refused", GoOn);
    machine.next_batch();
    assert_eq!(run_due(&mut machine), [""; 0]);
    machine.stored(1);
    let settled = |machine: &mut Machine| machine.next_due().map(|due| (due.handler, due.settled));
    assert_eq!(settled(&mut machine), Some(("stored", Settled::Stored)));
    machine.finished(GoOn);
    assert_eq!(settled(&mut machine), Some(("refused", Settled::Stored)));
    machine.finished(GoOn);
    assert!(machine.runs_inline());
}

/// What a handler or command issues, by the name of its handler.
#[derive(Clone)]
enum Issue {
    Persist(&'static str, Commands, Vec<Self>),
    Defer(&'static str, Commands),
}

use Issue::{Defer, Persist};

/// Runs commands on the machine, with a journal that stores each batch when nothing
/// else can be done. Shows what ran, in order.
fn observe(commands: Vec<(&'static str, Vec<Issue>)>) -> Vec<&'static str> {
    let mut machine: Persisting<(), (&'static str, Vec<Issue>)> = Persisting::default();
    let mut commands: VecDeque<_> = commands.into();
    let mut ran = Vec::new();
    loop {
        while !machine.is_stashing()
            && let Some((name, issued)) = commands.pop_front()
        {
            ran.push(name);
            issue(&mut machine, issued, &mut ran);
        }
        let Some(batch) = machine.next_batch() else {
            assert!(machine.is_idle() && commands.is_empty());
            return ran;
        };
        machine.stored(batch.len());
        while let Some(due) = machine.next_due() {
            let (name, issued) = due.handler;
            ran.push(name);
            issue(&mut machine, issued, &mut ran);
            machine.finished(due.commands);
        }
    }
}

fn issue(
    machine: &mut Persisting<(), (&'static str, Vec<Issue>)>,
    issued: Vec<Issue>,
    ran: &mut Vec<&'static str>,
) {
    for issued in issued {
        match issued {
            Persist(name, commands, nested) => machine.persist((), [(name, nested)], commands),
            Defer(name, commands) => {
                let inline = machine.defer((name, Vec::new()), commands);
                ran.extend(inline.map(|(name, _)| name));
            }
        }
    }
}

fn leaf(name: &'static str, commands: Commands) -> Issue {
    Persist(name, commands, Vec::new())
}

#[test]
fn o13_o21_defers_with_nothing_pending_run_inline() {
    let ran = observe(vec![("x", vec![Defer("1", GoOn), Defer("2", Wait)])]);
    assert_eq!(ran, ["x", "1", "2"]);
}

#[test]
fn o14_a_defer_waits_for_the_persist_before_it() {
    let ran = observe(vec![("x", vec![leaf("p", Wait), Defer("d", GoOn)])]);
    assert_eq!(ran, ["x", "p", "d"]);
}

#[test]
fn o10_o11_asynchronous_writes_do_not_delay_commands() {
    let ran = observe(vec![
        ("x", vec![leaf("x-1", GoOn)]),
        ("y", vec![leaf("y-2", GoOn)]),
    ]);
    assert_eq!(ran, ["x", "y", "x-1", "y-2"]);
}

#[test]
fn o15_o16_persist_and_persist_async_mixed() {
    let ran = observe(vec![
        (
            "a",
            vec![leaf("a1", Wait), leaf("a2", GoOn), leaf("a3", Wait)],
        ),
        ("b", vec![leaf("b1", Wait), leaf("b2", GoOn)]),
        ("c", vec![]),
    ]);
    assert_eq!(ran, ["a", "a1", "a2", "a3", "b", "b1", "b2", "c"]);
}

#[test]
fn o19_o20_defers_among_writes_keep_their_place() {
    let ran = observe(vec![
        (
            "a",
            vec![
                leaf("p1", Wait),
                leaf("pa2", GoOn),
                Defer("d3", GoOn),
                leaf("pa4", GoOn),
                Defer("d5", GoOn),
            ],
        ),
        (
            "b",
            vec![Defer("d6", GoOn), leaf("p7", Wait), Defer("d8", Wait)],
        ),
    ]);
    // d6 is inline: everything of a has run when b may.
    assert_eq!(
        ran,
        ["a", "p1", "pa2", "d3", "pa4", "d5", "b", "d6", "p7", "d8"]
    );
}

#[test]
fn o23_a_synchronous_defer_makes_commands_wait() {
    let ran = observe(vec![
        ("x", vec![leaf("unit", GoOn), Defer("x-defer", Wait)]),
        ("y", vec![]),
    ]);
    assert_eq!(ran, ["x", "unit", "x-defer", "y"]);
}

#[test]
fn o25_o30_nested_writes_of_all_kinds() {
    for (outer, inner) in [(Wait, Wait), (Wait, GoOn), (GoOn, Wait)] {
        let ran = observe(vec![(
            "a",
            vec![
                Persist("outer-1", outer, vec![leaf("inner-1", inner)]),
                Persist("outer-2", outer, vec![leaf("inner-2", inner)]),
            ],
        )]);
        assert_eq!(ran, ["a", "outer-1", "outer-2", "inner-1", "inner-2"]);
    }
}

#[test]
fn o27_o31_a_nested_persist_makes_commands_wait_in_any_depth() {
    let deep = Persist("1", GoOn, vec![Persist("2", Wait, vec![leaf("3", Wait)])]);
    let ran = observe(vec![
        ("a", vec![deep]),
        ("b", vec![leaf("b1", Wait)]),
        ("c", vec![]),
    ]);
    // b came while only the asynchronous outer write was out.
    assert_eq!(ran, ["a", "b", "1", "b1", "2", "3", "c"]);
}

/// 5.1 rule 4: the running handler counts as pending.
#[test]
fn a_defer_in_a_handler_runs_after_it() {
    let mut machine = Machine::default();
    machine.persist("1", ["h1"], GoOn);
    machine.next_batch();
    machine.stored(1);
    let running = machine.next_due().unwrap();
    assert!(!machine.runs_inline());
    assert_eq!(machine.defer("d", GoOn), None);
    machine.finished(running.commands);
    assert_eq!(run_due(&mut machine), ["d"]);
    assert!(machine.runs_inline());
}

/// 5.1 rule 5: a refused write has its turn like others and takes none along.
#[test]
fn a_refused_write_keeps_its_place_and_the_rest_goes_out_again() {
    let mut machine = Machine::default();
    for (write, handler) in [("1", "h1"), ("2", "h2"), ("3", "h3")] {
        machine.persist(write, [handler], Wait);
        machine.defer("read", GoOn);
    }
    machine.next_batch();
    machine.persist("4", ["h4"], GoOn);
    machine.stored(1);
    machine.refused(1);
    machine.give_back(vec!["3"]);
    let mut settled = Vec::new();
    while let Some(due) = machine.next_due() {
        settled.push((due.handler, due.settled));
        machine.finished(due.commands);
    }
    let (stored, refused) = (Settled::Stored, Settled::Refused);
    assert_eq!(
        settled,
        [
            ("h1", stored),
            ("read", stored),
            ("h2", refused),
            ("read", stored)
        ]
    );
    assert!(machine.is_stashing(), "h3 is still to come");
    assert_eq!(machine.next_batch(), Some(vec!["3", "4"]));
    machine.stored(2);
    assert_eq!(run_due(&mut machine), ["h3", "read", "h4"]);
    assert!(machine.is_idle() && !machine.is_stashing());
}

/// 5.5 case 6: of a failing entity only what is out can still be stored.
#[test]
fn what_is_not_sent_can_be_given_up() {
    let mut machine = Machine::default();
    machine.persist("1", ["h1"], GoOn);
    machine.defer("d", GoOn);
    machine.next_batch();
    machine.persist("2", ["h2"], Wait);
    machine.abort_unsent();
    assert_eq!(machine.pending_len(), 2);
    assert!(machine.is_writing() && !machine.is_stashing());
    machine.stored(1);
    assert_eq!(run_due(&mut machine), ["h1", "d"]);
    assert!(machine.is_idle());
}

/// When the outcome of a batch will never be known, its handlers are told from those
/// that were not sent.
#[test]
fn what_is_undecided_is_told_from_what_was_not_sent() {
    let mut machine = Machine::default();
    machine.persist("1", ["h1"], GoOn);
    machine.defer("d", GoOn);
    machine.next_batch();
    machine.persist("2", ["h2"], GoOn);
    assert_eq!(machine.abort_sent(), ["h1"]);
    assert_eq!(machine.abort(), ["h2"]);
}
