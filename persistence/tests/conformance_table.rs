//! The table of cases in the crate's documentation is complete, and what it names
//! exists and runs on the journals that it says.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

struct Row<'a> {
    case: &'a str,
    /// Or why there is none.
    test: &'a str,
    file: &'a str,
    journals: &'a str,
}

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rows(table: &str) -> Vec<Row<'_>> {
    let lines = table.lines().filter(|line| line.starts_with("| "));
    let rows = lines.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [case, test, file, journals] = cells[..] else {
            panic!("four cells are expected: {line}");
        };
        Row {
            case,
            test,
            file: file.trim_matches('`'),
            journals,
        }
    });
    // The first has the names of the columns.
    rows.skip(1).collect()
}

/// Every case there is.
fn cases() -> BTreeSet<String> {
    let numbered =
        |prefix: &'static str, last: u32| (1..=last).map(move |n| format!("{prefix}{n}"));
    let named = [
        "U-R6n",
        "U-W3n",
        "3.3",
        "3.4",
        "3.6",
        "5.4 reply",
        "5.4 drop",
        "5.4 fail",
        "5.6 corrupt event",
        "5.6 persist fails",
        "5.6 persist_async fails",
        "5.6 persist rejected",
        "5.6 recovery handler fails",
        "5.6 command handler fails",
        "5.6 callback fails",
        "5.6 zombie writer",
        "5.6 snapshot offers",
        "5.6 snapshot without journal",
        "5.6 no recovery",
        "5.6 corrupt snapshot",
        "5.6 deletion fails",
        "5.6 no snapshot store",
        "5.6 idle replay",
        "5.6 adapters",
        "5.6 delivery",
        "5.7 retention",
        "5.7 failures",
        "outage",
    ];
    let ranges = [
        ("U-R", 6),
        ("U-F", 3),
        ("U-W", 3),
        ("U-E", 2),
        ("2.8.", 8),
        ("J", 22),
        ("X", 23),
        ("S", 16),
        ("3.5.", 9),
        ("D", 14),
        ("DX", 5),
        ("R", 16),
        ("G", 3),
        ("4.", 7),
        ("O", 40),
        ("T", 5),
        ("5.5.", 6),
        ("TS", 15),
    ];
    let ranges = ranges
        .into_iter()
        .flat_map(|(prefix, last)| numbered(prefix, last));
    ranges.chain(named.map(str::to_owned)).collect()
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect()
}

/// The names in `source` that are not in a comment.
fn names(source: &str) -> BTreeSet<&str> {
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(words).collect()
}

/// What a macro of this name is called with.
fn arguments<'a>(source: &'a str, call: &str) -> BTreeSet<&'a str> {
    let begins = source.find(call).map(|at| at + call.len());
    let rest = begins.map_or("", |at| &source[at..]);
    words(&rest[..rest.find([')', '}']).unwrap_or(0)])
}

/// The tests of a kit that every backend is run against.
fn in_a_kit(test: &str, file: &str) -> bool {
    let kit = file.split("/conformance").next().unwrap();
    let name = kit.rsplit('/').next().unwrap();
    let cases = source(&format!("{kit}/conformance.rs"));
    let runs = source("tests/storage_conformance.rs");
    let every_backend = ["memory", "sqlite", "postgres"];
    arguments(&cases, "{ @each $run:").contains(test)
        && runs.contains(&format!("{name}_conformance_tests!(run)"))
        && every_backend
            .iter()
            .all(|backend| runs.contains(&format!("conformance_tests!({backend});")))
}

#[test]
fn every_case_is_in_the_table() {
    let table = source("CONFORMANCE.md");
    let listed: BTreeSet<String> = rows(&table).iter().map(|row| row.case.to_owned()).collect();
    let cases = cases();
    let missing: Vec<_> = cases.difference(&listed).collect();
    let unknown: Vec<_> = listed.difference(&cases).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing: {missing:?}, unknown: {unknown:?}"
    );
}

#[test]
fn every_test_in_the_table_exists_and_runs_where_it_says() {
    let table = source("CONFORMANCE.md");
    let mut sources = BTreeMap::new();
    let mut listed = BTreeSet::new();
    for Row {
        case,
        test,
        file,
        journals,
    } in rows(&table)
    {
        if let Some(reason) = test.strip_prefix("none: ") {
            assert!(reason.len() > 10, "{case}: why is there none?");
            continue;
        }
        let test = test.trim_matches('`');
        assert!(listed.insert((case, test, file)), "{case}: {test} twice");
        let source = sources.entry(file).or_insert_with(|| source(file));
        assert!(names(source).contains(test), "{case}: no {test} in {file}");
        let on_each_backend = arguments(source, "on_each_backend!(").contains(test);
        let is_right = match journals {
            "all" => on_each_backend || (file.contains("/conformance") && in_a_kit(test, file)),
            "memory" => file.starts_with("tests/") && !on_each_backend,
            "Postgres" => file.starts_with("tests/postgres/") || file == "tests/foreign_streams.rs",
            "none" => file.starts_with("src/") || test.starts_with("o38_"),
            other => panic!("{case}: unknown journals {other:?}"),
        };
        assert!(is_right, "{case}: {test} does not run on {journals}");
    }
}

/// The other way round: a test that carries a case's number is in the table.
#[test]
fn every_numbered_test_is_in_the_table() {
    let table = source("CONFORMANCE.md");
    let rows = rows(&table);
    let files: BTreeSet<&str> = rows.iter().map(|row| row.file).collect();
    let listed: BTreeSet<&str> = rows.iter().map(|row| row.test.trim_matches('`')).collect();
    for file in files.into_iter().filter(|file| !file.is_empty()) {
        let source = source(file);
        for line in source.lines() {
            let Some((_, rest)) = line.split_once("fn ") else {
                continue;
            };
            let name = rest.split('(').next().unwrap();
            let prefix = name.split('_').next().unwrap();
            let number = prefix.trim_start_matches(|c: char| c.is_ascii_lowercase());
            let letters = &prefix[..prefix.len() - number.len()];
            let is_case = name.starts_with("case_")
                || (number.parse::<u32>().is_ok()
                    && ["j", "x", "s", "d", "ds", "dsx", "r", "g", "o", "t", "ts"]
                        .contains(&letters));
            assert!(!is_case || listed.contains(name), "{file}: {name}");
        }
    }
}
