//! Alerts and the dashboard ask for metrics that are measured, and name sections of the
//! runbook that exist.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::files::{documents, list, read};
use crate::to_come;

/// Names of metrics in the programs: every text that looks like one.
pub(crate) fn measured() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut names = BTreeSet::new();
    let mut open: Vec<_> = ["node", "sharding", "persistence"]
        .map(|room| root.join(room).join("src"))
        .into();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            // Every second piece stands between quotes, more or less.
            let texts = text
                .split('"')
                .filter(|text| text.starts_with("perennial_"));
            names.extend(
                texts
                    .filter(|text| names_of(text) == [*text])
                    .map(str::to_owned),
            );
        }
    }
    names
}

/// What looks like a metric's name in a query.
fn names_of(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("perennial_") && *word != "perennial_")
        .collect()
}

fn assert_measured(query: &str, measured: &BTreeSet<String>) {
    for name in names_of(query) {
        let histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let known = |name: &str| measured.contains(name) || to_come::METRICS.contains(&name);
        assert!(
            known(name) || histogram.is_some_and(known),
            "{name} is not measured: {query}"
        );
    }
}

fn rules() -> Vec<Value> {
    let alerts = documents("monitoring/alerts.yaml").remove(0).yaml;
    list(&alerts, "/groups")
        .iter()
        .flat_map(|group| list(group, "/rules").to_vec())
        .collect()
}

#[test]
fn alerts_ask_for_what_is_measured_and_say_what_to_read() {
    let measured = measured();
    assert!(
        measured.contains("perennial_append_duration_seconds"),
        "{measured:?}"
    );
    let runbook = read("RUNBOOK.md");
    let tests = read("monitoring/alerts.test.yaml");
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        assert_measured(rule["expr"].as_str().unwrap(), &measured);
        assert!(
            ["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()),
            "{name}"
        );
        for text in ["summary", "description", "runbook"] {
            assert!(
                rule["annotations"][text].is_string(),
                "{name} has no {text}"
            );
        }
        let section = rule["annotations"]["runbook"].as_str().unwrap();
        assert!(
            runbook.contains(&format!("\n## {section}\n")),
            "{name}: no section {section:?}"
        );
        assert!(
            tests.contains(&format!("alertname: {name}\n")),
            "{name} has no test"
        );
    }
}

#[test]
fn the_operators_rules_are_the_same() {
    let plain = documents("monitoring/alerts.yaml").remove(0).yaml;
    let operators = documents("kubernetes/components/monitoring/prometheusrule.yaml")
        .remove(0)
        .yaml;
    let copy = "indent monitoring/alerts.yaml below spec in prometheusrule.yaml";
    assert!(operators["spec"] == plain, "the rules differ: {copy}");
}

#[test]
fn the_dashboard_asks_for_what_is_measured() {
    let dashboard: Value = serde_json::from_str(&read("monitoring/dashboard.json")).unwrap();
    let measured = measured();
    let mut shown = BTreeSet::new();
    for panel in list(&dashboard, "/panels") {
        for target in list(panel, "/targets") {
            let query = target["expr"].as_str().unwrap();
            assert_measured(query, &measured);
            shown.extend(names_of(query).into_iter().map(str::to_owned));
        }
    }
    // And nothing is measured in vain.
    for name in measured {
        let seen = shown.iter().any(|shown| shown.starts_with(&name));
        assert!(seen, "no panel shows {name}");
    }
}
