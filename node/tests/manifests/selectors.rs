//! Who is selected by what. Kustomize can fill selectors by itself, wrongly: an empty
//! one selects everything, and with equal labels a Service finds the migration's pod.

use serde_json::{Map, Value};

use crate::files::{base, documents, list, manifests, mappings};

fn labels(yaml: &Value, pointer: &str) -> Map<String, Value> {
    let labels = yaml.pointer(pointer).and_then(Value::as_object);
    labels
        .unwrap_or_else(|| panic!("no labels at {pointer} of {yaml}"))
        .clone()
}

fn node_labels() -> Map<String, Value> {
    labels(
        &base("statefulset.yaml").yaml,
        "/spec/template/metadata/labels",
    )
}

fn migrate_labels() -> Map<String, Value> {
    labels(&base("migrate.yaml").yaml, "/spec/template/metadata/labels")
}

fn selects(selector: &Map<String, Value>, pod: &Map<String, Value>) -> bool {
    selector
        .iter()
        .all(|(key, value)| pod.get(key) == Some(value))
}

fn assert_selects_nodes_only(selector: &Map<String, Value>, place: &str) {
    assert!(!selector.is_empty(), "{place} selects every pod");
    assert!(
        selects(selector, &node_labels()),
        "{place} does not select the nodes"
    );
    assert!(
        !selects(selector, &migrate_labels()),
        "{place} selects the migration"
    );
}

#[test]
fn services_budget_and_spread_select_the_nodes_and_nothing_else() {
    for name in ["service.yaml", "service-peers.yaml"] {
        assert_selects_nodes_only(&labels(&base(name).yaml, "/spec/selector"), name);
    }
    let budget = base("poddisruptionbudget.yaml");
    assert_selects_nodes_only(
        &labels(&budget.yaml, "/spec/selector/matchLabels"),
        "the budget",
    );
    assert_eq!(budget.yaml["spec"]["maxUnavailable"], 1);

    let nodes = base("statefulset.yaml").yaml;
    assert_selects_nodes_only(
        &labels(&nodes, "/spec/selector/matchLabels"),
        "the StatefulSet",
    );
    let spread = list(&nodes, "/spec/template/spec/topologySpreadConstraints");
    let keys: Vec<&str> = spread
        .iter()
        .filter_map(|one| one["topologyKey"].as_str())
        .collect();
    assert_eq!(
        keys,
        ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    );
    for constraint in spread {
        let selector = labels(constraint, "/labelSelector/matchLabels");
        assert_selects_nodes_only(&selector, "a spread constraint");
    }
    let monitor = documents("kubernetes/components/monitoring/podmonitor.yaml").remove(0);
    assert_selects_nodes_only(
        &labels(&monitor.yaml, "/spec/selector/matchLabels"),
        "the monitor",
    );
}

/// One policy for the nodes, one for the migration, and each lets its pods reach the
/// database and look up names; the nodes reach a collector of traces as well.
#[test]
fn network_policies_cover_nodes_and_migration() {
    let policy = |name: &str| {
        documents(&format!("kubernetes/components/networkpolicy/{name}.yaml"))
            .remove(0)
            .yaml
    };
    let node = policy("node");
    assert_selects_nodes_only(
        &labels(&node, "/spec/podSelector/matchLabels"),
        "the nodes' policy",
    );
    let migrate = policy("migrate");
    let selector = labels(&migrate, "/spec/podSelector/matchLabels");
    assert!(!selector.is_empty() && selects(&selector, &migrate_labels()));
    assert!(!selects(&selector, &node_labels()));

    let ports = |yaml: &Value, way: &str| -> Vec<u64> {
        let rules = list(yaml, way).iter().flat_map(|rule| list(rule, "/ports"));
        let mut ports: Vec<u64> = rules.filter_map(|port| port["port"].as_u64()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    assert_eq!(ports(&node, "/spec/ingress"), [7400, 7401, 7402]);
    assert_eq!(ports(&node, "/spec/egress"), [53, 4317, 5432, 7402]);
    assert_eq!(ports(&migrate, "/spec/egress"), [53, 5432]);
    for yaml in [&node, &migrate] {
        assert_eq!(
            yaml["spec"]["policyTypes"],
            serde_json::json!(["Ingress", "Egress"])
        );
    }
    let peers = list(&node, "/spec/ingress")
        .iter()
        .find(|rule| list(rule, "/ports")[0]["port"] == 7402);
    let from = labels(peers.unwrap(), "/from/0/podSelector/matchLabels");
    assert_selects_nodes_only(&from, "the peers' rule");
}

#[test]
fn no_kustomization_fills_selectors_or_changes_names() {
    let mut seen = 0;
    for document in manifests() {
        if !document.path.ends_with("kustomization.yaml") {
            continue;
        }
        seen += 1;
        for map in mappings(&document.yaml) {
            for key in ["commonLabels", "namePrefix", "nameSuffix"] {
                assert!(!map.contains_key(key), "{}: {key}", document.shown());
            }
            for key in ["includeSelectors", "includeTemplates"] {
                assert_ne!(
                    map.get(key),
                    Some(&Value::Bool(true)),
                    "{}: {key}",
                    document.shown()
                );
            }
        }
    }
    assert_eq!(seen, 8);
}

/// YAML reads `n`, `on` and `no` as truth values where a name was meant.
#[test]
fn names_and_labels_are_texts() {
    for document in manifests() {
        for map in mappings(&document.yaml) {
            for key in ["name", "namespace", "kind"] {
                if let Some(value) = map.get(key) {
                    assert!(value.is_string(), "{}: {key} is {value}", document.shown());
                }
            }
            for key in ["labels", "matchLabels", "annotations"] {
                let Some(Value::Object(pairs)) = map.get(key) else {
                    continue;
                };
                for (name, value) in pairs {
                    assert!(value.is_string(), "{}: {name} is {value}", document.shown());
                }
            }
        }
    }
}
