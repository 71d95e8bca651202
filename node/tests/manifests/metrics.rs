//! The table of metrics tells of all that the programs record, and of nothing else;
//! and `deploy/monitoring/METRICS.md` is that table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use perennial::metrics::table::{METRICS, MetricKind, markdown};

use crate::files::read;

/// All labels there may be. Each has few values, whatever clients do: to add one, show
/// that.
const LABELS: &[&str] = &[
    "entity_type",
    "limit",
    "node",
    "outcome",
    "port",
    "reason",
    "result",
    "state",
    "use",
];

/// Files of programs.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rooms = ["node", "sharding", "persistence"];
    let mut open: Vec<_> = rooms.map(|room| root.join(room).join("src")).into();
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).unwrap();
            open.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}

/// Name and labels of each metric that is recorded, with its kind.
fn recorded() -> Vec<(String, MetricKind, BTreeSet<String>)> {
    let macros = [
        ("counter!(", MetricKind::Counter),
        ("gauge!(", MetricKind::Gauge),
        ("histogram!(", MetricKind::Histogram),
    ];
    let constants = constants();
    let mut found = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (start, kind) in macros {
            for (at, _) in text.match_indices(start) {
                // `describe_counter!(` describes the table.
                if text[..at].ends_with('_') {
                    continue;
                }
                let inside = &text[at + start.len()..];
                let inside = &inside[..end_of_call(inside)];
                let first = inside.split(',').next().unwrap().trim();
                let name = match first.strip_prefix('"') {
                    Some(name) => name.trim_end_matches('"'),
                    None => constants
                        .get(first)
                        .unwrap_or_else(|| panic!("{}: what is {first}?", path.display())),
                };
                let labels = inside
                    .split("=>")
                    .map(|before| before.trim_end().trim_end_matches('"'));
                let count = inside.matches("=>").count();
                let labels = labels
                    .take(count)
                    .map(|before| before.rsplit('"').next().unwrap().to_owned());
                found.push((name.to_owned(), kind, labels.collect()));
            }
        }
    }
    found
}

/// Names of metrics that stand in constants, by the names of those.
fn constants() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices(": &str = \"perennial_") {
            let (before, after) = text.split_at(at);
            let constant = before.rsplit(' ').next().unwrap();
            let name = after.split('"').nth(1).unwrap();
            let other = found.insert(constant.to_owned(), name.to_owned());
            assert!(other.is_none(), "there are two {constant}");
        }
    }
    found
}

/// Where the parenthesis that is open at the start is closed.
fn end_of_call(text: &str) -> usize {
    let mut open = 1;
    for (at, c) in text.char_indices() {
        match c {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return at;
        }
    }
    panic!("not closed: {text}");
}

#[test]
fn the_table_tells_of_all_that_is_recorded() {
    let table: BTreeMap<_, _> = METRICS.iter().map(|metric| (metric.name, metric)).collect();
    let recorded = recorded();
    assert!(recorded.len() >= METRICS.len(), "{recorded:?}");
    for (name, kind, labels) in &recorded {
        let metric = table.get(&**name).unwrap_or_else(|| {
            panic!("{name} is recorded: describe it in node/src/metrics/table.rs")
        });
        assert_eq!(metric.kind, *kind, "{name}");
        let described = metric.labels.iter().map(|label| label.name.to_owned());
        assert_eq!(described.collect::<BTreeSet<_>>(), *labels, "{name}");
    }
    let names: BTreeSet<_> = recorded.iter().map(|(name, ..)| &**name).collect();
    for name in table.keys() {
        assert!(
            names.contains(name),
            "{name} is described and never recorded"
        );
    }
}

#[test]
fn labels_have_few_values() {
    for metric in METRICS {
        for label in metric.labels {
            assert!(
                LABELS.contains(&label.name),
                "{}: {}",
                metric.name,
                label.name
            );
        }
    }
}

#[test]
fn the_printed_table_is_up_to_date() {
    assert!(
        read("monitoring/METRICS.md") == markdown(),
        "run: cargo run -p perennial -- metrics >deploy/monitoring/METRICS.md"
    );
}
